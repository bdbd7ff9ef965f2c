"""The ways to shard: what each of them does with points and with frames.

Four deal out points as cards are dealt: the points of a bin, in their order, go round the shards, and every round
starts at a random shard, so that a period in the data (angles in turn, rows of a map) never meets the period of the
shards. Two keep the grid: ``interleaved`` takes rows ``i = r mod a`` and columns ``j = s mod b``, ``frame_blocks``
consecutive rows with all later columns.
"""

import math

import numpy as np

from homodyne.arrays import AnyArray
from homodyne.data.checks import merged
from homodyne.data.flat import SAME_ANGLE, SAME_TIME
from homodyne.errors import InputError
from homodyne.registries import Strategy

Rng = np.random.Generator
Grid = tuple[AnyArray, AnyArray]
"""Numbers by row and by column frame, whose sum is the shard of a pair."""

TIME_BINS = 10
"""Bins along each time axis."""

ANGLE_BINS = 64
"""Most bins over the angles; each angle has its own when there are no more."""

_CHUNK = 1 << 16  # points handled at once, so that temporaries stay in the cache


# --- dealing


def _stratified(t1: AnyArray, t2: AnyArray, phi: AnyArray, num_shards: int, rng: Rng) -> AnyArray:
    (number,), angles = numbered([phi], SAME_ANGLE, relative=False)
    if angles.size > ANGLE_BINS:
        number = number.astype(np.int64) * ANGLE_BINS // angles.size
    return _deal(number.astype(np.uint16) * np.uint16(TIME_BINS**2) + _time_bin(t1, t2), num_shards, rng)


def _time_stratified(t1: AnyArray, t2: AnyArray, phi: AnyArray, num_shards: int, rng: Rng) -> AnyArray:
    return _deal(_time_bin(t1, t2), num_shards, rng)


def _time_bin(t1: AnyArray, t2: AnyArray) -> AnyArray:
    number = np.zeros(t1.size, dtype=np.uint16)
    for t in (t1, t2):
        low, high = float(t.min()), float(t.max())
        scale = TIME_BINS / (high - low) if high > low else 0.0
        number *= np.uint16(TIME_BINS)
        for start in range(0, t.size, _CHUNK):
            here = slice(start, start + _CHUNK)
            number[here] += np.minimum(((t[here] - low) * scale).astype(np.uint16), np.uint16(TIME_BINS - 1))
    return number


