"""What every reader returns before any map is read: a catalog of the maps in a file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from homodyne.arrays import AnyArray, as_array
from homodyne.data.checks import (
    CONTRADICTION,
    SAME_Q,
    BoolArray,
    FloatArray,
    MapArray,
    MapArrays,
    distinct_q,
    listed,
    maps_at_q,
    real_scalar,
    wavevectors,
)
from homodyne.errors import DataError

Q_TOLERANCE = 0.01
"""Largest relative difference between the q asked for and the nearest q in the file."""

PHI_TOLERANCE = 0.5
"""Largest difference in degrees between an angle asked for and the nearest angle in the file."""

Wavevectors: TypeAlias = float | str | tuple[float, float] | Sequence[float] | AnyArray | None
"""q as it is asked for: a number or a list, a range (a tuple of two, or "low:high"), "all", or nothing."""

Angles: TypeAlias = float | tuple[float, float] | Sequence[float] | AnyArray | None
"""phi as it is asked for: a number or a list, a range (a tuple of two), or nothing for all."""

ReadMap: TypeAlias = Callable[[int, slice, MapArray], None]
"""read_map(index, frames, out): fill out[i, j], i <= j, with map number `index`."""

MapFile: TypeAlias = Callable[[NDArray[np.intp]], MapArrays | None]
"""map_file(index): maps as they lie in the file, mapped into memory; None where they are not stored so."""


@dataclass(frozen=True)
class Catalog:
    """The maps of one file.

    Attributes
    ----------
    num_maps, num_frames : int
        Number of maps; number of frames of each.
    read_map : callable
        Reads one map; see ReadMap.
    read_weights : callable or None
        Reads the weights of the pairs of one map, in the same way; None where there are none.
    num_weights : int
        Maps whose weights are there: all, or one for all alike.
    frame_weights : ndarray (num_frames,) or None
        Weights of the frames.
    map_file : callable or None
        Maps without reading them; see MapFile.
    q, phi : ndarray (num_maps,) or None
        1/Å and degrees of each map; None when the file does not say.
    dt : float or None
        Time between frames, s.
    dt_where : str
        Where dt was found or looked for.
    age_origin : float
        Age before the first frame that the file states, s.
    times : ndarray (num_frames,) or None
        Ages of the frames, when the file states them one by one.
    first_frame : int
        Number of the first frame in the experiment.
    gap : float or None
        Å.
    pixels, mean_counts : ndarray (num_maps,) or None
        Pixels per map; counts per pixel and frame.
    diagonal : ndarray (num_maps, num_frames) or None
        Raw diagonal, when it is stored apart from the maps.
    alive : ndarray (num_maps, num_frames) of bool, or None
        Frames that are used, when the file says so.
    names : tuple of str
        Name of each map inside the file.
    facts, missing, unused : mapping, tuple, tuple
        What was found where; what was looked for in vain; what the file says beside and is not used.
    path, format : str
        File and name of its layout, which `open_catalog` adds.
    """

    num_maps: int
    num_frames: int
    read_map: ReadMap
    read_weights: ReadMap | None = None
    num_weights: int = 0
    frame_weights: FloatArray | None = None
    map_file: MapFile | None = None
    q: FloatArray | None = None
    phi: FloatArray | None = None
    dt: float | None = None
    dt_where: str = "the file"
    age_origin: float = 0.0
    times: FloatArray | None = None
    first_frame: int = 1
    gap: float | None = None
    pixels: FloatArray | None = None
    mean_counts: FloatArray | None = None
    diagonal: FloatArray | None = None
    alive: BoolArray | None = None
    names: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    path: str = ""
    format: str = ""


def maps_of(cube: MapArray, index: NDArray[np.intp]) -> MapArrays:
    """Some maps of a cube without a copy: one array where they lie at equal distances."""
    steps = np.unique(np.diff(index))
    if steps.size <= 1 and np.all(steps > 0):
        return cube[index[0] : index[-1] + 1 : int(steps[0]) if steps.size else 1]
    return tuple(cube[k] for k in index)


def select_q(catalog: Catalog, q: Wavevectors) -> tuple[NDArray[np.intp], FloatArray]:
    """Return index and q, as the file gives it, of every map at the wave vectors asked for, in their order."""
    if isinstance(q, str) and q != "all":
        q = _range(q)
    if catalog.q is None:
        if is_open(q):
            raise DataError(
                f"{catalog.path} does not state q; give q (--q) in 1/Å: one number, or a list, one per map."
            )
        return np.arange(catalog.num_maps), wavevectors(as_array("q", q), catalog.num_maps)
    present = distinct_q(catalog.q)
    if q is None and present.size > 1:
        raise DataError(
            f"{catalog.path} holds {present.size} values of q: {listed(present)} 1/Å. Choose with q= (--q): one, "
            f"several ({present[0]:.6g},{present[1]:.6g}), a range ({present[0]:.6g}:{present[-1]:.6g}), or all."
        )
    if q is None or isinstance(q, str):
        chosen = present
    elif _is_range(q):
        low, high = (real_scalar("q", end, "1/Å", positive=False) for end in q)
        chosen = present[(present >= low * (1 - SAME_Q)) & (present <= high * (1 + SAME_Q))]
        if chosen.size == 0:
            raise DataError(f"No q from {low:.6g} to {high:.6g} 1/Å in {catalog.path}; it holds {listed(present)} 1/Å.")
    else:
        chosen = np.array([_nearest(catalog.path, present, one) for one in np.atleast_1d(as_array("q", q))])
        if chosen.size == 0:
            raise DataError(f"q = {q} names no wave vector; {catalog.path} holds {listed(present)} 1/Å.")
        if np.unique(chosen).size != chosen.size:
            raise DataError(
                f"q = {q} asks for one wave vector twice: nearest in {catalog.path} are {listed(chosen)} 1/Å."
            )
    index = [maps_at_q(catalog.q, one) for one in chosen]
    return np.concatenate(index), np.repeat(chosen, [one.size for one in index])


def _range(text: str) -> tuple[float, float]:
    """Read "low:high"."""
    try:
        low, high = (float(end) for end in text.split(":"))
    except ValueError:
        raise DataError(f"q = {text!r}; expected a number or a list in 1/Å, a range low:high, or all.") from None
    return low, high


def _is_range(wanted: object) -> TypeGuard[tuple[float, float]]:
    return isinstance(wanted, tuple) and len(wanted) == 2


def is_open(q: Wavevectors) -> bool:
    """Whether wave vectors are asked for without naming each."""
    return q is None or isinstance(q, str) or _is_range(q)


def _nearest(path: str, present: FloatArray, q: object) -> float:
    """Return the q of a file that is meant by a given one."""
    wanted = real_scalar("q", q, "1/Å")
    nearest = float(present[np.argmin(np.abs(present - wanted))])
    if abs(nearest - wanted) > Q_TOLERANCE * wanted:
        raise DataError(
            f"q = {wanted:.6g} 1/Å is not in {path}: the nearest is {nearest:.6g}, and {Q_TOLERANCE:.0%} difference is "
            f"allowed. The file holds {listed(present)} 1/Å."
        )
    return nearest


def select_phi(phi: FloatArray, wanted: Angles, q: float) -> NDArray[np.intp]:
    """Return the indices of the angles at one q in a range (a tuple), or nearest to each value of a list."""
    if wanted is None:
        return np.arange(phi.size)
    if _is_range(wanted):
        low, high = (real_scalar("phi", w, "degrees", positive=False) for w in wanted)
        if low > high:
            raise DataError(
                f"phi = {low:g}:{high:g} degrees ends below its beginning. Give {high:g}:{low:g} for the angles "
                f"between, or {low:g}:{high + 360 * np.ceil((low - high) / 360):g} to go on beyond 360 degrees."
            )
        width = high - low
        return np.flatnonzero((phi - low + 1e-9) % 360.0 <= width + 2e-9)
    chosen = []
    for value in np.atleast_1d(as_array("phi", wanted)):
        angle = real_scalar("phi", value, "degrees", positive=False)
        away = np.abs((phi - angle + 180.0) % 360.0 - 180.0)
        nearest = int(np.argmin(away))
        if away[nearest] > PHI_TOLERANCE:
            raise DataError(
                f"phi = {angle:g} degrees is not in the file at q = {q:.6g} 1/Å ({PHI_TOLERANCE:g} degrees difference "
                f"is allowed); it holds {listed(phi)} there."
            )
        chosen.append(nearest)
    return np.array(chosen, dtype=np.intp)


def resolve_dt(catalog: Catalog, dt: float | None) -> float:
    """Return the time between frames: the file's, or the user's where the file does not state it."""
    if dt is not None:
        dt = real_scalar("dt", dt, "s")
    if catalog.dt is None:
        if dt is None:
            raise DataError(f"{catalog.path} does not state dt (looked for {catalog.dt_where}); give dt (--dt) in s.")
        return dt
    if dt is not None and abs(dt - catalog.dt) > CONTRADICTION * catalog.dt:
        raise DataError(
            f"dt = {dt:g} s contradicts dt = {catalog.dt:g} s in {catalog.path} ({catalog.dt_where}). "
            "Leave dt out to use the file's, or correct the file."
        )
    return catalog.dt
