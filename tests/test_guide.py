"""The examples of the developer guide to Consensus Monte Carlo, in its order, each in the nearest form that is right.

Comments say what the guide has instead, and why that would be wrong.
"""

import importlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import homodyne
from homodyne.device.config import HardwareConfig, detect_hardware, should_use_cmc
from homodyne.errors import ExecutionError, HomodyneWarning, InputError
from homodyne.optimization.cmc import (
    CMCCoordinator,
    LogDensityModel,
    MCMCResult,
    combine_subposteriors,
    pool_samples_from_shards,
    run_svi_initialization,
    shard_data_stratified,
    shard_data_time_stratified,
    validate_cmc_results,
    validate_shards,
)
from homodyne.optimization.cmc.backends import (
    BACKENDS,
    BackendOptions,
    CMCBackend,
    MultiprocessingBackend,
    SequentialBackend,
    register_backend,
    select_backend,
)
from homodyne.optimization.mcmc import fit_mcmc_jax

pytestmark = pytest.mark.slow

PATHS = {
    "homodyne": "sample_consensus MCMCResult",
    "homodyne.device.config": "detect_hardware HardwareConfig should_use_cmc",
    "homodyne.optimization.mcmc": "fit_mcmc_jax",
    "homodyne.optimization.cmc": "CMCCoordinator sample_consensus combine_subposteriors shard_data_stratified "
    "shard_data_time_stratified validate_shards pool_samples_from_shards run_svi_initialization validate_cmc_results "
    "MCMCResult LogDensityModel NumPyroModel",
    "homodyne.optimization.cmc.coordinator": "CMCCoordinator sample_consensus",
    "homodyne.optimization.cmc.sharding": "shard_data_stratified shard_data_time_stratified validate_shards",
    "homodyne.optimization.cmc.svi_init": "run_svi_initialization pool_samples_from_shards",
    "homodyne.optimization.cmc.combination": "combine_subposteriors",
    "homodyne.optimization.cmc.diagnostics": "validate_cmc_results _kl_divergence_gaussian",
    "homodyne.result.record": "MCMCResult",
    "homodyne.optimization.cmc.backends": "CMCBackend select_backend MultiprocessingBackend SequentialBackend",
    "homodyne.optimization.cmc.backends.base": "CMCBackend",
    "homodyne.optimization.cmc.backends.selection": "select_backend",
    "homodyne.optimization.cmc.backends.multiprocessing": "MultiprocessingBackend",
}

Q = 0.0054
TRUTH = {"D0": 2e4, "alpha": -0.5}
SMALL = {
    "parameters": {"D_offset": {"fixed": 0.0}},
    "certificate": {"num_points": 100},
    "optimization": {"nlsq": {"num_candidates": 100, "num_starts": 2}},
}
SHARDS = {"sharding": {"num_shards": 4}, "backend": {"name": "sequential"}, "combination": {"num_draws": 100}}
HARDWARE = HardwareConfig(cores=8, machine_cores=8, total_memory=2**34, available_memory=2**34)


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in PATHS.items() for name in names.split()])
def test_names_import_from_the_paths_of_the_guide(path, name):
    assert getattr(importlib.import_module(path), name) is not None


@pytest.mark.parametrize("package", ["homodyne.optimization.cmc", "homodyne.optimization.cmc.backends"])
def test_packages_are_light_until_a_name_is_used(package):
    code = f"import sys, {package}; print(sorted({{'jax', 'numpy', 'scipy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    module = importlib.import_module(package)
    assert set(dir(module)) >= {*module.__all__}
    with pytest.raises(AttributeError, match="'combin'"):
        module.combin  # noqa: B018


# --- data: a small measurement as flat arrays


def flat(num_frames=30, phi=(0.0, 30.0)):
    """Values, t1, t2 (s) and angles (degrees) of every pair of frames, angle by angle."""
    measured = homodyne.simulate(
        {**TRUTH, "D_offset": 0.0}, q=Q, num_frames=num_frames, dt=0.1, phi=phi, contrast=0.3, kind="independent",
        sigma=0.02, seed=1,
    )  # fmt: skip
    i, j = np.triu_indices(num_frames, 1)
    count = len(phi)
    t1, t2 = np.tile(measured.t[i], count), np.tile(measured.t[j], count)
    return measured.c2[:, i, j].ravel(), t1, t2, np.repeat(measured.phi, len(i))


