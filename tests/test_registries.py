"""One of everything that can be exchanged, in a file of its own: from Python, from YAML and by the command line."""

import json
import sys
from importlib.metadata import entry_points

import h5py
import numpy as np
import pytest

import homodyne as package
from homodyne.cli.program import run
from homodyne.config.io import load_config
from homodyne.config.schema import JobsConfig
from homodyne.errors import ConfigError, InputError
from homodyne.optimization.cmc.backends.jobs import job_script, worker_options
from homodyne.optimization.cmc.backends.slurm import SlurmBackend
from homodyne.optimization.cmc.sharding import assign_points
from homodyne.registries import (
    BACKENDS,
    COMBINERS,
    FORMATS,
    NOISE,
    SAMPLERS,
    STRATEGIES,
    Combiner,
    NoiseSource,
    Registry,
    Strategy,
)

OWN = """
import math
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from homodyne.noise.sources import Estimate
from homodyne.optimization.cmc.backends import SequentialBackend
from homodyne.optimization.samplers import laplace
from homodyne.physics.model import CorrelationModel, Parameter
from homodyne.registries import NoiseSource


@dataclass(frozen=True)
class Exponential(CorrelationModel):
    name = "exponential"
    parameters = (Parameter("D", ("lognormal", {"median": 1e4, "sigma": 3.0}), "A^2/s", support=(0.0, math.inf)),)

    def warnings(self, params, t, q, phi, gap):
        return (f"D = {params['D']:.3g} from {len(t)} frames of {len(q)} maps, gap {gap}",)

    def g(self, params, t1, t2, q, phi, gap):
        return jnp.exp(-2.0 * jnp.asarray(q) ** 2 * params["D"] * (jnp.asarray(t2) - t1) + 0.0 * jnp.asarray(phi))


class Backwards(SequentialBackend):
    def run(self, tasks, *, on_result, progress=None):
        return super().run(tasks[::-1], on_result=on_result, progress=progress)

    def get_backend_name(self):
        return "backwards"


def as_wide(shards, request):
    y = request.rng.standard_normal((request.num_samples, len(shards.center)))
    return shards.merged(y, np.zeros(y.shape[1]), np.eye(y.shape[1]))


def one_after_the_other(t1, t2, phi, num_shards, rng):
    return np.arange(t1.size) % num_shards


def half_as_many(pilot, course, settings, progress):
    return replace(laplace(pilot, course, settings, progress), facts={"sampler": "half_as_many"})


counter = NoiseSource(share=lambda contrast, variance, facts: Estimate(np.full(len(contrast), 0.5), 0.01))
"""

OWN_FORMAT = """
import numpy as np

from homodyne.data.readers.catalog import Catalog

NAME = "laboratory"
CONTAINERS = ("HDF5",)


def absent(source):
    return [path for path in ("/twotime", "/azimuth", "/exposure") if path not in source]


def catalog(source, units):
    maps, n = source["twotime"], source["twotime"].shape[-1]

    def read_map(index, frames, out):
        out[:] = maps[index, frames, frames]

    return Catalog(num_maps=len(maps), num_frames=n, read_map=read_map, q=np.full(len(maps), 0.01),
                   phi=source["azimuth"][:], dt=float(source["exposure"][()]), dt_where="/exposure")
"""

