"""The doors to Consensus Monte Carlo: arguments are checked before work, all at once, and six steps are logged."""

import logging
import re

import jax.numpy as jnp
import numpy as np
import pytest

import homodyne
from homodyne.errors import ConfigError, InputError
from homodyne.optimization import mcmc
from homodyne.optimization.cmc import coordinator
from homodyne.optimization.cmc.backends.base import BackendOptions, SequentialBackend
from homodyne.optimization.cmc.consensus import ConsensusSettings
from homodyne.optimization.cmc.coordinator import CMCCoordinator, sample_consensus
from homodyne.optimization.cmc.models.adapters import LogDensityModel
from homodyne.optimization.cmc.steps import STEPS
from homodyne.optimization.cmc.svi_init import pool_samples_from_shards, run_svi_initialization
from homodyne.optimization.mcmc import fit_mcmc_jax
from homodyne.optimization.nuts import NutsSettings

MODEL = LogDensityModel(
    ("a",), lambda z: -0.5 * jnp.sum(z**2), lambda z, data: -0.5 * jnp.sum((data["y"] - z[0]) ** 2)
)  # fmt: skip
Y = np.random.default_rng(0).normal(size=40)
GIVEN = {"num_shards": 2, "backend": "sequential"}
NAN = np.where(np.arange(40) == 7, np.nan, Y)


@pytest.fixture
def no_work(monkeypatch):
    """Everything that takes time is an error."""

    def work(*given, **named):
        raise AssertionError("work was begun")

    for name in ("look_for_modes", "run_consensus", "opened", "digest_arrays"):
        monkeypatch.setattr(coordinator, name, work)
    monkeypatch.setattr(mcmc, "_fit", work)


WRONG = [
    ({"combination": "weigthed"}, "unknown combination method 'weigthed'"),
    ({"strategy": "stratifed"}, "unknown sharding strategy 'stratifed'; did you mean stratified"),
    ({"initialization": "nlsqq"}, "unknown initialization 'nlsqq'"),
    ({"backend": "sequentiel"}, "unknown backend 'sequentiel'"),
    ({"backend": "absent_module:Backend"}, "cannot import the backend 'absent_module:Backend'"),
    ({"num_shards": 41}, "40 points cannot fill 41 shards; use at most 40"),
    ({"num_shards": 2.5}, "num_shards = 2.5; expected an integer"),
    ({"seed": -1}, "seed is -1, must be at least 0"),
    ({"seed": "one"}, "seed is 'one', must be an integer of 0 or more"),
    ({"settings": {"num_draws": 5}}, "settings is .*, expected ConsensusSettings"),
    ({"options": {"num_workers": 5}}, "options is .*, expected BackendOptions"),
    ({"store": 5}, "store is 5, expected str or Path"),
    ({"prior_sites": ("a",)}, "prior_sites belongs to NumPyro model functions"),
    ({"data": {"y": NAN}}, "data\\['y'\\] has NaN or infinite values at 1 of 40 observations, the first is number 7"),
    ({"data": {"y": np.where(np.isnan(NAN), np.inf, Y)}}, "NaN or infinite values at 1 of 40"),
    ({"data": {"y": np.float32(Y)}}, "is float32, expected float64"),
    ({"model": 5}, "model is 5, expected a NumPyro model function"),
    ({"backend": "slurm"}, "needs the model as 'module:name'.*\n.*needs store=FOLDER"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG, ids=str)
def test_arguments_of_sample_consensus_are_checked_before_work(no_work, changed, message):
    given = {"model": MODEL, "data": {"y": Y}, **GIVEN, **changed}
    with pytest.raises(InputError, match=re.compile(message, re.DOTALL)):
        sample_consensus(**given)


def test_all_faults_are_told_at_once(no_work):
    wrong = {"combination": "x", "strategy": "y", "initialization": "z", "backend": "b", "seed": -1, "num_shards": 0}
    with pytest.raises(InputError) as caught:
        sample_consensus(MODEL, {"y": NAN}, **wrong)
    said = str(caught.value)
    assert said.startswith("7 problems:\n")
    for words in (
        "method 'x'",
        "strategy 'y'",
        "initialization 'z'",
        "backend 'b'",
        "seed is -1",
        "num_shards = 0",
        "NaN",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (ConsensusSettings, {"combination": "x", "min_success_rate": 1.5, "num_draws": 0, "certificate_points": 5}),
        (NutsSettings, {"num_warmup": 2.5, "num_samples": 1, "target_accept_prob": 1.0, "init_spread": np.nan}),
        (BackendOptions, {"num_workers": True, "timeout": 0, "silence": "long"}),
    ],
)
def test_settings_are_checked_when_they_are_made(kind, wrong):
    with pytest.raises(InputError, match=f"^{len(wrong)} problems:") as caught:
        kind(**wrong)
    assert all(name in str(caught.value) for name in wrong)


