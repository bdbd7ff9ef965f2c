import dataclasses

import numpy as np
import pytest

from homodyne.data import from_cube
from homodyne.errors import DataError

N = 12
T = 0.1 * np.arange(1, N + 1)


@pytest.fixture
def two() -> np.ndarray:
    rng = np.random.default_rng(1)
    maps = rng.normal(1.1, 0.05, (2, N, N))
    maps = np.triu(maps, 1) + np.triu(maps, 1).swapaxes(1, 2)
    maps[:, range(N), range(N)] = rng.normal(3.0, 0.2, (2, N))
    return maps.astype(np.float32)


def pairs(one: np.ndarray) -> np.ndarray:
    return one[..., *np.triu_indices(one.shape[-1], 1)]


def test_what_comes_in_is_there(two):
    data = from_cube(two, T, [0.0, 90.0], 0.0054, 2e6, pixels=[100, 200], mean_counts=0.5, frames=(11, 22))
    assert data.c2 is two  # 400 MB are not copied
    assert (data.num_maps, data.num_frames, data.num_pairs) == (2, N, N * (N - 1))
    np.testing.assert_array_equal(data.diagonal, np.einsum("aii->ai", two))
    np.testing.assert_array_equal(data.pixels, [100, 200])
    np.testing.assert_array_equal(data.mean_counts, [0.5, 0.5])
    assert (data.q.tolist(), data.wavevectors.tolist()) == ([0.0054, 0.0054], [0.0054])
    assert (data.gap, data.frames, data.bad_frames.size) == (2e6, (11, 22), 0)
    assert data.dt == pytest.approx(0.1)
    assert data.age_origin == pytest.approx(0.0, abs=1e-12)
    assert "q=0.0054 1/Å, 2 maps x 12 frames" in repr(data)


def test_float64_cube_and_single_map(two):
    whole, one = from_cube(two.astype(np.float64), T, [0, 90], 0.01), from_cube(two[0], T, 0.0, 0.01)
    assert whole.c2.dtype == one.c2.dtype == np.float32
    np.testing.assert_array_equal(pairs(whole.c2), pairs(two))
    np.testing.assert_array_equal(pairs(one.c2[0]), pairs(two[0]))


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_bad_frames_are_found_and_missing(two, value):
    before = two.copy()
    two[:, 4, :] = two[:, :, 4] = value
    two[0, 7, :] = two[0, :, 7] = value  # at one angle only: missing there, the frame itself is good
    given = two.copy()
    data = from_cube(two, T, [0, 90], 0.01)
    np.testing.assert_array_equal(two, given)  # the caller's array is not touched
    assert data.bad_frames.tolist() == [4]
    assert not data.good[4]
    assert np.flatnonzero(~data.alive[0]).tolist() == [4, 7]
    assert np.flatnonzero(~data.alive[1]).tolist() == [4]
    expected = np.triu(np.ones((2, N, N), bool), 1)
    for k, frame in ((0, 4), (0, 7), (1, 4)):
        expected[k, frame] = expected[k, :, frame] = False
    np.testing.assert_array_equal([data.usable(0), data.usable(1)], expected)
    np.testing.assert_array_equal(data.usable(1, slice(5, 9)), expected[1, 5:9])
    np.testing.assert_array_equal(data.c2[1][expected[1]], before[1][expected[1]])
    assert np.isnan(data.diagonal[:, 4]).all()
    assert data.num_pairs == (N - 1) * (N - 2) // 2 + (N - 2) * (N - 3) // 2
    fewer = dataclasses.replace(data, alive=data.alive & (np.arange(N) != 0))
    assert fewer.num_pairs == (N - 2) * (N - 3) // 2 + (N - 3) * (N - 4) // 2


def test_a_diagonal_alone_makes_no_frame(two):
    two[:, 4, :4] = two[:, 4, 5:] = two[:, :4, 4] = two[:, 5:, 4] = np.nan
    assert from_cube(two, T, [0, 90], 0.01).bad_frames.tolist() == [4]


def test_same_angle_at_several_q(two):
    maps = np.concatenate([two, two + 1])
    data = from_cube(maps, T, [0, 90, 0, 360 + 90], [0.01, 0.01, 0.02, 0.02])
    assert data.q.dtype == data.phi.dtype == np.float64
    assert data.wavevectors.tolist() == [0.01, 0.02]
    assert [data.label(k) for k in (1, 2)] == ["q = 0.01 1/Å, phi = 90°", "q = 0.02 1/Å, phi = 0°"]
    assert "q=0.01, 0.02 1/Å, 4 maps x 12 frames" in repr(data)
    assert from_cube(maps[::2], T, 7.5, [0.01, 0.02]).phi.tolist() == [7.5, 7.5]
    with pytest.raises(DataError, match="same direction twice .0.0 and 360.0 degrees. at q = 0.02 1/Å"):
        from_cube(maps, T, [0, 90, 0, 360], [0.01, 0.01, 0.02, 0.02])


def test_single_missing_pixels_and_true_zeros_stay(two):
    two[0, 2, 5] = two[0, 5, 2] = np.nan
    two[1, 3, :] = two[1, :, 3] = 0.0
    two[1, 3, 3] = 40.0  # counts were there: no coincidence with any other frame is a measurement
    data = from_cube(two, T, [0, 90], 0.01)
    assert data.good.all()
    assert data.num_pairs == N * (N - 1) - 1
    assert (data.c2[1, 3, 4:] == 0).all()