def _deal(bins: AnyArray, num_shards: int, rng: Rng) -> AnyArray:
    """Deal out bin after bin; each round of `num_shards` points starts at a random shard."""
    first = rng.integers(num_shards, size=(-(-bins.size // num_shards), 1), dtype=np.int32)
    places = ((first + np.arange(num_shards, dtype=np.int32)) % np.int32(num_shards)).ravel()
    numbers = np.empty(bins.size, dtype=np.int32)
    numbers[np.argsort(bins, kind="stable")] = places[: bins.size]
    return numbers


def _random(size: int, num_shards: int, rng: Rng) -> AnyArray:
    return _deal(rng.integers(1 << 16, size=size, dtype=np.uint16), num_shards, rng)


def _contiguous(size: int, num_shards: int, rng: Rng) -> AnyArray:
    limits = np.arange(num_shards + 1) * size // num_shards
    return np.repeat(np.arange(num_shards, dtype=np.int32), np.diff(limits))


def _every(size: int, num_shards: int, rng: Rng) -> AnyArray:
    return np.arange(size, dtype=np.int32) % np.int32(num_shards)


# --- following the frames


def _interleaved(t1: AnyArray, t2: AnyArray, phi: AnyArray, num_shards: int, rng: Rng) -> AnyArray:
    (first, second), frames = numbered([t1, t2], SAME_TIME, relative=True)
    a, b = _steps(num_shards)
    numbers = np.minimum(first, second) % np.int32(a) * np.int32(b) + np.maximum(first, second) % np.int32(b)
    found = np.bincount(numbers, minlength=num_shards)
    if not found.all():
        raise InputError(
            f"interleaved: shard {np.argmin(found)} of {num_shards} (rows in steps of {a}, columns of {b}) has no "
            f"point among {frames.size} frames; with all pairs present {frames.size - 1} shards at most always have one"
        )
    return numbers


def _frame_blocks(t1: AnyArray, t2: AnyArray, phi: AnyArray, num_shards: int, rng: Rng) -> AnyArray:
    (first, second), frames = numbered([t1, t2], SAME_TIME, relative=True)
    row = np.minimum(first, second)
    counts = np.bincount(row, minlength=frames.size)
    used = np.flatnonzero(counts)
    shard_of_row = np.zeros(frames.size, dtype=np.int32)
    shard_of_row[used] = np.repeat(np.arange(num_shards, dtype=np.int32), _even_runs(counts[used], num_shards))
    return shard_of_row[row]


def _interleaved_grid(num_frames: int, num_shards: int) -> Grid:
    a, b = _steps(num_shards)
    if a + b > num_frames:
        raise InputError(
            f"interleaved: {num_shards} shards, rows in steps of {a} and columns of {b}, leave some empty with "
            f"{num_frames} good frames; {num_frames - 1} shards at most always work"
        )
    frames = np.arange(num_frames)
    return frames % a * b, frames % b


def _frame_grid(num_frames: int, num_shards: int) -> Grid:
    runs = _even_runs(np.arange(num_frames - 1, 0, -1), num_shards)
    return np.append(np.repeat(np.arange(num_shards), runs), 0), np.zeros(num_frames, dtype=int)


def _steps(num_shards: int) -> tuple[int, int]:
    """Steps a >= b without common divisor, a b = `num_shards`, as equal as can be.

    With a common divisor a shard would see only lags of one remainder; without, it sees every lag.
    """
    b = next(
        b for b in range(math.isqrt(num_shards), 0, -1) if num_shards % b == 0 and math.gcd(b, num_shards // b) == 1
    )
    return num_shards // b, b


def _even_runs(counts: AnyArray, num_runs: int) -> AnyArray:
    """Cut rows with `counts` points into runs with about equal numbers of points; number of rows of each run."""
    if num_runs > counts.size:
        raise InputError(
            f"frame_blocks: {num_runs} shards of {counts.size} row frames; expected at most {counts.size} shards"
        )
    middle = np.cumsum(counts) - counts / 2
    inner = np.arange(1, num_runs)
    first = np.searchsorted(middle, inner * (counts.sum() / num_runs))
    first = np.maximum.accumulate(np.maximum(first, 1) - inner) + inner
    first = np.minimum(first, counts.size - num_runs + inner)
    return np.diff(np.concatenate([[0], first, [counts.size]]))


def numbered(arrays: list[AnyArray], tolerance: float, *, relative: bool) -> tuple[list[AnyArray], AnyArray]:
    """Number the distinct values of all arrays in ascending order; close ones are one.

    Returns
    -------
    numbers : list of int32 arrays
    values : array
        The smallest value of each number.
    """
    values = merged(np.unique(np.concatenate([np.unique(a) for a in arrays])), tolerance, relative=relative)
    return [(np.searchsorted(values, a, side="right") - 1).astype(np.int32) for a in arrays], values


def _random_points(t1: AnyArray, t2: AnyArray, phi: AnyArray, num_shards: int, rng: Rng) -> AnyArray:
    return _random(t1.size, num_shards, rng)


def _contiguous_points(t1: AnyArray, t2: AnyArray, phi: AnyArray, num_shards: int, rng: Rng) -> AnyArray:
    return _contiguous(t1.size, num_shards, rng)


STRATIFIED = Strategy(_stratified)
TIME_STRATIFIED = Strategy(_time_stratified)
RANDOM = Strategy(_random_points, _random)
CONTIGUOUS = Strategy(_contiguous_points, _contiguous, rotates=False)
INTERLEAVED = Strategy(_interleaved, _every, _interleaved_grid)
FRAME_BLOCKS = Strategy(_frame_blocks, grid=_frame_grid)
"""The strategies of the package, as `homodyne.registries.STRATEGIES` names them."""
