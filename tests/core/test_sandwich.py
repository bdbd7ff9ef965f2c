"""The sandwich covariance against sums over all pairs of pairs, finite differences and known limits."""

from functools import cache
from itertools import combinations

import numpy as np
import pytest

from homodyne.core.blocks import block_from_maps
from homodyne.core.correlation import g as correlation_g
from homodyne.core.likelihood import Likelihood, ScalingPrior
from homodyne.core.moments import BlockSlot
from homodyne.core.pair_maps import pair_maps
from homodyne.core.parameters import parameter_space
from homodyne.core.sandwich import sandwich
from homodyne.core.simulate import TrueModel, independent, parametric
from homodyne.noise.speckle_noise import CountingFacts, residual_share
from homodyne.errors import InputError

N, PHI, Q, GAP = 9, np.array([-20.0, 65.0]), 0.0054, 2e6
T = 0.1 * np.arange(1, N + 1)
PARAMS = {"D0": 3e4, "alpha": -0.6, "D_offset": 800.0, "gamma_dot_0": 8e-4, "beta": 0.3, "gamma_dot_offset": 1e-4}
PARAMS["phi0"] = 4.0
SCALING = np.array([[1.0, 0.3], [1.1, 0.2]])
SIGMA = np.array([0.03, 0.05])
WIDE = ScalingPrior(1.0, 1e3, 0.3, 1e3)
FACTS = CountingFacts(given_counts=2.0, given_pixels=500.0)
ROOT = np.diag([0.05, 0.02, 0.1, 0.3, 0.04, 0.2, 3.0])


@cache
def setup():
    """Maps without noise, a dead frame, missing pairs and unequal weights."""
    t1, t2 = np.meshgrid(T, T, indexing="ij")
    g = np.asarray(correlation_g(PHI[:, None, None], t1, t2, PARAMS, q=Q, gap=GAP))
    c2 = (SCALING[:, :1, None] + SCALING[:, 1:, None] * g).astype(np.float32)
    c2[1, 4, :] = c2[1, :, 4] = c2[0, 2, 5] = np.nan
    weights = np.random.default_rng(0).uniform(0.2, 2.0, c2.shape)
    space = parameter_space("laminar_flow", T)
    slot = BlockSlot(block_from_maps(c2, weights=weights))
    likelihood = Likelihood(slot, space, T, PHI, Q, GAP, WIDE)
    return likelihood, space.coordinates(PARAMS)


@cache
def found():
    likelihood, z = setup()
    return sandwich(likelihood, z, SCALING, SIGMA, FACTS, ROOT)


def model(z):
    """Correlation of both angles at z."""
    t1, t2 = np.meshgrid(T, T, indexing="ij")
    params = {name: float(value) for name, value in setup()[0].space.physical(z).items()}
    return np.asarray(correlation_g(PHI[:, None, None], t1, t2, params, q=Q, gap=GAP))


def reference(covariance_of):
    """H and J over (z, offset and contrast of both angles), pair by pair, with slopes from finite differences."""
    likelihood, z = setup()
    step = 1e-4 * ROOT
    ends = [[model(z + unit), model(z - unit)] for unit in step]
    d, size = len(z), len(z) + 2 * len(PHI)
    information, variability = np.zeros((size, size)), np.zeros((size, size))
    for k, maps in enumerate(pair_maps(likelihood, z, np.zeros((d, 0)))):
        pairs = [pair for pair in combinations(range(N), 2) if maps.weight[pair] > 0]
        rows = np.zeros((len(pairs), size))
        for row, pair in zip(rows, pairs, strict=True):
            row[:d] = [
                SCALING[k, 1] * (a[k][pair] - b[k][pair]) / (2 * h)
                for (a, b), h in zip(ends, np.diag(step), strict=True)
            ]
            row[d + 2 * k], row[d + 2 * k + 1] = 1.0, maps.g[pair]
        scores = rows * np.array([maps.weight[pair] for pair in pairs])[:, None] / SIGMA[k] ** 2
        information += rows.T @ scores
        noise = SCALING[k, 1] * maps.g + np.eye(N) / FACTS.given_counts
        covariance = np.array([[covariance_of(noise, a, b) for b in pairs] for a in pairs]) / FACTS.given_pixels
        variability += scores.T @ covariance @ scores
    return information, variability


def of_pairs(K, a, b):
    return K[a[0], b[0]] * K[a[1], b[1]] + K[a[0], b[1]] * K[a[1], b[0]]


def differs(got, expected, scale):
    return np.abs((got - expected) / np.outer(scale, scale)).max()