def neighbours(maps: np.ndarray) -> np.ndarray:
    above = np.diagonal(maps, 1, 1, 2)
    inner = (above[:, 1:] + above[:, :-1]) / 2
    return np.concatenate([inner[:, :1], inner, inner[:, -1:]], axis=1)


@pytest.mark.parametrize(
    "stand_in",
    [
        neighbours,
        lambda maps: np.append(np.diagonal(maps, 1, 1, 2), np.ones((2, 1)), axis=1),
        lambda maps: np.insert(np.diagonal(maps, 1, 1, 2), 0, 1.0, axis=1),
        lambda maps: np.ones((2, N)),
        lambda maps: np.zeros((2, N)),
        lambda maps: np.full((2, N), np.nan),
    ],
    ids=["mean", "next", "previous", "ones", "zeros", "missing"],
)
def test_replaced_diagonal_is_not_taken_for_raw(two, stand_in):
    assert from_cube(two, T, [0, 90], 0.01).diagonal is not None
    two[:, range(N), range(N)] = stand_in(two)
    assert from_cube(two, T, [0, 90], 0.01).diagonal is None


def test_real_map(real):
    data = from_cube(real, np.arange(1.0, 351.0), 0.0, 0.01)
    assert data.diagonal is None
    assert data.good.all()
    assert data.num_pairs == 350 * 349 // 2
    np.testing.assert_array_equal(pairs(data.c2[0]), pairs(real).astype(np.float32))
    noisy = real.copy()
    np.fill_diagonal(noisy, 1.2 + np.random.default_rng(0).normal(0, 0.07, 350))
    assert from_cube(noisy, np.arange(1.0, 351.0), 0.0, 0.01).diagonal is not None


def asymmetric(maps):
    maps[1, 9, 3] += 0.01


def all_dead(maps):
    maps[:, ~np.eye(N, dtype=bool)] = 0.0
    maps[:, range(N), range(N)] = 0.0


def two_frames_left(maps):
    keep = np.zeros((N, N), bool)
    keep[2, 3] = keep[3, 2] = True
    maps[:, ~keep] = np.nan


def one_angle_empty(maps):
    maps[1] = np.nan


def constant(maps):
    maps[1] = 1.25


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (asymmetric, r"q = 0.01 1/Å, phi = 90° is not symmetric: c2\[3, 9\] = .* but c2\[9, 3\]"),
        (all_dead, "all frames are bad"),
        (lambda maps: maps.fill(np.nan), "every element i < j is NaN"),
        (two_frames_left, "Only 2 of 12 frames are usable; expected at least 3"),
        (one_angle_empty, "map at q = 0.01 1/Å, phi = 90° has 0 usable frames"),
        (constant, "map at q = 0.01 1/Å, phi = 90° does not vary: every pair of frames has the value 1.25; expected"),
    ],
)
def test_unusable_maps(two, spoil, message):
    spoil(two)
    with pytest.raises(DataError, match=message):
        from_cube(two, T, [0.0, 90.0], 0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c2": np.ones((2, N, N - 1))}, r"shape \(2, 12, 11\); expected \(n_maps, n, n\)"),
        ({"c2": np.ones((2, N, N), dtype=int)}, "dtype int64; expected floating-point"),
        ({"c2": np.ones((2, N, N), dtype=complex)}, "dtype complex128"),
        ({"c2": np.ones((2, 2, 2))}, "2 frames; expected at least 3"),
        ({"t": T - 0.1}, r"t\[0\] = 0.0 s; expected t > 0"),
        ({"t": T - 5.0}, "expected t > 0"),
        ({"t": T[::-1]}, "expected strictly increasing"),
        ({"t": np.where(np.arange(N) == 5, np.nan, T)}, r"t\[5\] is nan"),
        ({"t": T[:-1]}, "expected a vector of 12 values"),
        ({"t": T.astype(str)}, "dtype"),
        ({"phi": [0.0, np.inf]}, r"phi\[1\] is inf"),
        ({"phi": [30.0, 30.0]}, "same direction twice"),
        ({"phi": [-180.0, 180.0]}, "same direction twice"),
        ({"phi": [0.0]}, "expected a vector of 2 values"),
        ({"phi": 30.0}, "same direction twice .* at q = 0.01 1/Å; expected one map per q and angle"),
        ({"phi": 30.0, "q": [0.01, 0.01 + 1e-7]}, "same direction twice"),
        ({"q": [0.01]}, "q has shape .* expected a vector of 2 values"),
        ({"q": [0.01, 0.0]}, "q holds 0.0; expected positive numbers, one per map"),
        ({"q": [0.01, np.nan]}, r"q\[1\] is nan"),
        ({"q": np.nan}, "q = nan 1/Å"),
        ({"q": -0.01}, "q = -0.01 1/Å; expected a finite positive number"),
        ({"q": "0.01"}, "expected one number in 1/Å"),
        ({"gap": 0.0}, "gap = 0.0 Å"),
        ({"pixels": [10, 0]}, "pixels holds 0.0; expected positive"),
        ({"mean_counts": [1.0]}, "expected a vector of 2 values"),
    ],
)
def test_wrong_arguments(two, change, message):
    with pytest.raises(DataError, match=message) as caught:
        from_cube(**({"c2": two, "t": T, "phi": [0.0, 90.0], "q": 0.01} | change))
    assert caught.value.exit_code == 2
