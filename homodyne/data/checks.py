"""Validation of the numbers that a user or a file gives, before anything is computed from them."""

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from homodyne.arguments import shown
from homodyne.arrays import as_array
from homodyne.device.config import detect_hardware
from homodyne.errors import DataError

FloatArray: TypeAlias = NDArray[np.float64]
MapArray: TypeAlias = NDArray[np.float32]
MapArrays: TypeAlias = MapArray | tuple[MapArray, ...]
"""Maps (n_maps, n, n), or one (n, n) array for each where they lie apart from one another in a file."""

BoolArray: TypeAlias = NDArray[np.bool_]

_SMALL = 1 << 24  # bytes that are there

SAME_Q = 1e-4
"""Relative difference below which two values of q are one wave vector; different ones are never pooled."""

DUPLICATE_TOLERANCE = 1e-4
"""Relative difference up to which c2(t1, t2) and c2(t2, t1) are the same measurement (float32 rounding)."""

CONTRADICTION = 0.01
"""Relative difference above which a value given by the user contradicts the one in the file."""


def real_vector(name: str, values: ArrayLike, length: int | None = None) -> FloatArray:
    """Return `values` as a finite float64 vector, or say what is wrong with it.

    Raises
    ------
    DataError
        Not one-dimensional, not real numbers, wrong length, NaN or infinite.
    """
    array = as_array(name, values)
    if array.dtype.kind not in "fiu":
        raise DataError(f"{name} has dtype {array.dtype}; expected real numbers.")
    if array.ndim != 1 or (length is not None and array.size != length):
        wanted = "a vector" if length is None else f"a vector of {length} values"
        raise DataError(f"{name} has shape {array.shape}; expected {wanted}.")
    vector = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size:
        raise DataError(f"{name}[{bad[0]}] is {vector[bad[0]]}; expected finite numbers ({bad.size} are not).")
    return vector


def real_scalar(name: str, value: object, unit: str, *, positive: bool = True) -> float:
    """Return `value` as a finite (and positive) float, or say what is wrong with it."""
    array = as_array(name, value)
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise DataError(f"{name} = {shown(value)}; expected one number in {unit}.")
    number = float(array.reshape(()))
    if not math.isfinite(number) or (positive and number <= 0):
        raise DataError(f"{name} = {number} {unit}; expected a finite{' positive' if positive else ''} number.")
    return number


def listed(values: Iterable[float], limit: int = 40) -> str:
    """Numbers for a message, shortened when there are many."""
    texts = [f"{v:.6g}" for v in values]
    return ", ".join(texts[:limit]) + (f", ... ({len(texts)} values)" if len(texts) > limit else "")


def per_map(name: str, values: ArrayLike, num_maps: int) -> FloatArray:
    """Return one positive number per map; a single number is repeated."""
    array = as_array(name, values)
    vector = real_vector(name, np.full(num_maps, array) if array.ndim == 0 else array, num_maps)
    if np.any(vector <= 0):
        raise DataError(f"{name} holds {vector.min()}; expected positive numbers, one per map.")
    return vector


def per_map_if_given(name: str, values: ArrayLike | None, num_maps: int) -> FloatArray | None:
    """As `per_map`, of what may be left out."""
    return None if values is None else per_map(name, values, num_maps)


def wavevectors(q: ArrayLike, num_maps: int) -> FloatArray:
    """Return q of every map in 1/Å; a single number is repeated."""
    return per_map("q", q if as_array("q", q).ndim else real_scalar("q", q, "1/Å"), num_maps)


def distinct_q(q: FloatArray) -> FloatArray:
    """Return the wave vectors in increasing order: the first q of each group that agrees within SAME_Q."""
    return merged(np.unique(q), SAME_Q)


def maps_at_q(q: FloatArray, wanted: float) -> NDArray[np.intp]:
    """Indices of the maps of one wave vector, in the order of `q`."""
    edges = middles(distinct_q(q))
    return np.flatnonzero(np.searchsorted(edges, q) == np.searchsorted(edges, wanted))


def ages(t: ArrayLike, length: int) -> FloatArray:
    """Return sample ages in s: finite, positive, strictly increasing."""
    vector = real_vector("t", t, length)
    if length and vector[0] <= 0:
        raise DataError(
            f"t[0] = {vector[0]} s; expected t > 0, because a power law of the age has no meaning at t = 0. "
            "Give t = age_origin + (k + 1) * dt for frame k = 0, 1, ..."
        )
    steps = np.diff(vector)
    if np.any(steps <= 0):
        k = int(np.argmax(steps <= 0))
        raise DataError(
            f"t[{k + 1}] = {vector[k + 1]} s does not follow t[{k}] = {vector[k]} s; "
            "expected strictly increasing times."
        )
    return vector


def angles(phi: ArrayLike, q: FloatArray) -> FloatArray:
    """Return the angles in degrees of maps at wave vectors `q`; a single number is repeated.

    Raises
    ------
    DataError
        A q has the same direction twice (two angles 360 degrees apart are the same).
    """
    array = as_array("phi", phi)
    vector = real_vector("phi", np.full(q.size, array) if array.ndim == 0 else array, q.size)
    for one in distinct_q(q):
        at = vector[maps_at_q(q, one)]
        order = np.argsort(at % 360.0, kind="stable")
        turned = at[order] % 360.0
        same = np.flatnonzero(np.diff(turned, append=turned[:1] + 360.0) < 1e-9)
        if same.size:
            first, second = at[order[same[0]]], at[order[(same[0] + 1) % at.size]]
            raise DataError(
                f"phi holds the same direction twice ({first} and {second} degrees) at q = {one:.6g} 1/Å; expected one "
                "map per q and angle. Average repeated maps, or select one of them."
            )
    return vector


def merged(values: FloatArray, tolerance: float, *, relative: bool = True) -> FloatArray:
    """Drop every ascending value that follows the one before it within the tolerance."""
    width = tolerance * np.abs(values[1:]) if relative else tolerance
    kept: FloatArray = values[np.append(True, np.diff(values) > width)]
    return kept


def middles(values: FloatArray) -> FloatArray:
    """Half-way points between neighbours."""
    return (values[:-1] + values[1:]) / 2


def frame_range(frames: Sequence[int] | None, num_frames: int) -> tuple[int, int]:
    """Return (first, last), 1-based and inclusive; None means all frames."""
    if frames is None:
        return 1, num_frames
    first, last = frame_numbers(frames)
    if not 1 <= first <= last <= num_frames:
        raise DataError(
            f"frames = ({first}, {last}); expected 1 <= first <= last <= {num_frames}, the number of frames present."
        )
    return first, last


def frame_numbers(frames: object) -> tuple[int, int]:
    """Return (first, last) as two integers, or say what is wrong with them."""
    array = as_array("frames", frames)
    if array.shape == (2,) and array.dtype.kind in "fiu" and np.isfinite(array).all() and (array % 1 == 0).all():
        return int(array[0]), int(array[1])
    raise DataError(f"frames = {shown(frames)}; expected (first, last), two whole numbers, 1-based and inclusive.")


def require_memory(num_bytes: int, what: str, advice: str) -> None:
    """Refuse an allocation that this process cannot hold, before it is made."""
    if num_bytes > _SMALL and num_bytes > 0.9 * (limit := detect_hardware().available_memory):
        raise DataError(
            f"{what} would need {num_bytes / 2**30:.3g} GiB of memory, but {limit / 2**30:.3g} GiB are available. "
            f"{advice}"
        )
