"""Initialization: the covariance is that of one shard, center and failures are honest, pools are balanced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homodyne.errors import ConvergenceError, InputError
from homodyne.optimization.cmc.models.adapters import LogDensityModel, as_model
from homodyne.optimization.cmc.svi_init import (
    at_mode,
    identity_initialization,
    pool_samples_from_shards,
    run_svi_initialization,
    shard_density,
)
from homodyne.optimization.cmc.types import Initialization
from homodyne.optimization.cmc.whole import look_for_modes
from homodyne.testing.conjugate import PROBLEMS, linear_regression

jax.config.update("jax_enable_x64", True)

M = 8
N = 8000


def shards_of(problem, num_shards=M):
    n = len(next(iter(problem.data.values())))
    return [problem.shard(index) for index in np.array_split(np.random.default_rng(0).permutation(n), num_shards)]


def assert_fits_a_shard(problem, pooled, init):
    """Compare with the exact posteriors of the shards.

    Center: that of a pool of P points scatters by sqrt(shard size / P) shard widths around the full posterior.
    Covariance: by about sqrt(2 / P) relative for the sampled points (information is a sum over them), d times that in
    the worst direction, plus 15 % for the optimiser and the forgone rank.
    """
    subposteriors = [problem.exact(shard, 1.0 / M).covariance for shard in shards_of(problem)]
    exact = np.mean(subposteriors, axis=0)
    pool_size = len(next(iter(pooled.values())))
    sd = np.sqrt(np.diag(exact))
    limit = 4.5 * np.sqrt(N / M / pool_size) + 0.2
    assert np.all(np.abs(init.center - problem.posterior().mean) < limit * sd)
    factor = np.linalg.cholesky(exact / sd / sd[:, None])
    white = np.linalg.solve(factor, np.linalg.solve(factor, init.covariance / sd / sd[:, None]).T)
    ratio = np.linalg.eigvalsh(0.5 * (white + white.T))
    tolerance = 0.15 + 4.0 * len(sd) * np.sqrt(2.0 / pool_size)
    assert np.all(np.abs(np.log(ratio)) < tolerance), f"squared widths off by {ratio}"


class TestVariational:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["gaussian_mean", "beta_bernoulli", "exponential_rate"])
    def test_conjugate(self, name):
        problem = PROBLEMS[name](n=N)
        pooled = pool_samples_from_shards(shards_of(problem), 200)
        model = as_model(problem.function if name == "beta_bernoulli" else problem.model, pooled)
        init = run_svi_initialization(model, pooled, num_shards=M, points_per_shard=N / M)
        assert init.method == "svi"
        assert_fits_a_shard(problem, pooled, init)

    @pytest.mark.slow
    def test_collinear_columns_from_a_pilot_fit(self):
        """Correlation -0.9995; the pilot is a width off in every direction and half as wide, and is mended."""
        problem = linear_regression(n=N, collinear=0.03)
        pooled = pool_samples_from_shards(shards_of(problem), 200)
        exact = problem.exact(problem.shard(np.arange(N // M)), 1.0 / M)
        shift = np.linalg.cholesky(exact.covariance) @ np.ones(3)
        pilot = Initialization(problem.posterior().mean + shift, 0.25 * exact.covariance, "nlsq")
        init = run_svi_initialization(problem.model, pooled, num_shards=M, points_per_shard=N / M, init=pilot)
        white = np.linalg.solve(np.linalg.cholesky(exact.covariance), np.linalg.cholesky(init.covariance))
        # Two designs scatter: that of the shard, 1000 points, and that of the pool, 1600 points.
        tolerance = 0.15 + 4.0 * 3 * np.sqrt(2.0 / 1000.0 + 2.0 / 1600.0)
        assert np.all(np.abs(np.log(np.linalg.svd(white)[1] ** 2)) < tolerance)
        score = np.linalg.solve(np.linalg.cholesky(exact.covariance), init.center - problem.posterior().mean)
        assert np.all(np.abs(score) < 4.5 * np.sqrt(1000.0 / 1600.0) + 0.2)

    @pytest.mark.slow
    @pytest.mark.parametrize("bug", ["pool not rescaled", "all data", "inverse returned"])
    def test_planted_bugs(self, bug):
        problem = PROBLEMS["exponential_rate"](n=N)
        pooled = pool_samples_from_shards(shards_of(problem), 50)
        points = {"pool not rescaled": len(pooled["y"]), "all data": N}.get(bug, N / M)
        init = run_svi_initialization(problem.model, pooled, num_shards=M, points_per_shard=points)
        if bug == "inverse returned":
            init = Initialization(init.center, np.linalg.inv(init.covariance), "svi")
        with pytest.raises(AssertionError):
            assert_fits_a_shard(problem, pooled, init)

    @pytest.mark.slow
    def test_same_seed_same_answer_and_progress(self):
        problem = PROBLEMS["poisson_gamma"](n=800)
        pooled = pool_samples_from_shards(shards_of(problem), 20)
        seen = []
        first, second = (
            run_svi_initialization(
                problem.model,
                pooled,
                num_shards=M,
                points_per_shard=100,
                num_steps=300,
                seed=3,
                progress=lambda *call: seen.append(call),
            )
            for _ in range(2)
        )
        np.testing.assert_array_equal(first.covariance, second.covariance)
        assert seen[-1] == ("svi", 300, 300)
        assert [done for _, done, _ in seen[:20]] == sorted(done for _, done, _ in seen[:20])


@pytest.fixture(scope="module")
def problem():
    return PROBLEMS["exponential_rate"](n=800)


class TestNoConvergence:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("offset", "settings", "message"),
        [
            (10.0, {"num_steps": 100}, "evidence bound changed"),  # on its way
            (1.0, {"num_steps": 1500, "learning_rate": 1e-9}, "center is off"),  # flat, because it does not move
            (300.0, {"num_steps": 100}, "not finite"),
        ],
    )
    def test_said(self, problem, offset, settings, message):
        posterior = problem.posterior()
        widths = 100.0 if offset > 100.0 else 1.0
        pilot = Initialization(posterior.mean + offset * posterior.sd * widths, posterior.covariance, "nlsq")
        with pytest.raises(ConvergenceError, match=message):
            run_svi_initialization(
                problem.model, problem.data, num_shards=M, points_per_shard=100, init=pilot, **settings
            )

    @pytest.mark.parametrize("settings", [{"num_steps": 0}, {"learning_rate": 0.0}, {"rank": 0}, {"num_shards": 0}])
    def test_settings(self, problem, settings):
        with pytest.raises(InputError, match=next(iter(settings))):
            run_svi_initialization(
                problem.model, problem.data, **{"num_shards": M, "points_per_shard": 100, **settings}
            )

    def test_points_per_shard(self, problem):
        with pytest.raises(InputError, match="points_per_shard"):
            shard_density(problem.model, problem.data, M, 0)


class TestModes:
    @pytest.mark.parametrize("name", ["gaussian_mean", "poisson_gamma"])
    def test_mode_of_a_shard(self, name):
        """Scales from 1e4 to 1e-8, from zero; the same comparison as for variational inference."""
        problem = PROBLEMS[name](n=N)
        pooled = pool_samples_from_shards(shards_of(problem), 200)
        init = at_mode(look_for_modes(problem.model, pooled, N, 0), M)
        assert init.method == "nlsq"
        assert_fits_a_shard(problem, pooled, init)

    def test_no_mode(self):
        model = LogDensityModel(["a"], lambda z: -jnp.sum(z**2), lambda z, data: 1e3 * jnp.sum(z**2 * data["y"]))
        assert at_mode(look_for_modes(model, {"y": np.ones(4)}, 4.0, 0), M) is None

    def test_identity(self):
        model = LogDensityModel(["a", "b"], lambda z: -jnp.sum(z**2), lambda z, data: 0.0 * z[0])
        init = identity_initialization(model)
        np.testing.assert_array_equal(init.center, np.zeros(2))
        np.testing.assert_array_equal(init.covariance, np.eye(2))
        assert init.method == "identity"
        assert identity_initialization(model, np.array([1.0, 2.0])).center[1] == 2.0


def xpcs_shards(sizes=(4000, 2000, 90), angles=3, share=None):
    rng = np.random.default_rng(0)
    start, shards = 0, []
    for number, size in enumerate(sizes):
        index = np.arange(start, start + size)
        phi = np.array([-30.0, 0.0, 45.0])[rng.choice(angles, size, p=share)]
        t1 = rng.random(size)
        shards.append(
            {"shard_id": number, "data": index * 1.0, "t1": t1, "t2": t1 + 1.0, "phi": phi, "indices": index, "q": 0.01}
        )
        start += size
    return shards


class TestPool:
    def test_equal_per_shard_and_balanced(self):
        shards = xpcs_shards(share=[0.9, 0.07, 0.03])
        pooled = pool_samples_from_shards(shards, 200)
        assert set(pooled) == {"data", "t1", "t2", "phi"}
        origin = np.searchsorted([4000, 6000], pooled["data"], side="right")
        assert np.bincount(origin).tolist() == [200, 200, 90]  # the small shard gives all
        counts = np.unique(pooled["phi"][origin == 0], return_counts=True)[1]
        assert sorted(counts.tolist()) == [66, 67, 67]
        scarce = np.sum(shards[1]["phi"] == 45.0)
        assert np.sum(pooled["phi"][origin == 1] == 45.0) == min(scarce, 67)

    def test_points_stay_together(self):
        pooled = pool_samples_from_shards(xpcs_shards(), 50)
        np.testing.assert_array_equal(pooled["t2"], pooled["t1"] + 1.0)
        assert len(np.unique(pooled["data"])) == 150

    def test_every_point_has_the_same_chance(self):
        """Counts over seeds, for points of one angle; and the angle that gets one point more changes."""
        shards = [{"phi": np.repeat([0.0, 1.0, 2.0], 10), "y": np.arange(30.0)}]
        counts = np.zeros(30)
        for seed in range(600):
            counts[pool_samples_from_shards(shards, 10, seed=seed)["y"].astype(int)] += 1
        assert counts.sum() == 6000
        assert np.all(np.abs(counts - 200.0) < 5.0 * np.sqrt(600 / 3 * 2 / 3))

    def test_without_angles_and_generic(self):
        pooled = pool_samples_from_shards([{"X": np.ones((30, 2)), "y": np.arange(30.0)}], 7, seed=1)
        assert pooled["X"].shape == (7, 2)
        again = pool_samples_from_shards([{"X": np.ones((30, 2)), "y": np.arange(30.0)}], 7, seed=1)
        np.testing.assert_array_equal(pooled["y"], again["y"])

    @pytest.mark.parametrize(
        ("shards", "count", "message"),
        [
            ([], 10, "no shards"),
            ([{"y": np.zeros(0)}], 10, "shard 0"),
            ([{"y": np.zeros(3), "x": np.zeros(2)}], 10, "shard 0"),
            ([{"y": np.zeros(3)}, {"x": np.zeros(3)}], 10, "shard 1"),
            ([{"y": np.zeros(3)}], 0, "at least 1"),
        ],
    )
    def test_wrong(self, shards, count, message):
        with pytest.raises(InputError, match=message):
            pool_samples_from_shards(shards, count)