SMALL = [
    "optimization.laplace.num_draws=100", "certificate.num_points=200", "reduction.num_checks=2",
    "uncertainty=independent", "optimization.cmc.escalate=false", "optimization.cmc.sharding.num_shards=2",
]  # fmt: skip
NAMED = {
    "optimization.cmc.sharding.strategy": "own:one_after_the_other",
    "optimization.cmc.backend.name": "own:Backwards",
    "optimization.cmc.combination.method": "own:as_wide",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Working folder with the files of somebody else's code and data, where Python finds modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "own_format.py").write_text(OWN_FORMAT)
    data = package.simulate(
        {"D0": 1e4, "alpha": 0.0, "D_offset": 0.0},
        q=0.01,
        num_frames=40,
        dt=0.05,
        phi=[0.0, 90.0],
        contrast=0.3,
        seed=1,
    )
    with h5py.File(tmp_path / "laboratory.h5", "w") as file:
        file["twotime"], file["azimuth"], file["exposure"] = np.array(data.c2), data.phi, 0.05
    yield data
    for name in ("own", "own_format"):
        sys.modules.pop(name, None)


def registered():
    """Everything of the two files, registered."""
    import own
    import own_format

    package.physics.model.register_model(own.Exponential)
    BACKENDS.register("backwards", own.Backwards)
    COMBINERS.register("as_wide", own.as_wide)
    STRATEGIES.register("one_after_the_other", own.one_after_the_other)
    SAMPLERS.register("half_as_many", own.half_as_many)
    NOISE.register("counter", own.counter)
    FORMATS.register("laboratory", own_format)


def test_from_python_by_registered_names(folder):
    with pytest.raises(InputError, match="unknown file format 'laboratory'"):
        FORMATS.find("laboratory")
    registered()
    data = package.load("laboratory.h5")
    assert np.array_equal(data.phi, folder.phi)
    settings = load_config({"analysis_mode": "exponential"}, SMALL)
    named = [f"{key}={name.partition(':')[2].lower()}" for key, name in NAMED.items()]
    result = package.fit(data, config=load_config(settings, [*named, "optimization.method=cmc"]))
    assert result.method == "cmc"
    assert abs(result.mean["D"] / 5e3 - 1) < 0.3  # half of D0: g is the square of the field correlation
    drawn = package.fit(data, config=load_config(settings, ["optimization.method=half_as_many"]))
    assert (drawn.method, drawn.diagnostics["sampler"]) == ("half_as_many", "half_as_many")
    (said,) = [one for one in drawn.diagnostics["warnings"] if one.startswith("D = ")]  # by the model, of the best fit
    assert abs(float(said.split()[2]) / drawn.mean["D"] - 1) < 0.1
    assert said.endswith(f"from {len(data.t)} frames of {len(data.phi)} maps, gap {data.gap or np.nan}")
    noisy = package.fit(data, config=load_config(settings, ["optimization.method=laplace", "uncertainty=calibrated"]))
    assert "counter" in json.dumps(noisy.diagnostics["noise"])


def test_from_a_configuration_and_the_command_line_by_where_they_are(folder, capsys):
    assert run(["fit", "laboratory.h5", "--no-report", "--output", "none"]) == 2
    assert "layout that is not known" in capsys.readouterr().err
    changes = [*SMALL, *(f"{key}={name}" for key, name in NAMED.items()), "optimization.method=cmc"]
    with open("run.yaml", "w") as file:
        file.write(
            "analysis_mode: own:Exponential\nexperimental_data:\n  file_path: laboratory.h5\n  format: own_format\n"
        )
    assert run(["fit", "run.yaml", "--no-report", "--no-figures", "--output", "out", *changes]) == 0, (
        capsys.readouterr()
    )
    result = package.load_result("out/result.nc")
    assert abs(result.mean["D"] / 5e3 - 1) < 0.3  # half of D0: g is the square of the field correlation
    said = result.diagnostics["cmc"]
    assert said["combined"]["method"] == "own:as_wide", said
    stored = load_config(result.config, importing=False).optimization.cmc
    assert (stored.sharding.strategy, stored.backend.name) == ("own:one_after_the_other", "own:Backwards")


def test_jobs_import_what_is_ones_own(tmp_path):
    names = ["own:Exponential", "own:one_after_the_other", "weighted", None]
    assert worker_options(names) == ["--import", "own"]
    script = job_script(SlurmBackend.dialect, JobsConfig(), tmp_path, "sampling", 0, 2, worker_options(names))
    assert f"worker {tmp_path} --import own" in script


@pytest.mark.parametrize(
    ("registry", "wrong", "message"),
    [
        (BACKENDS, 3, "a class or function of BackendOptions"),
        (COMBINERS, "no function", "cannot import"),
        (COMBINERS, int, "expected a Combiner or a function"),
        (STRATEGIES, 3.0, "expected a Strategy or a function"),
        (SAMPLERS, [], "a class or function of pilot"),
        (NOISE, 1, "expected a NoiseSource or a function"),
        (FORMATS, object(), "which lacks NAME, CONTAINERS, absent, catalog"),
    ],
    ids=lambda value: getattr(value, "kind", None) and value.kind,
)
def test_what_cannot_be_used_is_refused(registry, wrong, message):
    with pytest.raises(InputError, match=message):
        registry.register("wrong", wrong)
        registry.find("wrong")
    first = next(iter(registry), None)
    if first is not None:
        with pytest.raises(InputError, match=f"the name '{first}' of a {registry.kind} is taken"):
            registry.register(first, wrong)
    with pytest.raises(InputError, match="unknown"):
        registry.find("nothing of this name")


@pytest.mark.parametrize(
    "wrong", [lambda *given: np.zeros(6, int), lambda *given: np.arange(6), lambda *given: [0.5] * 6]
)
def test_a_strategy_that_loses_points_is_refused(wrong):
    t = np.arange(6.0)
    STRATEGIES.register("wrong", wrong)
    with pytest.raises(InputError, match="the strategy 'wrong' gave numbers of type .*expected 6 integers from 0 to 1"):
        assign_points("wrong", t, t + 1, t, 2)


def test_every_name_of_the_package_is_what_it_stands_for():
    for registry, kind in ((COMBINERS, Combiner), (STRATEGIES, Strategy), (NOISE, NoiseSource)):
        assert all(isinstance(registry[name], kind) for name in registry)
    assert all(callable(entry) for registry in (BACKENDS, SAMPLERS) for entry in registry.values())
    assert all(name == FORMATS[name].NAME for name in FORMATS)


def test_what_is_registered_in_a_block_is_forgotten():
    registry: Registry[int] = Registry("number", "homodyne.numbers", {"one": 1}, lambda name, entry: entry)
    with registry.unchanged():
        registry.register("two", 2)
        del registry["one"]
        assert (registry.added(), list(registry)) == ({"two": 2}, ["two"])
    assert dict(registry) == {"one": 1}
    assert not entry_points(group=registry.group)


def test_a_name_in_a_store_imports_nothing(folder):
    stored = {"optimization": {"cmc": {"combination": {"method": "own:as_wide"}}}}
    assert load_config(stored, importing=False).optimization.cmc.combination.method == "own:as_wide"
    with pytest.raises(InputError, match="import own before"):
        COMBINERS.find("own:as_wide", importing=False)
    with pytest.raises(ConfigError, match="cannot import the combination method"):
        load_config(None, ["optimization.cmc.combination.method=own:absent"])
    assert load_config(stored).optimization.cmc.combination.method == "own:as_wide"
    assert COMBINERS.find("own:as_wide", importing=False).is_product
