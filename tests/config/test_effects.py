"""Every key of the configuration changes something that can be seen."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import homodyne
from homodyne.cli.jobs import show_script
from homodyne.cli.options import load_measurement
from homodyne.config.io import load_config
from homodyne.config.physics import initial_of, model_of, scaling_of, space_of
from homodyne.config.problems import known_keys
from homodyne.config.schema import Config
from homodyne.data import write_aps_u
from homodyne.device.config import HardwareConfig
from homodyne.errors import ConvergenceError, DataError, ExecutionError, InputError
from homodyne.optimization import mcmc, passes, xpcs
from homodyne.optimization.cmc.backends.base import SequentialBackend
from homodyne.optimization.cmc.backends.selection import select_backend
from homodyne.optimization.cmc.models.model import Model
from homodyne.optimization.exploration import explored
from homodyne.optimization.pilot import Mode, Pilot, pilot_fit
from homodyne.optimization.problem import build_problem
from homodyne.physics.model import find_model
from homodyne.registries import SAMPLERS

pytestmark = pytest.mark.slow

STATIC = {"D0": 2e4, "alpha": -0.5, "D_offset": 100.0}
PARAMETERS = find_model("laminar_flow").parameter_names
SMALL = {
    "analysis_mode": "static",
    "uncertainty": "independent",
    "optimization": {
        "method": "laplace",
        "nlsq": {"num_candidates": 200, "num_starts": 3, "max_iterations": 100, "thin_points": 60},
        "laplace": {"num_draws": 100},
        "mcmc": {"num_warmup": 15, "num_samples": 15, "num_chains": 2},
    },
    "certificate": {"num_points": 100},
}


def measurement(q: float | list[float] = 0.01, seed: int = 1) -> homodyne.data.TwoTimeData:
    return homodyne.simulate(
        STATIC, q=q, num_frames=16, dt=0.1, phi=[0.0, 90.0], contrast=0.3, kind="independent", sigma=0.01, seed=seed
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("files")
    write_aps_u(path / "run.h5", measurement([0.01, 0.02]))
    write_aps_u(path / "other.h5", measurement([0.01, 0.02], seed=2))
    np.save(path / "map.npy", measurement().c2[0].astype(np.float64))
    return path


def seen_in_data(config: Config) -> Any:
    try:
        data = load_measurement(config.experimental_data)
    except DataError as error:
        return str(error)
    return data.q.tolist(), data.gap, data.frames, data.phi.tolist(), data.t.tolist(), data.c2.tobytes()


def seen_in_space(config: Config) -> Any:
    space = space_of(config, 0.1 * np.arange(1, 17))
    start = initial_of(config, space)
    initial = None if start is None else start.tolist()
    return (
        model_of(config),
        repr(jax.tree.map(np.ndarray.tolist, dict(space.priors))),
        space.fixed,
        space.coordinate_names,
        initial,
        repr(scaling_of(config)),
    )


DATA = {
    "file_path": "other.h5",
    "q": 0.02,
    "phi": "[0]",
    "frames": "2:9",
    "gap": 1e6,
    "format": "nxxpcs",
    "age_origin": 2.0,
    "units": "{frame_time: ms}",
}


@pytest.mark.parametrize("key", DATA)
def test_choice_of_data(key, folder, monkeypatch):
    monkeypatch.chdir(folder)
    base = ["experimental_data.file_path=run.h5", "experimental_data.q=0.01"]
    changed = [*base, f"experimental_data.{key}={DATA[key]}"]
    assert seen_in_data(load_config(None, changed)) != seen_in_data(load_config(None, base))


def test_time_between_frames(folder, monkeypatch):
    monkeypatch.chdir(folder)
    base = [f"experimental_data.{choice}" for choice in ("file_path=map.npy", "q=0.01", "phi=[0]")]
    loaded = load_measurement(load_config(None, [*base, "experimental_data.dt=0.5"]).experimental_data)
    assert loaded.dt == 0.5


MODEL = {
    "analysis_mode": "static",
    "model.shear_convention": "legacy",
    "parameters.contrast.prior": "{type: normal, mean: 0.1, sd: 1}",
    "parameters.offset.prior": "{type: normal, mean: 2, sd: 1}",
    **{f"parameters.{name}.prior": "{type: uniform, low: 0, high: 7}" for name in PARAMETERS},
    **{f"parameters.{name}.bounds": "[0.01, 9]" for name in PARAMETERS},
    **{f"parameters.{name}.initial": "0.5" for name in PARAMETERS},
    **{f"parameters.{name}.fixed": "0.25" for name in PARAMETERS},
}


@pytest.mark.parametrize("key", MODEL)
def test_choice_of_model(key):
    name = key.split(".")[1] if key.endswith("offset.bounds") else ""  # bounds of the value want a prior of the value
    base = [f"parameters.{name}.prior={{type: normal, mean: 0, sd: 1}}"] if name else []
    changed = load_config(None, [*base, f"{key}={MODEL[key]}"])
    assert seen_in_space(changed) != seen_in_space(load_config(None, base))


FIT = {
    "noise": "sampled",
    "uncertainty": "calibrated",
    "speckle.mean_counts": 5.0,
    "speckle.pixels": 5.0,
    "optimization.method": "nuts",
    "optimization.nlsq.num_candidates": 5,
    "optimization.nlsq.num_starts": 1,
    "optimization.nlsq.max_iterations": 1,
    "optimization.nlsq.thin_points": 240,
    "certificate.num_points": 110,
    "reduction.order": 3,
    "reduction.tolerance": 1e-3,
    "reduction.max_error": 1e-13,
    "reduction.num_checks": 5,
}


@cache
def seen_in_result(*changes: str) -> Any:
    try:
        result = homodyne.fit(measurement(), config=load_config(SMALL, changes))
    except ConvergenceError as error:
        return str(error)
    draws = {name: np.asarray(values).tolist() for name, values in result.samples.items()}
    more = [result.diagnostics[name] for name in ("pilot", "methods", "reduction")]
    return draws, result.noise_inflation, result.certificate.num_points, more


@pytest.mark.parametrize("key", FIT)
def test_choice_of_fit(key):
    base = ["speckle.mean_counts=1"] * (key == "speckle.pixels")  # this noise has no correlated part of its own
    assert seen_in_result(*base, f"{key}={FIT[key]}") != seen_in_result(*base)


DRAWS = {
    "seed": ("laplace", 1),
    "optimization.laplace.num_draws": ("laplace", 200),
    "optimization.mcmc.num_warmup": ("nuts", 20),
    "optimization.mcmc.num_samples": ("nuts", 20),
    "optimization.mcmc.num_chains": ("nuts", 3),
    "optimization.mcmc.target_accept_prob": ("nuts", 0.95),
}


@cache
def pilot() -> Pilot:
    return pilot_fit(build_problem(measurement(), load_config(SMALL)), np.random.default_rng(0))


def test_where_maps_are_read_and_kept(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(passes, "select_backend", lambda *given, **more: asked.append(given[1]) or SequentialBackend())
    changes = ["reduction.backend=multiprocessing", f"reduction.store={tmp_path}"]
    with build_problem(measurement(), load_config(SMALL, changes)).passes as reading, pytest.raises(ExecutionError):
        reading.pairs(np.array([0]), np.array([1]))  # that backend would sample shards
    assert asked == ["multiprocessing"]
    build_problem(measurement(), load_config(SMALL, changes[1:])).passes.pairs(np.array([0]), np.array([1]))
    assert list(tmp_path.rglob("*.npz"))


@cache
def seen_in_draws(method: str, *changes: str) -> np.ndarray:
    settings, silent = load_config(SMALL, changes), lambda stage, done, total: None
    course = partial(explored, pilot(), np.random.default_rng(0), 200, silent)
    return SAMPLERS[method](pilot(), course, settings, silent).z


@pytest.mark.parametrize("key", DRAWS)
def test_choice_of_draws(key):
    method, value = DRAWS[key]
    assert not np.array_equal(seen_in_draws(method), seen_in_draws(method, f"{key}={value}"))


def test_budget_of_gradients():
    with pytest.raises(ConvergenceError, match="max_gradients"):
        seen_in_draws("nuts", "optimization.mcmc.max_gradients=10")


CMC = "optimization.cmc."
BIG = 10**7  # points of a measurement
HARDWARE = HardwareConfig(cores=4, machine_cores=4, total_memory=2**33, available_memory=2**33)
PLAN = {
    "enable": (True,),
    "min_points_for_cmc": (5,),
    "escalate": (False, "optimization.method=cmc"),
    "sharding.num_shards": (7,),
    "sharding.max_points_per_shard": (1000,),
    "backend.name": ("sequential",),
    "backend.num_workers": (3,),
    "backend.timeout": (60,),
    "backend.max_attempts": (3,),
    "backend.enable_checkpoints": (False, f"{CMC}backend.checkpoint_dir=kept"),
    "backend.checkpoint_frequency": (5,),
    "backend.checkpoint_dir": ("kept",),
    "backend.resume_from_checkpoint": (False, f"{CMC}backend.checkpoint_dir=kept"),
    "combination.method": ("swiss",),
    "combination.fallback_enabled": (False,),
    "combination.tree_depth": (3,),
    "combination.min_success_rate": (0.5,),
    "combination.num_draws": (200,),
    "per_shard_mcmc.num_warmup": (20,),
    "per_shard_mcmc.num_samples": (60,),
    "per_shard_mcmc.num_chains": (3,),
    "per_shard_mcmc.target_accept_prob": (0.9,),
    "per_shard_mcmc.cavity": (0.5,),
    "validation.strict": (False,),
}


JOBS = {
    "account": "other",
    "queue": "other",
    "walltime": "10:00:00",
    "cpus": 3,
    "memory_gb": 2.5,
    "gpus": 1,
    "select": "2:ncpus=8",
    "directives": "['-l filesystems=home:eagle']",
    "modules": "[cray-python/3.11]",
    "environment": "{OMP_PLACES: cores}",
    "log_directory": "logs",
    "max_running": 5,
    "max_array_size": 2,
    "python": "/other/bin/python",
    "evaluate_in_jobs": True,
}


def seen_in_jobs(*changes: str) -> Any:
    """Script of the job of a fit with three shards, and where it evaluates."""
    place = [f"{CMC}{change}" for change in ("backend.name=pbs", "backend.checkpoint_dir=kept")]
    config = load_config(None, [*place, "analysis_mode=static", f"{CMC}sharding.num_shards=3", *changes])
    return show_script(measurement(), config), config.optimization.cmc.backend.jobs.evaluate_in_jobs


@pytest.mark.parametrize("key", JOBS)
def test_choice_of_jobs(key):
    assert seen_in_jobs(f"{CMC}backend.jobs.{key}={JOBS[key]}") != seen_in_jobs()


def seen_in_plan(*changes: str) -> Any:
    """What a run with shards is told, before it starts."""
    config = load_config(None, changes)
    cmc = config.optimization.cmc
    options = xpcs.backend_options(cmc)
    try:
        folder = xpcs.store_folder(cmc)
    except InputError as error:
        return str(error)
    where = select_backend(HARDWARE, cmc.backend.name, options=options).get_backend_name()
    methods, _ = mcmc._names(1000, config)
    settings = xpcs.consensus_settings(config), xpcs.cavity_of(cmc, 10)
    return methods, xpcs.count_shards(BIG, (BIG, ""), cmc, HARDWARE), options, folder, where, settings


@pytest.mark.parametrize("key", PLAN)
def test_choice_of_shards(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "manifest.json").write_text("{}")
    value, *base = PLAN[key]
    assert seen_in_plan(*base, f"{CMC}{key}={value}") != seen_in_plan(*base)


@pytest.mark.parametrize("strategy", ["interleaved", "frame_blocks"])
def test_choice_of_strategy(strategy):
    """Too many shards are refused by the strategy that is to make them."""
    choices = {"num_shards": 100, "strategy": strategy}
    config = load_config(SMALL, [f"{CMC}sharding.{key}={value}" for key, value in choices.items()])
    with pytest.raises(InputError, match=f"^{strategy}: 100 shards"):
        xpcs.fit_shards(measurement(), pilot(), config, HARDWARE, None)


START = {
    "method": ("identity", "method=nlsq"),
    "svi_steps": (330, "method=svi"),
    "svi_learning_rate": (0.03, "method=svi"),
    "svi_rank": (1, "method=svi"),
}


class Ridge(Model):
    """Two correlated coordinates, whatever the data: variational inference on it compiles quickly."""

    names = ("a", "b")
    precision = np.array([[1.0, 0.9], [0.9, 1.0]])

    def log_prior(self, z):
        return -0.5 * z @ z / 1e4

    def log_likelihood(self, z, shard, power):
        return -0.5 * z @ self.precision @ z

    def num_points(self, shard):
        return int(shard["sums"][0, 0])


@cache
def seen_in_start(*changes: str) -> Any:
    """Method and covariance of the start of the shards."""
    config = load_config(SMALL, [f"{CMC}initialization.{change}" for change in ("svi_steps=300", *changes)])
    mode = Mode(np.zeros(2), 0.0, np.linalg.inv(Ridge.precision), 0.0)
    init = xpcs._initialization(Ridge(), replace(pilot(), modes=(mode,)), 2, config, None)
    return init.method, init.covariance.tolist()


@pytest.mark.parametrize("key", START)
def test_choice_of_start(key):
    value, base = START[key]
    method, _ = before = seen_in_start(base)
    after = seen_in_start(base, f"{key}={value}")
    assert method == base.removeprefix("method=")
    assert after != before


def test_every_key_is_tested():
    elsewhere = {"output.directory", "output.figures", "output.overwrite", "output.report"}  # tests/cli
    elsewhere |= {f"{CMC}backend.spread"}
    tested = {f"experimental_data.{key}" for key in (*DATA, "dt")} | set(MODEL) | set(FIT) | set(DRAWS)
    tested |= {"reduction.backend", "reduction.store", "optimization.mcmc.max_gradients"}
    tested |= {f"{CMC}backend.jobs.{key}" for key in JOBS}
    tested |= {f"{CMC}{key}" for key in (*PLAN, "sharding.strategy")} | {f"{CMC}initialization.{key}" for key in START}
    keys = set(known_keys(find_model("laminar_flow")))
    leaves = {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}
    assert tested | elsewhere == leaves
