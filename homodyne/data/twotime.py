"""The two-time correlation maps of one scattering vector: the one record that readers make and fits take.

Start with :func:`from_cube` (maps in memory) or ``homodyne.load`` (maps in a file); both end in
:class:`TwoTimeData`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from homodyne.data import checks
from homodyne.data.checks import BoolArray, FloatArray, MapArray
from homodyne.errors import DataError

MIN_FRAMES = 3
"""Fewest usable frames from which anything can be learned."""

DUPLICATE_TOLERANCE = 1e-4
"""Relative difference up to which c2(t1, t2) and c2(t2, t1) are the same measurement (float32 rounding)."""

_ROWS = 256  # rows handled at once, so that temporaries stay small next to a map


@dataclass(frozen=True, eq=False, repr=False)
class TwoTimeData:
    """Two-time correlation maps of one q at one or more angles.

    Attributes
    ----------
    c2 : ndarray, (n_phi, n, n) float32
        Correlation maps. Only the elements i < j are data; NaN marks a missing one, and every element of a
        frame without counts is NaN. The rest of a map has no meaning.
    t : ndarray, (n,)
        Age of the sample at each frame, s, positive and strictly increasing.
    phi : ndarray, (n_phi,)
        Angles, degrees.
    q : float
        Scattering vector, 1/Å.
    gap : float or None
        Gap between the plates, Å.
    dt : float
        Time between frames, s.
    good : ndarray, (n,) bool
        Frames that carry data at one angle at least.
    diagonal : ndarray (n_phi, n) or None
        Raw c2(t, t), NaN where missing; None when the file does not hold it or has it replaced by its
        neighbours.
    pixels : ndarray (n_phi,) or None
        Detector pixels averaged in each map.
    mean_counts : ndarray (n_phi,) or None
        Mean counts per pixel and frame of each map.
    age_origin : float
        Age of the sample just before the first frame, s.
    frames : tuple of int
        First and last frame, 1-based and inclusive, in the numbering of the source.
    source : mapping
        Where the numbers come from: format, path, dataset names.
    """

    c2: MapArray
    t: FloatArray
    phi: FloatArray
    q: float
    gap: float | None
    dt: float
    good: BoolArray
    diagonal: FloatArray | None
    pixels: FloatArray | None
    mean_counts: FloatArray | None
    age_origin: float
    frames: tuple[int, int]
    source: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_angles(self) -> int:
        """Number of maps."""
        return int(self.phi.size)

    @property
    def num_frames(self) -> int:
        """Number of frames, bad ones included."""
        return int(self.t.size)

    @property
    def bad_frames(self) -> NDArray[np.int64]:
        """Indices (0-based, within the selection) of the frames that carry no data at any angle."""
        return np.flatnonzero(~self.good)

    @cached_property
    def num_pairs(self) -> int:
        """Number of finite elements i < j between good frames, over all angles."""
        pairs = _upper(self.num_frames) & self.good[:, None] & self.good[None, :]
        return sum(int(np.count_nonzero(np.isfinite(one) & pairs)) for one in self.c2)

    def __repr__(self) -> str:
        gap = "none" if self.gap is None else f"{self.gap:.4g} Å"
        return (
            f"TwoTimeData(q={self.q:.4g} 1/Å, {self.num_angles} angles x {self.num_frames} frames, dt={self.dt:.4g} s, "
            f"t={self.t[0]:.4g}..{self.t[-1]:.4g} s, gap={gap}, {self.bad_frames.size} bad frames)"
        )


def from_cube(
    c2: ArrayLike,
    t: ArrayLike,
    phi: ArrayLike,
    q: float,
    gap: float | None = None,
    pixels: ArrayLike | None = None,
    *,
    mean_counts: ArrayLike | None = None,
    frames: tuple[int, int] | None = None,
    source: Mapping[str, str] | None = None,
) -> TwoTimeData:
    """Make a data set from maps in memory.

    Parameters
    ----------
    c2 : array, (n_phi, n, n) or (n, n)
        Correlation maps; the triangle i < j is read, and the other one must be its mirror image, zero or NaN.
        The diagonal is taken as the raw c2(t, t). NaN is a missing element; a row and column of zeros or NaN
        is a frame without counts. A float32 cube is not copied unless frames have to be marked as missing.
    t : array, (n,)
        Age of the sample at each frame, s; positive and strictly increasing.
    phi : array, (n_phi,)
        Angles, degrees.
    q : float
        Scattering vector, 1/Å.
    gap : float, optional
        Gap between the plates, Å.
    pixels, mean_counts : array (n_phi,) or float, optional
        Pixels per map; mean counts per pixel and frame.
    frames : (first, last), optional
        Frame numbers in the experiment, 1-based and inclusive; 1..n by default.
    source : mapping, optional
        Facts to keep with the data.

    Raises
    ------
    DataError
        Wrong shape, dtype, times, angles or values; maps that are not symmetric; fewer than three usable
        frames.
    """
    cube = np.asanyarray(c2)
    if cube.ndim == 2:
        cube = cube[None]
    if cube.dtype.kind != "f":
        raise DataError(f"c2 has dtype {cube.dtype}; expected floating-point correlation values.")
    if cube.ndim != 3 or cube.shape[1] != cube.shape[2] or cube.shape[0] == 0:
        raise DataError(f"c2 has shape {np.shape(c2)}; expected (n_phi, n, n) with one square map per angle.")
    n_phi, n = cube.shape[:2]
    if n < MIN_FRAMES:
        raise DataError(f"c2 has {n} frames; expected at least {MIN_FRAMES}.")
    times, directions = checks.ages(t, n), checks.angles(phi, n_phi)
    for a in range(n_phi):
        require_symmetric(cube[a], directions[a])
    maps, owned = as_float32(cube)
    dt = float(np.median(np.diff(times)))
    return assemble(
        maps,
        owned=owned,
        t=times,
        phi=directions,
        q=q,
        gap=gap,
        dt=dt,
        pixels=pixels,
        mean_counts=mean_counts,
        age_origin=float(times[0] - dt),
        frames=frames,
        source=source if source is not None else {"format": "cube"},
    )


def as_float32(cube: NDArray[np.floating]) -> tuple[MapArray, bool]:
    """Return a C-ordered float32 cube and whether it is a copy; conversion goes map by map."""
    if cube.dtype == np.float32 and cube.flags.c_contiguous:
        return np.asarray(cube), False
    checks.require_memory(4 * cube.size, "A float32 copy of the maps", "Select fewer angles or frames.")
    maps = np.empty(cube.shape, np.float32)
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is reported as such
        for a in range(len(cube)):
            maps[a] = cube[a]
    return maps, True


def assemble(
    c2: MapArray,
    *,
    owned: bool,
    t: ArrayLike,
    phi: ArrayLike,
    q: float,
    gap: float | None,
    dt: float,
    age_origin: float,
    diagonal: FloatArray | None = None,
    pixels: ArrayLike | None = None,
    mean_counts: ArrayLike | None = None,
    frames: tuple[int, int] | None = None,
    source: Mapping[str, str] | None = None,
) -> TwoTimeData:
    """Find bad frames, judge the diagonal, and make the record; the last step of every reader.

    `owned` says that `c2` may be changed in place. `diagonal` overrides the diagonal of the maps.
    """
    n_phi, n = c2.shape[:2]
    times, directions = checks.ages(t, n), checks.angles(phi, n_phi)
    raw = _raw_diagonal(c2, directions, diagonal)
    upper = _upper(n)
    alive = np.array([_frames_with_data(c2[a], upper, None if raw is None else raw[a]) for a in range(n_phi)])
    _require_usable(c2, alive, directions)
    c2 = mark_missing(c2, alive, owned)
    if raw is not None:
        raw[~alive] = np.nan
    return TwoTimeData(
        c2=c2,
        t=times,
        phi=directions,
        q=checks.real_scalar("q", q, "1/Å"),
        gap=None if gap is None else checks.real_scalar("gap", gap, "Å"),
        dt=checks.real_scalar("dt", dt, "s"),
        good=np.asarray(alive.any(axis=0)),
        diagonal=raw,
        pixels=checks.per_angle("pixels", pixels, n_phi),
        mean_counts=checks.per_angle("mean_counts", mean_counts, n_phi),
        age_origin=checks.real_scalar("age_origin", age_origin, "s", positive=False),
        frames=(1, n) if frames is None else (int(frames[0]), int(frames[1])),
        source=dict(source or {}),
    )


def zero_frames(one: MapArray) -> BoolArray:
    """Frames of one (n, n) map that have only zeros and NaN in common with the other frames."""
    return ~_frames_with_data(one, _upper(len(one)), None)


def _upper(n: int) -> BoolArray:
    return np.triu(np.ones((n, n), dtype=bool), 1)


def _frames_with_data(one: MapArray, upper: BoolArray, diagonal: FloatArray | None) -> BoolArray:
    """Frames that have an element other than zero and NaN with another frame.

    A frame whose raw diagonal is positive had counts: its zeros are coincidences that did not happen, hence
    data.
    """
    finite = np.isfinite(one)
    if not finite.all():
        infinite = np.isinf(one) & upper
        if infinite.any():
            i, j = np.argwhere(infinite)[0]
            raise DataError(
                f"c2 holds {one[i, j]} at frames {i + 1}, {j + 1}; expected finite values or NaN (missing)."
            )
    finite &= upper
    alive = _touched(finite & (one != 0))
    return alive if diagonal is None else alive | (_touched(finite) & (diagonal > 0))


def _touched(pairs: BoolArray) -> BoolArray:
    """Frames that are in one of the pairs."""
    return np.asarray(pairs.any(axis=1) | pairs.any(axis=0))


def _raw_diagonal(c2: MapArray, phi: FloatArray, given: FloatArray | None) -> FloatArray | None:
    """Return the diagonal as float64, or None if it is missing or replaced at any angle."""
    raw = np.einsum("aii->ai", c2).astype(np.float64) if given is None else np.array(given, dtype=np.float64)
    above = np.array([np.diagonal(one, 1) for one in c2], dtype=np.float64)
    if any(_replaced(raw[a], above[a]) for a in range(phi.size)):
        return None
    return raw


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
    stand_ins = ((left + right)[inner] / 2, left[inner], right[inner])
    return any(np.mean(np.abs(values - one) <= tolerance * np.abs(one)) > 0.9 for one in stand_ins)


def _require_usable(c2: MapArray, alive: BoolArray, phi: FloatArray) -> None:
    usable = int(np.count_nonzero(alive.any(axis=0)))
    if usable == 0:
        upper = _upper(c2.shape[1])
        if not any(np.any(np.isfinite(one) & upper) for one in c2):
            found = "every element i < j is NaN"
        else:
            found = "all frames are bad (rows of zeros or NaN)"
        mirrored = any(np.any(np.isfinite(one) & (one != 0) & upper.T) for one in c2)
        hint = " The data lie below the diagonal: swap the last two axes." if mirrored else ""
        raise DataError(f"No usable frame: {found}; expected c2 above the diagonal.{hint}")
    if usable < MIN_FRAMES:
        raise DataError(f"Only {usable} of {alive.shape[1]} frames are usable; expected at least {MIN_FRAMES}.")
    counts = np.count_nonzero(alive, axis=1)
    if np.any(counts < MIN_FRAMES):
        a = int(np.argmin(counts))
        raise DataError(
            f"The map at phi = {phi[a]} degrees has {counts[a]} usable frames; expected at least {MIN_FRAMES}. Leave "
            "this angle out."
        )


def mark_missing(c2: MapArray, alive: BoolArray, owned: bool) -> MapArray:
    """Set the elements of frames without data to NaN, on a copy unless the cube is ours."""
    for a in range(len(c2)):
        for k in np.flatnonzero(~alive[a]):
            if np.isnan(c2[a, k, k + 1 :]).all() and np.isnan(c2[a, :k, k]).all():
                continue
            if not owned:
                checks.require_memory(c2.nbytes, "A copy of the maps", "Mark bad frames with NaN before.")
                c2, owned = c2.copy(), True
            c2[a, k, :] = np.nan
            c2[a, :, k] = np.nan
    return c2


def require_symmetric(one: NDArray[np.floating], phi: float) -> None:
    """Refuse a map whose two triangles disagree; zeros and NaN in either triangle are ignored."""
    n = len(one)
    for start in range(0, n, _ROWS):
        stop = min(start + _ROWS, n)
        above, below = one[start:stop, start:], one[start:, start:stop].T
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.abs(above - below) > DUPLICATE_TOLERANCE * np.maximum(np.abs(above), np.abs(below))
        apart &= (above != 0) & (below != 0)
        if apart.any():
            row, column = np.argwhere(apart)[0]
            i, j = start + row, start + column
            raise DataError(
                f"The map at phi = {phi} degrees is not symmetric: c2[{i}, {j}] = {one[i, j]} but "
                f"c2[{j}, {i}] = {one[j, i]}; expected equal values, or zeros or NaN below the diagonal."
            )
