"""A sample of a map: the same numbers as the whole map gives, whatever is missing."""

import numpy as np
import pytest

from homodyne.noise import sampling
from homodyne.noise.sampling import MapSample, crossed_frames, neighbour_pairs, sampled
from homodyne.noise.tiles import make_tiling


def maps(n, missing):
    rng = np.random.default_rng(n)
    values = rng.normal(1.1, 0.1, (n, n)).astype(np.float32)
    if missing == "scattered":
        values[rng.random((n, n)) < 0.2] = np.nan
    elif missing == "ends":  # runs that meet at the end of a row, first and last pairs
        values[0, 1:3] = values[0, -2:] = values[1, 2:] = values[-2, -1] = np.inf
    elif missing == "all":
        values[:] = np.nan
    return values


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 15, 16, 70, 301])
@pytest.mark.parametrize("missing", ["none", "scattered", "ends", "all"])
def test_a_sample_says_what_the_map_says(n, missing):
    values = maps(n, missing)
    sample, there = sampled(values), np.triu(np.isfinite(values), 1)
    present = sample.present(n)
    if there.sum() == n * (n - 1) // 2:
        assert present is None
    else:
        np.testing.assert_array_equal(present, there)
    rows, columns = crossed_frames(n)
    for a, i in enumerate(rows):
        for b, j in enumerate(columns):
            expected = values[min(i, j), max(i, j)] if there[min(i, j), max(i, j)] else np.nan
            np.testing.assert_equal(sample.crossed[a, b], float(expected))
    i, j = neighbour_pairs(n)
    assert np.all(i < j)
    assert np.all(j + 1 < n)
    for got, later in zip(sample.neighbours, (j, j + 1), strict=True):
        np.testing.assert_array_equal(got, np.where(there[i, later], values[i, later], np.nan))
    if n >= 16:
        tiling = make_tiling(n)
        np.testing.assert_array_equal(sample.counts, tiling.sums(there.astype(float)))
        np.testing.assert_allclose(sample.tiles, tiling.sums(np.where(there, values, 0.0)), rtol=1e-6, atol=1e-6)
    else:
        assert sample.tiles.size == sample.counts.size == 0
    back = MapSample.of_row(sample.row())
    for name, value in vars(sample).items():
        np.testing.assert_array_equal(getattr(back, name), value)


def test_a_pair_that_is_missing_is_seen(monkeypatch):
    """Planted: infinities are taken for data."""
    values = maps(70, "ends")
    monkeypatch.setattr(sampling, "_missing", lambda values: np.empty((0, 2), np.int64))
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(sampled(values).tiles).all()
