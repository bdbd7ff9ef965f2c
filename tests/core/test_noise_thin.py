"""Noise from residuals, and thinned blocks."""

import numpy as np
import pytest
from scipy import stats

from homodyne.core import noise
from homodyne.core.blocks import block_from_maps, block_from_points
from homodyne.core.noise import residuals, robust_sigma
from homodyne.core.thin import thin_block

RNG = np.random.default_rng(0)
N, N_PHI = 40, 3
F = np.cumsum(RNG.gamma(0.5, 0.1, N))
SHEAR = (np.array([0.7, -2.0, 0.0]), np.cumsum(RNG.uniform(0, 0.3, N)))
SCALING = np.array([[1.0, 0.3], [1.1, 0.2], [0.9, -0.1]])
C2 = RNG.normal(1.1, 0.1, (N_PHI, N, N)).astype(np.float32)


@pytest.mark.parametrize("sd", [1e-3, 2.0])
def test_robust_sigma_of_normal_noise(sd):
    """Its Monte Carlo error is 1.17 sd / sqrt(count), twice the variance of the plain one and more."""
    count = 20_000
    x = RNG.normal(5.0, sd, count)
    error = sd / np.sqrt(count * 2 * 0.3675)
    assert abs(robust_sigma(x) - sd) < 4 * error
    assert abs(robust_sigma(x) / stats.norm.ppf(0.75) - sd) > 4 * error  # a scale forgotten: seen


def test_robust_sigma_of_a_known_set():
    """Median 3, absolute deviations 0, 1, 1, 2, 97: their median is 1."""
    assert robust_sigma(np.array([1.0, 2.0, 3.0, 4.0, 100.0])) == pytest.approx(1 / stats.norm.ppf(0.75), rel=1e-12)


def test_outliers_hardly_move_robust_sigma():
    x = RNG.normal(0.0, 1.0, 20_000)
    x[:200] = 1e4
    assert abs(robust_sigma(x) - 1.0) < 0.05
    assert x.std() > 100


def reference(c2, weights, pairs, shear, order):
    """Residuals times the root of the weight, pair by pair, for one list of (angle, i, j) in order."""
    parts = [[] for _ in range(N_PHI)]
    for k, i, j in pairs:
        w = 1.0 if weights is None else weights[k, i, j]
        if np.isnan(c2[k, i, j]) or w == 0:
            continue
        g = np.exp(-(F[j] - F[i]))
        if shear is not None:
            x = shear[0][k] * (shear[1][j] - shear[1][i])
            g *= 1.0 if x == 0 else (np.sin(x) / x) ** (2 * order)
        parts[k].append(np.sqrt(w) * (float(c2[k, i, j]) - SCALING[k, 0] - SCALING[k, 1] * g))
    return parts


def pairs(rows=range(N), columns=range(N)):
    return [(k, i, j) for k in range(N_PHI) for i in rows for j in columns if i < j]


def blocks():
    holes, weights = C2.copy(), RNG.uniform(0.1, 2.0, C2.shape).astype(np.float32)
    holes[1, 3, 7] = holes[2, 5, 20:30] = np.nan
    weights[0, 1, 9] = 0.0
    rows, columns = range(0, N, 3), range(1, N, 4)
    some = [p for p, kept in zip(pairs(), RNG.random(len(pairs())) < 0.3, strict=True) if kept]
    k, i, j = np.array(some)[RNG.permutation(len(some))].T
    return {
        "whole": (block_from_maps(C2), C2, None, pairs()),
        "missing": (block_from_maps(holes), holes, None, pairs()),
        "subgrid": (block_from_maps(holes, rows=[*rows], columns=[*columns]), holes, None, pairs(rows, columns)),
        "weights": (block_from_maps(holes, weights=weights), holes, weights, pairs()),
        "points": (block_from_points(N, N_PHI, k, i, j, C2[k, i, j], weights[k, i, j]), C2, weights, some),
        "plain points": (block_from_points(N, N_PHI, k, i, j, C2[k, i, j]), C2, None, some),
    }


BLOCKS = blocks()