def test_what_is_not_given_does_not_replace_the_settings(no_work, monkeypatch):
    seen = []
    monkeypatch.setattr(coordinator, "digest_arrays", lambda arrays: "")
    monkeypatch.setattr(coordinator, "_densities", lambda model, arrays: ())
    monkeypatch.setattr(coordinator, "look_for_modes", lambda *given: None)
    monkeypatch.setattr(coordinator, "opened", lambda store, manifest: seen.append(manifest.seed) or 1 / 0)
    for given in ({}, {"seed": 9}):
        with pytest.raises(ZeroDivisionError):
            sample_consensus(MODEL, {"y": Y}, **GIVEN, settings=ConsensusSettings(seed=5), **given)
    assert seen == [5, 9]


def test_run_parallel_mcmc_and_svi_tell_every_fault():
    with pytest.raises(InputError) as caught:
        SequentialBackend().run_parallel_mcmc(
            [{"y": Y}], {"num_draws": 3, "num_samples": 1}, {"b": 0.0}, -np.eye(1), model=MODEL, seed=-1
        )
    said = str(caught.value)
    assert said.startswith("5 problems")
    for words in ("'num_draws'", "num_samples is 1", "the coordinates are a", "not positive definite", "seed is -1"):
        assert words in said
    with pytest.raises(InputError, match="3 problems"):
        run_svi_initialization(MODEL, {"y": Y}, num_shards=0, points_per_shard=np.nan, rank=0)
    with pytest.raises(InputError, match="2 problems"):
        pool_samples_from_shards([], 0)


# --- two-time maps

TRUTH = {"D0": 2e4, "alpha": -0.5, "D_offset": 0.0}
FIXED = {"parameters": {"D_offset": {"fixed": 0.0}}}


@pytest.fixture(scope="module")
def points():
    data = homodyne.simulate(
        TRUTH, q=0.01, num_frames=30, dt=0.1, phi=[0.0], contrast=0.3, kind="independent", sigma=0.02, seed=1
    )
    i, j = np.triu_indices(30, 1)
    return data.c2[0][i, j], data.t[i], data.t[j], np.zeros(i.size), 0.01


def test_faults_of_configuration_and_data_are_told_together(no_work, points):
    for door in (
        lambda: CMCCoordinator({**FIXED, "sed": 1, "advanced": {"use_64bit": False}}).run_cmc([], [], [], [], 0.01),
        lambda: fit_mcmc_jax([], [], [], [], 0.01, cmc_config={**FIXED, "sed": 1, "advanced": {}}),
    ):
        with pytest.raises(InputError) as caught:
            door()
        assert str(caught.value).startswith("3 problems:\n")
    with pytest.raises(ConfigError, match="a fixed parameter has no initial"):
        CMCCoordinator(FIXED).run_cmc(*points, analysis_mode="static", nlsq_params=TRUTH)
    with pytest.raises(InputError, match="nlsq_params is 5, expected Mapping"):
        CMCCoordinator(FIXED).run_cmc(*points, analysis_mode="static", nlsq_params=5)


def test_values_of_the_configuration_stay_where_no_argument_replaces_them(monkeypatch, points):
    seen = []
    monkeypatch.setattr(mcmc, "fit", lambda data, config, progress: seen.append(config))
    chosen = {**FIXED, "analysis_mode": "static", "optimization": {"method": "laplace"}, "seed": 4}
    fit_mcmc_jax(*points, cmc_config=chosen)
    fit_mcmc_jax(*points, method="nuts", seed=5, cmc_config=chosen)
    CMCCoordinator({**chosen, "mcmc": {"num_samples": 77}}).run_cmc(*points, nlsq_params={"D0": 3e4})
    assert [config.analysis_mode for config in seen] == ["static"] * 3
    assert [config.optimization.method for config in seen] == ["laplace", "nuts", "cmc"]
    assert [config.seed for config in seen] == [4, 5, 4]
    assert seen[2].optimization.cmc.per_shard_mcmc.num_samples == 77
    assert seen[2].parameters.given()["D0"].initial == 3e4


def test_what_jobs_need_is_asked_for_before_the_pilot_fit(no_work, points):
    settings = {**FIXED, "cmc": {"backend": {"name": "slurm"}}}
    with pytest.raises(InputError, match="whose jobs need a folder that they see too: set .*checkpoint_dir"):
        CMCCoordinator(settings).run_cmc(*points, analysis_mode="static")


def steps(records):
    return [re.sub(r": [0-9.]+ s$", "", r.getMessage()) for r in records if r.getMessage().startswith("step ")]


@pytest.mark.slow
def test_both_spellings_count_and_six_steps_are_logged(points, caplog):
    settings = {
        "uncertainty": "independent",
        **FIXED,
        "optimization": {"cmc": {"sharding": {"num_shards": 3}}, "nlsq": {"num_candidates": 100, "num_starts": 2}},
        "cmc": {"combination": {"method": "average"}, "backend": {"name": "sequential"}, "escalate": False},
        "certificate": {"num_points": 100},
    }
    caplog.set_level(logging.INFO, "homodyne")
    result = CMCCoordinator(settings).run_cmc(*points, analysis_mode="static")
    assert (result.num_shards, result.combination_method) == (3, "average")
    expected = [f"step {k} of 6, {name}" for k, name in enumerate(STEPS, 1)]
    assert steps(caplog.records) == expected
    caplog.clear()
    sample_consensus(MODEL, {"y": Y}, **GIVEN)
    assert steps(caplog.records) == expected
