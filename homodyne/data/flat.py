"""Two-time data from flat arrays, one number per point: the layout of point lists and of thinned data."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from homodyne.data import checks
from homodyne.data.checks import FloatArray, MapArray
from homodyne.data.twotime import DUPLICATE_TOLERANCE, MIN_FRAMES, TwoTimeData, assemble
from homodyne.errors import DataError

SAME_TIME = 5e-7
"""Relative difference below which two times are one frame: above float32 rounding, below real dt / t."""

SAME_ANGLE = 1e-4
"""Difference in degrees below which two angles are one map."""

_CHUNK = 1 << 19  # points handled at once
_SPARSE = 256  # grid elements per point above which points do not look like a map
_MOST_VALUES = 200_000  # distinct times or angles above which points do not look like a map


def from_arrays(
    data: ArrayLike,
    t1: ArrayLike,
    t2: ArrayLike,
    phi: ArrayLike,
    q: float,
    gap: float | None = None,
    *,
    pixels: ArrayLike | None = None,
    mean_counts: ArrayLike | None = None,
) -> TwoTimeData:
    """Make a data set from points (data, t1, t2, phi).

    Points may come in any order. (t1, t2) and (t2, t1) are the same point: it is counted once, and the two
    values must agree. Points with t1 = t2 are the raw diagonal. Grid points that do not occur are missing.

    Parameters
    ----------
    data : array
        c2 at each point: flat, or (n_phi, n, n). NaN is a missing value.
    t1, t2 : array
        Ages in s, positive: one per point, or broadcastable to `data` (scalars, meshes). With (n_phi, n, n)
        data a vector of n times belongs to the axis of that time.
    phi : array
        Angles in degrees: one per point, or broadcastable; with (n_phi, n, n) data one per map.
    q : float
        Scattering vector, 1/Å.
    gap : float, optional
        Gap between the plates, Å.
    pixels, mean_counts : array or float, optional
        Pixels per map and mean counts per pixel and frame, in the order of increasing phi.

    Raises
    ------
    DataError
        Unequal lengths, times that are not positive, contradicting duplicates, points that form no grid, and
        everything that :func:`homodyne.from_cube` refuses.
    """
    points = _Points(data, t1, t2, phi)
    times = checks.merged(points.distinct("t"), SAME_TIME)
    directions = checks.merged(points.distinct("phi"), SAME_ANGLE, relative=False)
    n, n_phi = times.size, directions.size
    _require_grid(points.size, n, n_phi)
    cube, diagonal = np.full((n_phi, n, n), np.nan, np.float32), np.full((n_phi, n), np.nan)
    time_edges, angle_edges = checks.middles(times), checks.middles(directions)
    for value, first, second, angle in points.chunks():
        i, j = np.searchsorted(time_edges, first), np.searchsorted(time_edges, second)
        a = np.searchsorted(angle_edges, angle)
        on = i == j
        _put(diagonal, (a[on], i[on]), value[on], times, directions)
        off = ~on
        _put(cube, (a[off], np.minimum(i, j)[off], np.maximum(i, j)[off]), value[off], times, directions)
    dt = float(np.median(np.diff(times)))
    return assemble(
        cube,
        owned=True,
        t=times,
        phi=directions,
        q=q,
        gap=gap,
        dt=dt,
        diagonal=diagonal,
        pixels=pixels,
        mean_counts=mean_counts,
        age_origin=float(times[0] - dt),
        source={"format": "flat arrays", "points": str(points.size)},
    )


class _Points:
    """The four arrays broadcast against each other without being expanded, handed out in chunks."""

    def __init__(self, data: ArrayLike, t1: ArrayLike, t2: ArrayLike, phi: ArrayLike) -> None:
        arrays = {"data": np.asarray(data), "t1": np.asarray(t1), "t2": np.asarray(t2), "phi": np.asarray(phi)}
        for name, array in arrays.items():
            if array.dtype.kind not in ("f" if name == "data" else "fiu"):
                raise DataError(f"{name} has dtype {array.dtype}; expected real numbers.")
        shape = arrays["data"].shape
        given = {name: array.shape for name, array in arrays.items()}
        if len(shape) == 3:
            for name, axis in (("phi", 0), ("t1", 1), ("t2", 2)):
                if arrays[name].shape == (shape[axis],):
                    arrays[name] = arrays[name].reshape([-1 if k == axis else 1 for k in range(3)])
        try:
            full = {name: np.broadcast_to(array, shape) for name, array in arrays.items()}
        except ValueError:
            raise DataError(
                "data, t1, t2 and phi do not belong together: "
                + ", ".join(f"{name} has shape {size}" for name, size in given.items())
                + "; expected equal lengths, or t1, t2 and phi that broadcast to data."
            ) from None
        self._flat = {name: a.reshape(-1) if a.flags.c_contiguous else a.flat for name, a in full.items()}
        self.size = int(arrays["data"].size)
        if self.size == 0:
            raise DataError("data is empty; expected at least one point.")

    def _chunk(self, name: str, start: int) -> NDArray[Any]:
        return np.asarray(self._flat[name][start : start + _CHUNK])

    def distinct(self, name: str) -> FloatArray:
        """Sorted distinct values of "phi", or of "t1" and "t2" together ("t")."""
        found = np.empty(0)
        for start in range(0, self.size, _CHUNK):
            for part in ("t1", "t2") if name == "t" else (name,):
                values = np.unique(self._chunk(part, start).astype(np.float64))
                if not np.isfinite(values).all():
                    raise DataError(f"{part} holds NaN or infinite values; expected finite numbers at every point.")
                found = np.union1d(found, values)
            if found.size > _MOST_VALUES:
                raise DataError(
                    f"{name} has more than {_MOST_VALUES} distinct values; expected times from one series of frames "
                    "and a few angles. Round t1, t2 and phi to the frames and angles of the measurement."
                )
        return found

    def chunks(self) -> Iterator[tuple[FloatArray, FloatArray, FloatArray, FloatArray]]:
        """Yield (data, t1, t2, phi) in float64, a chunk at a time, missing values left out."""
        for start in range(0, self.size, _CHUNK):
            value = self._chunk("data", start).astype(np.float64)
            known = ~np.isnan(value)
            t1, t2, phi = (self._chunk(name, start).astype(np.float64)[known] for name in ("t1", "t2", "phi"))
            yield value[known], t1, t2, phi


def _require_grid(num_points: int, n: int, n_phi: int) -> None:
    if n < MIN_FRAMES:
        raise DataError(f"t1 and t2 hold {n} distinct times; expected at least {MIN_FRAMES} frames.")
    elements = n_phi * n * n
    if elements > _SPARSE * num_points and elements > 1 << 24:
        raise DataError(
            f"{num_points} points have {n} distinct times and {n_phi} distinct angles, a grid of {elements:.3g} "
            "elements that is almost empty; expected times from one series of frames and a few angles. Round t1, t2 "
            "and phi to the frames and angles of the measurement."
        )
    checks.require_memory(4 * elements, f"A grid of {n_phi} angles x {n} x {n} times", "Give fewer frames or angles.")


def _put(
    target: MapArray | FloatArray,
    index: tuple[NDArray[np.intp], ...],
    value: FloatArray,
    times: FloatArray,
    phi: FloatArray,
) -> None:
    """Write values into an array of NaN; a place that is taken must hold the same value."""
    before = target[index]
    _require_agreement(np.where(np.isnan(before), value, before), value, index, times, phi)
    with np.errstate(over="ignore"):
        target[index] = value
    _require_agreement(target[index], value, index, times, phi)


def _require_agreement(
    held: NDArray[Any], value: FloatArray, index: tuple[NDArray[np.intp], ...], times: FloatArray, phi: FloatArray
) -> None:
    with np.errstate(invalid="ignore"):
        scale = np.maximum(np.abs(held), np.abs(value))
        apart = np.abs(held - value) > DUPLICATE_TOLERANCE * scale + np.finfo(np.float32).tiny
    if apart.any():
        k = int(np.argmax(apart))
        a, i, j = int(index[0][k]), int(index[1][k]), int(index[-1][k])
        raise DataError(
            f"The point t1 = {times[i]} s, t2 = {times[j]} s, phi = {phi[a]} degrees occurs with the values "
            f"{float(held[k]):.6g} and {value[k]:.6g}; expected equal values (c2 is symmetric in t1 and t2). "
            "Give every point once, or load repeated measurements separately."
        )
