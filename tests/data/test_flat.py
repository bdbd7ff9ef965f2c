import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homodyne.data import from_arrays, from_cube
from homodyne.errors import DataError


def points(n: int, phi: np.ndarray, seed: int, dt: float = 0.1):
    """All points t1 <= t2 of random maps, and the maps."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(1.1, 0.05, (phi.size, n, n)).astype(np.float32)
    t = dt * np.arange(1, n + 1)
    a, i, j = np.nonzero(np.triu(np.ones((phi.size, n, n), bool)))
    return maps, t, maps[a, i, j], t[i], t[j], phi[a]


def pairs(one: np.ndarray) -> np.ndarray:
    return one[..., *np.triu_indices(one.shape[-1], 1)]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(4, 9),
    num_maps=st.integers(1, 6),
    seed=st.integers(0, 2**31),
    copies=st.integers(0, 60),
    dt=st.sampled_from([0.1, 1e-5, 7.3, 1000.0]),
)
def test_order_repetition_and_mirroring_do_not_matter(n, num_maps, seed, copies, dt):
    rng = np.random.default_rng(seed)
    number = np.sort(rng.choice(9, num_maps, replace=False))  # maps of a grid of 3 q and 3 angles
    q, phi = np.array([0.004, 0.005, 0.01])[number // 3], np.array([-30.0, 0.0, 170.0])[number % 3]
    maps, t, *flat = points(n, phi, seed, dt)
    flat.append(points(n, q, seed)[-1])
    again = rng.integers(0, flat[0].size, copies)
    order = rng.permutation(flat[0].size + copies)
    value, t1, t2, angle, wave = (np.append(one, one[again])[order] for one in flat)
    swap = rng.random(order.size) < 0.5
    t1, t2 = np.where(swap, t2, t1), np.where(swap, t1, t2)
    data = from_arrays(value, t1, t2, angle, wave, 2e6)
    np.testing.assert_array_equal(pairs(data.c2), pairs(maps))
    np.testing.assert_array_equal(data.diagonal, np.einsum("aii->ai", maps))
    np.testing.assert_array_equal(data.phi, phi)
    np.testing.assert_array_equal(data.q, q)
    np.testing.assert_allclose(data.t, t, rtol=1e-15)
    assert data.num_pairs == num_maps * n * (n - 1) // 2


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), off=st.sampled_from([1e-3, -1e-3, 1.0]))
def test_contradicting_duplicates_are_found(seed, off):
    rng = np.random.default_rng(seed)
    _, _, *flat = points(5, np.array([0.0, 20.0]), seed)
    k = rng.integers(flat[0].size)
    value, t1, t2, phi = (np.append(one, one[k]) for one in flat)
    value[-1] += off
    order = rng.permutation(value.size)
    with pytest.raises(DataError, match=r"occurs with the values .* expected equal values"):
        from_arrays(value[order], t2[order], t1[order], phi[order], 0.01)


def test_duplicates_far_apart_among_many_points():
    maps, _, value, t1, t2, phi = points(900, np.array([0.0]), 3)  # mirror images lie in different pieces
    double = [np.concatenate([one, other]) for one, other in ((value, value), (t1, t2), (t2, t1), (phi, phi))]
    np.testing.assert_array_equal(pairs(from_arrays(*double, 0.01).c2), pairs(maps))
    double[0][-2] += 0.1
    with pytest.raises(DataError, match="expected equal values"):
        from_arrays(*double, 0.01)


def test_meshes_and_scalars_broadcast():
    maps, t, value, t1, t2, phi = points(6, np.array([0.0, 20.0]), 4)
    full = np.triu(maps) + np.triu(maps, 1).swapaxes(1, 2)
    mesh1, mesh2 = np.meshgrid(t, t, indexing="ij")
    flat = from_arrays(value, t1, t2, phi, 0.01)
    one = phi == 0.0
    for data in (
        from_arrays(full, mesh1, mesh2, [0.0, 20.0], 0.01),
        from_arrays(full, t, t, [0.0, 20.0], 0.01),
        from_arrays(full, t, t, [0.0, 20.0], [0.01, 0.01]),
        from_arrays(
            full.astype(np.float64),
            mesh1.astype(np.float32),
            mesh2,
            np.array([0.0, 20.0])[:, None, None],
            0.01,
        ),
    ):
        np.testing.assert_array_equal(pairs(data.c2), pairs(flat.c2))
    np.testing.assert_array_equal(pairs(from_arrays(value[one], t1[one], t2[one], 0.0, 0.01).c2), pairs(maps[:1]))


def test_missing_points_are_nan_and_agrees_with_cube():
    _, t, value, t1, t2, phi = points(8, np.array([0.0]), 5)
    keep = np.random.default_rng(0).random(value.size) < 0.6
    keep |= np.isin(t1, t[:3]) | (t1 == t2)
    data = from_arrays(value[keep], t1[keep], t2[keep], phi[keep], 0.01)
    expected = np.full((1, 8, 8), np.nan, np.float32)
    i, j = np.searchsorted(t, t1[keep]), np.searchsorted(t, t2[keep])
    expected[0, i, j] = value[keep]
    np.testing.assert_array_equal(pairs(data.c2), pairs(expected))
    assert data.num_pairs == from_cube(expected, t, 0.0, 0.01).num_pairs == np.isfinite(pairs(expected)).sum()


def test_nan_does_not_hide_its_mirror_image():
    maps, _, value, t1, t2, phi = points(5, np.array([0.0]), 6)
    value, mirror = value.copy(), value.copy()
    value[3] = np.nan
    data = from_arrays(np.append(mirror, value), np.append(t2, t1), np.append(t1, t2), np.append(phi, phi), 0.01)
    np.testing.assert_array_equal(pairs(data.c2), pairs(maps))


def test_float32_times_are_the_same_frames():
    maps, _, value, t1, t2, phi = points(400, np.array([0.0]), 7)
    data = from_arrays(value, t1.astype(np.float32), t2, phi, 0.01)
    assert data.num_frames == 400
    np.testing.assert_array_equal(pairs(data.c2), pairs(maps))


RANDOM = np.random.default_rng(0).uniform(1, 2, (2, 20_000))
GOOD = {
    "data": np.ones(6),
    "t1": [1.0, 1, 1, 2, 2, 3],
    "t2": [2.0, 3, 4, 3, 4, 4],
    "phi": np.zeros(6),
    "q": 0.01,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"data": np.ones(RANDOM[0].size), "t1": RANDOM[0], "t2": RANDOM[1], "phi": 0.0},
            "a grid of 1.5.* almost empty",
        ),
        (
            {
                "data": np.ones(150_000),
                "t1": np.linspace(1, 2, 150_000),
                "t2": np.linspace(3, 4, 150_000),
                "phi": 0.0,
            },
            "more than 200000 distinct values",
        ),
        ({"t1": [1.0, 2.0]}, r"t1 has shape \(2,\)"),
        ({"phi": np.zeros(5)}, r"phi has shape \(5,\).*expected equal lengths"),
        ({"q": np.ones(5)}, r"q has shape \(5,\).*expected equal lengths"),
        ({"q": np.full(6, np.inf)}, "q holds NaN or infinite"),
        ({"data": np.ones(6, dtype=int)}, "data has dtype int64"),
        ({"t1": ["a"] * 6}, "t1 has dtype"),
        ({"data": np.ones(0), "t1": [], "t2": [], "phi": []}, "dtype|empty"),
        ({"t1": [0.0, 0, 0, 2, 2, 3]}, "expected t > 0"),
        ({"t2": [2.0, 3, np.nan, 3, 4, 4]}, "t2 holds NaN or infinite"),
        ({"t1": np.ones(6), "t2": np.ones(6) + 1}, "2 distinct times; expected at least 3"),
        ({"data": np.full(6, np.nan)}, "every element i < j is NaN"),
        ({"data": np.full(6, 1e300)}, "all frames are bad .* pairs infinite"),
        ({"q": 0.0}, "q holds 0.0; expected positive numbers"),
    ],
)
def test_wrong_input(change, message):
    with pytest.raises(DataError, match=message):
        from_arrays(**(GOOD | change))


def test_memory_is_guarded_before_it_is_taken():
    n = 150_000  # neighbours only: 90 GB as a map
    t = np.arange(1.0, n + 1)
    with pytest.raises(DataError, match=r"almost empty|GiB are available"):
        from_arrays(np.ones(n - 1), t[:-1], t[1:], 0.0, 0.01)
