"""Reading two-time data from files: :func:`load` returns maps, :func:`describe` what a file holds."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from homodyne.arrays import refuse_masked
from homodyne.data import checks
from homodyne.data.checks import (
    CONTRADICTION,
    BoolArray,
    FloatArray,
    MapArray,
    MapArrays,
    distinct_q,
    listed,
    maps_at_q,
)
from homodyne.data.missing import examine, sentences, upright
from homodyne.data.plausibility import implausible_numbers, level
from homodyne.data.readers import open_catalog
from homodyne.data.readers.catalog import (
    Angles,
    Catalog,
    ReadMap,
    Wavevectors,
    is_open,
    resolve_dt,
    select_phi,
    select_q,
)
from homodyne.data.twotime import MIN_FRAMES, TwoTimeData, assemble, examine_maps
from homodyne.errors import DataError, HomodyneWarning
from homodyne.mapping import release_pages
from homodyne.reading import require_budget

MAPPED_BYTES = 1 << 26
"""Size from which maps stay in the file where its layout allows it; smaller ones are read and need no file any more."""


def load(  # noqa: PLR0913  # a door for users
    path: str | Path,
    q: Wavevectors = None,
    phi: Angles = None,
    frames: Sequence[int] | None = None,
    gap: float | None = None,
    dt: float | None = None,
    age_origin: float = 0.0,
    format: str | None = None,  # noqa: A002
    units: Mapping[str, str] | None = None,
) -> TwoTimeData:
    """Load maps from a file; only the selected maps are read, one at a time.

    Large maps (64 MiB and more) that lie in the file as plain float32 numbers (NPY; HDF5 without chunks and
    compression) are mapped into memory instead: the file may be larger than it, and must stay as it is. One that was
    cut is refused when it is read again; one that is cut while it is read may end the process, with SIGBUS.

    Parameters
    ----------
    path : str or Path
        APS-U NeXus, APS 8-ID-I, NXxpcs, pyCHX, NPZ or NPY file, or one of the package's own.
    q : float, list, tuple (low, high), "low:high" or "all", optional
        Scattering vectors, 1/Å: of a number or a list the nearest in the file are taken if they differ by no more than
        1 %; a tuple of two is a range. May be left out when the file holds one q only. For files without q: that of
        all maps, or a list with that of each.
    phi : tuple (low, high), list, or float, optional
        A tuple is a range of angles in degrees from low to high (350 to 370 goes through zero); a list picks the
        nearest angles (within 0.5 degrees), which every q has to have. All angles by default. A q that comes from a
        range or from "all" is left out where it has no angle in the range. For files without angles: that of each map.
    frames : (first, last), optional
        Frames, 1-based and inclusive. All by default.
    gap : float, optional
        Gap between the plates, Å. One that the file states otherwise is not used, with a warning.
    dt : float, optional
        Time between frames, s. Needed only when the file does not state it; must agree with it within 1 %
        otherwise.
    age_origin : float
        Age of the sample just before the first selected frame, s: frame k = 0, 1, ... of the selection has
        the age age_origin + (k + 1) * dt. What zero is decides what D0 and alpha mean. The package's own
        files state their ages, which are kept.
    format : str, optional
        Name of the layout instead of automatic detection.
    units : mapping, optional
        Units of the numbers in the file, where it does not state them: of "frame_time" (also "dt", "t"), "q" and
        "phi", such as {"frame_time": "ms", "q": "1/nm", "phi": "rad"}. The arguments above stay in the units named
        there.

    Returns
    -------
    TwoTimeData

    Raises
    ------
    DataError
        The file cannot be read, does not hold what is asked for, contradicts `dt`, or has no usable frames.
    """
    refuse_masked(q=q, phi=phi)
    with _naming(path), open_catalog(path, format, units) as catalog:
        index, waves, directions = _choose_maps(catalog, q, phi)
        first, last = checks.frame_range(frames, catalog.num_frames)
        n = last - first + 1
        if n < MIN_FRAMES:
            raise DataError(f"frames = ({first}, {last}) selects {n} frames; expected at least {MIN_FRAMES}.")
        interval = resolve_dt(catalog, dt)
        times, origin = _times(catalog, first, last, interval, age_origin)
        chosen = slice(first - 1, last)
        facts = {"path": str(path), "format": catalog.format, "dt": catalog.dt_where, **catalog.facts}
        if catalog.times is None:
            facts["age"] = f"{times[0]:.6g} s at frame {catalog.first_frame + first - 1}"
            if first > 1 and origin == catalog.age_origin:
                skipped = catalog.age_origin + (first - 1) * interval
                facts["age"] += (
                    f": ages count from there (age_origin = {skipped:.6g}: from frame {catalog.first_frame})"
                )
            others = [f"{catalog.num_maps - index.size} other maps"] if index.size < catalog.num_maps else []
            facts.update({"not used": "; ".join([*others, *catalog.unused])} if [*others, *catalog.unused] else {})
        place: dict[str, object] = {
            "read": os.path.abspath(path),
            "format": catalog.format,
            "frames": [first - 1, last],
        }
        if units:
            place["units"] = dict(units)
        if age_origin:
            place["age_origin"] = float(age_origin)
        if catalog.names:
            facts["map names"] = ", ".join(catalog.names[k] for k in index)
        if gap is not None and catalog.gap not in (None, gap):
            facts["gap"] = f"{gap:g} Å was given; {catalog.gap:g} Å, which the file states, is not used"
            warnings.warn(HomodyneWarning(f"{path}: gap = {facts['gap']}"), stacklevel=2)
        weights = None
        if catalog.read_weights is not None:
            which = index if catalog.num_weights > 1 else np.zeros(1, np.intp)
            weights = _read(catalog, catalog.read_weights, which, chosen)
        draft = TwoTimeData(
            c2=_maps(catalog, index, chosen),
            t=times,
            phi=directions,
            q=waves,
            gap=gap if gap is not None else catalog.gap,
            dt=interval,
            alive=_alive(catalog, index, chosen),
            diagonal=None if catalog.diagonal is None else catalog.diagonal[index, chosen],
            pixels=_usable(catalog.pixels, index, "pixels", facts),
            mean_counts=_usable(catalog.mean_counts, index, "mean_counts", facts),
            age_origin=origin,
            frames=(catalog.first_frame + first - 1, catalog.first_frame + last - 1),
            source=facts,
            places=tuple({**place, "map": int(number)} for number in index),
        )
        frame_weights = None if catalog.frame_weights is None else catalog.frame_weights[chosen]
        return assemble(draft).weighted(weights, frame_weights)


def require_selected(
    data: TwoTimeData,
    *,
    q: Wavevectors,
    phi: Angles,
    frames: tuple[int, int] | None,
    gap: float | None,
    dt: float | None,
    age_origin: float,
) -> None:
    """Refuse data that `load` would not have returned for these arguments.

    Raises
    ------
    DataError
        They select a part of the data, or contradict these.
    """

    def unread(number: int, frames: slice, out: MapArray) -> None:
        raise NotImplementedError

    own = Catalog(data.num_maps, data.num_frames, unread, q=data.q, phi=data.phi, dt=data.dt, path="the data")
    if _choose_maps(own, "all" if q is None else q, phi)[0].size < data.num_maps:
        raise DataError(f"q = {q}, phi = {phi} select a part of the {data.num_maps} maps; give them to load.")
    first, last = (data.places[0]["frames"][0] + 1, data.places[0]["frames"][1]) if data.places else data.frames
    if frames is not None and tuple(frames) != (first, last):
        raise DataError(f"frames = {frames}, but the data have {first} to {last}; give them to load.")
    if gap is not None and data.gap is not None and gap != data.gap:
        raise DataError(f"gap = {gap:g} Å, but that of the data is {data.gap:g} Å; leave one out.")
    resolve_dt(own, dt)
    known = {data.age_origin, *(place["age_origin"] for place in data.places if "age_origin" in place)}
    if age_origin and not any(np.isclose(age_origin, one, rtol=CONTRADICTION, atol=0.0) for one in known):
        raise DataError(
            f"age_origin = {age_origin:g} s, but the ages of the data count from {data.age_origin:g} s; give it to "
            "load, or leave it out."
        )


def read_map(
    path: str | Path,
    format: str,  # noqa: A002
    number: int,
    frames: slice,
    units: Mapping[str, str] | None = None,
) -> MapArray:
    """Elements i < j of one map of a file, (n, n), as `load` finds them; the others have no meaning.

    Parameters
    ----------
    path, format
        File and name of its layout.
    number : int
        Of the map in the file, from 0.
    frames : slice
        Frames in the file, from 0.
    units
        As in `load`, for files that are not understood without.

    Raises
    ------
    DataError
        The file cannot be read, or does not hold that map.
    """
    with _naming(path), open_catalog(path, format, units) as catalog:
        if number >= catalog.num_maps or frames.stop > catalog.num_frames:
            raise DataError(
                f"the file holds {catalog.num_maps} maps of {catalog.num_frames} frames; expected map {number} with "
                f"frames {frames.start} to {frames.stop - 1}, both counted from 0."
            )
        (one,) = _read(catalog, catalog.read_map, np.array([number]), frames)
        return examine(upright(one)).values


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Put the file in front of an error that does not name it."""
    try:
        yield
    except DataError as error:
        if str(path) in str(error):
            raise
        raise DataError(f"{path}: {error}") from error


