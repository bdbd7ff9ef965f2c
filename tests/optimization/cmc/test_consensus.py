"""The steps of a consensus run against exact posteriors, and against everything that must not be certified."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homodyne.certificate import certify as certificate
from homodyne.certificate.certify import certify
from homodyne.certificate.polish import polish
from homodyne.errors import ConvergenceError, ExecutionError, HomodyneWarning, InputError
from homodyne.optimization.cmc import consensus, coordinator
from homodyne.optimization.cmc.backends.base import BackendOptions
from homodyne.optimization.cmc.consensus import ConsensusSettings, check_identity
from homodyne.optimization.cmc.coordinator import sample_consensus
from homodyne.optimization.cmc.models.adapters import LogDensityModel
from homodyne.optimization.cmc.store.shards import write_arrays
from homodyne.optimization.cmc.types import CHEAPEST, Initialization, ShardTask
from homodyne.optimization.cmc.worker import run_shard
from homodyne.optimization.nuts import NutsSettings
from homodyne.testing import conjugate
from homodyne.testing.statistics import assert_covariance, assert_mean

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------- polish


def test_polish_reaches_a_quadratic_mode_from_ten_sd_away():
    scale = np.array([1e4, 1.0, 1e-8])
    factor = np.linalg.cholesky(np.array([[1.0, 0.9, 0.2], [0.9, 1.0, 0.3], [0.2, 0.3, 1.0]])) * scale[:, None]
    mode = np.array([3e4, -2.0, 5e-8])

    def evaluate(points):
        return 1e8 - 0.5 * np.square(np.linalg.solve(factor, (points - mode).T)).sum(axis=0)

    start = mode + factor @ np.full(3, 10.0 / np.sqrt(3.0))
    found = polish(evaluate, start, 4.0 * factor @ factor.T)
    assert found.arrived
    assert found.steps[0] == pytest.approx(10.0, rel=1e-3)
    assert found.shift == pytest.approx(10.0, rel=1e-3)
    np.testing.assert_allclose((found.mean - mode) / scale, 0.0, atol=1e-3)
    np.testing.assert_allclose(
        found.covariance / np.outer(scale, scale), factor @ factor.T / np.outer(scale, scale), rtol=1e-3
    )


def test_polish_removes_the_bias_of_many_small_shards():
    # Rate of waiting times, in its logarithm: 10 000 shards bias the merge by 142 % of a standard deviation at 5e7.
    count = 5e7
    found = polish(
        lambda z: count * (z[:, 0] - np.exp(z[:, 0])), np.array([1.42 / np.sqrt(count)]), np.array([[1.1 / count]])
    )
    assert found.arrived
    assert abs(found.mean[0]) * np.sqrt(count) < 0.05
    assert found.covariance[0, 0] * count == pytest.approx(1.0, rel=0.01)


def test_polish_leaves_a_start_of_wrong_curvature_or_says_that_it_did_not():
    def two_modes(z):
        return np.logaddexp(-0.5 * (z[:, 0] - 6.0) ** 2, -0.5 * (z[:, 0] + 6.0) ** 2)

    found = polish(two_modes, np.zeros(1), np.array([[1.0]]))
    assert not found.arrived
    assert np.isinf(found.steps).all()
    assert found.covariance[0, 0] == 1.0, "the covariance of the merge is kept"
    near = polish(two_modes, np.array([4.5]), np.array([[1.0]]))
    assert near.arrived
    assert near.mean[0] == pytest.approx(6.0, abs=0.06)


def test_polish_along_a_line_that_nothing_fixes_ends_without_arriving():
    found = polish(lambda z: -0.5 * (z[:, 0] + z[:, 1]) ** 2, np.ones(2), np.eye(2))
    assert not found.arrived
    assert np.linalg.eigvalsh(found.covariance)[0] > 0.0
    held = polish(lambda z: -0.5 * (z[:, 0] + z[:, 1]) ** 2 - 1e-6 * (z[:, 0] - z[:, 1]) ** 2, np.ones(2), np.eye(2))
    assert held.arrived, "a little that fixes it is enough"
    assert np.allclose(held.mean, 0.0, atol=1.0)


def test_polish_towards_a_bound_ends_without_arriving():
    def bounded(z):
        return np.where(z[:, 0] < 1.0, 3.0 * z[:, 0] - 0.05 * z[:, 0] ** 2, -np.inf)

    found = polish(bounded, np.array([0.0]), np.array([[0.1]]))
    assert not found.arrived
    assert found.mean[0] < 1.0
    assert np.isfinite(found.covariance).all()
    assert found.covariance[0, 0] > 0.0


# ---------------------------------------------------------------- identity


class Planted(LogDensityModel):
    """Beta-Bernoulli model with one bug in what a shard is worth."""

    def __init__(self, bug, problem):
        super().__init__(problem.model.names, problem.model._log_prior, problem.model._log_likelihood)
        self.bug = bug

    def log_joint(self, x, shard, power):
        value = float(self.log_likelihood(jnp.asarray(x), shard, power))
        prior = float(self.log_prior(jnp.asarray(x)))
        if self.bug == "prior power 1":
            return value + prior
        if self.bug == "Jacobian untempered":
            log_det = float(-jax.nn.softplus(x[0]) - jax.nn.softplus(-x[0]))
            return value + power * (prior - log_det) + log_det
        if self.bug == "float32":
            return float(np.float32(value)) + power * prior
        return value + power * prior


def identity(bug="", change=lambda index: index):
    problem = conjugate.beta_bernoulli(n=400)
    model = Planted(bug, problem)
    index = change([np.arange(k, 400, 4) for k in range(4)])
    full = model.load(problem.data)
    check_identity(model, lambda k: model.load(problem.shard(index[k])), len(index), full, problem.truth, seed=1)


def test_identity_holds_for_a_right_model():
    identity()


@pytest.mark.parametrize("bug", ["prior power 1", "Jacobian untempered", "float32"])
def test_identity_catches_a_wrong_density(bug):
    with pytest.raises(ExecutionError, match="do not multiply to the full posterior"):
        identity(bug)


def doubled_for_another(index):
    ones = np.flatnonzero(conjugate.beta_bernoulli(n=400).data["y"])
    zeros = np.flatnonzero(conjugate.beta_bernoulli(n=400).data["y"] == 0)
    return [np.where(own == zeros[0], ones[0], own) for own in index]


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index[1:],
        lambda index: [*index[:3], index[2]],
        lambda index: [np.append(index[0], index[1][0]), *index[1:]],
        lambda index: [index[0][1:], *index[1:]],
        doubled_for_another,
    ],
    ids=["lost shard", "doubled shard", "doubled point", "lost point", "one point in place of another"],
)
def test_identity_catches_points_that_are_lost_or_doubled(change):
    with pytest.raises(ExecutionError, match="do not multiply to the full posterior"):
        identity(change=change)


def test_identity_is_not_satisfied_by_densities_that_are_no_numbers():
    model = LogDensityModel(["z"], lambda z: jnp.sum(0.0 * z), lambda z, data: jnp.sum(data["y"]) * jnp.log(-z[0]))
    data = model.load({"y": np.ones(4)})
    with pytest.raises(ExecutionError, match="do not multiply"):
        check_identity(model, lambda k: data, 1, data, np.array([2.0]), seed=1)


def test_float32_in_a_model_is_refused():
    problem = conjugate.beta_bernoulli(n=40)

    def narrow(z, data):
        return jnp.sum(data["y"] * z[0].astype(jnp.float32)).astype(jnp.float64)

    model = LogDensityModel(["theta"], problem.model._log_prior, narrow)
    with pytest.raises(InputError, match="less than float64"):
        model.check(problem.data)


# ---------------------------------------------------------------- the worker


NUTS = NutsSettings(num_warmup=50, num_samples=1000, num_chains=2)


def task_of(problem, index, folder, power, **changes):
    write_arrays(folder, problem.shard(index))
    exact = problem.exact(problem.shard(index), power)
    init = Initialization(exact.mean, exact.covariance, "identity")
    return replace(ShardTask(2, problem.model, folder, power, NUTS, init, seed=4), **changes), exact


def test_worker_samples_the_subposterior_with_its_share_of_the_prior(tmp_path):
    problem = conjugate.beta_bernoulli(n=40, a=20.0, b=5.0)
    task, exact = task_of(problem, np.arange(0, 40, 4), tmp_path / "shard", 0.25)
    found = run_shard(task)
    assert found.converged
    assert_mean(found.samples, exact.mean)
    assert_covariance(found.samples, exact.mean, exact.covariance)
    untempered = problem.exact(problem.shard(np.arange(0, 40, 4)), 1.0)
    with pytest.raises(AssertionError, match="standard errors off"):
        assert_mean(found.samples, untempered.mean)
    again = run_shard(replace(task))
    np.testing.assert_array_equal(found.samples, again.samples)


def test_draws_do_not_depend_on_workers_that_were_lost(tmp_path):
    problem = conjugate.gaussian_mean()
    task, exact = task_of(problem, np.arange(0, 40, 4), tmp_path / "shard", 0.25, operation=CHEAPEST)
    task = replace(task, init=Initialization(exact.mean, exact.covariance, "nlsq"))
    first = run_shard(task)
    np.testing.assert_array_equal(run_shard(replace(task, attempt=1)).samples, first.samples)
    spoilt = run_shard(replace(task, attempt=1, caution=1))
    assert not np.array_equal(spoilt.samples, first.samples), "planted: what spoilt the first attempt is done again"
    assert_mean(spoilt.samples, exact.mean)


@pytest.mark.parametrize("cavity", [0.0, 3.0])
def test_worker_samples_the_shard_times_its_cavity(tmp_path, cavity):
    problem = conjugate.gaussian_mean()
    task, exact = task_of(problem, np.arange(0, 40, 4), tmp_path / "shard", 0.25)
    width = 2.0 * exact.covariance
    init = Initialization(exact.mean + exact.sd, width, "nlsq", cavity=cavity)
    precision = np.linalg.inv(exact.covariance), cavity * np.linalg.inv(width)
    covariance = np.linalg.inv(sum(precision))
    mean = covariance @ (precision[0] @ exact.mean + precision[1] @ init.center)
    found = run_shard(replace(task, init=init))
    assert_mean(found.samples, mean)
    assert_covariance(found.samples, mean, covariance)
    if cavity:
        with pytest.raises(AssertionError):
            assert_mean(found.samples, exact.mean)


def test_worker_evaluates_the_shard_at_points(tmp_path):
    problem = conjugate.beta_bernoulli(n=40)
    task, _ = task_of(problem, np.arange(10), tmp_path / "shard", 0.25, points=np.array([[0.1], [0.7]]))
    y = problem.data["y"][:10]
    exact = [np.sum(y * z - np.log1p(np.exp(z))) for z in (0.1, 0.7)]
    np.testing.assert_allclose(run_shard(task)[:, 0], exact, rtol=1e-12)


def rugged_prior(z):
    """White noise that gradients do not see: a chain soon stands on a peak that it cannot leave."""
    return 1e6 * jnp.sum(jnp.sin(1e30 * jax.lax.stop_gradient(z))) - 0.5 * jnp.sum(z**2)


def no_likelihood(z, data):
    return 0.0 * jnp.sum(data["y"]) * z[0]


def test_worker_refuses_a_stuck_chain(tmp_path):
    write_arrays(tmp_path / "shard", {"y": np.ones(3)})
    model = LogDensityModel(["z"], rugged_prior, no_likelihood)
    init = Initialization(np.zeros(1), np.eye(1), "identity")
    nuts = NutsSettings(num_warmup=400, num_samples=20, num_chains=1)
    with pytest.raises(ConvergenceError, match="shard 2"):
        run_shard(ShardTask(2, model, tmp_path / "shard", 0.25, nuts, init, seed=0))


# ---------------------------------------------------------------- whole runs


QUICK = ConsensusSettings(nuts=NutsSettings(num_warmup=50, num_samples=150, num_chains=2), certificate_points=200)


def run(model, data, num_shards, **changes):
    given = {"backend": "sequential", "seed": 3, "settings": QUICK, **changes}
    return sample_consensus(model, data, num_shards=num_shards, **given)


def flat(result, name):
    draws = result.samples[name]
    return draws.reshape(-1, *draws.shape[2:])


TO_Z = {
    "beta_bernoulli": lambda theta: np.log(theta) - np.log1p(-theta),
    "poisson_gamma": np.log,
    "exponential_rate": np.log,
}
"""Coordinates, with a closed form, of what a problem draws, where that is something else."""


@pytest.mark.parametrize("num_shards", [1, 4, 16, 64])
@pytest.mark.parametrize("name", list(conjugate.PROBLEMS))
def test_conjugate_problems_agree_with_the_closed_form(name, num_shards):
    sizes = {"linear_regression": {"d": 2, "collinear": 0.3}}
    problem = conjugate.PROBLEMS[name](n=1024, **sizes.get(name, {}))
    exact = problem.posterior()
    settings = replace(QUICK, nuts=replace(QUICK.nuts, num_samples=300)) if num_shards == 1 else QUICK
    found = run(problem.model, problem.data, num_shards, settings=settings)
    assert found.verdict in ("CERTIFIED", "CORRECTED"), found.certificate.reason
    z = TO_Z.get(name, lambda x: x)(next(iter(found.samples.values())))
    z = z.reshape(*z.shape[:2], len(exact.mean))
    draws = z if num_shards == 1 else z.reshape(-1, z.shape[2])
    assert_mean(draws, exact.mean, min_ess=100.0)
    assert_covariance(draws, exact.mean, exact.covariance, min_ess=50.0)
    with pytest.raises(AssertionError, match="standard errors off"):
        assert_mean(draws, exact.mean + 0.5 * exact.sd, min_ess=100.0)


def test_numpyro_function_agrees_with_the_closed_form():
    problem = conjugate.poisson_gamma(n=1024)
    exact = problem.posterior()
    found = run(problem.function, problem.data, 4)
    assert found.verdict in ("CERTIFIED", "CORRECTED"), found.certificate.reason
    assert_mean(np.log(flat(found, "rate"))[:, None], exact.mean)


def test_all_data_are_asked_once_at_a_point(monkeypatch):
    asked, evaluated = [], consensus._Run._evaluated

    def noted(self, points, step):
        asked.append((step, points))
        return evaluated(self, points, step)

    monkeypatch.setattr(consensus._Run, "_evaluated", noted)
    problem = conjugate.beta_bernoulli(n=1024)
    found = run(problem.model, problem.data, 4)
    points = np.concatenate([points for _, points in asked])
    assert len(np.unique(points, axis=0)) == len(points)
    assert "joint draws" not in dict(asked)  # those were points of the certificate
    assert found.diagnostics["polish"]["steps"] == [0.0]  # the mode of all data is known
    assert found.diagnostics["polish"]["arrived"]


@pytest.mark.parametrize("followed", [True, False])
def test_shards_start_at_the_mode_of_all_data(monkeypatch, followed):
    """A pool of 4000 observations has its mode a few standard deviations of the posterior away."""
    problem, given = conjugate.gaussian_mean(n=100_000), {}

    def run_consensus(model, store, init, *args, **how):
        given["init"] = init
        raise KeyboardInterrupt

    monkeypatch.setattr(coordinator, "run_consensus", run_consensus)
    if not followed:  # planted
        monkeypatch.setattr(coordinator, "on_all_data", lambda model, whole, modes: modes)
    with pytest.raises(KeyboardInterrupt):
        run(problem.model, problem.data, 4)
    exact = problem.posterior()
    away = np.abs(given["init"].center - exact.mean) / exact.sd
    assert (away.max() < 1e-6) if followed else (away.max() > 2.0)
    if followed:
        np.testing.assert_allclose(given["init"].covariance, 4.0 * exact.covariance, rtol=1e-6)


@pytest.mark.parametrize("factor", [1.5, 3.0, 10.0])
def test_corrupted_shard_is_named(factor):
    problem = conjugate.exponential_rate(n=1600)
    problem.data["y"][200:300] *= factor
    found = run(problem.model, problem.data, 16, strategy="contiguous")
    assert found.verdict == "REFUSED"
    assert "shard 2 disagrees" in found.certificate.reason


def test_shard_with_the_data_of_another_is_named():
    problem = conjugate.poisson_gamma(n=1600)
    problem.data["y"][200:300] = problem.data["y"][900:1000]
    found = run(problem.model, problem.data, 16, strategy="contiguous")
    assert found.verdict == "REFUSED"
    assert "shards 2 and 9 hold the same data" in found.certificate.reason


def test_shards_that_contradict_each_other_only_warn_where_that_is_asked_for():
    problem = conjugate.exponential_rate(n=1600)
    problem.data["y"][200:300] *= 3.0
    found = run(problem.model, problem.data, 16, strategy="contiguous", settings=replace(QUICK, strict=False))
    assert found.verdict in ("CERTIFIED", "CORRECTED")
    assert any("shard 2 disagrees with all data" in text for text in found.diagnostics["warnings"])


def wide_prior(z):
    return -0.5 * jnp.sum((z / 5.0) ** 2)


def squared_likelihood(z, data):
    return -0.5 * jnp.sum((z[0] ** 2 - data["y"]) ** 2)


@pytest.mark.parametrize("center", [0.5, 2.0])
def test_two_modes_are_both_found_or_refused(center):
    model = LogDensityModel(["z"], wide_prior, squared_likelihood)
    found = run(model, {"y": center + np.random.default_rng(0).normal(size=320)}, 16)
    assert found.verdict != "CERTIFIED"
    if found.verdict == "CORRECTED":
        assert 0.3 < np.mean(flat(found, "z") > 0.0) < 0.7


def test_average_is_named_and_never_certified():
    problem = conjugate.beta_bernoulli(n=1024)
    found = run(problem.model, problem.data, 4, combination="average")
    assert found.combination_method == "average"
    assert found.verdict != "CERTIFIED"
    assert any("average" in text for text in found.diagnostics["warnings"])


@pytest.mark.parametrize("separation", [1.5, 30.0])
def test_a_mode_that_the_chains_of_one_shard_never_saw_is_found(separation):
    model = LogDensityModel(["z"], wide_prior, squared_likelihood)
    found = run(model, {"y": separation + np.random.default_rng(0).normal(size=50)}, 1)
    assert found.verdict == "CORRECTED", found.certificate.reason
    assert 0.4 < np.mean(found.samples["z"] > 0.0) < 0.6


def flattens_shard_one(task):
    found = run_shard(task)
    if task.points is None and task.shard_id == 1:
        found.samples[..., 1] = found.samples[..., 0]
    return found


def test_shards_that_cannot_be_multiplied_are_pooled_with_a_warning():
    problem = conjugate.gaussian_mean(n=400, scales=[1.0, 1.0])
    options = BackendOptions(run=flattens_shard_one)
    with pytest.warns(HomodyneWarning, match="cannot be combined by consensus: .*shard 1.*average was used instead"):
        found = run(problem.model, problem.data, 4, combination="consensus", options=options)
    assert found.combination_method == "average"
    assert any("average was used instead" in text for text in found.diagnostics["warnings"])
    assert found.verdict != "CERTIFIED"
    strict = replace(QUICK, fallback_enabled=False)
    with pytest.raises(ExecutionError, match="cannot be combined by consensus: .*shard 1"):
        run(problem.model, problem.data, 4, combination="consensus", options=options, settings=strict)


def breaks_on_shard_three(task):
    if task.shard_id == 3 and task.points is None:
        raise ConvergenceError("chain 0 is stuck")
    return run_shard(task)


def test_missing_shard_is_named_and_its_data_still_count():
    problem = conjugate.poisson_gamma(n=1024)
    found = run(problem.model, problem.data, 16, options=BackendOptions(run=breaks_on_shard_three))
    assert found.verdict in ("CERTIFIED", "CORRECTED"), found.certificate.reason
    assert found.diagnostics["shards_used"] == 15
    assert any("shard 3 failed: chain 0 is stuck" in text for text in found.diagnostics["warnings"])
    assert_mean(np.log(flat(found, "rate"))[:, None], problem.posterior().mean)


def test_resumed_store_gives_the_same_draws(tmp_path):
    problem = conjugate.poisson_gamma(n=1024)
    first = run(problem.model, problem.data, 4, store=tmp_path / "store")
    results = sorted((tmp_path / "store" / "results").iterdir())
    assert len(results) == 4
    results[1].unlink()
    again = run(problem.model, problem.data, 4, store=tmp_path / "store")
    np.testing.assert_array_equal(first.samples["rate"], again.samples["rate"])
    with pytest.raises(InputError, match="seed"):
        run(problem.model, problem.data, 4, store=tmp_path / "store", seed=4)


@pytest.mark.parametrize("frequency", [1, 2, 5])
def test_finished_shards_are_written_together_and_none_is_lost_by_an_interruption(tmp_path, frequency):
    problem, seen = conjugate.poisson_gamma(n=1024), []

    def interrupted(task):
        seen.append(len(list((tmp_path / "store" / "results").glob("*"))))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return run_shard(task)

    settings = ConsensusSettings(checkpoint_frequency=frequency)
    options = BackendOptions(run=interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(problem.model, problem.data, 4, store=tmp_path / "store", settings=settings, options=options)
    assert seen == [k - k % frequency for k in range(4)]
    assert len(list((tmp_path / "store" / "results").glob("*"))) == 3


def test_store_of_another_likelihood_of_the_same_names_is_refused(tmp_path):
    problem = conjugate.poisson_gamma(n=64)
    run(problem.model, problem.data, 2, store=tmp_path / "store")
    other = conjugate.exponential_rate(n=64)
    assert other.model.names == problem.model.names
    with pytest.raises(InputError, match="belongs to another run: different log densities of the model"):
        run(other.model, problem.data, 2, store=tmp_path / "store")


def test_worker_processes_give_the_same_draws():
    problem = conjugate.poisson_gamma(n=1024)
    here = run(problem.model, problem.data, 4)
    there = run(problem.model, problem.data, 4, backend="multiprocessing")
    np.testing.assert_array_equal(here.samples["rate"], there.samples["rate"])


# ---------------------------------------------------------------- draws where the posterior is zero


SD = 1 / 16  # of the posterior of a level, from 256 values
WALL = 2.5 * SD  # 0.6 % of the normal distribution around a level of 0 lie beyond
LEVEL = np.random.default_rng(0).normal(size=256)
LEVEL -= LEVEL.mean()  # the polish ends at 0


def walled_prior(z):
    return jnp.where(z[0] < WALL, -0.5 * jnp.sum((z / 50.0) ** 2), -jnp.inf)


def level_likelihood(z, data):
    return -0.5 * jnp.sum((data["y"] - z[0]) ** 2)


WALLED = LogDensityModel(["z"], walled_prior, level_likelihood)


def walled(points):
    return np.where(points[:, 0] < WALL, -0.5 * (points[:, 0] / SD) ** 2, -np.inf)


@pytest.mark.parametrize("beyond", [0, 1, 12])
def test_one_draw_where_the_posterior_is_zero_is_enough(beyond):
    """Weights alone cannot see it: without that draw the others are certified."""
    draws = SD * np.random.default_rng(1).normal(size=(4000, 1))
    draws = draws[draws[:, 0] < WALL][:2000]
    draws[:beyond] = WALL + 0.1 * SD
    judged = certify(walled, draws, names=["z"], num_points=1000, seed=0)
    assert judged.certificate.verdict == ("CORRECTED" if beyond else "CERTIFIED"), judged.certificate.reason
    said = f"Of 2000 draws {beyond} lie where the posterior is zero; weighted points replace the draws"
    assert (said in judged.certificate.reason) == (beyond > 0)
    assert judged.resample(1000, 0).max() < WALL


@pytest.mark.parametrize("wall", [True, False])
def test_draws_of_a_normal_distribution_that_points_replace_are_not_evaluated(wall):
    asked = []

    def evaluate(points):
        asked.extend(points[:, 0])
        return walled(points) if wall else -0.5 * (points[:, 0] / SD) ** 2

    draws = SD * np.random.default_rng(1).normal(size=(1000, 1))
    judged = certify(
        evaluate, draws, names=["z"], num_points=1000, seed=0, gaussian=([0.0], [[SD**2]]), approximate=500
    )
    assert judged.certificate.verdict == ("CORRECTED" if wall else "CERTIFIED"), judged.certificate.reason
    assert ("% of the normal approximation lie where the posterior is zero" in judged.certificate.reason) == wall
    if wall:  # 0.62 % of it lie there, seen by about twenty points
        assert 0.2 < float(judged.certificate.reason.split()[1]) < 1.2
    assert not set(asked) & set(draws[:, 0])
    assert len(asked) == 1000
    own = certify(evaluate, draws, names=["z"], num_points=1000, seed=0, gaussian=([0.0], [[SD**2]]))
    assert set(draws[:, 0]) <= set(asked)  # where they are what is returned
    assert own.certificate.verdict == judged.certificate.verdict


@pytest.mark.parametrize("combination", ["weighted", "consensus"])
def test_a_merge_that_reaches_beyond_a_wall_is_replaced(combination):
    found = run(WALLED, {"y": LEVEL}, 4, combination=combination)
    assert found.diagnostics["polish"]["arrived"]
    assert found.verdict == "CORRECTED", found.certificate.reason
    assert "lie where the posterior is zero" in found.certificate.reason
    assert flat(found, "z").max() < WALL
    assert np.isfinite(found.sample_stats["lp"]).all()


def test_draws_of_a_refused_run_have_a_density(monkeypatch):
    shifted = LEVEL.copy()
    shifted[:64] += 6.0
    data = {"y": shifted - shifted.mean()}
    monkeypatch.setattr(certificate, "MIN_ESS", 1e9)  # no weighted points
    refused = run(WALLED, data, 4, strategy="contiguous")
    assert refused.verdict == "REFUSED"
    assert np.isfinite(refused.sample_stats["lp"]).all()
    monkeypatch.setattr(consensus._Run, "_inside", lambda self, z: z)  # planted: they are returned as they are
    planted = run(WALLED, data, 4, strategy="contiguous")
    assert np.isneginf(planted.sample_stats["lp"]).any()