@pytest.mark.parametrize(("shear", "order"), [(None, 1), (SHEAR, 1), (SHEAR, 2)], ids=["static", "he2024", "legacy"])
@pytest.mark.parametrize("name", BLOCKS)
def test_residuals_equal_the_slow_reference(name, shear, order):
    block, c2, weights, used = BLOCKS[name]
    for part, expected in zip(
        residuals(block, F, shear, SCALING, order), reference(c2, weights, used, shear, order), strict=True
    ):
        np.testing.assert_allclose(part, expected, rtol=1e-9, atol=1e-12)


def test_residuals_of_much_data_are_spread_evenly(monkeypatch):
    monkeypatch.setattr(noise, "_MOST", 100)
    for name in ("whole", "points", "weights"):
        block, c2, weights, used = BLOCKS[name]
        whole = reference(c2, weights, used, None, 1)
        for part, expected in zip(residuals(block, F, None, SCALING), whole, strict=True):
            assert 50 <= len(part) <= 100
            assert np.isclose(np.array(expected)[:, None], part, rtol=1e-9).any(axis=0).all()
    stride = -(-N * (N - 1) // 2 // 100)
    np.testing.assert_allclose(
        residuals(BLOCKS["whole"][0], F, None, SCALING)[2], reference(*BLOCKS["whole"][1:], None, 1)[2][::stride]
    )


def lag_scales(i, j):
    """Powers of two in which the lags lie."""
    return set(np.log2(j - i).astype(int).tolist())


@pytest.mark.parametrize("points", [2000, 10_000])
def test_thin_block_keeps_all_angles_ages_and_lags(points):
    n = 500
    c2 = RNG.normal(1.0, 0.1, (2, n, n)).astype(np.float32)
    good = np.ones(n, dtype=bool)
    good[[0, 17, 250, 499]] = False
    block = thin_block(c2, good, points)
    angle, i, j = block.point_frames()
    assert points / 3 < block.num_points < 3 * points
    np.testing.assert_array_equal(block.values, c2[angle, i, j])
    assert np.all(i < j)
    assert good[i].all()
    assert good[j].all()
    for k in range(2):
        here = angle == k
        assert lag_scales(i[here], j[here]) == set(range(9))  # from 1 to 497 frames
        short = i[here & (j - i <= 2)]  # a fast decay is seen at every age
        assert np.diff(np.concatenate([[0], np.unique(short), [n]])).max() <= n / 10


def test_planted_thinning_by_a_stride_loses_the_short_lags():
    """What `thin_block` must not do: this is what the assertion above would see."""
    frames = np.arange(0, 500, 12)
    _, i, j = block_from_maps(np.ones((1, 500, 500), np.float32), rows=frames, columns=frames).point_frames()
    assert lag_scales(i, j) != set(range(9))


def test_small_data_are_taken_whole():
    good = np.arange(N) % 7 != 3
    block = thin_block(C2, good, 10_000)
    frames = np.flatnonzero(good)
    angle, i, j = block.point_frames()
    assert list(zip(angle, i, j, strict=True)) == pairs(frames, frames)
    np.testing.assert_array_equal(block.values, C2[angle, i, j])
    exactly = len(pairs(frames, frames))
    assert thin_block(C2, good, exactly).num_points == exactly
    assert thin_block(C2, good, exactly // 3).num_points < exactly


@pytest.mark.parametrize("usable", [3, 4, 7])
def test_few_frames_with_few_points_asked(usable):
    good = np.zeros(N, dtype=bool)
    good[np.linspace(0, N - 1, usable).astype(int)] = True
    block = thin_block(C2, good, 1)
    assert 0 < block.num_points <= N_PHI * usable * (usable - 1) // 2


def test_missing_pixels_stay_missing():
    holes = np.tile(C2[:1], (1, 1, 1))
    holes[0, 0:20, 30:] = np.nan
    block = thin_block(holes, np.ones(N, dtype=bool), 200)
    angle, i, j = block.point_frames()
    np.testing.assert_array_equal(block.weights > 0, np.isfinite(holes[angle, i, j]))