def test_covariance_is_that_of_all_pairs_of_pairs():
    """Marginal covariance, regression and conditional covariance of offset and contrast; a lost term is seen."""
    information, variability = reference(of_pairs)
    d, inverse = len(ROOT), np.linalg.inv(information)
    joint = inverse @ variability @ inverse
    sd = np.sqrt(np.diag(joint))
    assert differs(found().covariance, joint[:d, :d], sd[:d]) < 2e-4
    assert np.allclose(found().independent, inverse[:d, :d], rtol=1e-5)
    slope = joint[d:, :d] @ np.linalg.inv(joint[:d, :d])
    left = joint[d:, d:] - slope @ joint[:d, d:]
    for k in range(len(PHI)):
        mine = slice(2 * k, 2 * k + 2)
        scale = np.sqrt(np.diag(left)[mine])
        turn = np.linalg.inv(np.linalg.cholesky(found().pair_information[k])).T
        assert differs(turn @ found().pair_spread[k] @ turn.T, left[mine, mine], scale) < 5e-3
        assert np.abs((turn @ found().pair_slope[k] - slope[mine]) * sd[:d] / scale[:, None]).max() < 5e-3
    lost = inverse @ reference(lambda K, a, b: K[a[0], b[0]] * K[a[1], b[1]])[1] @ inverse
    assert differs(found().covariance, lost[:d, :d], sd[:d]) > 0.02


def of_static_maps(params, n=200):
    """Variability of z of a long static map, from the sandwich and from whole products in double precision."""
    times, scaling = 0.1 * np.arange(1, n + 1), np.array([[1.0, 0.3]])
    space = parameter_space("static", times)
    z = space.coordinates(params)
    slot = BlockSlot(block_from_maps(np.ones((1, n, n), np.float32)))
    likelihood = Likelihood(slot, space, times, np.zeros(1), Q, None, WIDE)
    got = sandwich(likelihood, z, scaling, SIGMA[:1], FACTS, np.eye(3))
    (maps,) = pair_maps(likelihood, z, np.eye(3))
    off, design = maps.weight > 0, maps.design()
    slopes, pair = scaling[0, 1] * design[:-2], design[-2:]
    known = np.diag(WIDE.table[1]) * 2.0 * SIGMA[0] ** 2  # each pair counts twice
    taken = np.linalg.solve(pair[:, off] @ pair[:, off].T + known, pair[:, off] @ slopes[:, off].T)
    scores = off * (slopes - np.tensordot(taken, pair, (0, 0))) / (2.0 * SIGMA[0] ** 2)
    noise = scaling[0, 1] * maps.g + np.eye(n) / FACTS.given_counts
    passed = [score @ noise for score in scores]
    expected = np.array([[2.0 * np.vdot(a.T, b) for b in passed] for a in passed]) / FACTS.given_pixels
    return got.variability, expected, np.sqrt(np.diag(expected))


def test_directions_that_offset_and_contrast_nearly_take_up_keep_their_digits():
    """A decay much longer than the record is nearly a straight line, as a change of the offset and contrast is."""
    got, expected, scale = of_static_maps({"D0": 50.0, "alpha": -0.7, "D_offset": 1.0})
    assert differs(got, expected, scale) < 1e-4
    assert np.linalg.eigvalsh(got / np.outer(scale, scale)).min() > 0.0


def test_pairs_far_apart_may_be_passed_over(monkeypatch):
    """Products of a fast decay leave out what is nothing in single precision; leaving out more is seen."""
    fast = {"D0": 1e4, "alpha": -0.3, "D_offset": 5e3}
    got, expected, scale = of_static_maps(fast, 300)
    assert differs(got, expected, scale) < 1e-5
    monkeypatch.setattr("homodyne.core.sandwich._GONE", 2.0)
    got, expected, scale = of_static_maps(fast, 300)
    assert differs(got, expected, scale) > 1e-3


def test_weak_light_gives_the_independent_covariance():
    """contrast * counts << 1, and a variance that is the fit's own."""
    likelihood, z = setup()
    dark = CountingFacts(given_counts=1e-4, given_pixels=1e14)
    sigma = (SCALING[:, 1] + 1e4) / np.sqrt(1e14)
    c2 = np.ones((2, N, N), np.float32)
    plain = Likelihood(BlockSlot(block_from_maps(c2)), likelihood.space, T, PHI, Q, GAP, WIDE)
    assert np.allclose(sandwich(plain, z, SCALING, sigma, dark, ROOT).inflation, 1.0, atol=1e-3)
    bright = CountingFacts(given_counts=1.0, given_pixels=1e14)
    assert np.abs(sandwich(plain, z, SCALING, 1.3e-7 + 0 * sigma, bright, ROOT).inflation - 1.0).max() > 0.05