@pytest.fixture(scope="module")
def points():
    return flat()


# --- design principles


def test_empty_data_are_refused_early():
    # The guide raises ValueError. InputError says with which exit code the command line ends.
    with pytest.raises(InputError):
        fit_mcmc_jax([], [], [], [], q=Q, analysis_mode="static", method="cmc")


def test_hardware_and_size_decide():
    # The guide splits from 500 thousand points on or so. One sampler has no merging error and costs no more on the
    # same cores, so shards are for data that do not fit into memory, or that would take hours.
    assert not should_use_cmc(500_000, detect_hardware())
    assert should_use_cmc(10**12, detect_hardware())


# --- sharding


@pytest.mark.parametrize("strategy", ["stratified", "random", "contiguous", "time_stratified"])
def test_all_sharding_strategies(points, strategy):
    data, t1, t2, phi = points
    shards = shard_data_stratified(data, t1, t2, phi, num_shards=10, q=Q, L=2e6, strategy=strategy)
    assert len(shards) == 10
    # Contiguous shards of data that are sorted by angle see one or two angles each: the guide asserts that its check
    # passes for them, and demands three angles in the same check.
    valid, problems = validate_shards(shards, original_size=len(data))
    assert valid == (strategy != "contiguous"), problems
    assert validate_shards(shards[1:], original_size=len(data))[0] is False
    assert sum(len(shard["data"]) for shard in shards) == len(data)


def test_points_of_a_bin_are_dealt_out():
    # In the example of the guide, shard 0 gets elements 0::2 of the bins [0, 1, 2], [3, 4, 5], [6, 7, 8, 9] and shard
    # 1 the rest, "[0, 2, 3, 5, 6, 8]" and "[1, 4, 7, 9]": six points and four. Every bin begins at shard 0, so the
    # first shards are too large. Here dealing goes on where the bin before has stopped: five and five.
    values = np.arange(10.0)
    shards = shard_data_stratified(values, values, values + 1.0, np.zeros(10), num_shards=2)
    assert sorted(np.concatenate([shard["indices"] for shard in shards])) == list(range(10))
    assert [len(shard["data"]) for shard in shards] == [5, 5]


def test_time_stratified_sharding(points):
    # In the guide these shards have "data" only; without times and angles they cannot be fitted. Its bins also leave
    # out the last point: np.digitize numbers it 10, and the loop ends at 9.
    data, t1, t2, phi = points
    shards = shard_data_time_stratified(data, t1, t2, phi, num_shards=4)
    assert [set(shard) >= {"data", "t1", "t2", "phi", "indices"} for shard in shards] == [True] * 4
    assert validate_shards(shards, len(data)) == (True, [])


# --- initialization


def log_prior(z):
    return -0.5 * jnp.sum(jnp.square(z))


def log_likelihood(z, data):
    """Straight line over t1 with noise of 0.1."""
    return -0.5 * jnp.sum(jnp.square((data["data"] - z[0] - z[1] * data["t1"]) / 0.1))


LINE = LogDensityModel(("level", "slope"), log_prior, log_likelihood)


@pytest.fixture(scope="module")
def line_shards():
    rng = np.random.default_rng(0)
    t1 = rng.uniform(-1.0, 1.0, 400)
    values = 0.5 - 0.3 * t1 + rng.normal(0.0, 0.1, 400)
    return shard_data_stratified(values, t1, t1 + 2.0, np.tile([0.0, 45.0, 90.0, 135.0], 100), num_shards=4)


def line_posterior(shards):
    """Exact mean and covariance: a conjugate problem."""
    design = np.concatenate([np.stack([np.ones_like(shard["t1"]), shard["t1"]], axis=1) for shard in shards])
    covariance = np.linalg.inv(design.T @ design / 0.01 + np.eye(2))
    return covariance @ design.T @ np.concatenate([shard["data"] for shard in shards]) / 0.01, covariance


@pytest.fixture(scope="module")
def initialization(line_shards):
    # The guide samples the pool as if it were a shard; the inverse mass matrix is the covariance of the posterior of
    # one shard, so the size of a shard is needed. The guide also reads its covariance from "auto_loc" and
    # "auto_scale": those are the mean and a standard deviation.
    pooled = pool_samples_from_shards(line_shards, samples_per_shard=50)
    return run_svi_initialization(LINE, pooled, num_shards=4, points_per_shard=100, num_steps=500)


