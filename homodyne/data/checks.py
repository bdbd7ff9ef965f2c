"""Validation of the numbers that a user or a file gives, before anything is computed from them."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from homodyne.device.config import detect_hardware
from homodyne.errors import DataError

FloatArray: TypeAlias = NDArray[np.float64]
MapArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]

_SMALL = 1 << 24  # bytes that are there

CONTRADICTION = 0.01
"""Relative difference above which a value given by the user contradicts the one in the file."""


def real_vector(name: str, values: ArrayLike, length: int | None = None) -> FloatArray:
    """Return `values` as a finite float64 vector, or say what is wrong with it.

    Raises
    ------
    DataError
        Not one-dimensional, not real numbers, wrong length, NaN or infinite.
    """
    array = np.asarray(values)
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


def real_scalar(name: str, value: Any, unit: str, *, positive: bool = True) -> float:
    """Return `value` as a finite (and positive) float, or say what is wrong with it."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise DataError(f"{name} = {value!r}; expected one number in {unit}.")
    number = float(array.reshape(()))
    if not math.isfinite(number) or (positive and number <= 0):
        raise DataError(f"{name} = {number} {unit}; expected a finite{' positive' if positive else ''} number.")
    return number


def per_angle(name: str, values: ArrayLike | None, num_angles: int) -> FloatArray | None:
    """Return one positive number per angle (a single number is repeated), or None."""
    if values is None:
        return None
    array = np.asarray(values)
    vector = real_vector(name, np.full(num_angles, array) if array.ndim == 0 else array, num_angles)
    if np.any(vector <= 0):
        raise DataError(f"{name} holds {vector.min()}; expected positive numbers, one per angle.")
    return vector


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


def angles(phi: ArrayLike, length: int) -> FloatArray:
    """Return distinct angles in degrees (two angles 360 degrees apart are the same)."""
    vector = real_vector("phi", np.atleast_1d(np.asarray(phi)), length)
    order = np.argsort(vector % 360.0, kind="stable")
    turned = vector[order] % 360.0
    same = np.flatnonzero(np.diff(turned, append=turned[:1] + 360.0) < 1e-9)
    if same.size:
        first, second = vector[order[same[0]]], vector[order[(same[0] + 1) % length]]
        raise DataError(
            f"phi holds the same direction twice ({first} and {second} degrees); expected one map per angle. "
            "Average repeated maps, or select one of them."
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
    if len(frames) != 2 or any(int(f) != f for f in frames):
        raise DataError(f"frames = {frames!r}; expected (first, last), 1-based and inclusive.")
    first, last = int(frames[0]), int(frames[1])
    if not 1 <= first <= last <= num_frames:
        raise DataError(
            f"frames = ({first}, {last}); expected 1 <= first <= last <= {num_frames}, the number of frames present."
        )
    return first, last


def require_memory(num_bytes: int, what: str, advice: str) -> None:
    """Refuse an allocation that this process cannot hold, before it is made."""
    if num_bytes > _SMALL and num_bytes > 0.9 * (limit := detect_hardware().available_memory):
        raise DataError(
            f"{what} would need {num_bytes / 2**30:.3g} GiB of memory, but {limit / 2**30:.3g} GiB are available. "
            f"{advice}"
        )
