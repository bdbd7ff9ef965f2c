"""Two-time maps as shards: the identity, exact sums of moments, joint draws."""

import pickle
from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

import homodyne
from homodyne.config.io import load_config
from homodyne.config.schema import Config
from homodyne.likelihood.condensed import condensation
from homodyne.likelihood.posterior import evaluate_many
from homodyne.likelihood.reduction import Accuracy, reduce_shards
from homodyne.likelihood.scaling import ScalingPrior
from homodyne.optimization import xpcs
from homodyne.optimization.cmc.backends.pjit import is_pure_jax
from homodyne.optimization.cmc.sharding import STRATEGIES, shard_numbers
from homodyne.optimization.problem import TYPICAL_SIGNAL, build_problem
from homodyne.optimization.xpcs import Shard, XpcsModel

pytestmark = pytest.mark.slow

TRUTH = {
    "D0": 2e4, "alpha": -0.5, "D_offset": 1000.0, "gamma_dot_0": 3e-4, "beta": -0.5, "gamma_dot_offset": 1e-4,
    "phi0": 5.0,
}  # fmt: skip
PHI = (0.0, 30.0, 60.0)


@pytest.fixture(scope="module")
def measured():
    data = homodyne.simulate(
        TRUTH, q=0.0054, gap=2e6, num_frames=40, dt=0.1, phi=PHI, contrast=0.3, kind="independent", sigma=0.03
    )
    problem, sigma = build_problem(data, Config()), np.array([0.03, 0.031, 0.029])
    grid = problem.grid({name: np.array([value]) for name, value in TRUTH.items()}, Accuracy(), TYPICAL_SIGNAL)
    posterior = problem.posterior(problem.reduced(grid), sigma)
    maps = problem.maps
    model = XpcsModel(problem.space, maps.t, maps.q, maps.phi, maps.gap, problem.scaling, sigma, posterior.calibration)
    return (maps, grid), posterior, model


def shards_of(data, model, strategy, count):
    maps, grid = data
    parts = reduce_shards(maps, grid, count, shard_numbers(maps, count, strategy))
    return [model.load(Shard.of(part, None).arrays()) for part in parts]


def point(model, seed=0):
    rng = np.random.default_rng(seed)
    near = model.space.coordinates(TRUTH)
    n = len(PHI)
    return np.concatenate([near + 0.01 * rng.normal(size=7), rng.normal(1, 0.01, n), rng.normal(0.3, 0.01, n)])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_subposteriors_multiply_to_the_full_posterior(measured, strategy):
    data, posterior, model = measured
    shards = shards_of(data, model, strategy, 3)
    for seed in range(3):
        x = point(model, seed)
        full = model.log_joint(x, Shard(posterior.nodes), 1.0)
        assert sum(model.log_joint(x, shard, 1 / 3) for shard in shards) == pytest.approx(full, rel=1e-9)
    assert sum(model.log_joint(x, shard, 1.0) for shard in shards) != pytest.approx(full, rel=1e-8)  # prior thrice
    assert sum(model.log_joint(x, shard, 1 / 3) for shard in shards[1:]) != pytest.approx(full, rel=1e-8)


def test_the_joint_density_is_the_marginal_times_the_conditional(measured):
    _, posterior, model = measured
    nodes, x = posterior.nodes, point(model)
    at = evaluate_many(x[None, :7], posterior)
    marginal = float(at.log_density[0])
    pairs = np.stack([x[7:10], x[10:]], axis=1)
    weight, mean, covariance = (values[0] for values in at.scaling)
    conditional = 0.0
    for k, pair in enumerate(pairs):
        parts = zip(weight[:, k], mean[:, k], covariance[:, k], strict=True)
        conditional += logsumexp([w + stats.multivariate_normal(m, c).logpdf(pair) for w, m, c in parts])
    assert model.log_joint(x, Shard(nodes), 1.0) == pytest.approx(marginal + conditional, rel=1e-10)


@pytest.mark.parametrize("strategy", ["stratified", "interleaved", "frame_blocks"])
def test_merged_moments_are_those_of_all_data(measured, strategy):
    data, posterior, model = measured
    z = np.array([point(model, seed)[:7] for seed in range(2)])
    whole = model.statistics(z, Shard(posterior.nodes))
    exact = evaluate_many(z, posterior).log_density
    merged = model.merge([model.statistics(z, shard) for shard in shards_of(data, model, strategy, 4)])
    np.testing.assert_allclose(merged, whole, rtol=1e-9, atol=1e-9 * np.abs(whole).max())
    np.testing.assert_allclose(model.log_density(z, merged), exact, rtol=1e-12)
    draws = model.finish(z[None], merged[None], np.random.default_rng(0))
    assert draws["contrast"].shape == (1, 2, 3)
    assert draws["D0"].shape == (1, 2)


def test_joined_shards_are_all_data(measured):
    data, posterior, model = measured
    z, shards = np.array([point(model, seed)[:7] for seed in range(2)]), shards_of(data, model, "stratified", 4)
    whole = model.statistics(z, Shard(posterior.nodes))
    np.testing.assert_allclose(model.statistics(z, model.joined(shards)), whole, rtol=1e-9, atol=1e-9 * whole.max())
    assert not np.allclose(model.statistics(z, model.joined(shards[1:])), whole, rtol=1e-3)  # planted: one is forgotten