def test_variational_initialization(line_shards, initialization):
    mean, covariance = line_posterior(line_shards)
    assert np.abs(initialization.center - mean).max() < 5 * np.sqrt(covariance.max())
    ratio = np.diag(initialization.covariance) / (4 * np.diag(covariance))  # a fourth of the data: four times wider
    assert np.all((ratio > 0.5) & (ratio < 2.0))


# --- backends


def test_select_backend():
    assert select_backend(detect_hardware(), "sequential").get_backend_name() == "sequential"
    assert isinstance(select_backend(HARDWARE), MultiprocessingBackend)
    with pytest.raises(InputError, match="known"):
        select_backend(HARDWARE, "carrier pigeon")


def test_run_parallel_mcmc(line_shards, initialization):
    # In the guide the backend has to know what is sampled; here it is told, so that it serves any model.
    backend = SequentialBackend()
    init_params = dict(zip(LINE.names, initialization.center, strict=True))
    config = {"num_warmup": 100, "num_samples": 500, "num_chains": 2}
    results = backend.run_parallel_mcmc(line_shards, config, init_params, initialization.covariance, model=LINE)
    assert [result["shard_id"] for result in results] == [0, 1, 2, 3]
    assert all(result["converged"] for result in results)
    assert results[0]["samples"].shape == (2, 500, 2)
    combined = combine_subposteriors(results)
    assert validate_cmc_results(results, combined)[0]
    mean, covariance = line_posterior(line_shards)
    width = np.sqrt(np.diag(covariance))
    ess = min(result["ess_bulk"].min() for result in results)
    assert np.abs((combined["mean"] - mean) / width).max() < 5 / np.sqrt(ess)  # Monte Carlo error
    error = 5 / np.sqrt(2 * 4 * ess)
    np.testing.assert_allclose(np.sqrt(np.diag(combined["cov"])) / width, 1.0, atol=error)
    lost = combine_subposteriors(results[1:])  # a planted bug that the tolerance must not cover
    assert np.abs(np.sqrt(np.diag(lost["cov"])) / width - 1.0).max() > error


