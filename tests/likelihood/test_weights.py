"""Weights of pairs in the likelihood, against normal densities of all pairs, written out."""

from dataclasses import replace

import numpy as np
import pytest
from pairs import SCALING, integrated, whole_maps
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from homodyne.likelihood.direct import direct_moments, errors_against
from homodyne.likelihood.maps import Maps
from homodyne.likelihood.nodes import add, moments
from homodyne.likelihood.posterior import Posterior, log_densities
from homodyne.likelihood.reduction import Accuracy, find_cells, reduce_maps, reduce_pairs, reduce_shards
from homodyne.noise.adjustment import uncalibrated
from homodyne.optimization.cmc.sharding import shard_numbers
from homodyne.physics.model import find_model
from homodyne.physics.space import parameter_space

pytestmark = pytest.mark.slow

N, SIGMA = 24, np.array([0.02, 0.03])
MODEL, TRUTH = find_model("static"), {"D0": 2e4, "alpha": -0.5, "D_offset": 300.0}
T = 0.1 * np.arange(1, N + 1)
I, J = np.triu_indices(N, 1)  # noqa: E741


def measured(weights=None):
    """Two maps whose pairs scatter as the weights say, with missing pairs and a dead frame."""
    rng = np.random.default_rng(0)
    q, phi, alive = np.array([0.01, 0.012]), np.array([0.0, 90.0]), np.ones((2, N), bool)
    own = np.ones((2, N, N)) if weights is None else np.where(weights > 0, weights, 1.0)
    values = np.full((2, N, N), np.nan, np.float32)
    for k in range(2):
        g = np.asarray(MODEL.g(TRUTH, T[I], T[J], q[k], phi[k], np.nan))
        values[k, I, J] = 1 + 0.3 * g + SIGMA[k] * rng.standard_normal(I.size) / np.sqrt(own[k, I, J])
    values[0, 3, 9:12] = np.nan
    alive[1, 7] = False
    return Maps(values, alive, T, q, phi, None, None if weights is None else tuple(np.float32(weights)))


@pytest.fixture(scope="module")
def maps():
    weights = np.random.default_rng(1).uniform(0.1, 3.0, (2, N, N)).astype(np.float32)
    weights[0, 2, 5:9] = weights[1, :4, 20:] = 0.0
    return measured(weights)


@pytest.fixture(scope="module")
def points(maps):
    z = np.asarray(parameter_space(MODEL, T).coordinates(TRUTH))
    return z + 0.04 * np.random.default_rng(2).standard_normal((6, z.size))


def posterior_of(maps, nodes):
    space = parameter_space(MODEL, maps.t)
    return Posterior(space, nodes, SCALING, SIGMA, uncalibrated(space.dim, 2))


def slow(points, maps, power=1.0):
    """Log posterior with variances sigma² / w**power, offset and contrast integrated out: normal densities in full."""
    space = parameter_space(MODEL, maps.t)
    found = []
    for z in points:
        params = {name: float(value) for name, value in space.physical(z).items()}
        total = float(space.log_prior(z))
        for k, sigma in enumerate(SIGMA):
            g = np.asarray(MODEL.g(params, T[I], T[J], maps.q[k], maps.phi[k], np.nan))
            y, w = maps.values[k][I, J].astype(float), maps.weights[k][I, J].astype(float)
            there = np.isfinite(y) & (w > 0) & maps.alive[k][I] & maps.alive[k][J]
            design = np.stack([np.ones_like(g), g], axis=1)[there]
            parts = []
            for share, mean, precision in zip(*SCALING, strict=True):
                covariance = design @ np.diag(1 / precision) @ design.T + np.diag(sigma**2 / w[there] ** power)
                parts.append(share + multivariate_normal.logpdf(y[there], design @ mean, covariance))
            total += logsumexp(parts)
        found.append(total)
    return np.array(found)


