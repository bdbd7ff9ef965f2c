"""What is no measurement is left out, counted and named; what only looks odd stays."""

import warnings

import h5py
import numpy as np
import pytest

from homodyne.data import describe, from_arrays, from_cube, load, save_hdf5, save_npz
from homodyne.data import missing as rules
from homodyne.data.files import read_map
from homodyne.data.missing import LeftOut, examine, sentences
from homodyne.data.references import content_digest, references_of
from homodyne.data.simulated import simulate
from homodyne.errors import DataError, InputError

N = 60
T = 0.1 * np.arange(1, N + 1)
TRUTH = {"D0": 2e4, "alpha": -0.5, "D_offset": 0.0}
PAIRS = N * (N - 1) // 2


def speckle(num_frames=N, pixels=2000, counts=1.0, seed=1):
    return simulate(
        TRUTH,
        q=0.01,
        num_frames=num_frames,
        dt=0.1,
        phi=[0.0],
        contrast=0.3,
        pixels=pixels,
        mean_counts=counts,
        seed=seed,
    )


@pytest.fixture
def one():
    """A map of speckle, both triangles."""
    upper = np.triu(np.array(speckle().c2[0], np.float64), 1)
    return upper + upper.T + np.diag(speckle().diagonal[0])


def without(one, frames, value):
    one = one.copy()
    one[frames, :] = one[:, frames] = value
    return one


def scattered(one, value, count, seed=0):
    """The value at `count` distinct pairs, on both sides, and where they are (i < j)."""
    rng = np.random.default_rng(seed)
    i, j = np.triu_indices(len(one), 1)
    chosen = rng.choice(i.size, count, replace=False)
    spoilt, where = one.copy(), np.zeros(one.shape, bool)
    where[i[chosen], j[chosen]] = True
    spoilt[where | where.T] = value
    return spoilt, where


def cube(one, **more):
    return from_cube(one, T, 0.0, 0.01, **more)


def assert_same_data(data, expected):
    np.testing.assert_array_equal(data.usable(0), expected.usable(0))
    np.testing.assert_array_equal(data.c2[0][data.usable(0)], expected.c2[0][expected.usable(0)])
    np.testing.assert_array_equal(data.alive, expected.alive)