def line_function(data):
    """LINE as a NumPyro model function."""
    level = numpyro.sample("level", dist.Normal(0.0, 1.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(level + slope * data["t1"], 0.1), obs=data["data"])


def test_the_calls_of_the_guide_one_after_the_other(line_shards):
    # svi in the guide's form: the pool says how many shards of which size it is made of, which the guide forgets. A
    # backend is told the model.
    pooled = pool_samples_from_shards(line_shards, samples_per_shard=50)
    assert (pooled.num_shards, pooled.points_per_shard) == (4, 100.0)
    start = {"level": 0.4, "slope": -0.2}
    init_params, inv_mass_matrix = run_svi_initialization(line_function, pooled, start, 500)
    assert list(init_params) == ["level", "slope"]
    _, covariance = line_posterior(line_shards)
    assert np.all(np.abs(np.log(np.diag(inv_mass_matrix) / (4 * np.diag(covariance)))) < np.log(2.0))
    results = SequentialBackend().run_parallel_mcmc(
        line_shards[:2], {"num_samples": 20}, init_params, inv_mass_matrix, model=line_function
    )
    assert [result["samples"].shape for result in results] == [(4, 20, 2)] * 2
    # the guide gives no model: its backends sampled a placeholder
    with pytest.raises(InputError, match="model is missing.*give model=.*CMCCoordinator"):
        SequentialBackend().run_parallel_mcmc(line_shards, {}, init_params, inv_mass_matrix)
    with pytest.raises(InputError) as caught:
        run_svi_initialization(line_function, dict(pooled), {"level": 0.0}, 5, rank=0)
    for fault in ("does not say of how many shards", "the coordinates are level, slope", "num_steps is 5", "rank is 0"):
        assert fault in str(caught.value)


def test_models_made_inside_a_function_run_in_this_process(line_shards):
    local = LogDensityModel(LINE.names, lambda z: log_prior(z), lambda z, data: log_likelihood(z, data))
    arguments = (line_shards[:2], {"num_samples": 20}, {"level": 0.5, "slope": -0.3}, 1e-3 * np.eye(2))
    results = SequentialBackend().run_parallel_mcmc(*arguments, model=local)
    same = SequentialBackend().run_parallel_mcmc(*arguments, model=LINE)
    for one, other in zip(results, same, strict=True):
        np.testing.assert_array_equal(one["samples"], other["samples"])


def test_a_failed_shard_does_not_end_the_others(line_shards):
    broken = {**line_shards[1], "data": np.full_like(line_shards[1]["data"], np.nan)}
    results = SequentialBackend(BackendOptions(max_attempts=1)).run_parallel_mcmc(
        [line_shards[0], broken], {"num_samples": 20}, {"level": 0.5, "slope": -0.3}, 1e-3 * np.eye(2), model=LINE
    )
    assert "samples" in results[0]
    assert results[1]["converged"] is False
    assert "no start" in results[1]["reason"]


def test_a_list_with_a_failed_shard_is_combined_and_validated_as_it_is():
    # as run_parallel_mcmc returns it; the guide drops it in silence
    failed = {"shard_id": 1, "converged": False, "reason": "the worker was lost", "attempts": 2}
    results = [draws(3)[0], failed, draws(3)[2]]
    with pytest.warns(HomodyneWarning, match=r"1 of 3 shards failed and are left out.*shard 1: the worker was lost"):
        combined = combine_subposteriors(results)
    assert "shard 1: the worker was lost" in combined.notes[0]
    np.testing.assert_array_equal(combined.samples, combine_subposteriors([results[0], results[2]]).samples)
    valid, report = validate_cmc_results(results, combined)
    assert not valid
    assert report["problems"][0] == "shard 1 failed: the worker was lost"
    with pytest.raises(ExecutionError, match=r"no shard has draws to combine \(shard 1: the worker was lost\)"):
        combine_subposteriors([failed])
    assert not validate_cmc_results([failed])[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mcmc_config": {"num_draws": 3}}, "num_draws"),
        ({"init_params": {"level": 0.0}}, "coordinates are level, slope"),
        ({"inv_mass_matrix": np.eye(3)}, "inv_mass_matrix"),
        ({"inv_mass_matrix": -np.eye(2)}, "positive definite"),
        ({"shards": []}, "no shards"),
    ],
)
def test_wrong_arguments_of_run_parallel_mcmc(line_shards, changed, message):
    given = {
        "shards": line_shards, "mcmc_config": {}, "init_params": {"level": 0.0, "slope": 0.0},
        "inv_mass_matrix": np.eye(2), **changed,
    }  # fmt: skip
    with pytest.raises(InputError, match=message):
        SequentialBackend().run_parallel_mcmc(**given, model=LINE)


def test_a_new_backend(line_shards, monkeypatch):
    # In the guide a backend samples by itself, and the registry holds paths as text. Here it only runs tasks.
    monkeypatch.delitem(BACKENDS, "backward", raising=False)  # also when this ends

    class BackwardBackend(CMCBackend):
        def run(self, tasks, *, on_result, progress=None):
            return SequentialBackend().run(tasks[::-1], on_result=on_result, progress=progress)

        def get_backend_name(self):
            return "backward"

    register_backend("backward", lambda options: BackwardBackend())
    arguments = (line_shards, {"num_samples": 20}, {"level": 0.5, "slope": -0.3}, 1e-3 * np.eye(2))
    results = select_backend(HARDWARE, "backward").run_parallel_mcmc(*arguments, model=LINE)
    assert len(results) == len(line_shards)
    again = SequentialBackend().run_parallel_mcmc(*arguments, model=LINE)
    for one, other in zip(results, again, strict=True):
        np.testing.assert_array_equal(one["samples"], other["samples"])


# --- combination


def draws(count, size=1000, dimension=3):
    rng = np.random.default_rng(0)
    return [{"samples": rng.normal(size=(size, dimension)), "shard_id": k} for k in range(count)]


def test_weighted_gaussian_product_two_shards():
    combined = combine_subposteriors(draws(2))
    assert "samples" in combined
    assert combined["samples"].shape == (1000, 3)
    assert combined["method"] == "weighted"
    np.testing.assert_allclose(np.diag(combined["cov"]), 0.5, rtol=0.2)


def test_the_product_does_not_depend_on_units():
    # The guide adds 1e-6 to every variance: with parameters of 1e-9 or 1e9 that decides the result, or does nothing.
    scale = np.array([1e-9, 1.0, 1e9])
    small = [{**shard, "samples": shard["samples"] * scale} for shard in draws(2)]
    one, other = combine_subposteriors(draws(2)), combine_subposteriors(small)
    np.testing.assert_allclose(other["mean"], one["mean"] * scale, rtol=1e-6)
    np.testing.assert_allclose(other["cov"], one["cov"] * np.outer(scale, scale), rtol=1e-6)


