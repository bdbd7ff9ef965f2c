"""Two-time data from flat arrays, one number per point: the layout of point lists and of thinned data."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from homodyne.arrays import AnyArray, as_array
from homodyne.data import checks
from homodyne.data.checks import DUPLICATE_TOLERANCE, FloatArray, MapArray
from homodyne.data.twotime import MIN_FRAMES, TwoTimeData, from_cube, map_label
from homodyne.data.units import Units
from homodyne.data.weights import checked
from homodyne.errors import DataError

SAME_TIME = 5e-7
"""Relative difference below which two times are one frame: above float32 rounding, below real dt / t."""

SAME_ANGLE = 1e-4
"""Difference in degrees below which two angles are one."""

_CHUNK = 1 << 19  # points handled at once
_SPARSE = 256  # grid elements per point above which points do not look like maps
_MOST_VALUES = 200_000  # distinct times or angles above which points do not look like maps


def from_arrays(  # noqa: PLR0913  # a door for users
    data: ArrayLike,
    t1: ArrayLike,
    t2: ArrayLike,
    phi: ArrayLike,
    q: ArrayLike,
    gap: float | None = None,
    *,
    pixels: ArrayLike | None = None,
    mean_counts: ArrayLike | None = None,
    units: Mapping[str, str] | None = None,
    weights: ArrayLike | None = None,
    frame_weights: ArrayLike | None = None,
) -> TwoTimeData:
    """Make a data set from points (data, t1, t2, phi, q), with a map for every q and phi that occur together.

    Points may come in any order. (t1, t2) and (t2, t1) are the same point: it is counted once, and the two
    values must agree. Points with t1 = t2 are the raw diagonal. Grid points that do not occur are missing, and so is
    what is no measurement by the rules of `homodyne.data.missing`.

    Parameters
    ----------
    data : array
        c2 at each point: flat, or (n_maps, n, n). NaN is a missing value, a masked one too. A point is masked where
        (t1, t2) or (t2, t1) is, unless all points with t1 < t2, or all with t1 > t2, are.
    t1, t2 : array
        Ages in s, positive: one per point, or broadcastable to `data` (scalars, meshes). With (n_maps, n, n)
        data a vector of n times belongs to the axis of that time.
    phi : array
        Angles in degrees: one per point, or broadcastable; with (n_maps, n, n) data one per map.
    q : float or array
        Scattering vectors in 1/Å, as `phi`.
    gap : float, optional
        Gap between the plates, Å.
    pixels, mean_counts : array or float, optional
        Pixels per map and mean counts per pixel and frame, in the order of increasing q, then phi.
    units : mapping, optional
        Units of "t", "phi", "q" and "gap" where they are others than these, such as {"t": "ms", "q": "1/nm"}.
    weights : array, optional
        Of points, as `data` or broadcastable to it; (t1, t2) and (t2, t1) have the same. See `TwoTimeData.weighted`.
    frame_weights : array (n_frames,), optional
        In the order of increasing time.

    Raises
    ------
    DataError
        Unequal lengths, times that are not positive, contradicting duplicates, points that form no grid, and
        everything that :func:`homodyne.from_cube` refuses.
    """
    stated = Units(units)
    places = {"t1": t1, "t2": t2, "phi": phi, "q": q}
    scale = {name: stated.factor(name, None, name) for name in places}
    gap = gap if gap is None else stated.scaled("gap", gap)
    stated.require_used()
    points = _Points(data, weights, places, scale)
    times = checks.merged(points.distinct("t"), SAME_TIME)
    waves = checks.distinct_q(points.distinct("q"))
    directions = checks.merged(points.distinct("phi"), SAME_ANGLE, relative=False)
    time_edges, q_edges, angle_edges = (checks.middles(values) for values in (times, waves, directions))
    occurs = np.zeros((waves.size, directions.size), dtype=bool)
    for wave, angle in points.chunks("q", "phi"):
        occurs[np.searchsorted(q_edges, wave), np.searchsorted(angle_edges, angle)] = True
    number = np.cumsum(occurs).reshape(occurs.shape) - 1
    at_q, at_phi = np.nonzero(occurs)
    labels = [map_label(waves[r], directions[a]) for r, a in zip(at_q, at_phi, strict=True)]
    n, n_maps = times.size, len(labels)
    _require_grid(points.size, n, n_maps)

    def placed(name: str) -> Iterator[tuple[FloatArray, NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]]:
        """Values of one array with the map and the two frames that they belong to, a chunk at a time."""
        for value, first, second, wave, angle in points.chunks(name, "t1", "t2", "q", "phi"):
            k = number[np.searchsorted(q_edges, wave), np.searchsorted(angle_edges, angle)]
            yield value, k, np.searchsorted(time_edges, first), np.searchsorted(time_edges, second)

    def filled(name: str, what: str) -> MapArray:
        """Maps of one array above the diagonal and on it, NaN where there is no point."""
        found = np.full((n_maps, n, n), np.nan, np.float32)
        for value, k, i, j in placed(name):
            kept = ~np.isnan(value) if name == "data" else i != j
            index = k[kept], np.minimum(i, j)[kept], np.maximum(i, j)[kept]
            _put(found, index, value[kept], times, labels, what)
        return found

    cube = filled("data", "values")
    of_pairs = None if weights is None else np.nan_to_num(filled("weights", "weights"), copy=False)  # no data at NaN
    if points.masked:
        masked, counted = np.zeros(cube.shape, dtype=bool), points.masked_sides()
        for mask, k, i, j in placed("mask"):
            out = (mask != 0) & counted[np.sign(j - i) + 1]
            masked[k[out], np.minimum(i, j)[out], np.maximum(i, j)[out]] = True
        cube = np.ma.array(cube, mask=masked)
    return from_cube(
        cube,
        times,
        directions[at_phi],
        waves[at_q],
        gap,
        pixels,
        mean_counts=mean_counts,
        source={"format": "flat arrays", "points": str(points.size)},
        weights=of_pairs,
        frame_weights=frame_weights,
    )


class _Points:
    """The arrays broadcast against `data` without being expanded, handed out in chunks."""

    def __init__(
        self, data: ArrayLike, weights: ArrayLike | None, places: Mapping[str, ArrayLike], scale: Mapping[str, float]
    ) -> None:
        """`places` are t1, t2, phi and q, `scale` the factors to our units of these."""
        self._scale = scale
        values = data if isinstance(data, np.ndarray) else as_array("data", data)
        self.masked = bool(np.ma.is_masked(values))
        plain = np.ma.filled(values, np.nan) if self.masked and values.dtype.kind == "f" else values
        arrays = {"data": np.asarray(plain), **{name: as_array(name, one) for name, one in places.items()}}
        if weights is not None:
            arrays["weights"] = checked("weights", weights).astype(np.float64)
        for name, array in arrays.items():
            if array.dtype.kind not in ("f" if name == "data" else "fiu"):
                raise DataError(f"{name} has dtype {array.dtype}; expected real numbers.")
        shape = arrays["data"].shape
        shapes = {name: array.shape for name, array in arrays.items()}
        if len(shape) == 3:
            for name, axis in (("phi", 0), ("q", 0), ("t1", 1), ("t2", 2)):
                if arrays[name].shape == (shape[axis],):
                    arrays[name] = arrays[name].reshape([-1 if k == axis else 1 for k in range(3)])
        try:
            full = {name: np.broadcast_to(array, shape) for name, array in arrays.items()}
        except ValueError:
            raise DataError(
                f"{', '.join(shapes)} do not belong together: "
                + ", ".join(f"{name} has shape {size}" for name, size in shapes.items())
                + "; expected equal lengths, or others that broadcast to data."
            ) from None
        self.size = int(arrays["data"].size)
        if self.size == 0:
            raise DataError("data is empty; expected at least one point.")
        self._given = arrays
        if self.masked:
            full["mask"] = arrays["mask"] = np.ma.getmaskarray(values)
        self._flat = {
            name: np.broadcast_to(a.flat[0], (self.size,)) if arrays[name].size == 1 else _flat(a)
            for name, a in full.items()
        }

    def masked_sides(self) -> NDArray[np.bool_]:
        """Whether what is masked of the points with t1 > t2, t1 = t2 and t1 < t2 is masked as a pair.

        It is not where a whole side is masked of which the other one has values.
        """
        masked, there = np.zeros(3, np.int64), np.zeros(3, np.int64)
        for mask, first, second in self.chunks("mask", "t1", "t2"):
            side = np.sign(second - first).astype(np.int64) + 1
            masked += np.bincount(side[mask != 0], minlength=3)
            there += np.bincount(side, minlength=3)
        whole = masked == there
        return np.asarray(~whole | whole[::-1])

    def distinct(self, name: str) -> FloatArray:
        """Sorted distinct values of "phi" or "q", or of "t1" and "t2" together ("t")."""
        found = np.empty(0)
        for part in ("t1", "t2") if name == "t" else (name,):
            values = _flat(self._given[part])
            for start in range(0, self._given[part].size, _CHUNK):
                some = np.unique(self._in_our_unit(part, values[start : start + _CHUNK]))
                if not np.isfinite(some).all():
                    raise DataError(f"{part} holds NaN or infinite values; expected finite numbers at every point.")
                found = np.union1d(found, some)
                if found.size > _MOST_VALUES:
                    raise DataError(
                        f"{name} has more than {_MOST_VALUES} distinct values; expected times from one series of "
                        "frames, a few angles and a few q. Round them to those of the measurement."
                    )
        return found

    def chunks(self, *names: str) -> Iterator[list[FloatArray]]:
        """Yield arrays of points in float64, a chunk at a time."""
        for start in range(0, self.size, _CHUNK):
            yield [self._in_our_unit(name, self._flat[name][start : start + _CHUNK]) for name in names]

    def _in_our_unit(self, name: str, values: object) -> FloatArray:
        found = np.asarray(values, dtype=np.float64)
        factor = self._scale.get(name, 1.0)
        return found if factor == 1.0 else found * factor


def _flat(values: AnyArray) -> "AnyArray | np.flatiter[AnyArray]":
    """Values one after the other, without a copy; the iterator of NumPy is 20 times slower where they lie so."""
    return values.reshape(-1) if values.flags.c_contiguous else values.flat


def _require_grid(num_points: int, n: int, n_maps: int) -> None:
    if n < MIN_FRAMES:
        raise DataError(f"t1 and t2 hold {n} distinct times; expected at least {MIN_FRAMES} frames.")
    elements = n_maps * n * n
    if elements > _SPARSE * num_points and elements > 1 << 24:
        raise DataError(
            f"{num_points} points have {n} distinct times and {n_maps} distinct pairs of q and phi, a grid of "
            f"{elements:.3g} elements that is almost empty; expected times from one series of frames, a few angles and "
            "a few q. Round them to those of the measurement."
        )
    checks.require_memory(4 * elements, f"A grid of {n_maps} maps x {n} x {n} times", "Give fewer maps or frames.")


def _put(
    target: MapArray,
    index: tuple[NDArray[np.intp], ...],
    value: FloatArray,
    times: FloatArray,
    labels: list[str],
    what: str,
) -> None:
    """Write values into an array of NaN; a place that is taken must hold the same value."""
    before = target[index]
    _require_agreement(np.where(np.isnan(before), value, before), value, index, times, labels, what)
    with np.errstate(over="ignore", invalid="ignore"):
        target[index] = value
    _require_agreement(target[index], value, index, times, labels, what)


def _require_agreement(
    held: AnyArray,
    value: FloatArray,
    index: tuple[NDArray[np.intp], ...],
    times: FloatArray,
    labels: list[str],
    what: str,
) -> None:
    with np.errstate(invalid="ignore"):
        scale = np.maximum(np.abs(held), np.abs(value))
        differ = np.abs(held - value) > DUPLICATE_TOLERANCE * scale + np.finfo(np.float32).tiny
    if differ.any():
        k = int(np.argmax(differ))
        a, i, j = int(index[0][k]), int(index[1][k]), int(index[-1][k])
        raise DataError(
            f"The point t1 = {times[i]} s, t2 = {times[j]} s, {labels[a]} occurs with the {what} "
            f"{float(held[k]):.6g} and {value[k]:.6g}; expected equal {what} (c2 is symmetric in t1 and t2). "
            "Give every point once, or load repeated measurements separately."
        )