def _choose_maps(catalog: Catalog, q: Wavevectors, phi: Angles) -> tuple[NDArray[np.intp], FloatArray, FloatArray]:
    """Return number, q and phi of every selected map."""
    index, waves = select_q(catalog, q)
    if catalog.phi is None:
        if phi is None:
            raise DataError(
                f"{catalog.path} does not state angles; give phi (--phi) with {index.size} values, one per map."
            )
        return index, waves, checks.angles(phi, waves)
    at = {one: np.flatnonzero(waves == one) for one in dict.fromkeys(waves.tolist())}
    kept = {one: maps[select_phi(catalog.phi[index[maps]], phi, one)] for one, maps in at.items()}
    lacking = [one for one, maps in kept.items() if maps.size == 0]
    if lacking and (len(lacking) == len(kept) or not is_open(q)):
        present = np.unique(catalog.phi[index[np.concatenate([at[one] for one in lacking])]])
        raise DataError(
            f"No angle in the range {phi} at q = {listed(lacking)} 1/Å; the file holds {listed(present)} there."
        )
    chosen = np.concatenate(list(kept.values()))
    return index[chosen], waves[chosen], catalog.phi[index[chosen]]


def _maps(catalog: Catalog, index: NDArray[np.intp], frames: slice) -> MapArrays:
    """Selected maps: read into memory, or as they lie in the file where they are large and its layout allows it."""
    n = frames.stop - frames.start
    size = 4 * index.size * n * n
    in_file = catalog.map_file(index) if catalog.map_file is not None and size >= MAPPED_BYTES else None
    if in_file is not None:
        if isinstance(in_file, tuple):
            return tuple(one[frames, frames] for one in in_file)
        return in_file[:, frames, frames]
    return _read(catalog, catalog.read_map, index, frames)


