"""Tiles: which pairs they hold, and the covariance of their means."""

import numpy as np
import pytest

from homodyne.errors import InputError
from homodyne.noise.tiles import BLOCKS, MIN_FRAMES, make_tiling

RNG = np.random.default_rng(0)


def indicators(tiling):
    """For every tile the map that is 1 at its pairs and 0 elsewhere, from sums over single pairs."""
    n = tiling.num_frames
    found = np.zeros((tiling.pairs.size, n, n))
    for i in range(n):
        for j in range(i + 1, n):
            one = np.zeros((n, n))
            one[i, j] = 1.0
            found[:, i, j] = tiling.sums(one)
    return found


@pytest.mark.parametrize("n", [MIN_FRAMES, 37])
def test_tiles_hold_whole_pairs_of_their_blocks(n):
    tiling = make_tiling(n)
    found = indicators(tiling)
    assert set(np.unique(found)) == {0.0, 1.0}
    assert np.array_equal(found.sum(axis=(1, 2)), tiling.pairs)
    edges = np.round(np.linspace(0, n, 2 ** int(np.log2(n / 2)) + 1))[:: 2 ** int(np.log2(n / 2)) // BLOCKS][:BLOCKS]
    for k, one in enumerate(found):
        i, j = np.nonzero(one)
        lags = j - i
        assert lags.min() >= 0.4 * lags.max() or lags.max() <= 5 * lags.min()
        if lags.max() < n // BLOCKS:  # intervals no longer than a block
            assert set(np.searchsorted(edges, i, side="right") - 1) == {tiling.first[k]}
            assert set(np.searchsorted(edges, j, side="right") - 1) == {tiling.second[k]}
    assert np.all(np.diff(tiling.lags) > 0)
    assert np.mean(found.any(axis=0)[np.triu_indices(n, 1)]) > 0.9


def test_covariance_against_the_sum_over_pairs_of_pairs():
    """With the half of every mean on each side, Cov = 2 tr(A K B K)."""
    tiling = make_tiling(37)
    factor = RNG.normal(size=(37, 37))
    kernel = factor @ factor.T
    upper = indicators(tiling) / tiling.pairs[:, None, None]
    passed = 0.5 * (upper + upper.transpose(0, 2, 1)) @ kernel
    expected = 2 * np.einsum("aij,bji->ab", passed, passed)
    assert np.allclose(tiling.covariance(kernel), expected, rtol=0, atol=1e-12 * expected.max())
    assert not np.allclose(tiling.covariance(kernel), 0.5 * expected, rtol=0, atol=0.1 * expected.max())


def test_long_records_are_thinned_evenly():
    """Of 600 pairs at lag one every seventh is looked at, and tiles still lie in their blocks."""
    tiling = make_tiling(600)
    shortest = tiling.pairs[tiling.family == 0]
    assert shortest.sum() == pytest.approx(600 / 7, abs=BLOCKS)
    white = tiling.covariance(np.eye(600))
    assert np.allclose(np.diag(white), 1 / tiling.pairs)


def test_too_few_frames():
    with pytest.raises(InputError, match="15 frames are too few for tiles: expected at least 16"):
        make_tiling(15)


def speckle_means(tiling, g, pixels, modes, counts, sets):
    """Means over tiles of simulated maps less their truth: photons of several modes, frames divided by their mean."""
    n, g1 = len(g), np.sqrt(g)
    root = np.linalg.cholesky(g1).astype(np.float32)
    for _ in range(sets):
        intensity = np.zeros((n, pixels), np.float32)
        for _ in range(2 * modes):
            intensity += (root @ RNG.standard_normal((n, pixels), dtype=np.float32)) ** 2
        photons = RNG.poisson(counts * intensity / (2 * modes)).astype(np.float32)
        mean = photons.mean(axis=1)
        c2 = photons @ photons.T / pixels / np.outer(mean, mean)
        yield tiling.sums(c2 - 1 - g / modes) / tiling.pairs


@pytest.mark.slow
@pytest.mark.parametrize("counts", [0.1, 10.0])
def test_covariance_of_speckle(counts):
    """The tiles' sum of squares in units of the covariance; without higher cumulants it is 20 % too large."""
    n, pixels, modes, sets = 64, 600, 3, 24
    tiling, t = make_tiling(n), np.arange(n)
    g = np.exp(-np.abs(t[:, None] - t) / 25)
    g1 = np.sqrt(g)
    share = 1 / (1 + modes / counts)
    variance = (1 / modes + 1 / counts) ** 2 / pixels
    means = np.array(list(speckle_means(tiling, g, pixels, modes, counts, sets)))
    flat = np.ones((1, tiling.pairs.size)), tiling.sums(g)[None] / tiling.pairs  # 1/pixels shifts these two
    full = variance * tiling.speckle_covariance(tiling.condensed(g), tiling.condensed(g1), share, 1 / modes)
    normal = variance * tiling.covariance(share * g + (1 - share) * np.eye(n))
    ratios = []
    for covariance in (full, normal):
        root = np.linalg.cholesky(covariance)
        white, columns = np.linalg.solve(root, means.T), np.linalg.solve(root, np.concatenate(flat).T)
        basis, _ = np.linalg.qr(columns)
        left = white - basis @ (basis.T @ white)
        ratios.append(np.mean(np.sum(left**2, axis=0)) / (tiling.pairs.size - 2))
    error = np.sqrt(2 / (tiling.pairs.size - 2) / sets)
    assert abs(ratios[0] - 1) < 4 * error + 0.06  # beyond Monte Carlo error: factors taken out of the sums
    assert ratios[1] - 1 > 4 * error + 0.06
