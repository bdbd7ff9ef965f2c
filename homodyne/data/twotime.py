"""The two-time correlation maps of a measurement: the one record that readers make and fits take.

Start with :func:`from_cube` (maps in memory, or a file mapped into it) or ``homodyne.load`` (maps in a file); both end
in :class:`TwoTimeData`. Maps may be larger than memory: everything here goes over them in strips of rows.
"""

import hashlib
import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from homodyne.arguments import Json, as_mapping, shown
from homodyne.arrays import AnyArray, as_array
from homodyne.data import checks
from homodyne.data.checks import DUPLICATE_TOLERANCE, BoolArray, FloatArray, MapArray, MapArrays
from homodyne.data.missing import LeftOut, constant, examine, sentences, strips, upper_strips, upright
from homodyne.data.units import Units
from homodyne.data.weights import of_pairs
from homodyne.errors import DataError
from homodyne.mapping import intact, mapping_of, release_pages

if TYPE_CHECKING:
    import xarray as xr

MIN_FRAMES = 3
"""Fewest usable frames from which anything can be learned."""


@dataclass(frozen=True, eq=False, repr=False)
class TwoTimeData:
    """Two-time correlation maps, each at one wave vector q and one angle phi.

    Attributes
    ----------
    c2 : ndarray, (n_maps, n, n) float32, or tuple of n_maps arrays (n, n)
        Correlation maps, ``c2[k]`` is map k; a file may be mapped into memory, one array for each map then. Only
        elements i < j that are finite, between frames that are `alive` in this map, are data (see `usable`); the rest
        has no meaning.
    t : ndarray, (n,)
        Age of the sample at each frame, s, positive and strictly increasing.
    phi : ndarray, (n_maps,)
        Angle of each map, degrees.
    q : ndarray, (n_maps,)
        Scattering vector of each map, 1/Å; pairs (q, phi) are distinct.
    gap : float or None
        Gap between the plates, Å.
    dt : float
        Time between frames, s.
    alive : ndarray, (n_maps, n) bool
        Frames that carry data, map by map.
    diagonal : ndarray (n_maps, n) or None
        Raw c2(t, t), NaN where missing; None when the file does not hold it or has it replaced by its
        neighbours.
    pixels : ndarray (n_maps,) or None
        Detector pixels averaged in each map.
    mean_counts : ndarray (n_maps,) or None
        Mean counts per pixel and frame of each map.
    age_origin : float
        Age of the sample just before the first frame, s.
    frames : tuple of int
        First and last frame, 1-based and inclusive, in the numbering of the source.
    source : mapping
        Where the numbers come from: format, path, dataset names.
    places : tuple of mappings
        Where `homodyne.load` finds every map again, see `homodyne.data.references`; empty for maps in memory.
    left_out : tuple of LeftOut
        Which pairs are no data and why, map by map; see `homodyne.data.missing`.
    weights : ndarray (n_maps, n, n) float32, or None
        Factor of the precision of every pair i < j, zero where it is left out: its variance is that of a pair of the
        mean weight of its map, times this mean over its weight. None where all pairs count alike. See `weighted`.
    """

    c2: MapArrays
    t: FloatArray
    phi: FloatArray
    q: FloatArray
    gap: float | None
    dt: float
    alive: BoolArray
    diagonal: FloatArray | None
    pixels: FloatArray | None
    mean_counts: FloatArray | None
    age_origin: float
    frames: tuple[int, int]
    source: Mapping[str, str] = field(default_factory=dict)
    places: tuple[Mapping[str, Json], ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    weights: MapArray | None = None

    @property
    def num_maps(self) -> int:
        """Number of maps."""
        return int(self.phi.size)

    @property
    def num_frames(self) -> int:
        """Number of frames, bad ones included."""
        return int(self.t.size)

    @property
    def wavevectors(self) -> FloatArray:
        """Distinct q, 1/Å, increasing."""
        return np.unique(self.q)

    @property
    def good(self) -> BoolArray:
        """Frames that carry data in one map at least, (n,)."""
        return np.asarray(self.alive.any(axis=0))

    @property
    def bad_frames(self) -> NDArray[np.int64]:
        """Indices (0-based, within the selection) of the frames that carry no data in any map."""
        return np.flatnonzero(~self.good)

    @cached_property
    def num_pairs(self) -> int:
        """Number of elements of all maps that are data."""
        return sum(int(np.count_nonzero(there)) for _, _, there in self._strips())

    def left_out_lines(self) -> list[str]:
        """What is no data and why, a line for each kind; frames as numbered in the source."""
        return sentences(self.left_out, self.num_maps, self.frames[0])

    def _strips(self) -> Iterator[tuple[int, slice, BoolArray]]:
        """Map, rows, and which of their elements are data; what was read of a map leaves memory before the next."""
        for k, _ in enumerate(each_map(self.c2)):
            for rows in strips(self.num_frames):
                yield k, rows, self.usable(k, rows)

    def usable(self, k: int, rows: slice = slice(None)) -> BoolArray:
        """Elements in some rows of map k that are data, (rows, n).

        i < j, finite, both frames alive in this map, of a weight that is not zero.
        """
        frame = np.arange(self.num_frames)
        found = frame[rows, None] < frame
        found &= self.alive[k][rows, None] & self.alive[k]
        found &= np.isfinite(intact(self.c2[k])[rows])
        if self.weights is not None:
            found &= self.weights[k][rows] > 0
        return found

    def weighted(self, weights: ArrayLike | None = None, frame_weights: ArrayLike | None = None) -> "TwoTimeData":
        """Return the same data with weights; pairs of weight zero are left out, counted and listed.

        A weight w multiplies the precision of a pair: its variance is sigma² / w. Only ratios within a map matter,
        because sigma is that of the map.

        Parameters
        ----------
        weights : array, (n_maps, n, n) or (n, n), optional
            Of pairs of every map, or of all maps alike; the same in both triangles, or zero in one of them.
        frame_weights : array, (n,), optional
            Of frames: pairs have the product of those of their frames, times `weights`.

        Raises
        ------
        DataError
            A weight that is negative, NaN, infinite, masked or beyond single precision; another shape; triangles that
            contradict each other; data that have weights; too few frames that are left.
        """
        found = of_pairs(weights, frame_weights, self.num_maps, self.num_frames)
        if found is None:
            return self
        if self.weights is not None:
            raise DataError("the data have weights; expected data without, multiply the weights and give them once.")
        alive, left_out = self.alive.copy(), list(self.left_out)
        pairs, left = np.zeros(self.num_maps, dtype=np.int64), np.zeros(alive.shape, dtype=np.int64)
        for k, rows, there in self._strips():
            kept = there & (found[k][rows] > 0)
            pairs[k] += np.count_nonzero(there) - np.count_nonzero(kept)
            left[k, rows] += np.count_nonzero(kept, axis=1)
            left[k] += np.count_nonzero(kept, axis=0)
        for k in np.flatnonzero(pairs).tolist():
            frames = np.flatnonzero(alive[k] & (left[k] == 0))
            alive[k, frames] = False
            left_out.append(LeftOut(k, "weight", int(pairs[k]), tuple(frames.tolist())))
        _require_frames(alive, self.q, self.phi, left_out)
        diagonal = None if self.diagonal is None else np.where(alive, self.diagonal, np.nan)
        return replace(self, alive=alive, diagonal=diagonal, left_out=_in_order(left_out), weights=found)

    def alive_before_weights(self) -> BoolArray:
        """Frames that carry data where weights are left aside, (n_maps, n)."""
        alive = self.alive.copy()
        for one in self.left_out:
            if one.kind == "weight":
                alive[one.map, list(one.frames)] = True
        return alive

    def to_xarray(self) -> "xr.Dataset":
        """Return the data as an xarray Dataset with units and coordinates; `homodyne.from_xarray` takes it back.

        ``c2`` has the dimensions (map, t1, t2), the same values for t1 < t2 and t2 < t1, and meaning where both frames
        are `alive`. What is left out is found again by `from_xarray`; `places` are not kept.
        """
        from homodyne.data.labelled import to_xarray

        return to_xarray(self)

    def relative_weights(self) -> tuple[MapArray, ...] | None:
        """Weights of every map, (n, n), over their mean over the pairs that are data; None where there are none."""
        if self.weights is None:
            return None
        total, count = np.zeros(self.num_maps), np.zeros(self.num_maps)
        for k, rows, there in self._strips():
            total[k] += self.weights[k][rows][there].sum(dtype=np.float64)
            count[k] += np.count_nonzero(there)
        found: dict[tuple[int, float], MapArray] = {}  # maps that have the same weights share them
        ratios = []
        for own, mean in zip(self.weights, (total / count).tolist(), strict=True):
            key = own.__array_interface__["data"][0], mean
            if key not in found:
                found[key] = np.asarray(own / mean, dtype=np.float32)
            ratios.append(found[key])
        return tuple(ratios)

    def weight_line(self) -> str:
        """Sentence on the weights, for people; empty where there are none."""
        ratios = self.relative_weights()
        if ratios is None:
            return ""
        low, high = np.inf, 0.0
        for k, rows, there in self._strips():
            some = ratios[k][rows][there]
            if some.size:
                low, high = min(low, float(some.min())), max(high, float(some.max()))
        return f"pairs have weights, {low:.3g} to {high:.3g} times the mean of their map"

    def label(self, k: int) -> str:
        """Name of map k, such as "q = 0.0054 1/Å, phi = 30°"."""
        return map_label(self.q[k], self.phi[k])

    def digest(self) -> str:
        """SHA-256 of what a fit reads of the maps: elements i < j of every map and weight, t, q, phi and alive."""
        found = hashlib.sha256()
        for values in (self.t, self.q, self.phi, self.alive):
            found.update(f"{values.dtype} {values.shape} ".encode())
            found.update(np.ravel(values).data)
        for one in map(np.asarray, each_map(self.c2)):
            update_with_pairs(found, one)
        for own in () if self.weights is None else self.weights:
            update_with_pairs(found, own)
        return found.hexdigest()

    def _repr_html_(self) -> str:
        """What it is, what is no data of it, and a small picture, for notebooks."""
        from homodyne.viz.notebook import data_picture

        lines = "".join(f"<p>{html.escape(line)}</p>" for line in (repr(self), *self.left_out_lines()))
        return f"{lines}{data_picture(self)}"

    def __repr__(self) -> str:
        gap = "none" if self.gap is None else f"{self.gap:.4g} Å"
        return (
            f"TwoTimeData(q={checks.listed(self.wavevectors, 8)} 1/Å, {self.num_maps} maps x {self.num_frames} frames, "
            f"dt={self.dt:.4g} s, t={self.t[0]:.4g}..{self.t[-1]:.4g} s, gap={gap}, {self.bad_frames.size} bad frames)"
        )


def update_with_pairs(found: "hashlib._Hash", one: AnyArray) -> None:
    """Take the elements i < j of a map (n, n) into a digest."""
    for i in range(len(one) - 1):
        found.update(np.ravel(intact(one)[i, i + 1 :]).data)


def each_map(c2: MapArrays | Sequence[MapArray]) -> Iterator[MapArray]:
    """Yield the maps in turn; what was read of one that is mapped from a file leaves memory before the next."""
    for one in c2:
        yield intact(one)
        release_pages(one)


def from_cube(  # noqa: PLR0913  # a door for users
    c2: ArrayLike,
    t: ArrayLike,
    phi: ArrayLike,
    q: ArrayLike,
    gap: float | None = None,
    pixels: ArrayLike | None = None,
    *,
    mean_counts: ArrayLike | None = None,
    frames: tuple[int, int] | None = None,
    source: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    weights: ArrayLike | None = None,
    frame_weights: ArrayLike | None = None,
) -> TwoTimeData:
    """Make a data set from maps in memory, or from a ``numpy.memmap`` that is larger than memory.

    Parameters
    ----------
    c2 : array, (n_maps, n, n) or (n, n)
        Correlation maps; the triangle i < j is read, and the other one must be its mirror image, or hold one number
        throughout, such as zero or NaN; where only the triangle i > j has values, it is read. The diagonal is taken as
        the raw c2(t, t). What is masked, NaN, or no measurement by the rules of `homodyne.data.missing` is left out
        and counted in `left_out`; a pair is masked where (i, j) or (j, i) is, unless a triangle is masked as a whole.
        A float32 cube whose rows are contiguous is not copied.
    t : array, (n,)
        Age of the sample at each frame, s; positive and strictly increasing.
    phi : array, (n_maps,)
        Angle of each map, degrees; the same one may come again at another q.
    q : float or array (n_maps,)
        Scattering vector of all maps or of each, 1/Å.
    gap : float, optional
        Gap between the plates, Å.
    pixels, mean_counts : array (n_maps,) or float, optional
        Pixels per map; mean counts per pixel and frame.
    frames : (first, last), optional
        Frame numbers in the experiment, 1-based and inclusive; 1..n by default.
    source : mapping, optional
        Facts to keep with the data.
    units : mapping, optional
        Units of "t", "phi", "q" and "gap" where they are others than these, such as {"t": "ms", "q": "1/nm"}.
    weights, frame_weights : array, optional
        Weights of pairs, (n_maps, n, n) or (n, n), and of frames, (n,); see `TwoTimeData.weighted`.

    Raises
    ------
    DataError
        Wrong shape, dtype, times, angles or values; maps that are not symmetric; fewer than three usable
        frames.
    """
    if isinstance(c2, list | tuple) and any(np.ma.isMaskedArray(one) for one in c2):
        c2 = np.ma.stack(c2)
    cube = c2 if isinstance(c2, np.ndarray) else as_array("c2", c2)
    if cube.ndim == 2:
        cube = cube[None]
    if cube.dtype.kind != "f":
        raise DataError(f"c2 has dtype {cube.dtype}; expected floating-point correlation values.")
    if cube.ndim != 3 or cube.shape[1] != cube.shape[2] or cube.shape[0] == 0:
        raise DataError(f"c2 has shape {np.shape(c2)}; expected (n_maps, n, n) with one square map per q and angle.")
    n_maps, n = cube.shape[:2]
    if n < MIN_FRAMES:
        raise DataError(f"c2 has {n} frames; expected at least {MIN_FRAMES}.")
    stated = Units(units)
    times = checks.ages(stated.scaled("t", t), n)
    waves, directions = stated.scaled("q", q), stated.scaled("phi", phi)
    gap = gap if gap is None else stated.scaled("gap", gap)
    stated.require_used()
    maps, masked = _unmasked(cube)
    dt = float(np.median(np.diff(times)))
    draft = TwoTimeData(
        c2=maps,
        t=times,
        phi=directions,
        q=waves,
        gap=gap,
        dt=dt,
        alive=np.ones((n_maps, n), dtype=bool),
        diagonal=None,
        pixels=checks.per_map_if_given("pixels", pixels, n_maps),
        mean_counts=checks.per_map_if_given("mean_counts", mean_counts, n_maps),
        age_origin=float(times[0] - dt),
        frames=_numbered(frames, n),
        source={"format": "cube"} if source is None else dict(as_mapping("source", source, "facts by name")),
    )
    return assemble(draft, masked).weighted(weights, frame_weights)


def _numbered(frames: object, n: int) -> tuple[int, int]:
    """Numbers in the experiment of the first and the last of n frames."""
    first, last = (1, n) if frames is None else checks.frame_numbers(frames)
    if first < 1 or last - first + 1 != n:
        raise DataError(f"frames = ({first}, {last}); expected numbers from 1 of {n} frames, as many as t and c2 have.")
    return first, last


def _unmasked(cube: AnyArray) -> tuple[MapArray, BoolArray | None]:
    """Return a float32 cube with NaN where it is masked, and which pairs i < j are; no mask where nothing is."""
    if not np.ma.isMaskedArray(cube):
        return as_float32(cube), None
    values, given = np.ma.getdata(cube), np.ma.getmaskarray(cube)
    maps = as_float32(values)
    if not given.any():
        return maps, None
    if maps is values:
        checks.require_memory(4 * cube.size, "A copy of the maps without what is masked", "Select fewer maps.")
        maps = maps.copy()
    masked, upper = np.zeros(cube.shape, dtype=bool), np.triu(np.ones(cube.shape[1:], dtype=bool), 1)
    for one, mask, found in zip(maps, given, masked, strict=True):
        one[mask] = np.nan
        above, below = mask[upper], mask.T[upper]
        if above.all():
            found[upper] = below
        else:
            found[upper] = above | (below & (not below.all()))
            one[found] = np.nan
    return maps, masked if masked.any() else None


def oriented(c2: MapArrays, q: FloatArray, phi: FloatArray) -> MapArrays:
    """Maps with their data above the diagonal, after making sure that what lies below does not contradict it."""
    given = list(c2)
    found = [upright(one) for one in each_map(given)]
    for k, one in enumerate(each_map(found)):
        require_symmetric(one, map_label(q[k], phi[k]))
    return _gathered(c2, given, found)


def _gathered(c2: MapArrays, given: Sequence[MapArray], found: Sequence[MapArray]) -> MapArrays:
    """The maps themselves where all that was found are those given; one array where they are in memory."""
    if all(new is old for new, old in zip(found, given, strict=True)):
        return c2
    in_file = isinstance(c2, tuple) or any(mapping_of(one) is not None for one in given)
    return tuple(found) if in_file else np.stack(found)


def require_data(given: object) -> None:
    """Refuse what is no `TwoTimeData`.

    Raises
    ------
    DataError
        The message says how it is made.
    """
    if not isinstance(given, TwoTimeData):
        raise DataError(f"data is {shown(given)}; expected what homodyne.load, from_cube or from_arrays returns.")


def as_float32(cube: NDArray[np.floating]) -> MapArray:
    """Return a cube of float32 with contiguous rows, copied map by map if it is not one."""
    if cube.dtype == np.float32 and cube.strides[2] == cube.itemsize:
        return np.asanyarray(cube)
    checks.require_memory(4 * cube.size, "A float32 copy of the maps", "Select fewer maps or frames.")
    maps = np.empty(cube.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow becomes infinite and is reported as such
        for k, one in enumerate(each_map(cube)):
            maps[k] = one
    return maps


def assemble(draft: TwoTimeData, masked: BoolArray | None = None) -> TwoTimeData:
    """Find what is no data, judge the diagonal, and check every field; the last step of every door.

    Parameters
    ----------
    draft : TwoTimeData
        Its `alive` are frames that are known to be used; a `diagonal` overrides that of the maps.
    masked : array (n_maps, n, n), optional
        Pairs i < j of the NaN in the maps that the user has masked.
    """
    n_maps, n = len(draft.c2), len(draft.c2[0])
    waves = checks.wavevectors(draft.q, n_maps)
    directions = checks.angles(draft.phi, waves)
    maps = oriented(draft.c2, waves, directions)
    c2, alive, diagonal, left_out = examine_maps(maps, draft.diagonal, draft.alive)
    if masked is not None:
        left_out = _with_masked(left_out, masked)
    _require_frames(alive, waves, directions, left_out)
    for k, one in enumerate(each_map(c2)):
        _require_varying(one, alive[k], map_label(waves[k], directions[k]))
    return replace(
        draft,
        c2=c2,
        t=checks.ages(draft.t, n),
        phi=directions,
        q=waves,
        gap=None if draft.gap is None else checks.real_scalar("gap", draft.gap, "Å"),
        dt=checks.real_scalar("dt", draft.dt, "s"),
        alive=alive,
        diagonal=diagonal,
        pixels=checks.per_map_if_given("pixels", draft.pixels, n_maps),
        mean_counts=checks.per_map_if_given("mean_counts", draft.mean_counts, n_maps),
        age_origin=checks.real_scalar("age_origin", draft.age_origin, "s", positive=False),
        left_out=_in_order(left_out),
    )


def examine_maps(
    c2: MapArrays, diagonal: FloatArray | None, alive: BoolArray
) -> tuple[MapArrays, BoolArray, FloatArray | None, list[LeftOut]]:
    """Find what is data of some maps: c2, alive, diagonal and what was left out; arguments as of :func:`assemble`."""
    raw = _raw_diagonal(c2, diagonal)
    given, examined = [], []
    for k, one in enumerate(each_map(c2)):
        given.append(one)
        examined.append(examine(one, None if raw is None else raw[k], k))
    found = np.array([one.alive for one in examined])
    left_out = [record for one in examined for record in one.left_out]
    left_out += [marked for k, one in enumerate(given) if (marked := _marked(k, one, found[k], alive[k]))]
    found &= alive
    if raw is not None:
        raw[~found] = np.nan
    return _gathered(c2, given, [one.values for one in examined]), found, raw, left_out


def _in_order(left_out: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """Records in the order of their maps."""
    return tuple(sorted(left_out, key=lambda record: record.map))


def _with_masked(left_out: list[LeftOut], masked: BoolArray) -> list[LeftOut]:
    """Count what is masked apart from what was NaN before."""
    found = []
    for k, mask in enumerate(masked):
        pairs, of_frame = int(np.count_nonzero(mask)), np.count_nonzero(mask, axis=0) + np.count_nonzero(mask, axis=1)
        frames = np.flatnonzero(of_frame == len(mask) - 1).tolist()
        for record in (one for one in left_out if one.map == k):
            if record.kind == "nan" and pairs:
                rest = tuple(frame for frame in record.frames if frame not in frames)
                record = replace(record, pairs=record.pairs - pairs, frames=rest)
            found += [record] if record.pairs else []
        found += [LeftOut(k, "masked", pairs, tuple(frames))] if pairs else []
    return found


def _marked(k: int, one: MapArray, found: BoolArray, alive: BoolArray) -> LeftOut | None:
    """What is left out of a map only because the file marks its frames."""
    frames = np.flatnonzero(found & ~alive)
    if not frames.size:
        return None
    others = np.flatnonzero(found & alive)
    first, second = np.minimum.outer(frames, others), np.maximum.outer(frames, others)
    i, j = frames[np.array(np.triu_indices(frames.size, 1))]
    pairs = np.count_nonzero(np.isfinite(one[first, second])) + np.count_nonzero(np.isfinite(one[i, j]))
    return LeftOut(k, "marked", int(pairs), tuple(frames.tolist()))


def map_label(q: float, phi: float) -> str:
    """Name of a map by its q (1/Å) and phi (degrees)."""
    return f"q = {q:.6g} 1/Å, phi = {phi:.6g}°"


def _raw_diagonal(c2: MapArrays, given: FloatArray | None) -> FloatArray | None:
    """Return the diagonals as float64, or None if one is missing or replaced."""
    with np.errstate(invalid="ignore"):  # of NaN that signal
        lines = [(np.diagonal(one).astype(np.float64), np.diagonal(one, 1).astype(np.float64)) for one in each_map(c2)]
    raw = np.array([line for line, _ in lines] if given is None else given, dtype=np.float64)
    return None if any(_replaced(line, above) for line, (_, above) in zip(raw, lines, strict=True)) else raw


def _replaced(diagonal: FloatArray, above: FloatArray) -> bool:
    """Whether a diagonal is absent, constant, or made from the elements next to it.

    Software replaces the diagonal, which is shot noise, by the mean of its two neighbours or by one of them.
    """
    present = np.isfinite(diagonal) & (diagonal != 0)
    if np.count_nonzero(present) < MIN_FRAMES or np.ptp(diagonal[present]) == 0:
        return True
    left, right = above[:-1], above[1:]
    inner = present[1:-1] & np.isfinite(left) & np.isfinite(right)
    if np.count_nonzero(inner) < MIN_FRAMES:
        return False
    tolerance = 4 * float(np.finfo(np.float32).eps)
    values = diagonal[1:-1][inner]
    stand_ins = ((left[inner] + right[inner]) / 2, left[inner], right[inner])
    return any(np.mean(np.abs(values - one) <= tolerance * np.abs(one)) > 0.9 for one in stand_ins)


def _require_frames(alive: BoolArray, q: FloatArray, phi: FloatArray, left_out: Sequence[LeftOut]) -> None:
    """Refuse maps with too few frames."""
    usable = int(np.count_nonzero(alive.any(axis=0)))
    if usable == 0:
        found = "; ".join(sentences(left_out, len(alive)))
        empty = all(one.kind in ("nan", "masked") for one in left_out)
        raise DataError(
            f"No usable frame: {'every element i < j is NaN' if empty else 'all frames are bad'} ({found}); expected "
            "finite, varying c2 above the diagonal. Look at the source of the maps, or select others."
        )
    if usable < MIN_FRAMES:
        raise DataError(f"Only {usable} of {alive.shape[1]} frames are usable; expected at least {MIN_FRAMES}.")
    counts = np.count_nonzero(alive, axis=1)
    if np.any(counts < MIN_FRAMES):
        k = int(np.argmin(counts))
        raise DataError(
            f"The map at {map_label(q[k], phi[k])} has {counts[k]} usable frames; expected at least {MIN_FRAMES}. "
            "Leave it out."
        )


def _require_varying(one: MapArray, alive: BoolArray, label: str) -> None:
    number = None
    for rows, strip, later in upper_strips(one):
        values = strip[later & np.isfinite(strip) & alive[rows, None] & alive[rows.start :]]
        if number is None and values.size:
            number = values[0]
        if np.any(values != number):
            return
    raise DataError(
        f"The map at {label} does not vary: every pair of frames has the value {number:.6g}; expected a correlation "
        "that decays with the time between them. Leave the map out, or look how it was made."
    )


def require_symmetric(one: NDArray[np.floating], label: str) -> None:
    """Refuse a map whose two triangles disagree; zeros and NaN in either are ignored, and a lower one of one number."""
    parts = strips(len(one))
    for rows, columns in ((parts[r], parts[c]) for r in range(len(parts)) for c in range(r, len(parts))):
        above, below = one[rows, columns], one[columns, rows].T
        differ = (above != below) & (below != 0) & (above != 0)
        if differ.any():
            with np.errstate(invalid="ignore", over="ignore"):
                differ &= np.abs(above - below) > DUPLICATE_TOLERANCE * np.maximum(np.abs(above), np.abs(below))
        if differ.any():
            if constant(one.T):
                return
            row, column = np.argwhere(differ)[0]
            i, j = rows.start + row, columns.start + column
            raise DataError(
                f"The map at {label} is not symmetric: c2[{i}, {j}] = {one[i, j]} but c2[{j}, {i}] = {one[j, i]}; "
                "expected equal values, or zeros or NaN below the diagonal."
            )