SENTINELS = [
    -1.0, 1e30, -9999.0, -32768.0, 999.0, 65535.0, 4294967295.0, 9.96921e36, 1.0, 1.1, 0.5, float(np.finfo("f4").max),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("value", SENTINELS)
def test_frames_of_one_number(one, value):
    frames = [20, 21, 40]
    spoilt = without(one, frames, value)
    given = spoilt.copy()
    data = cube(spoilt)
    np.testing.assert_array_equal(spoilt, given)
    assert data.bad_frames.tolist() == frames
    pairs = 3 * (N - 1) - 3
    assert data.left_out == (LeftOut(0, "constant", pairs, (20, 21, 40), float(np.float32(value))),)
    assert data.num_pairs == PAIRS - pairs
    assert np.isnan(data.diagonal[0, frames]).all()
    assert_same_data(data, cube(without(one, frames, np.nan)))
    # a diagonal of zeros in these frames, or in all, changes nothing
    for which in (frames, range(N)):
        spoilt[which, which] = 0.0
        assert cube(spoilt).bad_frames.tolist() == frames


def test_every_frame_may_have_a_number_of_its_own(one):
    numbers = {3: -1.0, 40: -2.0, 7: 1e30, 8: 65535.0, 50: 0.0, 51: np.nan, 52: np.inf}
    for frame, value in numbers.items():
        one = without(one, [frame], value)
    data = cube(one)
    assert data.bad_frames.tolist() == sorted(numbers)
    found = {record.frames: (record.kind, record.pairs) for record in data.left_out}
    assert found == {
        (3,): ("constant", N - 7), (40,): ("constant", N - 6), (7,): ("constant", N - 5), (8,): ("constant", N - 4),
        (50,): ("zeros", N - 3), (51,): ("nan", N - 2), (52,): ("infinite", N - 1),
    }  # fmt: skip
    assert sum(record.pairs for record in data.left_out) == PAIRS - data.num_pairs
    many = {frame: 1.0 + 0.01 * frame for frame in range(0, N, 3)}
    for frame, value in many.items():
        one = without(one, [frame], value)
    assert set(many) <= set(cube(one).bad_frames.tolist())


@pytest.mark.slow
@pytest.mark.parametrize("value", [-1.0, 0.0, 1e30, -9999.0, 65535.0, np.nan, np.inf, 1e300])
@pytest.mark.parametrize("count", [20, 300])
def test_single_pairs_of_one_number(one, value, count):
    spoilt, where = scattered(one, value, count)
    data = cube(spoilt)
    kind = "nan" if np.isnan(value) else "infinite" if abs(value) > 1e38 else "repeated"
    assert [(record.kind, record.pairs, record.frames) for record in data.left_out] == [(kind, count, ())]
    np.testing.assert_array_equal(data.usable(0), np.triu(~where, 1))
    assert data.num_pairs == PAIRS - count
    assert data.bad_frames.size == 0


def test_one_impossible_value(one):
    for value in (1e30, -1e6, 65535.0):
        data = cube(scattered(one, value, 1)[0])
        assert [(record.kind, record.pairs) for record in data.left_out] == [("impossible", 1)]
    assert cube(scattered(one, 3.0, 1)[0]).left_out == ()  # an outlier that may be a measurement


def test_saturated_values(one):
    for spoilt, limit in ((np.minimum(one, 1.25), 1.25), (np.maximum(one, 0.98), 0.98)):
        count = np.count_nonzero(np.triu(spoilt == limit, 1))
        assert count > 30
        data = cube(spoilt)
        assert data.left_out == (LeftOut(0, "saturated", count, (), float(np.float32(limit))),)
        assert data.num_pairs == PAIRS - count


def test_masks(one):
    frames = [10, 11, 30]
    mask = np.zeros((N, N), bool)
    mask[frames, :] = mask[:, frames] = True
    expected = cube(without(one, frames, np.nan))
    for given in (one, 5 * one * mask + one * ~mask):  # what is masked is not looked at
        for dtype in (np.float64, np.float32):
            masked = np.ma.masked_array(given.astype(dtype), mask)
            before = masked.copy()
            data = cube(masked)
            np.testing.assert_array_equal(np.ma.getdata(masked), np.ma.getdata(before))
            assert_same_data(data, expected)
            assert data.left_out == (LeftOut(0, "masked", 3 * (N - 1) - 3, tuple(frames)),)
    rows = np.zeros((N, N), bool)
    rows[frames] = True  # one side only: c2 is symmetric
    assert_same_data(cube(np.ma.masked_array(one, rows)), expected)
    assert_same_data(cube(np.ma.masked_array(one, rows.T)), expected)
    assert_same_data(from_cube([np.ma.masked_array(one, mask)], T, [0.0], 0.01), expected)
    assert cube(np.ma.masked_array(one, False)).left_out == ()
    for side in (np.tri(N, k=-1, dtype=bool), ~np.tri(N, dtype=bool)):  # a triangle that is not there
        assert cube(np.ma.masked_array(one, side)).num_pairs == PAIRS
    both = without(one, [40], np.nan)
    kinds = {record.kind: record for record in cube(np.ma.masked_array(both, mask)).left_out}
    assert kinds["nan"] == LeftOut(0, "nan", N - 4, (40,))
    assert kinds["masked"].pairs == 3 * (N - 1) - 3


def test_masks_of_flat_arrays(one):
    mask = np.zeros((1, N, N), bool)
    mask[:, [10, 30]] = mask[..., [10, 30]] = True
    expected = cube(without(one, [10, 30], np.nan))
    i, j = np.triu_indices(N)
    given = np.ma.masked_array(one[None], mask)
    rows = mask & (np.isin(np.arange(N), [10, 30])[:, None])
    for data in (
        from_arrays(given, T, T, [0.0], 0.01),
        from_arrays(np.ma.masked_array(one[None], rows), T, T, [0.0], 0.01),
        from_arrays(given[0][i, j], T[i], T[j], np.zeros(i.size), 0.01),
    ):
        assert_same_data(data, expected)
        assert data.left_out == (LeftOut(0, "masked", 2 * (N - 1) - 1, (10, 30)),)
    below = np.ma.masked_array(one[None], np.tri(N, k=-1, dtype=bool)[None])
    assert from_arrays(below, T, T, [0.0], 0.01).num_pairs == PAIRS


@pytest.mark.parametrize("name", ["t", "phi", "q", "gap", "pixels", "mean_counts"])
def test_only_values_may_be_masked(one, name):
    maps = np.array([one, one])
    given = {"t": T, "phi": np.array([0.0, 90.0]), "q": np.array([0.01, 0.02]), "gap": np.array([1e6])}
    given |= {"pixels": np.array([10.0, 20.0]), "mean_counts": np.array([1.0, 2.0])}
    given[name] = np.ma.masked_array(given[name], mask=[True] + [False] * (len(given[name]) - 1))
    with pytest.raises(InputError, match=f"{name} has 1 masked values; expected a number everywhere"):
        from_cube(maps, **given)


@pytest.mark.parametrize("name", ["t1", "t2", "phi", "q"])
def test_only_values_of_flat_arrays_may_be_masked(one, name):
    i, j = np.triu_indices(N, 1)
    given = {"t1": T[i], "t2": T[j], "phi": np.zeros(i.size), "q": np.full(i.size, 0.01)}
    given[name] = np.ma.masked_array(given[name], mask=np.arange(i.size) == 5)
    with pytest.raises(InputError, match=f"{name} has 1 masked values; expected a number everywhere"):
        from_arrays(one[i, j], **given)


@pytest.mark.parametrize("empty", [0.0, np.nan, -1.0])
def test_only_the_lower_triangle_is_stored(one, empty, aps_u, npz, made, tmp_path):
    expected = cube(one)
    low = np.where(np.tri(N, dtype=bool), one, empty).astype(np.float32)
    data = cube(low)
    assert_same_data(data, expected)
    np.testing.assert_array_equal(data.diagonal, expected.diagonal)
    assert data.left_out == ()
    assert_same_data(cube(low.T), expected)
    mixed = from_cube(np.array([one, low, low.T], np.float32), T, [0.0, 45.0, 90.0], 0.01)
    for k in range(3):
        np.testing.assert_array_equal(mixed.c2[k][mixed.usable(k)], expected.c2[0][expected.usable(0)])
    np.save(tmp_path / "low.npy", low)
    loaded = load(tmp_path / "low.npy", q=0.01, phi=0.0, dt=0.1)
    assert_same_data(loaded, expected)
    (reference,) = references_of(loaded)
    again = read_map(reference["read"], reference["format"], reference["map"], slice(*reference["frames"]))
    assert content_digest(again) == content_digest(loaded.c2[0])

    def turn(file):
        for each in file["/xpcs/twotime/correlation_map"].values():
            each[...] = each[...].T

    made.same(load(aps_u(change=turn), q=0.004).c2[0], made.upper_map(int(made.CELLS[0])))
    made.same(load(npz(c2_exp=made.cube(2).swapaxes(1, 2))).c2, made.cube(2))


def test_what_lies_in_a_file_stays_there(one, tmp_path, monkeypatch):
    monkeypatch.setattr("homodyne.data.files.MAPPED_BYTES", 0)
    maps = np.array([one, without(one, [5], -1.0), scattered(one, -1.0, 30)[0], np.tril(one)], np.float32)
    np.save(tmp_path / "maps.npy", maps)
    content = (tmp_path / "maps.npy").read_bytes()
    data = load(tmp_path / "maps.npy", q=0.01, phi=[0.0, 30.0, 60.0, 90.0], dt=0.1)
    assert [isinstance(each, np.memmap) for each in data.c2] == [True, True, False, True]
    assert [(record.map, record.kind, record.pairs) for record in data.left_out] == [
        (1, "constant", N - 1), (2, "repeated", 30),
    ]  # fmt: skip
    np.testing.assert_array_equal(data.c2[3][data.usable(3)], data.c2[0][data.usable(0)])
    assert (tmp_path / "maps.npy").read_bytes() == content
    references = references_of(data)
    assert ["mapped" in reference for reference in references] == [True, True, False, True]
    again = read_map(references[2]["read"], references[2]["format"], 2, slice(0, N))
    assert content_digest(again) == content_digest(data.c2[2])
    for save, name in ((save_hdf5, "own.h5"), (save_npz, "own.npz")):
        save(tmp_path / name, data)
        kept = load(tmp_path / name)
        assert kept.num_pairs == data.num_pairs
        np.testing.assert_array_equal(kept.alive, data.alive)


def test_a_file_is_described_with_what_is_left_out(aps_u):
    def kill(file):
        for each in file["/xpcs/twotime/correlation_map"].values():
            each[3, 3:], each[:4, 3] = -1.0, -1.0

    text = str(describe(aps_u(change=kill)))
    assert "left out    44 pairs in frames of one constant number (-1), in 4 of 4 maps; frames 4 at q = 0.0071" in text
    assert "left out" not in str(describe(aps_u()))


def test_marked_frames_are_counted(one, tmp_path):
    save_hdf5(tmp_path / "own.h5", cube(one))
    with h5py.File(tmp_path / "own.h5", "r+") as file:
        file["alive"][0, [4, 9]] = 0
        file["homodyne_two_time"][...] = 2  # as it was written without a seal
        del file["sha256"]
    data = load(tmp_path / "own.h5")
    assert data.left_out == (LeftOut(0, "marked", 2 * (N - 1) - 1, (4, 9)),)
    assert data.num_pairs == PAIRS - 2 * (N - 1) + 1


def test_sentences():
    records = [LeftOut(0, "nan", 10), LeftOut(1, "nan", 1), LeftOut(1, "constant", 59, (3,), -1.0)]
    assert sentences(records, 2, 11) == [
        "11 pairs NaN, in 2 of 2 maps",
        "59 pairs in frames of one constant number (-1), in 1 of 2 maps; frames 14",
    ]
    assert sentences([], 2) == []


# what only looks odd


FEW = [
    (n, pixels, counts)
    for n, pixels in ((30, 2000), (100, 200), (100, 2000), (250, 2000), (250, 50))
    for counts in (0.01, 0.03, 0.1, 1.0, 10.0)
    if counts * pixels >= 10
]  # no frame without a count


@pytest.mark.slow
@pytest.mark.parametrize(("num_frames", "pixels", "counts"), FEW)
def test_few_photons_lose_nothing(num_frames, pixels, counts):
    data = speckle(num_frames, pixels, counts)
    assert data.left_out == ()
    assert data.num_pairs == num_frames * (num_frames - 1) // 2
    for constant in (-1, 0.05, 0.2, -0.1):  # as a baseline of another height makes them
        assert examine(data.c2[0] + np.float32(constant), data.diagonal[0] + constant).left_out == ()


@pytest.mark.parametrize("offset", [0.9, 1.0, 1.05, 1.2])
@pytest.mark.parametrize(("num_frames", "pixels", "counts"), [(30, 2000, 0.02), (60, 1000, 0.02), (100, 200, 0.1)])
def test_zeros_of_few_photons_stay_and_what_software_wrote_goes(offset, num_frames, pixels, counts):
    """Pairs without a coincidence, whatever the baseline, beside dead frames and single pairs of one number."""
    shape = {"num_frames": num_frames, "pixels": pixels, "mean_counts": counts, "offset": offset}
    data = simulate(TRUTH, q=0.01, dt=0.1, phi=[0.0], contrast=0.3, seed=2, **shape)
    assert data.left_out == ()
    one, diagonal = data.c2[0], data.diagonal[0]
    empty = np.triu(one == one.min(), 1)
    assert np.count_nonzero(empty) > 0.05 * data.num_pairs
    for value in (0.0, -1.0, 1e30, -9999.0):
        spoilt, raw = without(one, [5, 17], value), diagonal.copy()
        raw[[5, 17]] = 0.0
        found = examine(spoilt, raw)
        assert np.flatnonzero(~found.alive).tolist() == [5, 17]
        assert [(record.kind in ("constant", "zeros"), record.pairs) for record in found.left_out] == [
            (True, 2 * num_frames - 3)
        ]
    spoilt, where = scattered(one, 1e30, data.num_pairs // 110)
    found = examine(spoilt, diagonal)
    np.testing.assert_array_equal(np.isnan(found.values) & np.triu(np.ones(one.shape, bool), 1), where)


def test_a_limit_below_is_none_of_coincidences(one, monkeypatch):
    """Values are cut off at 0.98, with others right above it; planted: without looking beside it they stay."""
    cut = np.maximum(one, 0.98).astype(np.float32)
    count = np.count_nonzero(np.triu(cut == np.float32(0.98), 1))
    assert [(record.kind, record.pairs) for record in examine(cut).left_out] == [("saturated", count)]
    monkeypatch.setattr(rules, "_BESIDE", 1e9)
    assert examine(cut).left_out == ()


def test_frames_of_few_photons_keep_their_zeros():
    """One frame of three photons among bright ones: most of its pairs have few coincidences, some none."""
    rng = np.random.default_rng(3)
    images = rng.poisson(1.0, (N, 2000))
    images[20] = 0
    images[20, [5, 500, 900]] = 1
    total = images.sum(axis=1)
    one = ((images @ images.T) * 2000 / np.outer(total, total)).astype(np.float32)
    assert np.count_nonzero(one[20] == 0) > 1
    assert examine(one, np.diagonal(one)).left_out == ()


def test_real_maps_lose_nothing(real):
    for values in (real, real - 1, np.round(real, 2), real.astype(np.float16), 1e6 * real):
        found = examine(values.astype(np.float32))
        assert found.left_out == ()
        assert found.alive.all()


@pytest.mark.parametrize("rate", [1e-6, 1e-4, 1e-3])
@pytest.mark.parametrize("power", [1, 2])
def test_laws_without_noise_lose_nothing(rate, power):
    age = 0.1 * np.arange(1, 301)
    phase = rate * np.abs(np.subtract.outer(4e4 * np.sqrt(age), 4e4 * np.sqrt(age)))
    assert examine((1 + 0.3 * np.exp(-(phase**power))).astype(np.float32)).left_out == ()


@pytest.mark.parametrize(
    ("guard", "value"),
    [
        ("_usual", lambda counts: 1.0),
        ("_coincidences", lambda *arguments: np.zeros(len(arguments[2]))),
        ("_gap_above_least", lambda values, counts: False),
    ],
)
def test_guards_against_false_alarms_are_needed(monkeypatch, guard, value):
    """Planted: without comparing with how often values repeat, or without coincidences, few photons lose pairs."""
    maps = [speckle(250, 50).c2[0], speckle(100, 2000, 0.03).c2[0], speckle(100, 2000, 0.03).c2[0] + np.float32(0.1)]
    assert all(examine(each).left_out == () for each in maps)
    monkeypatch.setattr(rules, guard, value)
    assert any(examine(each).left_out for each in maps)


def test_constant_and_empty_maps(one):
    with pytest.raises(DataError, match=r"phi = 0° does not vary: every pair of frames has the value 1\.2; expected"):
        cube(np.full((N, N), 1.2))
    with pytest.raises(DataError, match="does not vary"):
        cube(without(np.full((N, N), 1.2), [3, 4], np.nan))
    with pytest.raises(DataError, match=r"every element i < j is NaN \(1,770 pairs masked; frames 1, 2.*Look at"):
        cube(np.ma.masked_array(one, True))
    with pytest.raises(DataError, match="every element i < j is NaN"):
        cube(np.full((N, N), np.nan))


def test_quiet(one):
    """No warning from NumPy, whatever the values."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (np.nan, np.inf, -np.inf, 1e300, 0.0):
            cube(without(one, [1, 2], value))
