"""Sums of smooth functions over rectangles of a map, and correlations between all frames, from few evaluations."""

import numpy as np
import pytest

from homodyne.noise.correlation import make_grid
from homodyne.noise.quadrature import make_rule
from homodyne.noise.tiles import make_tiling

N = 400
T = np.delete(np.arange(1.0, N + 6), [3, 50, 51, 52, 300])
FUNCTIONS = {
    "fast": lambda t1, t2: np.exp(-(t2 - t1) / 3),
    "ageing": lambda t1, t2: np.exp(-3 * (t2**0.4 - t1**0.4)),
    "sheared": lambda t1, t2: np.sinc(0.05 * (t2 - t1)) ** 2,
}


def whole(function, t):
    return function(np.minimum(t[:, None], t), np.maximum(t[:, None], t))


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_sums_over_tiles(name, missing):
    """To 3e-4 of the contrast, and errors are known within a factor."""
    tiling, present = make_tiling(N), np.random.default_rng(0).random((N, N)) > 0.2 if missing else None
    rule = make_rule(T, tiling.cells, present)
    values = FUNCTIONS[name](T[rule.first], T[rule.second])
    expected = tiling.sums(whole(FUNCTIONS[name], T), present)
    error = np.abs(rule.sums(values[None], tiling.pairs.size)[0] - expected)
    assert np.all(error < 3e-4 * tiling.pairs)
    assert np.all(error <= 7 * rule.errors(values, tiling.pairs.size) + 1e-8 * tiling.pairs)
    assert rule.first.size < 0.4 * tiling.pairs.sum()


def test_polynomials_are_summed_exactly():
    """Those of degree 5 in either age, whatever pairs are missing; one more, and the error is seen."""
    tiling, present = make_tiling(N), np.random.default_rng(0).random((N, N)) > 0.5
    rule, count = make_rule(T, tiling.cells, present), tiling.pairs.size
    for degree, exact in ((5, True), (9, False)):
        values = ((T[rule.first] - 200) / 200) ** degree * ((T[rule.second] - 150) / 200) ** degree
        full = ((T[:, None] - 200) / 200) ** degree * ((T - 150) / 200) ** degree
        assert np.allclose(rule.sums(values[None], count)[0], tiling.sums(full, present), rtol=1e-9, atol=1e-7) == exact


def test_refined_rectangles_hold_the_same_pairs():
    tiling = make_tiling(N)
    rule = make_rule(T, tiling.cells)
    tiles = np.arange(tiling.pairs.size) >= 40
    tile, r0, r1, c0, c1 = rule.refined(tiles).T
    assert np.array_equal(np.bincount(tile, (r1 - r0) * (c1 - c0)), np.where(tiles, tiling.pairs, 0))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_correlation_between_all_frames(name):
    """Standard deviations of means over tiles, and of all their combinations, are right to 5 %."""
    tiling = make_tiling(N)
    grid, full = make_grid(tiling), whole(FUNCTIONS[name], T)
    assert grid.reach > 0
    values = FUNCTIONS[name](T[grid.pairs[0]], T[grid.pairs[1]])
    found = tiling.covariance_of(0.7 * grid.condensed(values) + 0.3 * tiling.condensed(np.eye(N)))
    root = np.linalg.inv(np.linalg.cholesky(tiling.covariance(0.7 * full + 0.3 * np.eye(N))))
    assert np.allclose(np.linalg.eigvalsh(root @ found @ root.T), 1.0, rtol=0, atol=0.1)


def test_correlation_of_short_records_is_exact():
    tiling, t = make_tiling(100), T[:100]
    grid = make_grid(tiling)
    values = FUNCTIONS["ageing"](t[grid.pairs[0]], t[grid.pairs[1]])
    assert np.allclose(grid.condensed(values), tiling.condensed(whole(FUNCTIONS["ageing"], t)), rtol=0, atol=1e-12)