def _read(catalog: Catalog, read: ReadMap, index: NDArray[np.intp], frames: slice) -> MapArray:
    """Selected maps, or their weights, read into memory."""
    n = frames.stop - frames.start
    size, what = 4 * index.size * n * n, f"{index.size} map{'s' if index.size > 1 else ''} of {n} frames"
    require_budget(size, catalog.path, what)
    checks.require_memory(size, what, "Select fewer maps or frames.")
    cube = np.empty((index.size, n, n), np.float32)
    for k, number in enumerate(index):
        read(int(number), frames, cube[k])
    return cube


def _alive(catalog: Catalog, index: NDArray[np.intp], frames: slice) -> BoolArray:
    """Frames of some maps that are known to be used: all, where the file does not say."""
    if catalog.alive is None:
        return np.ones((index.size, frames.stop - frames.start), dtype=bool)
    return catalog.alive[index, frames]


def _times(catalog: Catalog, first: int, last: int, dt: float, age_origin: float) -> tuple[FloatArray, float]:
    """Return the ages of the selected frames and the age before the first of them."""
    origin = checks.real_scalar("age_origin", age_origin, "s", positive=False)
    if catalog.times is None:
        start = catalog.age_origin + origin
        return start + dt * np.arange(1, last - first + 2, dtype=np.float64), start
    if origin not in (0.0, catalog.age_origin):
        raise DataError(
            f"age_origin = {origin:g} s contradicts {catalog.path}, which states the age of every frame (from "
            f"{catalog.times[0]:g} s). Leave age_origin out."
        )
    times = catalog.times[first - 1 : last]
    return times, catalog.age_origin if first == 1 else float(times[0] - dt)