def test_log_density_is_that_of_pairs_whose_precision_is_multiplied(maps, points):
    whole = posterior_of(maps, reduce_pairs(maps, I, J))
    expected = slow(points, maps)
    assert np.ptp(expected) > 2
    np.testing.assert_allclose(log_densities(points, whole), expected, rtol=0, atol=1e-6)
    for planted in (0.0, 2.0):  # weights that are forgotten, or squared
        wrong = slow(points, maps, planted) - expected
        assert np.ptp(wrong) > 0.5


def test_every_way_to_sum_has_the_weights(maps, points):
    params = {name: np.full(2, value) for name, value in TRUTH.items()}
    pairs = posterior_of(maps, reduce_pairs(maps, I, J))
    grid = find_cells(MODEL, params, maps, Accuracy(4, 1e-3))
    assert len(grid.times[0]) < I.size
    nodes = reduce_maps(maps, grid)
    np.testing.assert_allclose(nodes.sums, reduce_pairs(maps, I, J).sums, rtol=1e-9, atol=1e-9)
    for strategy in ("stratified", "interleaved"):
        shards = reduce_shards(maps, grid, 3, shard_numbers(maps, 3, strategy))
        together = add(shards)
        np.testing.assert_allclose(together.sums, nodes.sums, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(together.weight, nodes.weight, rtol=0, atol=1e-10)
        np.testing.assert_allclose(together.weight_y, nodes.weight_y, rtol=0, atol=1e-10)
    space = pairs.space
    at = {name: np.array([float(space.physical(z)[name]) for z in points]) for name in TRUTH}
    assert np.abs(errors_against(direct_moments(MODEL, at, maps), points, pairs)).max() < 1e-7
    fine = reduce_maps(maps, find_cells(MODEL, params, maps, Accuracy(10, 1e-7)))
    assert np.abs(errors_against(direct_moments(MODEL, at, maps), points, posterior_of(maps, fine))).max() < 0.01
    forgotten = errors_against(direct_moments(MODEL, at, replace(maps, weights=None)), points, pairs)
    assert np.ptp(forgotten) > 0.5  # planted


def test_a_weight_of_two_is_the_pair_twice(points):
    twice = np.random.default_rng(3).random((2, N, N)) < 0.3
    maps = measured()
    maps = replace(maps, weights=tuple(np.float32(1.0 + twice)))
    got, expected = log_densities(points, posterior_of(maps, reduce_pairs(maps, I, J))), []
    for z in points:
        space = parameter_space(MODEL, T)
        params = {name: float(value) for name, value in space.physical(z).items()}
        total = float(space.log_prior(z))
        again = [replace(maps, values=np.where(both, maps.values, np.nan)) for both in (True, twice)]
        for k, parts in enumerate(zip(*(whole_maps(MODEL, params, one) for one in again), strict=True)):
            total += integrated(*(np.concatenate(x) for x in zip(*parts, strict=True)), SIGMA[k], SCALING)
        expected.append(total)
    off = got - expected  # a normal density of half the variance, or two of them: their ratio knows no parameters
    assert np.ptp(off) < 1e-5
    assert (
        np.ptp(log_densities(points, posterior_of(maps, reduce_pairs(replace(maps, weights=None), I, J))) - got) > 0.3
    )


def test_a_weight_of_zero_is_a_missing_pair(maps):
    """Whatever stands there."""
    one = tuple(np.float32(own > 0) for own in maps.weights)
    spoilt = np.where(np.array(one) > 0, maps.values, np.float32(1e4))
    given = replace(maps, values=spoilt, weights=one)
    masked = replace(maps, values=np.where(np.array(one) > 0, maps.values, np.nan), weights=None)
    grid = find_cells(MODEL, {name: np.full(2, value) for name, value in TRUTH.items()}, maps, Accuracy(4, 1e-3))
    params = {name: np.array([value]) for name, value in TRUTH.items()}
    for of in (
        lambda maps: reduce_pairs(maps, I, J),
        lambda maps: reduce_maps(maps, grid),
        lambda maps: moments(MODEL, TRUTH, reduce_maps(maps, grid)),
        lambda maps: direct_moments(MODEL, params, maps),
    ):
        for a, b in zip(of(given), of(masked), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)
