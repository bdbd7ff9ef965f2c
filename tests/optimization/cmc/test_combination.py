"""Combined subposteriors against closed forms; every statistical check also has to catch planted bugs."""

from dataclasses import make_dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import digamma, expit, logit, polygamma
from scipy.stats import norm, skew

from homodyne.errors import ExecutionError, HomodyneWarning, InputError
from homodyne.optimization.cmc.combination import (
    Merged,
    combine_subposteriors,
)
from homodyne.optimization.cmc.subposteriors import collect
from homodyne.registries import COMBINERS
from homodyne.testing.combiners import assert_product, drawn, product, split_normal
from homodyne.testing.densities import random_covariance
from homodyne.testing.statistics import LUCK, assert_covariance, assert_mean

PRODUCTS = ["weighted", "consensus", "hierarchical", "semiparametric", "swiss"]
COUNTS = [1, 4, 16, 64]


def by_hand(shards, debiased=True, jitter=0.0, diagonal=False):
    """The obvious reference for ``weighted``, and its bugs."""
    parts = []
    for shard in shards:
        x = shard["samples"]
        count, d = x.shape
        cov = np.atleast_2d(np.cov(x, rowvar=False)) + jitter * np.eye(d)
        cov = np.diag(np.diag(cov)) if diagonal else cov
        parts.append((x.mean(axis=0), cov * ((count - 1) / (count - d - 2) if debiased else 1.0)))
    return product(parts)