def _usable(values: FloatArray | None, index: NDArray[np.intp], name: str, facts: dict[str, str]) -> FloatArray | None:
    """Return one positive number per selected map, or None with a note when the file's are not."""
    if values is None:
        return None
    chosen = values[index]
    if np.all(chosen > 0):
        return chosen
    facts[name] = f"not used: the file gives {listed(chosen)}"
    return None


@dataclass(frozen=True)
class FileDescription:
    """What a file holds; ``str()`` is a page for people.

    Attributes
    ----------
    path, format : str
        File and layout.
    num_maps, num_frames : int
        Number of maps and of frames of each.
    q : ndarray or None
        Distinct q in 1/Å.
    maps_per_q : tuple of int
        Number of maps at each q.
    suggested_q : float or None
        The q with the most maps, then the most pixels.
    phi : ndarray or None
        Angles at the suggested q, degrees.
    dt : float or None
        Time between frames, s.
    bad_frames : tuple of int
        Numbers (1-based) of the frames without data in any map of the suggested q.
    left_out : tuple of str
        What is no data in the maps of the suggested q, a line for each kind.
    pixels, mean_counts : ndarray or None
        Per map at the suggested q.
    missing : tuple of str
        What the file does not state.
    implausible : tuple of str
        What is unusual; see `homodyne.data.plausibility`.
    unused : tuple of str
        What the file says beside the maps and is not used.
    """

    path: str
    format: str
    num_maps: int
    num_frames: int
    q: FloatArray | None
    maps_per_q: tuple[int, ...]
    suggested_q: float | None
    phi: FloatArray | None
    dt: float | None
    bad_frames: tuple[int, ...]
    pixels: FloatArray | None
    mean_counts: FloatArray | None
    missing: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    implausible: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            *(("WARNING", one) for one in self.implausible),
            ("file", self.path),
            ("format", self.format),
            ("maps", f"{self.num_maps} of {self.num_frames} x {self.num_frames} frames"),
        ]
        several = self.q is not None and self.q.size > 1
        there = f" at q = {self.suggested_q:.6g}" if several else ""
        if self.q is not None:
            counted = ", ".join(f"{q:.6g} ({k})" for q, k in zip(self.q[:40], self.maps_per_q, strict=False))
            more = f", ... ({self.q.size} values)" if self.q.size > 40 else ""
            lines.append(("q (maps)", f"{counted}{more} 1/Å"))
        if self.phi is not None:
            lines.append(("phi", f"{listed(self.phi)} degrees{there}"))
        lines.append(("dt", "not stated" if self.dt is None else f"{self.dt:.6g} s"))
        bad = listed(self.bad_frames) if self.bad_frames else "none"
        lines.append(("bad frames", f"{bad} ({len(self.bad_frames)} of {self.num_frames}){there}"))
        lines += [("left out", f"{one}{there}") for one in self.left_out]
        for name, values in (("pixels", self.pixels), ("counts", self.mean_counts)):
            if values is not None:
                kind, unit = (".0f", "per map") if name == "pixels" else (".4g", "per pixel and frame")
                limits = dict.fromkeys(format(value, kind) for value in (values.min(), values.max()))
                lines.append((name, f"{' to '.join(limits)} {unit}"))
        lines += [("missing", one) for one in self.missing] + [("not used", one) for one in self.unused]
        if self.q is not None and several:
            first, second, last = (f"{self.q[k]:.6g}" for k in (0, 1, -1))
            lines += [
                ("suggestion", f"--q all: one fit of all {self.num_maps} maps, with common parameters"),
                ("", f"--q {self.suggested_q:.6g}: the q with the most maps"),
                ("", f"--q {first},{second}: several; --q {first}:{last}: a range"),
            ]
        return "\n".join(f"{name:<11} {value}" for name, value in lines)