def test_few_nodes_of_a_shard_give_its_subposterior(measured):
    (maps, grid), posterior, model = measured
    part = reduce_shards(maps, grid, 3, shard_numbers(maps, 3, "stratified"))[1]
    rng, near = np.random.default_rng(0), model.space.coordinates(TRUTH)

    def error(center):
        """Standard deviation of the log density on few nodes about the exact one."""
        made = model.space.parameters_at(center + 0.02 * rng.normal(size=(200, 7)))
        few = condensation(posterior.nodes, model.space.model, made, 1e-6, rng)
        shard = model.load(Shard.of(part, few).arrays())
        assert np.count_nonzero(shard.few.weight[0]) < np.count_nonzero(shard.nodes.weight[0]) / 4
        exact, cheap = model.argument(Shard(part)), model.argument(shard)
        points = near + 0.02 * rng.normal(size=(20, 7))
        off = [model.log_subposterior(z, cheap, 1 / 3) - model.log_subposterior(z, exact, 1 / 3) for z in points]
        return np.std(off)

    assert error(near) < 0.2  # of which the trial, where nodes miss what they may, takes most
    assert error(near + 0.5) > 1.0  # planted: nodes were chosen for other parameters


def test_joint_draws_of_a_shard_follow_their_conditional_distribution(measured):
    """Mean and covariance of (offset, contrast) of one angle against derivatives of the exact joint density."""
    data, _, model = measured
    model = replace(model, scaling=ScalingPrior.product([(1.0, 1.0, 1.0)], [(1.0, 0.5, 1.0)]))  # one that has powers
    shard = shards_of(data, model, "interleaved", 4)[1]
    weak = replace(model, sigma=100 * model.sigma)  # so noisy that the prior matters
    z, pair = np.tile(point(model)[:7], (4000, 1)), [8, 11]

    def chi2(x, model, power):
        """Worst of the scores of mean and covariance, in units of their Monte Carlo errors."""
        steps = 1e-3 * np.eye(13)[pair]
        at = x[:, :].mean(axis=0)

        def log_p(y):
            return model.log_joint(y, shard, power)

        slope = np.array([log_p(at + e) - log_p(at - e) for e in steps]) / 2e-3
        table = [
            [log_p(at + e + f) - log_p(at + e - f) - log_p(at - e + f) + log_p(at - e - f) for f in steps]
            for e in steps
        ]
        covariance = np.linalg.inv(-np.array(table) / 4e-6)
        off = np.sqrt(len(x) * (covariance @ slope) @ slope)  # at the mean of the draws the slope is nearly zero
        wide = np.diag(np.cov(x[:, pair].T)) / np.diag(covariance) - 1
        return max(off / 2, np.abs(wide).max() / np.sqrt(2 / len(x)))

    draws = weak.complete(z, shard, 0.25, np.random.default_rng(0))
    assert chi2(draws, weak, 0.25) < 4
    assert chi2(weak.complete(z, shard, 1.0, np.random.default_rng(0)), weak, 0.25) > 8  # planted: the whole prior
    assert chi2(model.complete(z, shard, 0.25, np.random.default_rng(0)), model, 0.25) < 4


def test_a_copy_of_the_model_gives_the_same_and_is_small(measured):
    _, posterior, model = measured
    content = pickle.dumps(model)
    assert len(content) < 100_000
    copy, z = pickle.loads(content), point(model)[:7]
    density = jax.jit(lambda z, given: copy.log_subposterior(z, given, 0.25))
    value, gradient = jax.value_and_grad(density)(z, copy.argument(Shard(posterior.nodes)))
    given = copy.argument(Shard(posterior.nodes))
    assert value == pytest.approx(float(model.log_subposterior(z, given, 0.25)), rel=1e-12)
    step = 1e-5 * np.eye(7)
    slopes = [(density(z + e, given) - density(z - e, given)) / 2e-5 for e in step]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-4 * np.abs(gradient).max())


def test_runs_are_told_apart_by_what_decides_about_the_draws_only():
    def decisive(*changes, count=4):
        config = load_config(None, [f"optimization.cmc.{change}" for change in changes])
        return xpcs._decisive(config, count, [0.01], None)

    assert decisive("sharding.max_points_per_shard=1000") == decisive() == decisive("sharding.num_shards=4")
    others = [decisive("sharding.strategy=random"), decisive("per_shard_mcmc.num_samples=60"), decisive(count=5)]
    assert decisive() not in others


def test_shards_run_on_devices(measured):
    data, _, model = measured
    assert is_pure_jax(model, shards_of(data, model, "interleaved", 3)[0], 1 / 3)


def test_a_fit_on_devices_is_that_in_one_process():
    data = homodyne.simulate(
        TRUTH, q=0.0054, gap=2e6, num_frames=40, dt=0.1, phi=PHI, contrast=0.3, kind="independent", sigma=0.03
    )

    def fitted(backend):
        cmc = {
            "backend": {"name": backend, "enable_checkpoints": False},
            "sharding": {"num_shards": 2},
            "per_shard_mcmc": {"num_warmup": 30, "num_samples": 60},
            "escalate": False,
        }
        return homodyne.fit(data, mode="static", method="cmc", config={"optimization": {"cmc": cmc}})

    device, host = fitted("pjit"), fitted("sequential")
    assert device.diagnostics["backend"] == "pjit"
    for name, mean in host.mean.items():
        if name not in ("contrast", "offset"):
            assert device.mean[name] == pytest.approx(mean, abs=0.3 * host.sd[name])
