"""Shards hold every point once; what keeps the validator, the dealing and the memory honest."""

import re
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homodyne.data.flat import SAME_TIME
from homodyne.errors import InputError
from homodyne.likelihood.maps import Maps
from homodyne.optimization.cmc.shard_count import choose_num_shards
from homodyne.optimization.cmc.shard_strategies import numbered
from homodyne.optimization.cmc.sharding import (
    STRATEGIES,
    assign_points,
    shard_data_stratified,
    shard_data_time_stratified,
    shard_numbers,
    shard_rows,
    validate_shards,
)

EVEN = ("stratified", "time_stratified", "random", "contiguous")
ANGLES = np.array([-30.0, 0.0, 45.0, 90.0, 120.0])


def flat_points(n=24, angles=ANGLES, seed=None):
    """All pairs i < j at all angles, angle after angle, or shuffled."""
    i, j = np.triu_indices(n, 1)
    t = 0.1 * np.arange(1, n + 1)
    points = np.tile(t[i], len(angles)), np.tile(t[j], len(angles)), np.repeat(angles, i.size)
    order = np.arange(points[0].size) if seed is None else np.random.default_rng(seed).permutation(points[0].size)
    return tuple(values[order] for values in points)


# --- maps


@st.composite
def maps(draw):
    n, n_phi = draw(st.integers(3, 12)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    good = rng.random(n) > draw(st.sampled_from([0.0, 0.3]))
    good[rng.choice(n, 3, replace=False)] = True
    c2 = rng.normal(1.2, 0.1, (n_phi, n, n)).astype(np.float32)
    c2[rng.random(c2.shape) < draw(st.sampled_from([0.0, 0.1, 0.5]))] = np.nan
    return c2, good, rng.permutation(180)[:n_phi], np.cumsum(rng.uniform(0.5, 1.5, n))


def maps_of(c2, good, phi, t):
    alive, count = np.tile(good, (len(c2), 1)), len(c2)
    return Maps(c2, alive, np.asarray(t, float), np.full(count, 0.01), np.asarray(phi, float), None)


def dealt(c2, good, num_shards, strategy, *, phi, t, seed=0):
    """Points (k, i, j) with their values, shard by shard."""
    number = shard_numbers(maps_of(c2, good, phi, t), num_shards, strategy, seed=seed)
    frames, shards = np.flatnonzero(good), [[] for _ in range(num_shards)]
    i, j = (frames[x] for x in np.triu_indices(frames.size, 1))
    for k in range(len(c2)):
        found = number(k, i, j)
        for m, a, b in zip(found.tolist(), i.tolist(), j.tolist(), strict=True):
            if np.isfinite(c2[k, a, b]):
                shards[m].append(((k, a, b), float(c2[k, a, b])))
    return shards


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(maps(), st.integers(1, 9), st.integers(0, 3))
def test_shards_hold_every_finite_pair_of_good_frames_once(strategy, measured, num_shards, seed):
    c2, good, phi, t = measured
    expected = {
        (k, i, j): float(c2[k, i, j])
        for k, i, j in np.ndindex(c2.shape)
        if i < j and good[i] and good[j] and np.isfinite(c2[k, i, j])
    }
    try:
        shards = dealt(c2, good, num_shards, strategy, phi=phi, t=t, seed=seed)
    except InputError:
        frames = np.count_nonzero(good)
        most = frames - 1 if strategy in ("interleaved", "frame_blocks") else frames * (frames - 1) // 2
        assert num_shards > most
        return
    found = [point for shard in shards for point in shard]
    assert len(found) == len(expected)
    assert dict(found) == expected
    assert np.isnan(c2).any() or min(len(shard) for shard in shards) >= 1


@pytest.mark.parametrize("strategy", ["interleaved", "frame_blocks"])
@pytest.mark.parametrize("num_shards", [1, 2, 4, 6, 7])
def test_maps_and_flat_arrays_are_cut_alike(strategy, num_shards):
    n, rng = 15, np.random.default_rng(0)
    c2, good, t = rng.random((2, n, n)), rng.random(n) > 0.2, np.cumsum(rng.uniform(1, 2, n))
    phi, frames = np.array([10.0, 70.0]), np.flatnonzero(good)
    blocks = [set(shard) for shard in dealt(c2.astype(np.float32), good, num_shards, strategy, phi=phi, t=t)]
    i, j = (frames[index] for index in np.triu_indices(frames.size, 1))
    shards = shard_data_stratified(
        c2[:, i, j].astype(np.float32).ravel(),
        np.tile(t[i], 2),
        np.tile(t[j], 2),
        np.repeat(phi, i.size),
        num_shards,
        strategy=strategy,
    )
    for block, shard in zip(blocks, shards, strict=True):
        row, column = np.searchsorted(t, shard["t1"]), np.searchsorted(t, shard["t2"])
        angle = np.searchsorted(phi, shard["phi"])
        where = zip(angle.tolist(), row.tolist(), column.tolist(), strict=True)
        assert set(zip(where, shard["data"].tolist(), strict=True)) == block


@pytest.mark.parametrize("num_shards", [2, 4, 6, 12, 16])
def test_an_interleaved_shard_sees_every_lag_and_every_angle(num_shards):
    n = 60
    c2 = np.random.default_rng(0).random((2, n, n))
    for shard in dealt(c2, np.ones(n, bool), num_shards, "interleaved", phi=[0, 90], t=np.arange(1, n + 1)):
        assert set(range(1, n - num_shards)) <= {j - i for (_, i, j), _ in shard}
        assert {k for (k, _, _), _ in shard} == {0, 1}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_map_shards_are_even_and_do_not_depend_on_the_order_of_the_angles(strategy):
    n, phi = 40, np.array([60.0, 0.0, 120.0])
    c2, good, t = np.random.default_rng(0).random((3, n, n)), np.ones(n, bool), np.arange(1.0, n + 1)
    shards = dealt(c2, good, 7, strategy, phi=phi, t=t, seed=4)
    turned = dealt(c2[::-1], good, 7, strategy, phi=phi[::-1], t=t, seed=4)
    sizes = [len(shard) for shard in shards]
    assert np.ptp(sizes) <= {"interleaved": 3 * 40, "frame_blocks": 3 * 40, "contiguous": 3}.get(strategy, 1)
    for one, other in zip(shards, turned, strict=True):
        assert {((2 - k, i, j), y) for (k, i, j), y in one} == set(other)


def test_contiguous_map_shards_are_runs_of_pairs_with_all_their_angles():
    n = 9
    runs = []
    for shard in dealt(np.ones((2, n, n)), np.ones(n, bool), 5, "contiguous", phi=[0, 90], t=np.arange(1, n + 1)):
        one, other = ([(i, j) for (angle, i, j), _ in shard if angle == k] for k in (0, 1))
        assert one == other
        runs += one
    assert runs == [(i, j) for i in range(n) for j in range(i + 1, n)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_memory_is_small_integers_per_pair_of_frames(strategy):
    """However many maps there are."""
    n, n_phi = 200, 24
    maps, pairs = (
        maps_of(np.ones((n_phi, n, n), np.float32), np.ones(n, bool), np.arange(n_phi), np.arange(1, n + 1)),
        n**2 // 2,
    )
    i, j = np.triu_indices(n, 1)
    tracemalloc.start()
    number = shard_numbers(maps, 24, strategy)
    for k in range(n_phi):
        assert np.bincount(number(k, i, j), minlength=24).min() > 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150 * pairs < 12 * pairs * n_phi  # the last: 4 bytes of value, 8 of number, for all


@pytest.mark.parametrize(
    ("strategy", "num_shards", "words"),
    [
        ("interleaved", 6, "6 shards, rows in steps of 3 and columns of 2, .* 4 good frames; 3 shards at most"),
        ("frame_blocks", 4, "4 shards of 3 row frames; expected at most 3"),
        ("stratified", 7, "6 pairs of good frames cannot fill 7 shards; use at most 6"),
        ("nothing", 2, "unknown sharding strategy 'nothing'; expected one of contiguous, .*stratified"),
    ],
)
def test_too_many_shards_of_maps(strategy, num_shards, words):
    maps = maps_of(np.ones((1, 4, 4)), np.ones(4, bool), [0.0], [1, 2, 3, 4])
    with pytest.raises(InputError, match=words):
        shard_numbers(maps, num_shards, strategy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"good": np.zeros(4, bool)}, "no pairs of good frames"),
        ({"num_shards": 0}, "num_shards = 0"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_wrong_maps(change, words):
    given_ = {"good": np.ones(4, bool), "num_shards": 2, "seed": 0} | change
    with pytest.raises(InputError, match=words):
        shard_numbers(
            maps_of(np.ones((1, 4, 4)), given_["good"], [0.0], [1, 2, 3, 4]), given_["num_shards"], "random",
            seed=given_["seed"],
        )  # fmt: skip


# --- flat arrays


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(st.integers(3, 14), st.integers(1, 5), st.integers(1, 12), st.sampled_from([None, 0, 1]))
def test_every_point_has_one_shard(strategy, n, n_phi, num_shards, shuffle):
    t1, t2, phi = flat_points(n, ANGLES[:n_phi], shuffle)
    if num_shards > (t1.size if strategy in EVEN else n - 1):
        with pytest.raises(InputError, match="at most|has no point"):
            assign_points(strategy, t1, t2, phi, n * n * n_phi)
        return
    numbers = assign_points(strategy, t1, t2, phi, num_shards, seed=1)
    sizes = np.bincount(numbers, minlength=num_shards)
    assert numbers.dtype == np.int32
    assert numbers.shape == t1.shape
    assert sizes.size == num_shards
    assert sizes.min() >= 1
    assert strategy not in EVEN or np.ptp(sizes) <= 1
    assert np.array_equal(numbers, assign_points(strategy, t1, t2, phi, num_shards, seed=1))


@pytest.mark.parametrize(("strategy", "by_angle"), [("stratified", True), ("time_stratified", False)])
def test_every_bin_is_dealt_out_evenly(strategy, by_angle):
    t1, t2, phi = flat_points(39, seed=3)  # no frame on a limit of bins
    num_shards = 7
    numbers = assign_points(strategy, t1, t2, phi, num_shards)
    cells = {}
    for a, b, angle, m in zip(t1, t2, phi, numbers.tolist(), strict=True):
        place = [int(min(9, 10 * (t - all_t.min()) / (all_t.max() - all_t.min()))) for t, all_t in ((a, t1), (b, t2))]
        cells.setdefault((*place, angle if by_angle else None), Counter())[m] += 1
    assert len(cells) > 40
    for counts in cells.values():
        # rounds that begin in the bin before and end in the bin behind add one each
        every = [counts[m] for m in range(num_shards)]
        assert max(every) - min(every) <= 2


def plain_deal(bins, num_shards):
    """Round robin without a random start: what a period in the data defeats."""
    numbers = np.empty(bins.size, dtype=np.int64)
    numbers[np.argsort(bins, kind="stable")] = np.arange(bins.size) % num_shards
    return numbers


def shards_from(numbers, t1, t2, phi):
    parts = [np.flatnonzero(numbers == m) for m in range(numbers.max() + 1)]
    return [
        {"shard_id": m, "data": t1[k], "t1": t1[k], "t2": t2[k], "phi": phi[k], "indices": k, "q": None, "L": None}
        for m, k in enumerate(parts)
    ]


def test_angles_that_change_fastest_do_not_meet_the_period_of_the_shards():
    t1, t2, phi = (values.reshape(5, -1).T.ravel() for values in flat_points(30))
    shards = shard_data_time_stratified(t1, t1, t2, phi, 5)
    assert validate_shards(shards, t1.size) == (True, [])
    planted = shards_from(plain_deal(np.zeros(t1.size), 5), t1, t2, phi)
    valid, problems = validate_shards(planted, t1.size)
    assert not valid
    assert problems[0] == "shard 0 sees 1 of 5 angles; expected at least 3"


def test_random_shards_are_random_and_contiguous_ones_are_not():
    size, num_shards = 20_000, 5

    def excess(strategy):
        numbers = shard_rows(size, num_shards, strategy, seed=2)
        same = np.count_nonzero(numbers[1:] == numbers[:-1])
        return (same - size / num_shards) / np.sqrt(size / num_shards * (1 - 1 / num_shards))

    assert abs(excess("random")) < 5
    assert excess("contiguous") > 100
    assert excess("interleaved") < -50
    assert not np.array_equal(shard_rows(size, 5, seed=0), shard_rows(size, 5, seed=1))


def test_interleaved_and_frame_blocks_against_loops():
    t1, t2, phi = flat_points(20, seed=5)
    i, j = np.rint(t1 / 0.1).astype(int) - 1, np.rint(t2 / 0.1).astype(int) - 1
    assert np.array_equal(assign_points("interleaved", t1, t2, phi, 6), (i % 3) * 2 + j % 2)
    assert np.array_equal(assign_points("interleaved", t2, t1, phi, 6), (i % 3) * 2 + j % 2)  # mirrored half
    numbers = assign_points("frame_blocks", t1, t2, phi, 4)
    last = [max(i[numbers == m]) for m in range(4)]
    assert [min(i[numbers == m]) for m in range(1, 4)] == [row + 1 for row in last[:3]]
    assert np.abs(np.bincount(numbers) - t1.size / 4).max() <= 19 * 5


def test_shards_carry_their_points():
    t1, t2, phi = flat_points(seed=6)
    data = np.arange(t1.size) + 0.5
    shards = shard_data_stratified(data, t1.astype(np.float32), t2, phi, 8, q=0.01, L=2e7)
    for m, shard in enumerate(shards):
        k = shard["indices"]
        assert shard["shard_id"] == m
        assert k.dtype == np.int64
        assert np.all(np.diff(k) > 0)
        assert shard["t1"].dtype == np.float32
        assert np.array_equal(shard["data"], data[k])
        assert np.array_equal(shard["t2"], t2[k])
        assert np.array_equal(shard["phi"], phi[k])
        assert (shard["q"], shard["L"]) == (0.01, 2e7)


@pytest.mark.parametrize(
    "times",
    [
        np.arange(1, 50) * 0.1,
        np.geomspace(1e-6, 1e4, 70),  # too uneven for a linear scale
        np.concatenate([[0.0], np.geomspace(1e-9, 1e4, 40)]),  # for none
        np.array([3.0]),
        np.array([-180.0, -1e-3, 0.0, 90.0]),
    ],
)
def test_numbers_of_distinct_values_against_a_dictionary(times):
    values = np.random.default_rng(0).choice(times, 1000)
    rank = {value: k for k, value in enumerate(sorted(set(values.tolist())))}
    (one, other), distinct = numbered([values, values[:10]], SAME_TIME, relative=True)
    assert one.tolist() == [rank[value] for value in values.tolist()]
    assert other.tolist() == one[:10].tolist()
    assert distinct.tolist() == list(rank)


def test_times_that_differ_by_rounding_are_one_frame():
    t1, t2, phi = flat_points(20)
    rounded = t2.astype(np.float32).astype(np.float64)
    assert np.any(rounded != t2)
    expected = assign_points("interleaved", t1, t2, phi, 6)
    assert np.array_equal(assign_points("interleaved", t1, rounded, phi, 6), expected)


def test_more_angles_than_bins_are_dealt_out_evenly_in_groups():
    angles = np.arange(1000.0)
    t1, t2, phi = flat_points(4, angles, seed=0)
    numbers = assign_points("stratified", t1, t2, phi, 7)
    for group in range(64):
        counts = np.bincount(numbers[phi.astype(int) * 64 // 1000 == group], minlength=7)
        assert np.ptp(counts) <= 2


def test_frame_blocks_have_points_where_one_row_has_most():
    row = np.concatenate([[0, 1, 2], np.full(100, 3)])
    numbers = assign_points("frame_blocks", row, row + np.maximum(1, np.arange(103)), np.zeros(103), 4)
    assert np.array_equal(numbers, row)
    assert np.array_equal(assign_points("frame_blocks", 3.0 - row, 3.0 - row, row, 4), 3 - row)


def test_masked_values_become_nan():
    t = np.arange(10.0)
    shards = shard_data_stratified(np.ma.masked_equal(t, 4.0), t, t + 1, np.zeros(10), 2)
    values = np.concatenate([shard["data"] for shard in shards])
    assert np.count_nonzero(np.isnan(values)) == 1
    assert np.nansum(values) == 45 - 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strategy": "blocks"}, "unknown sharding strategy 'blocks'; did you mean frame_blocks"),
        ({"num_shards": 11}, "10 points cannot fill 11 shards; use at most 10"),
        ({"num_shards": 2.0}, "num_shards = 2.0"),
        ({"num_shards": True}, "num_shards = True"),
        ({"t1": np.ones(9)}, r"equal lengths.*'t1': \(9,\)"),
        ({"data": np.ones((2, 5))}, "flat arrays"),
        ({"phi": np.full(10, np.nan)}, "phi holds NaN"),
        ({"t1": np.ma.masked_less(np.arange(10.0), 2)}, "t1 has 2 masked values"),
        ({"t2": np.full(10, np.inf)}, "t2 holds NaN or infinite"),
        ({name: np.empty(0) for name in ("data", "t1", "t2", "phi")}, "no points"),
        ({"seed": -3}, "seed = -3"),
        ({"strategy": "interleaved"}, "shard 1 of 2 .* has no point among 10 frames"),
    ],
)
def test_wrong_points(change, words):
    t = np.arange(10.0)
    given_ = {"data": t, "t1": 2 * (t // 2), "t2": 2 * (t // 2) + 1, "phi": t, "num_shards": 2}
    with pytest.raises(InputError, match=words):
        shard_data_stratified(**(given_ | change))


@pytest.mark.parametrize("strategy", ["random", "contiguous", "interleaved"])
def test_rows_of_any_data(strategy):
    numbers = shard_rows(103, 10, strategy, seed=3)
    assert numbers.dtype == np.int32
    assert sorted(np.bincount(numbers).tolist()) == [10] * 7 + [11] * 3
    with pytest.raises(InputError, match="5 points cannot fill 6 shards"):
        shard_rows(5, 6, strategy)
    with pytest.raises(InputError, match="use one of random, contiguous, interleaved"):
        shard_rows(5, 2, "stratified")


# --- validation


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("num_shards", [1, 4, 10])
def test_shards_of_every_strategy_are_valid(strategy, num_shards):
    t1, t2, phi = flat_points(40, seed=0)
    shards = shard_data_stratified(t1, t1, t2, phi, num_shards, strategy=strategy)
    assert len(shards) == num_shards
    assert validate_shards(shards, t1.size, min_shard_size=50) == (True, [])


def without(shard, dropped):
    """Copy of a shard without the points where `dropped` is true."""
    names = ("data", "t1", "t2", "phi", "indices")
    return shard | {name: shard[name][~dropped] for name in names}


def lose(shards):
    shards[2] = without(shards[2], np.arange(shards[2]["data"].size) == 4)


def double(shards):
    names = ("data", "t1", "t2", "phi", "indices")
    shards[3] |= {name: np.append(shards[3][name], shards[1][name][:1]) for name in names}


def double_inside(shards):
    shards[1] |= {name: np.append(shards[1][name], shards[1][name][-1:]) for name in ("data", "t1", "t2", "phi")}
    shards[1]["indices"] = np.append(shards[1]["indices"], shards[1]["indices"][-1])


def miss_angles(shards):
    shards[1] = without(shards[1], shards[1]["phi"] > 0)


def thin_angle(shards):
    dropped = (shards[1]["phi"] == 45.0) & (np.arange(shards[1]["phi"].size) % 4 != 0)
    shards[1] = without(shards[1], dropped)


def shrink(shards):
    shards[0] = without(shards[0], np.arange(shards[0]["data"].size) >= 2)


def shift(shards):
    shards[1]["indices"] = shards[1]["indices"] + 100_000


def shorten(shards):
    shards[1]["t2"] = shards[1]["t2"][1:]


def spoil(shards):
    shards[2]["phi"] = np.full_like(shards[2]["phi"], np.nan)


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (lose, r"1 of 3900 points are in no shard, the first is \d+"),
        (double, r"shard 3 holds 1 points of other shards, the first is \d+ of shard 1"),
        (double_inside, r"shard 1 holds 1 points more than once, the first is \d+"),
        (miss_angles, "shard 1 sees 2 of 5 angles; expected at least 3"),
        (thin_angle, r"shard 1 has \d+ points at phi = 45 degrees; an even distribution gives \d+"),
        (shrink, "shard 0 has 2 points; expected at least 20"),
        (shift, r"shard 1 has 975 indices outside 0\.\.3899"),
        (shorten, r"shard 1 has 975 indices but arrays of shapes .*'t2': \(974,\).*"),
        (spoil, "shard 2 has angles that are NaN or infinite"),
    ],
)
def test_planted_bugs_are_named(plant, words):
    t1, t2, phi = flat_points(40)
    shards = shard_data_stratified(t1, t1, t2, phi, 4)
    assert validate_shards(shards, t1.size, min_shard_size=20) == (True, [])
    plant(shards)
    valid, problems = validate_shards(shards, t1.size, min_shard_size=20)
    assert not valid
    assert [p for p in problems if re.fullmatch(words, p)], problems


def test_no_shards_is_a_problem_and_few_angles_are_none():
    assert validate_shards([], 10) == (False, ["there are no shards"])
    t1, t2, phi = flat_points(20, [0.0, 90.0])
    assert validate_shards(shard_data_stratified(t1, t1, t2, phi, 3), t1.size)[0]


# --- how many

USUAL = {"num_points": 10**6, "bytes_per_point": 80, "memory_limit_bytes": 2**33, "num_workers": 4}


@pytest.mark.parametrize(
    ("change", "num_shards", "words"),
    [
        ({}, 4, r"4 shards: one for each worker \(4\)\. .* off by 0\.004 posterior .* \(4 / sqrt\(1000000\)\)"),
        ({"num_workers": 1}, 1, "1 shard: one for each worker"),
        ({"memory_limit_bytes": 2**24}, 20, "20 shards: 4 shards at a time must fit into 0.0156 GiB"),
        ({"max_points_per_shard": 30_000}, 34, "34 shards: at most 30000 points in a shard are allowed"),
        ({"max_points_per_shard": 10**9}, 4, "one for each worker"),
        ({"num_points": 3}, 3, "3 shards: one for each point, fewer than the 4 workers"),
    ],
)
def test_number_of_shards(change, num_shards, words):
    given_ = USUAL | change
    count = choose_num_shards(**given_)
    assert count.num_shards == num_shards
    assert re.search(words, count.reason), count.reason
    if given_["num_points"] > num_shards:  # memory holds what is worked on at once
        largest = -(-given_["num_points"] // num_shards)
        assert largest * given_["num_workers"] * 80 <= given_["memory_limit_bytes"]


def test_memory_for_less_than_a_point():
    with pytest.raises(InputError, match="does not hold one point of 80 bytes for each of 4 workers"):
        choose_num_shards(**(USUAL | {"memory_limit_bytes": 100}))