def describe(
    path: str | Path,
    format: str | None = None,  # noqa: A002
    units: Mapping[str, str] | None = None,
) -> FileDescription:
    """Say what a file holds, reading the maps of the suggested q one by one to find what in them is no data.

    Raises
    ------
    DataError
        The file cannot be read or its layout is not known.
    """
    with _naming(path), open_catalog(path, format, units) as catalog:
        index: NDArray[np.intp] = np.arange(catalog.num_maps)
        present: FloatArray | None = None
        counts: tuple[int, ...] = ()
        suggested: float | None = None
        if catalog.q is not None:
            present = distinct_q(catalog.q)
            at = [maps_at_q(catalog.q, one) for one in present]
            counts = tuple(int(one.size) for one in at)
            pixels = np.ones(catalog.num_maps) if catalog.pixels is None else catalog.pixels
            best = max(range(present.size), key=lambda k: (counts[k], float(np.sum(pixels[at[k]])), -k))
            index, suggested = at[best], float(present[best])
        bad, left_out, levels = _bad_frames(catalog, index)
    return FileDescription(
        path=str(path),
        format=catalog.format,
        num_maps=catalog.num_maps,
        num_frames=catalog.num_frames,
        q=present,
        maps_per_q=counts,
        suggested_q=suggested,
        phi=None if catalog.phi is None else catalog.phi[index],
        dt=catalog.dt,
        bad_frames=bad,
        pixels=None if catalog.pixels is None else catalog.pixels[index],
        mean_counts=None if catalog.mean_counts is None else catalog.mean_counts[index],
        missing=catalog.missing,
        unused=catalog.unused,
        left_out=left_out,
        implausible=tuple(implausible_numbers(catalog.gap, catalog.q, catalog.dt, levels)),
    )


def _bad_frames(catalog: Catalog, index: NDArray[np.intp]) -> tuple[tuple[int, ...], tuple[str, ...], FloatArray]:
    """Frames without data in every one of the maps, what is left out of these, and their levels (n, 2)."""
    n = catalog.num_frames
    bad, left_out, levels = np.ones(n, dtype=bool), [], []
    for k, number in enumerate(index):
        (one,) = _maps(catalog, number[None], slice(0, n))
        given = None if catalog.diagonal is None else catalog.diagonal[[number]]
        (values,), (alive,), _, found = examine_maps((upright(one),), given, _alive(catalog, number[None], slice(0, n)))
        bad &= ~alive
        levels.append(level(values, alive))
        left_out += [replace(record, map=k) for record in found]
        release_pages(one)
    lines = sentences(left_out, index.size, catalog.first_frame)
    return tuple(int(k) + catalog.first_frame for k in np.flatnonzero(bad)), tuple(lines), np.array(levels)