def simulated(draw, **settings):
    """Likelihood of simulated maps under the truth, and what is known of them."""
    t = 0.1 * np.arange(1, 151)
    params = {"D0": 3e4, "alpha": -0.3, "D_offset": 2e3}
    maps = draw(TrueModel(params, t, np.array([0.0, 40.0, 80.0]), Q, None, 0.3, 1.0), **settings)
    space = parameter_space("static", t)
    likelihood = Likelihood(BlockSlot(block_from_maps(maps.c2)), space, t, maps.phi, Q, None, WIDE)
    return likelihood, space.coordinates(params), maps


def noise_of(draw, known, **settings):
    likelihood, z, maps = simulated(draw, **settings)
    facts = {"diagonal": maps.diagonal, "pixels": maps.pixels, "mean_counts": maps.mean_counts}
    scaling, sigma = np.tile([1.0, 0.3], (3, 1)), np.full(3, 0.1)
    return sandwich(likelihood, z, scaling, sigma, CountingFacts(**{k: facts[k] for k in known}), np.eye(3) * 0.1).noise


def test_counts_and_pixels_from_diagonal_file_and_residuals():
    every = noise_of(parametric, ["diagonal", "pixels", "mean_counts"], pixels=1000, mean_counts=2.0, seed=1)
    assert (every.counts_source, every.pixels_source, every.notes) == ("raw diagonal", "residuals", ())
    assert np.allclose(every.mean_counts, 2.0, rtol=0.1)
    assert np.allclose(every.pixels, 1000, rtol=0.25)
    alone = noise_of(parametric, [], pixels=1000, mean_counts=2.0, seed=1)
    assert alone.counts_source == "residuals"
    assert np.allclose(alone.mean_counts, 2.0, rtol=0.3)
    assert "no raw diagonal" in alone.notes[0]


def test_independent_noise_has_no_correlated_part():
    assert np.all(noise_of(independent, [], sigma=0.1, seed=2).share < 0.005)


def test_sources_that_contradict_each_other_are_named():
    likelihood, z, maps = simulated(parametric, pixels=1000, mean_counts=2.0, seed=1)
    facts = CountingFacts(maps.diagonal, maps.pixels, 10.0 * maps.mean_counts, given_pixels=100.0)
    notes = sandwich(likelihood, z, np.tile([1.0, 0.3], (3, 1)), np.full(3, 0.1), facts, np.eye(3) * 0.1).noise.notes
    assert any("raw diagonal gives 2 counts" in note.replace("1.99", "2").replace("2.01", "2") for note in notes), notes
    assert any("given gives 100 independent pixels, residuals" in note for note in notes), notes


def test_share_from_residuals_of_known_correlation():
    """Draws with the stated covariance; a share of zero where nothing is correlated; none where no frame is shared."""
    rng, n, share = np.random.default_rng(3), 80, 0.4
    g = np.exp(-np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / 6.0)
    root = np.linalg.cholesky(share * g + (1 - share) * np.eye(n))
    weight = np.triu(np.ones((n, n)), 1)
    weight += weight.T
    found = []
    for _ in range(20):
        draws = root @ rng.standard_normal((n, 400))
        found.append(residual_share(g, weight, weight * (draws @ draws.T / 400 - root @ root.T)))
    assert abs(np.mean(found) - share) < 4 * np.std(found) / np.sqrt(20) + 0.005
    white = np.triu(rng.standard_normal((n, n)), 1)
    assert abs(residual_share(g, weight, white + white.T)) < 0.03
    alone = np.zeros((n, n))
    alone[0, 1] = alone[1, 0] = 1.0
    assert np.isnan(residual_share(g, alone, alone))


def test_no_source_at_all_is_refused():
    likelihood, z = setup()
    c2 = np.full((2, N, N), np.nan, np.float32)
    c2[:, 0, 1] = c2[:, 2, 3] = c2[:, 4, 5] = c2[:, 6, 7] = 1.0
    bare = Likelihood(BlockSlot(block_from_maps(c2)), likelihood.space, T, PHI, Q, GAP, WIDE)
    with pytest.raises(InputError, match=r"give speckle\.mean_counts"):
        sandwich(bare, z, SCALING, SIGMA, CountingFacts(), ROOT)