def split_regression(num_shards, seed=0):
    """Linear regression; two columns nearly equal, and the first shard knows nothing of one coefficient."""
    rng = np.random.default_rng(seed)
    rows, d, sd, width = 3200, 4, 0.5, 30.0
    x = rng.standard_normal((rows, d))
    x[:, 3] = x[:, 2] + 1e-4 * x[:, 3]
    if num_shards > 1:
        x[: rows // num_shards, 1] = 0.0
    y = x @ np.array([1.0, -2.0, 3.0, 0.5]) + sd * rng.standard_normal(rows)

    def posterior(a, b, power):
        cov = np.linalg.inv(a.T @ a / sd**2 + power * np.eye(d) / width**2)
        return cov @ a.T @ b / sd**2, 0.5 * (cov + cov.T)

    pieces = zip(np.split(x, num_shards), np.split(y, num_shards), strict=True)
    return [posterior(a, b, 1.0 / num_shards) for a, b in pieces], posterior(x, y, 1.0)


class TestNormalPosterior:
    @pytest.mark.parametrize("num_shards", COUNTS)
    @pytest.mark.parametrize("method", PRODUCTS)
    def test_closed_form_at_scales_from_1e4_to_1e_8(self, method, num_shards):
        parts, exact = split_normal(num_shards)
        combined = combine_subposteriors(drawn(parts, 2000), method, seed=1)
        assert combined.method == method
        assert_product(combined.mean, combined.cov, parts, 2000, exact)
        assert_mean(combined.samples, combined.mean)
        assert_covariance(combined.samples, combined.mean, combined.cov)

    @pytest.mark.parametrize("num_shards", COUNTS)
    @pytest.mark.parametrize("method", PRODUCTS)
    def test_regression_with_collinear_columns_and_a_blind_shard(self, method, num_shards):
        parts, exact = split_regression(num_shards)
        combined = combine_subposteriors(drawn(parts, 2000), method, seed=2)
        assert_product(combined.mean, combined.cov, parts, 2000, exact)
        assert_covariance(combined.samples, combined.mean, combined.cov)

    @pytest.mark.parametrize("scales", [(1e4,), (1.0,), (1e-4,), (1e-8,)])
    def test_every_scale(self, scales):
        parts, exact = split_normal(16, scales=scales)
        combined = combine_subposteriors(drawn(parts, 1000))
        assert_product(combined.mean, combined.cov, parts, 1000, exact)

    @pytest.mark.parametrize("num_shards", [64, 256])
    def test_few_draws_need_and_get_the_debiased_precision(self, num_shards):
        parts, exact = split_normal(num_shards)
        shards = drawn(parts, 30)
        combined = combine_subposteriors(shards)
        assert_product(combined.mean, combined.cov, parts, 30, exact)
        assert "rough" in combined.notes[0]
        with pytest.raises(AssertionError, match="score"):
            assert_product(*by_hand(shards, debiased=False), parts, 30, exact)

    def test_the_reference_agrees_and_its_bugs_are_caught(self):
        parts, exact = split_normal(16)
        shards = drawn(parts, 2000)
        combined, (mean, cov) = combine_subposteriors(shards), by_hand(shards)
        width = np.sqrt(np.diag(cov))
        assert np.abs(combined.mean - mean).max() < 1e-10 * np.abs(mean).max()
        assert np.abs((combined.mean - mean) / width).max() < 1e-9
        assert np.abs((combined.cov - cov) / np.outer(width, width)).max() < 1e-9
        assert_product(mean, cov, parts, 2000, exact)
        for bug in ({"jitter": 1e-6}, {"diagonal": True}):
            with pytest.raises(AssertionError, match="score"):
                assert_product(*by_hand(shards, **bug), parts, 2000, exact)

    @pytest.mark.parametrize("num_shards", [4, 16, 64])
    @pytest.mark.parametrize("method", PRODUCTS)
    def test_a_prior_counted_by_every_shard_is_caught(self, method, num_shards):
        _, exact = split_normal(num_shards)
        parts, _ = split_normal(num_shards, tempered=False)
        combined = combine_subposteriors(drawn(parts, 2000), method)
        with pytest.raises(AssertionError, match="score"):
            assert_product(combined.mean, combined.cov, parts, 2000, exact)

    def test_a_lost_shard_is_caught(self):
        parts, exact = split_normal(16)
        combined = combine_subposteriors(drawn(parts, 2000)[1:])
        with pytest.raises(AssertionError, match="score"):
            assert_product(combined.mean, combined.cov, parts, 2000, exact)

    def test_correlated_draws_count_as_their_effective_number(self):
        parts, exact = split_normal(64)
        shards = [{"samples": np.repeat(shard["samples"], 20, axis=0)} for shard in drawn(parts, 30)]
        told = combine_subposteriors([shard | {"ess": 30.0} for shard in shards])
        assert_product(told.mean, told.cov, parts, 30, exact)
        untold = combine_subposteriors(shards)
        with pytest.raises(AssertionError, match="score"):
            assert_product(untold.mean, untold.cov, parts, 30, exact)

    def test_shards_may_have_different_numbers_of_draws(self):
        parts, exact = split_normal(4)
        shards = [
            drawn([part], count, seed=count)[0] for part, count in zip(parts, (900, 1500, 4000, 700), strict=True)
        ]
        for method in PRODUCTS:
            combined = combine_subposteriors(shards, method)
            assert combined.samples.shape == (700, 4)
            assert_product(combined.mean, combined.cov, parts, 700, exact)


class TestHardGeometry:
    def test_near_collinear_parameters(self):
        cov = np.array([[1.0, 1.0 - 1e-10], [1.0 - 1e-10, 1.0]])
        parts = [(np.array([0.1 * m, 0.1 * m]), cov) for m in range(8)]
        combined = combine_subposteriors(drawn(parts, 2000))
        assert_product(combined.mean, combined.cov, parts, 2000)

    @pytest.mark.parametrize("width", [1e3, 1e6, 1e8])
    @pytest.mark.parametrize("method", PRODUCTS)
    def test_one_shard_blind_along_an_oblique_direction(self, method, width):
        direction = np.array([2.0, -1.0, 2.0]) / 3.0

        def blind(width):
            along = np.outer(direction, direction)
            return np.eye(3) + (width - 1.0) * along, np.eye(3) + (width**-2 - 1.0) * along

        parts = [(np.full(3, 0.2 * m), np.diag([1.0, 2.0, 3.0])) for m in range(6)]
        (root, own), mean = blind(width), np.ones(3) + width * direction
        precision = own + sum(np.linalg.inv(c) for _, c in parts)
        pull = own @ mean + sum(np.linalg.inv(c) @ m for m, c in parts)
        exact = np.linalg.solve(precision, pull), np.linalg.inv(precision)
        z = np.random.default_rng(5).standard_normal((2000, 3))
        combined = combine_subposteriors([*drawn(parts, 2000), {"samples": mean + z @ root}], method)
        assert combined.method == method
        noise = [*parts, (np.ones(3) + 1e3 * direction, np.linalg.inv(blind(1e3)[1]))]  # that of any blind shard
        assert_product(combined.mean, combined.cov, noise, 2000, exact)

    @pytest.mark.parametrize("method", [*PRODUCTS, "average"])
    def test_units_and_mixtures_of_parameters_do_not_matter(self, method):
        parts, _ = split_normal(8, d=3, scales=(1.0,))
        shards = drawn(parts, 500)
        rng = np.random.default_rng(3)
        mix = np.diag([1e4, 1.0, 1e-8]) @ (np.eye(3) + 0.3 * rng.standard_normal((3, 3)))
        move = np.array([5e4, -2.0, 3e-8])
        moved = [{"samples": shard["samples"] @ mix.T + move} for shard in shards]
        first, second = combine_subposteriors(shards, method), combine_subposteriors(moved, method)
        factor = np.linalg.cholesky(first.cov)
        back = np.linalg.solve(mix, (second.samples - move).T).T
        mean = np.linalg.solve(mix, second.mean - move)
        cov = np.linalg.solve(mix, np.linalg.solve(mix, second.cov).T)
        assert np.abs(np.linalg.solve(factor, mean - first.mean)).max() < 1e-9
        assert np.abs(np.linalg.solve(factor, np.linalg.solve(factor, cov).T) - np.eye(3)).max() < 1e-9
        if method in ("consensus", "swiss", "average"):  # the others draw new points in rotated coordinates
            assert np.abs(np.linalg.solve(factor, (back - first.samples).T)).max() < 1e-9


def log_gamma(shapes, rates):
    """Means and variances of the logarithms of gamma variates, as normal parts."""
    return [
        (np.array([digamma(a) - np.log(b)]), np.array([[float(polygamma(1, a))]]))
        for a, b in zip(shapes, rates, strict=True)
    ]


def log_gamma_shards(shapes, rates, num_draws, seed=0):
    rng = np.random.default_rng(seed)
    return [{"samples": np.log(rng.gamma(a, size=(num_draws, 1)) / b)} for a, b in zip(shapes, rates, strict=True)]


class TestConjugateFamilies:
    """Enough data that the bias of a merge, sqrt(M / 2 N) posterior widths, is far below the Monte Carlo error."""

    @pytest.mark.parametrize("num_shards", COUNTS)
    @pytest.mark.parametrize("method", PRODUCTS)
    def test_beta_bernoulli(self, method, num_shards):
        rng = np.random.default_rng(num_shards)
        tries, a, b = 3_000_000 // num_shards, 2.0, 5.0
        wins = rng.binomial(tries, 0.2, num_shards)
        shapes = np.array([a / num_shards + wins, b / num_shards + tries - wins])
        shards = [{"samples": logit(rng.beta(*shape, size=(1000, 1)))} for shape in shapes.T]
        combined = combine_subposteriors(shards, method)

        def part(first, second):
            variance = polygamma(1, first) + polygamma(1, second)
            return np.array([digamma(first) - digamma(second)]), np.array([[float(variance)]])

        parts = [part(*shape) for shape in shapes.T]
        exact = part(a + wins.sum(), b + num_shards * tries - wins.sum())
        assert_product(combined.mean, combined.cov, parts, 1000, exact)
        truth = rng.beta(a + wins.sum(), b + num_shards * tries - wins.sum(), 4000).mean()
        assert abs(expit(combined.samples).mean() / truth - 1.0) < 1e-3

    @pytest.mark.parametrize("num_shards", COUNTS)
    @pytest.mark.parametrize("method", PRODUCTS)
    def test_poisson_gamma(self, method, num_shards):
        rng = np.random.default_rng(num_shards)
        size, a, b = 640_000 // num_shards, 3.0, 2.0
        counts = rng.poisson(4.0 * size, num_shards)
        shapes, rates = a / num_shards + counts, np.full(num_shards, b / num_shards + size)
        combined = combine_subposteriors(log_gamma_shards(shapes, rates, 1000), method)
        exact = log_gamma([a + counts.sum()], [b + size * num_shards])[0]
        assert_product(combined.mean, combined.cov, log_gamma(shapes, rates), 1000, exact)

    @pytest.mark.parametrize("num_shards", COUNTS)
    @pytest.mark.parametrize("method", PRODUCTS)
    def test_exponential_rate(self, method, num_shards):
        rng = np.random.default_rng(num_shards)
        size, a, b = 2_560_000 // num_shards, 1.0, 1.0
        sums = rng.gamma(size, 0.5, num_shards)
        shapes, rates = np.full(num_shards, a / num_shards + size), b / num_shards + sums
        combined = combine_subposteriors(log_gamma_shards(shapes, rates, 1000), method)
        exact = log_gamma([a + size * num_shards], [b + sums.sum()])[0]
        assert_product(combined.mean, combined.cov, log_gamma(shapes, rates), 1000, exact)

    @pytest.mark.parametrize("method", ["weighted", "consensus", "hierarchical", "swiss"])
    def test_small_shards_have_exactly_the_bias_of_a_normal_product(self, method):
        shapes, rates, exact = skewed_shards()
        combined = combine_subposteriors(log_gamma_shards(shapes, rates, 8000), method)
        assert_product(combined.mean, combined.cov, log_gamma(shapes, rates), 8000)
        with pytest.raises(AssertionError, match="score"):
            assert_product(combined.mean, combined.cov, log_gamma(shapes, rates), 8000, exact)

    def test_semiparametric_takes_the_bias_of_small_shards_out(self):
        errors = []
        for seed in range(8):
            shapes, rates, (mean, cov) = skewed_shards(seed=seed)
            shards = log_gamma_shards(shapes, rates, 4000, seed)
            merged = [combine_subposteriors(shards, name) for name in ("weighted", "semiparametric")]
            errors.append([(part.mean[0] - mean[0]) / np.sqrt(cov[0, 0]) for part in merged])
            assert "skewness" in merged[1].notes[0]
        weighted, corrected = np.sqrt(np.mean(np.square(errors), axis=0))
        assert weighted == pytest.approx(np.sqrt(1.0 / 20.0), rel=0.6)  # sqrt(M / 2 N)
        assert corrected < 0.4 * weighted


def skewed_shards(num_shards=64, size=10, seed=1):
    """Exponential data, ten to a shard: the subposteriors of the log rate are clearly skewed."""
    sums = np.random.default_rng(seed).gamma(size, size=num_shards)
    return np.full(num_shards, float(size)), sums, log_gamma([size * num_shards], [sums.sum()])[0]


class TestMethods:
    @pytest.mark.parametrize("depth", [1, 2, 3, 7])
    @pytest.mark.parametrize("num_shards", [2, 5, 64, 128])
    def test_hierarchical_equals_weighted(self, num_shards, depth):
        shards = drawn(split_normal(num_shards)[0], 40)
        weighted = combine_subposteriors(shards)
        nested = combine_subposteriors(shards, "hierarchical", tree_depth=depth)
        width = np.sqrt(np.diag(weighted.cov))
        assert np.abs((nested.mean - weighted.mean) / width).max() < 1e-10
        assert np.abs((nested.cov - weighted.cov) / np.outer(width, width)).max() < 1e-10
        assert np.abs((nested.samples - weighted.samples) / width).max() < 1e-10

    def test_groups_give_the_precision_without_bias_from_few_draws(self):
        free, groups, num_draws, runs = 2, [(2, 4), (3, 5)], 40, 1500
        rng = np.random.default_rng(1)
        slope, first, residual = rng.standard_normal((4, free)), random_covariance(free, 5), np.zeros((4, 4))
        for place in ([0, 2], [1, 3]):
            residual[np.ix_(place, place)] = random_covariance(2, place[0])
        known, inner = np.linalg.inv(first), np.linalg.inv(residual)
        exact = np.block([[known + slope.T @ inner @ slope, -slope.T @ inner], [-inner @ slope, inner]])
        z = rng.standard_normal((runs, num_draws, free)) @ np.linalg.cholesky(first).T
        s = z @ slope.T + rng.standard_normal((runs, num_draws, 4)) @ np.linalg.cholesky(residual).T
        roots = [collect([{"samples": x}], groups)[0].root for x in np.concatenate([z, s], axis=2)]
        found = np.array([root.T @ root for root in roots])
        assert (found[:, 2, 3] == 0.0).all()
        dense = [collect([{"samples": x}])[0].root for x in np.concatenate([z, s], axis=2)]
        assert np.std([root.T @ root for root in dense], axis=0)[3, 3] > 1.02 * np.std(found, axis=0)[3, 3]

        def score(bug=0.0):
            return np.abs((found.mean(axis=0) + bug - exact) / (found.std(axis=0) / np.sqrt(runs) + 1e-12)).max()

        limit = norm.isf(0.5 * LUCK / found[0].size)
        assert score() < limit
        slopes = np.zeros((6, 6))
        slopes[:free, :free] = 4.0 / num_draws * known
        assert score(slopes) > limit, "planted bug: the noise of the slopes counts as knowledge"
        scatter = 3.0 / num_draws * np.diag(np.append(np.zeros(free), np.diag(inner)))
        assert score(scatter) > limit, "planted bug: residuals have as many degrees of freedom as there are draws"

    def test_a_shard_that_knows_too_little_is_pooled_with_groups_too(self):
        shards = [{"samples": own} for own in np.random.default_rng(0).standard_normal((3, 40, 6))]
        shards[1]["ess"] = 2.8
        with pytest.warns(HomodyneWarning, match="shard 1 has 2.8 effective draws, more than 4 are needed for 2"):
            combined = combine_subposteriors(shards, groups=[(2, 4), (3, 5)])
        assert combined.method == "average"
        assert np.isfinite(combined.samples).all()

    def test_many_groups_need_few_draws(self):
        rng = np.random.default_rng(0)
        groups = [(7 + k, 32 + k) for k in range(25)]
        x = rng.standard_normal((20, 70, 57))
        x[:, :, 7:] += x[:, :, :7] @ rng.standard_normal((7, 50))
        known, dense = (combine_subposteriors([{"samples": own} for own in x], groups=given) for given in (groups, ()))
        width = np.linalg.eigvalsh(20.0 * known.cov[:7, :7])
        assert 0.8 < width[0] < width[-1] < 1.25
        assert np.linalg.eigvalsh(20.0 * dense.cov[:7, :7])[-1] > 1.5

    @pytest.mark.parametrize("times", [pytest.param(8, id="once per shard"), pytest.param(1, id="once: planted bug")])
    @pytest.mark.parametrize("method", PRODUCTS)
    def test_a_cavity_is_divided_out(self, method, times):
        parts, exact = split_normal(8)
        cavity = exact[0][:3] + np.sqrt(np.diag(exact[1]))[:3], 4.0 * exact[1][:3, :3]
        precision, pull = np.zeros((4, 4)), np.zeros(4)
        precision[:3, :3] = np.linalg.inv(cavity[1])
        pull[:3] = precision[:3, :3] @ cavity[0]
        told = []
        for mean, cov in parts:
            both = np.linalg.inv(np.linalg.inv(cov) + precision)
            told.append((both @ (np.linalg.solve(cov, mean) + pull), 0.5 * (both + both.T)))
        shards = drawn(told, 2000)
        before, after = (combine_subposteriors(shards, method, cavity=given) for given in (None, cavity))
        left = np.linalg.inv(before.cov) - times * precision
        mean = np.linalg.solve(left, np.linalg.solve(before.cov, before.mean) - times * pull)
        width = np.sqrt(np.diag(exact[1]))
        right = np.allclose((after.mean - mean) / width, 0.0, atol=1e-6) and np.allclose(
            (after.cov - np.linalg.inv(left)) / np.outer(width, width), 0.0, atol=1e-6
        )
        assert right == (times == 8)
        assert np.abs((after.mean - exact[0]) / width).max() < 0.3
        white = np.linalg.solve(np.linalg.cholesky(before.cov), (before.samples - before.mean).T)
        moved = np.linalg.solve(np.linalg.cholesky(after.cov), (after.samples - after.mean).T)
        np.testing.assert_allclose(np.linalg.norm(moved, axis=0), np.linalg.norm(white, axis=0), rtol=1e-9)

    def test_a_cavity_stronger_than_what_the_shards_know_is_refused(self):
        shards = drawn([(np.zeros(2), np.eye(2))] * 4, 50)
        with pytest.raises(ExecutionError, match="too few effective draws for a cavity"):
            combine_subposteriors(shards, fallback_enabled=False, cavity=(np.zeros(2), 0.5 * np.eye(2)))
        with pytest.warns(HomodyneWarning, match="average was used"):
            combine_subposteriors(shards, cavity=(np.zeros(2), 0.5 * np.eye(2)))

    def test_consensus_permutes_draws(self):
        parts, exact = split_normal(4, d=1, scales=(1.0,))
        shards = [{"samples": np.sort(shard["samples"], axis=0)} for shard in drawn(parts, 2000)]
        combined = combine_subposteriors(shards, "consensus")
        assert_covariance(combined.samples, combined.mean, exact[1])
        precisions = [1.0 / cov[0, 0] for _, cov in parts]
        unpermuted = np.average([shard["samples"] for shard in shards], axis=0, weights=precisions)
        with pytest.raises(AssertionError, match="whitened covariance"):
            assert_covariance(unpermuted, unpermuted.mean(axis=0), exact[1])

    def test_consensus_says_when_draws_are_used_again(self):
        combined = combine_subposteriors(drawn(split_normal(4)[0], 100), "consensus", num_samples=250)
        assert combined.samples.shape == (250, 4)
        assert "more than once" in combined.notes[0]

    def test_swiss_keeps_the_shape_of_shards_and_semiparametric_that_of_the_product(self):
        num_shards, size = 4, 4
        shapes, rates = np.full(num_shards, float(size)), np.full(num_shards, float(size))
        shards = log_gamma_shards(shapes, rates, 20_000)
        of_gamma = [polygamma(2, a) / polygamma(1, a) ** 1.5 for a in (size, size * num_shards)]
        swiss, corrected = (combine_subposteriors(shards, name) for name in ("swiss", "semiparametric"))
        assert abs(skew(swiss.samples[:, 0]) - of_gamma[0]) < 0.12
        assert abs(skew(corrected.samples[:, 0]) - of_gamma[1]) < 0.08
        assert_mean(corrected.samples, corrected.mean)
        assert_covariance(corrected.samples, corrected.mean, corrected.cov)

    def test_semiparametric_leaves_normal_shards_nearly_alone(self):
        shards = drawn(split_normal(16)[0], 1000)
        weighted, corrected = (combine_subposteriors(shards, name) for name in ("weighted", "semiparametric"))
        assert np.abs((corrected.mean - weighted.mean) / np.sqrt(np.diag(weighted.cov))).max() < 0.1

    @pytest.mark.parametrize("name", ["average", "simple_average"])
    def test_average_is_too_wide_and_says_so(self, name):
        parts = [(np.zeros(2), np.eye(2))] * 16
        combined = combine_subposteriors(drawn(parts, 1000), name, num_samples=5000)
        assert combined.method == "average"
        assert "4 times too large" in combined.notes[0]
        assert_covariance(combined.samples, np.zeros(2), np.eye(2))
        with pytest.raises(AssertionError, match="score"):
            assert_product(combined.mean, combined.cov, parts, 1000)

    def test_average_returns_draws_of_all_shards_equally(self):
        shards = [{"samples": m + np.arange(0.0, 0.5, 0.5 / size)[:, None]} for m, size in enumerate((10, 500, 90))]
        combined = combine_subposteriors(shards, "average", num_samples=30)
        assert set(combined.samples[:, 0]) <= {value for shard in shards for value in shard["samples"][:, 0]}
        assert np.bincount(combined.samples[:, 0].astype(int)).tolist() == [10, 10, 10]
        assert combined.mean[0] == pytest.approx(np.mean([shard["samples"].mean() for shard in shards]))

    @pytest.mark.parametrize("method", list(COMBINERS))
    def test_one_shard_comes_back_unchanged(self, method):
        x = np.random.default_rng(0).standard_normal((4, 50, 3))
        combined = combine_subposteriors([{"samples": x}], method)
        assert np.array_equal(combined.samples, x.reshape(200, 3))
        assert combined.method == method
        assert np.allclose(combined.cov, np.cov(x.reshape(200, 3), rowvar=False))
        assert "unchanged" in combined.notes[0]

    def test_one_shard_makes_up_no_draws(self):
        combined = combine_subposteriors([{"samples": np.eye(9)[:, :2]}], num_samples=500)
        assert combined.samples.shape == (9, 2)
        assert any("500" in note for note in combined.notes)

    def test_a_method_of_the_user(self):
        def first_only(shards, request):
            y = shards.draws(0)[: request.num_samples]
            return shards.merged(y, y.mean(axis=0), np.cov(y, rowvar=False))

        shards = drawn(split_normal(3)[0], 100)
        COMBINERS.register("first only", first_only)
        COMBINERS.register("broken", lambda shards, _: Merged(np.full((2, 4), np.nan), np.zeros(4), np.eye(4)))
        combined = combine_subposteriors(shards, "first only")
        with pytest.raises(ExecutionError, match="not finite"):
            combine_subposteriors(shards, "broken", fallback_enabled=False)
        assert combined.method == "first only"
        width = shards[0]["samples"].std(axis=0)
        centred = combined.samples - shards[0]["samples"]
        assert np.abs(centred / width).max() < 0.2  # the same draws, spread by the debiasing

    @pytest.mark.parametrize("method", list(COMBINERS))
    @pytest.mark.parametrize("num_samples", [1, 7, 100, 301])
    def test_number_and_seed(self, method, num_samples):
        shards = drawn(split_normal(3)[0], 100)
        first, again, other = (
            combine_subposteriors(shards, method, num_samples=num_samples, seed=seed).samples for seed in (4, 4, 5)
        )
        assert first.shape == (num_samples, 4)
        assert np.array_equal(first, again)
        assert num_samples == 1 or not np.array_equal(first, other)


class TestRecords:
    def test_result_is_read_by_key(self):
        combined = combine_subposteriors(drawn(split_normal(5)[0], 1000))
        assert "samples" in combined
        assert "nothing" not in combined
        assert combined["samples"].shape == (1000, 4)
        assert combined["method"] == "weighted"
        with pytest.raises(KeyError):
            combined["nothing"]

    def test_normal_approximations_of_the_shards(self):
        shards = drawn(split_normal(5)[0], 500)
        factor = (500 - 4 - 2) / (500 - 1)
        for shard, found in zip(shards, collect(shards), strict=True):
            assert np.allclose(found.mean, shard["samples"].mean(axis=0), rtol=1e-12, atol=0.0)
            unit = found.root.T @ found.root @ np.cov(shard["samples"], rowvar=False) / factor
            scale = np.sqrt(np.diag(np.cov(shard["samples"], rowvar=False)))
            assert np.allclose(unit * scale[:, None] / scale, np.eye(4), atol=1e-9)

    def test_records_and_chains(self):
        flat = drawn(split_normal(3)[0], 200)
        slotted = make_dataclass("Slotted", ["shard_id", "samples", "names", "ess_bulk"], frozen=True, slots=True)
        names = ("a", "b", "c", "d")
        records = [
            slotted(7 + m, s["samples"].reshape(2, 100, 4), names, np.full(4, 150.0)) for m, s in enumerate(flat)
        ]
        combined = combine_subposteriors(records)
        expected = combine_subposteriors([shard | {"ess": 150.0} for shard in flat])
        assert np.array_equal(combined.samples, expected.samples)
        with pytest.raises(InputError, match="shard 8 has the parameters e, b, c, d"):
            combine_subposteriors([records[0], slotted(8, records[1].samples, ("e", "b", "c", "d"), None)])


class TestTrouble:
    def shards(self):
        return drawn(split_normal(3)[0], 100)

    @pytest.mark.parametrize("method", PRODUCTS)
    def test_constant_draws(self, method):
        shards = [*self.shards(), {"samples": np.zeros((100, 4)), "shard_id": 17}]
        with pytest.raises(ExecutionError, match="covariance of shard 17 is singular") as raised:
            combine_subposteriors(shards, method, fallback_enabled=False)
        assert isinstance(raised.value, RuntimeError)
        with pytest.warns(HomodyneWarning, match="shard 17 is singular"):
            combined = combine_subposteriors(shards, method)
        assert combined.method == "average"
        assert f"cannot be combined by {method}" in combined.notes[0]
        assert "times too large" in combined.notes[1]
        roots = np.array([shard.root for shard in collect(shards)])
        assert np.isnan(roots[3]).all()
        assert np.isfinite(roots[:3]).all()

    def test_a_single_constant_shard(self):
        with pytest.raises(ExecutionError, match="do not vary in parameter 0, 1"):
            combine_subposteriors([{"samples": np.full((50, 2), 0.1)}], fallback_enabled=False)
        with pytest.warns(HomodyneWarning, match="average was used"):
            combined = combine_subposteriors([{"samples": np.full((50, 2), 0.1)}])
        assert combined.method == "average"
        assert (combined.samples == 0.1).all()

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda x: np.column_stack([x[:, :3], x[:, 0]]),
            lambda x: np.column_stack([x[:, :3], 3.0 * x[:, 2] + 7.0]),
            lambda x: np.column_stack([x[:, :3], x[:, 0] + 1e4 + 1e-16 * x[:, 3]]),
            lambda x: np.column_stack([x[:, :3], np.full(len(x), 0.1)]),
        ],
    )
    @pytest.mark.parametrize("scale", [1e4, 1.0, 1e-8])
    def test_singular_at_every_scale(self, spoil, scale):
        x = np.random.default_rng(0).standard_normal((100, 4))
        shards = [{"samples": scale * x}, {"samples": scale * spoil(x)}]
        with pytest.raises(ExecutionError, match="covariance of shard 1 is singular"):
            combine_subposteriors(shards, fallback_enabled=False)

    @pytest.mark.parametrize("ess", [6.0, 2.0, np.nan])
    def test_too_few_effective_draws(self, ess):
        shards = [*self.shards(), self.shards()[0] | {"ess": ess}]
        with pytest.raises(ExecutionError, match="shard 3 has .* effective draws"):
            combine_subposteriors(shards, fallback_enabled=False)

    def test_shards_too_skewed_for_a_correction(self):
        x = np.random.default_rng(0).exponential(size=(2, 2000, 1))
        with pytest.raises(ExecutionError, match="skewness"):
            combine_subposteriors(
                [{"samples": x[0]}, {"samples": x[1] + 5.0}], "semiparametric", fallback_enabled=False
            )

    def test_wrong_input(self):
        good = self.shards()
        x = good[0]["samples"]
        broken = x.copy()
        broken[3, 1] = np.nan
        cases = [
            ([], {}, "no shards"),
            (good, {"method": "magic"}, "unknown combination method 'magic'; expected one of average, consensus"),
            (good, {"num_samples": 0}, "num_samples is 0"),
            (good, {"tree_depth": 0}, "tree_depth is 0"),
            ([*good, {"samples": broken}], {}, "1 values of the draws of shard 3 are not finite"),
            ([*good, {"samples": x[:, :3]}], {}, "shard 3 has 3 parameters, shard 0 4"),
            ([*good, {"samples": x[:6]}], {}, "shard 3 has 6 draws of 4 parameters, needs 7"),
            ([*good, {"samples": x[:, 0]}], {}, r"samples of shard 3 have shape \(100,\)"),
            ([*good, {"draws": x}], {}, "samples of shard 3"),
            ([*good, SimpleNamespace(samples=x[:5], shard_id=9)], {}, "shard 9 has 5 draws"),
        ]
        for shards, options, message in cases:
            with pytest.raises(InputError, match=message):
                combine_subposteriors(shards, **options)
