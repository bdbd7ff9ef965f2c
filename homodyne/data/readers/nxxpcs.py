"""NXxpcs results, the contributed NeXus application definition."""

import h5py
import numpy as np
from numpy.typing import NDArray

from homodyne.data.checks import MapArray
from homodyne.data.missing import upper_strips, zero_frames
from homodyne.data.readers import hdf5
from homodyne.data.readers.aps_u import roi_statistics
from homodyne.data.readers.catalog import Catalog
from homodyne.data.units import Units
from homodyne.errors import DataError
from homodyne.reading import reading

NAME = "nxxpcs"
CONTAINERS = ("HDF5",)
MAPS = "twotime/two_time_corr_func"
MASKS = "instrument/masks"
_CUBES = {"one_array_q_first": 0, "one_array_q_last": 2}  # storage modes, with the axis of the maps


def absent(file: h5py.File) -> list[str]:
    """Paths that mark this layout and are not in the file."""
    return [] if _entries(file) else ["/entry/definition = NXxpcs", f"/entry/{MAPS}"]


def _entries(file: h5py.File) -> list[str]:
    """Paths of the entries that say they are NXxpcs and hold two-time maps."""
    found = []
    for name in hdf5.group_names(file, "/"):
        if hdf5.find(file, f"/{name}/{MAPS}") is None or hdf5.find(file, f"/{name}/definition") is None:
            continue
        if hdf5.texts(file, f"/{name}/definition")[:1] == ["NXxpcs"]:
            found.append(f"/{name}")
    return found


def catalog(file: h5py.File, units: Units) -> Catalog:
    """List the maps of an NXxpcs file; map number k belongs to region k + 1 of the masks."""
    path = file.filename
    entry, unused = hdf5.named(file, "@default", _entries(file))
    where = f"{entry}/{MAPS}"
    mode, baseline, lower_left = _attributes(file, where)
    stored, names = _stored(file, where, mode)
    num_maps, num_frames = stored.num_maps, stored.num_frames
    q_path, phi_path = (f"{entry}/{MASKS}/dynamic_{name}_list" for name in ("q", "phi"))
    q = hdf5.vector(file, q_path) * hdf5.factor(file, q_path, "q", units)
    missing: list[str] = []
    phi = None
    if hdf5.find(file, phi_path) is None:
        missing.append(f"phi: {phi_path}")
    else:
        phi = hdf5.vector(file, phi_path) * hdf5.factor(file, phi_path, "phi", units)
    if q.size != num_maps or (phi is not None and phi.size != num_maps):
        raise DataError(
            f"{path}: {where} holds {num_maps} maps, but {q_path} {q.size} values"
            + ("" if phi is None else f" and {phi_path} {phi.size}")
            + "; expected one per map."
        )
    dt, dt_where = _frame_time(file, f"{entry}/instrument", units)
    if dt is None:
        missing.append(f"dt: {dt_where}")
    pixels, _ = roi_statistics(
        file, f"{entry}/{MASKS}/dynamic_roi_map", f"{entry}/{MASKS}/mask", None, num_maps, missing
    )

    def read_map(index: int, frames: slice, out: MapArray) -> None:
        # a range of frames lies at the end of the rows when row 0 is the last frame
        rows = slice(num_frames - frames.stop, num_frames - frames.start) if lower_left else frames
        stored.block(index, rows, frames, out)
        out[:] = _oriented(out, lower_left).copy()
        if baseline == 0:
            dead, mirrored = zero_frames(out), _has_data(out.T)
            out += 1.0
            if not mirrored:
                out[:] = np.triu(out)
            out[dead, :] = out[:, dead] = np.nan

    def map_file(index: NDArray[np.intp]) -> tuple[MapArray, ...] | None:
        found = None if baseline == 0 else stored.map_file(index)
        return None if found is None else tuple(_oriented(one, lower_left) for one in found)

    return Catalog(
        num_maps=num_maps,
        num_frames=num_frames,
        read_map=read_map,
        map_file=map_file,
        q=q,
        phi=phi,
        dt=dt,
        dt_where=dt_where,
        pixels=pixels,
        names=names,
        facts={"maps": where, "storage_mode": mode, "baseline_reference": str(baseline), "q": q_path, "phi": phi_path},
        missing=tuple(missing),
        unused=(*unused, *hdf5.other_masks(file, f"{entry}/{MASKS}/mask")),
    )


def _oriented(one: MapArray, lower_left: bool) -> MapArray:
    """View of a map with time from the upper left on and its data above the diagonal."""
    turned = one[::-1] if lower_left else one
    return turned.T if not _has_data(turned) and _has_data(turned.T) else turned


def _has_data(one: MapArray) -> bool:
    """Whether an element above the diagonal is neither zero nor NaN."""
    return any(np.any(later & (strip != 0) & ~np.isnan(strip)) for _, strip, later in upper_strips(one))


def _attributes(file: h5py.File, where: str) -> tuple[str, int, bool]:
    """Return storage_mode, baseline_reference and whether time starts at the lower left."""
    found = hdf5.dataset(file, where)
    label = f"{file.filename}: {where} (attribute {{}})"
    with reading(label.format("list")):
        attributes = {
            name: found.attrs.get(name)
            for name in ("storage_mode", "baseline_reference", "time_origin_location", "populated_elements")
        }

    def choice(name: str, allowed: tuple[str, ...]) -> str:
        value = attributes[name]
        if isinstance(value, int | np.integer):
            value = str(value)
        got = None if value is None else hdf5.text(value, label.format(name))
        if got not in allowed:
            raise DataError(f"{label.format(name)} is {got!r}; expected one of {', '.join(allowed)}.")
        return got

    mode = choice("storage_mode", (*_CUBES, "data_exchange_keys"))
    baseline = int(choice("baseline_reference", ("0", "1")))
    choice("populated_elements", ("all", "upper_half", "lower_half"))
    return mode, baseline, choice("time_origin_location", ("upper_left", "lower_left")) == "lower_left"


def _stored(file: h5py.File, where: str, mode: str) -> tuple[hdf5.SquareMaps, tuple[str, ...]]:
    """Maps of a storage_mode, and their names; `where` is a cube of them, or lists names, absolute or next to it."""
    if mode in _CUBES:
        cube = hdf5.Cube(file, where, _CUBES[mode])
        return cube, tuple(str(k + 1) for k in range(cube.num_maps))
    names = hdf5.texts(file, where)
    if not names:
        raise DataError(f"{file.filename}: {where} lists no maps; expected the names of their datasets.")
    parent = where.rsplit("/", 1)[0]
    paths = [name if name.startswith("/") else f"{parent}/{name}" for name in names]
    return hdf5.SquareMaps(file, paths), tuple(names)


def _frame_time(file: h5py.File, instrument: str, units: Units) -> tuple[float | None, str]:
    """Return frame_time of the detector in s, and where it was looked for."""
    found: dict[str, float] = {}
    for name in hdf5.group_names(file, instrument):
        where = f"{instrument}/{name}/frame_time"
        value = hdf5.optional_scalar(file, where)
        if value is not None:
            found[where] = value * hdf5.factor(file, where, "frame_time", units)
    if len(set(found.values())) > 1:
        raise DataError(f"{file.filename} holds different frame times: {found}; expected one detector.")
    if not found:
        return None, f"{instrument}/<detector>/frame_time"
    where, value = next(iter(found.items()))
    if value <= 0:
        raise DataError(f"{file.filename}: {where} = {value}; expected a positive time.")
    return value, where