def test_hierarchical_combination():
    # The guide merges normal approximations of normal draws again and again, which adds Monte Carlo error at every
    # level, and asserts the method "hierarchical" where its code returns "weighted".
    combined = combine_subposteriors(draws(128), method="hierarchical", tree_depth=2)
    assert "samples" in combined
    assert combined["method"] == "hierarchical"
    np.testing.assert_allclose(128 * np.diag(combined["cov"]), 1.0, rtol=0.1)


def test_combination_falls_back_where_a_shard_does_not_vary():
    # The guide expects that regularisation fails; its 1e-6 would make the constant shard the most precise of all and
    # the merge would succeed with the wrong answer. The fallback is announced: pooled draws are too wide.
    shards = [{"samples": np.zeros((1000, 3))}, draws(1)[0]]
    with pytest.warns(HomodyneWarning, match="average"):
        combined = combine_subposteriors(shards, method="weighted", fallback_enabled=True)
    assert combined["method"] == "average"


def test_unknown_methods_are_refused():
    with pytest.raises(InputError, match="unknown"):
        combine_subposteriors(draws(2), method="majority vote")


@pytest.mark.parametrize("count", [2, 10])
@pytest.mark.parametrize("size", [100, 1000])
def test_combination_preserves_the_number_of_draws(count, size):
    assert combine_subposteriors(draws(count, size))["samples"].shape[0] == size


# --- diagnostics


def test_kl_divergence_of_normals():
    # The guide adds 1e-6 here too. KL(p || q) in closed form for one coordinate, and zero for equal distributions:
    from homodyne.optimization.cmc.diagnostics import _kl_divergence_gaussian

    one = np.array([0.0]), np.array([[1e-8]])
    other = np.array([1e-4]), np.array([[4e-8]])
    exact = 0.5 * (1 / 4 + 1 / 4 - 1 + np.log(4))
    assert _kl_divergence_gaussian(*one, *other) == pytest.approx(exact, rel=1e-12)
    assert _kl_divergence_gaussian(*one, *one) == pytest.approx(0.0, abs=1e-12)


def test_healthy_shards_are_farther_apart_than_the_guide_allows():
    # Limits of 0.5, 2 and 5 nats whatever the number of parameters call healthy shards diverged: two shards with one
    # share of the data each are apart by their dimension on average. The limit here follows from dimension, number of
    # shards and draws.
    dimension, rng = 9, np.random.default_rng(0)
    shards = [
        {"samples": rng.normal(size=dimension) + rng.normal(size=(2, 500, dimension)), "shard_id": k}
        for k in range(6)
    ]  # fmt: skip
    valid, report = validate_cmc_results(shards)
    assert valid, report["problems"]
    assert report["between"]["kl"]["max"] > 5.0


# --- the whole


def test_cmc_coordinator_end_to_end(points):
    # The guide leaves "..." for the analysis mode. Identity means unit widths in coordinates without bounds. In the
    # guide fit_mcmc_jax calls the coordinator; here run_cmc is fit_mcmc_jax(method="cmc"), so that there is one way.
    config = {
        **SMALL,
        "mcmc": {"num_warmup": 100, "num_samples": 200},
        "cmc": {**SHARDS, "initialization": {"method": "identity"}, "escalate": False},
    }
    coordinator = CMCCoordinator(config)
    result = coordinator.run_cmc(*points, q=Q, analysis_mode="static", nlsq_params=TRUTH)
    assert isinstance(result, MCMCResult)
    assert result.is_cmc_result()
    assert result.num_shards == 4
    assert len(result.per_shard_diagnostics) == 4
    assert result.converged, result.certificate
    for name, value in TRUTH.items():
        assert abs(result.mean[name] - value) < 5 * result.sd[name]


def test_fit_mcmc_jax_decides(points):
    mcmc = {"num_warmup": 50, "num_samples": 50, "num_chains": 2}
    result = fit_mcmc_jax(*points, q=Q, analysis_mode="static", method="auto", cmc_config={**SMALL, "mcmc": mcmc})
    assert result.method == "nuts"
    assert not result.is_cmc_result()
    assert result.cmc_diagnostics is None
