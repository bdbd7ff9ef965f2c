"""What every reader returns before any map is read: a catalog of the maps in a file."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from homodyne.data.checks import CONTRADICTION, FloatArray, MapArray, merged, middles, real_scalar
from homodyne.errors import DataError

Q_TOLERANCE = 0.01
"""Largest relative difference between the q asked for and the nearest q in the file."""

PHI_TOLERANCE = 0.5
"""Largest difference in degrees between an angle asked for and the nearest angle in the file."""

SAME_Q = 1e-4
"""Relative difference below which two q values in a file are one ring; different rings are never pooled."""

ReadMap: TypeAlias = Callable[[int, slice, MapArray], None]
"""read_map(index, frames, out): fill out[i, j], i <= j, with map number `index`."""


@dataclass(frozen=True)
class Catalog:
    """The maps of one file.

    Attributes
    ----------
    num_maps, num_frames : int
        Number of maps; number of frames of each.
    read_map : callable
        Reads one map; see ReadMap.
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
    names : tuple of str
        Name of each map inside the file.
    facts, missing : mapping, tuple
        What was found where; what was looked for in vain.
    path, format : str
        File and name of its layout, which `open_catalog` adds.
    """

    num_maps: int
    num_frames: int
    read_map: ReadMap
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
    names: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    path: str = ""
    format: str = ""


def listed(values: Iterable[float], limit: int = 40) -> str:
    """Numbers for an error message, shortened when there are many."""
    texts = [f"{v:.6g}" for v in values]
    return ", ".join(texts[:limit]) + (f", ... ({len(texts)} values)" if len(texts) > limit else "")


def distinct_q(q: FloatArray) -> FloatArray:
    """Return the rings of a file in increasing order: the first q of each group that agrees within SAME_Q."""
    return merged(np.unique(q), SAME_Q)


def maps_at_q(q: FloatArray, ring: float) -> NDArray[np.intp]:
    """Indices of the maps of one ring, in file order."""
    edges = middles(distinct_q(q))
    return np.flatnonzero(np.searchsorted(edges, q) == np.searchsorted(edges, ring))


def select_q(catalog: Catalog, q: float | None) -> tuple[float, NDArray[np.intp]]:
    """Return the q of the ring nearest to `q` and the indices of its maps."""
    if catalog.q is None:
        if q is None:
            raise DataError(f"{catalog.path} does not state q; give q (--q) in 1/Å.")
        return real_scalar("q", q, "1/Å"), np.arange(catalog.num_maps)
    rings = distinct_q(catalog.q)
    if q is None:
        if rings.size > 1:
            raise DataError(f"{catalog.path} holds {rings.size} values of q; choose one with q=: {listed(rings)} 1/Å.")
        ring = float(rings[0])
    else:
        wanted = real_scalar("q", q, "1/Å")
        ring = float(rings[np.argmin(np.abs(rings - wanted))])
        if abs(ring - wanted) > Q_TOLERANCE * wanted:
            raise DataError(
                f"q = {wanted:.6g} 1/Å is not in {catalog.path}: the nearest is {ring:.6g}, and {Q_TOLERANCE:.0%} "
                f"difference is allowed. The file holds {listed(rings)} 1/Å."
            )
    return ring, maps_at_q(catalog.q, ring)


def select_phi(phi: FloatArray, wanted: float | tuple[float, float] | Iterable[float] | None) -> NDArray[np.intp]:
    """Return the indices of the angles in a range (a tuple) or nearest to the values of a list."""
    if wanted is None:
        return np.arange(phi.size)
    if isinstance(wanted, tuple) and len(wanted) == 2:
        low, high = (real_scalar("phi", w, "degrees", positive=False) for w in wanted)
        width = high - low if high - low >= 360 else (high - low) % 360.0
        inside = np.flatnonzero((phi - low + 1e-9) % 360.0 <= width + 2e-9)
        if inside.size == 0:
            raise DataError(f"No angle between {low:g} and {high:g} degrees; the file holds {listed(phi)}.")
        return inside
    chosen = []
    for value in np.atleast_1d(np.asarray(wanted)):
        angle = real_scalar("phi", value, "degrees", positive=False)
        away = np.abs((phi - angle + 180.0) % 360.0 - 180.0)
        nearest = int(np.argmin(away))
        if away[nearest] > PHI_TOLERANCE:
            raise DataError(
                f"phi = {angle:g} degrees is not in the file ({PHI_TOLERANCE:g} degrees difference is allowed); it "
                f"holds {listed(phi)}."
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
