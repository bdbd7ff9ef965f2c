"""NXxpcs results, the contributed NeXus application definition."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    import h5py

NAME = "nxxpcs"
CONTAINERS = ("HDF5",)
MAPS = "twotime/two_time_corr_func"
MASKS = "instrument/masks"


def absent(file: "h5py.File") -> list[str]:
    """Paths that mark this layout and are not in the file."""
    return [] if _entries(file) else ["/entry/definition = NXxpcs", f"/entry/{MAPS}"]


def _entries(file: "h5py.File") -> list[str]:
    """Paths of the entries that say they are NXxpcs and hold two-time maps."""
    found = []
    for name in hdf5.group_names(file, "/"):
        if hdf5.find(file, f"/{name}/{MAPS}") is None or hdf5.find(file, f"/{name}/definition") is None:
            continue
        if hdf5.texts(file, f"/{name}/definition")[:1] == ["NXxpcs"]:
            found.append(f"/{name}")
    return found


def catalog(file: "h5py.File", units: Units) -> Catalog:
    """List the maps of an NXxpcs file; map number k belongs to region k + 1 of the masks."""
    path = file.filename
    entry, unused = hdf5.named(file, "@default", _entries(file))
    where = f"{entry}/{MAPS}"
    mode, baseline, lower_left = _attributes(file, where)
    num_maps, num_frames, read_raw, map_raw, names = _STORAGE[mode](file, where)
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
        read_raw(index, rows, frames, out)
        out[:] = _oriented(out, lower_left).copy()
        if baseline == 0:
            dead, mirrored = zero_frames(out), _has_data(out.T)
            out += 1.0
            if not mirrored:
                out[:] = np.triu(out)
            out[dead, :] = out[:, dead] = np.nan

    def map_file(index: NDArray[np.intp]) -> tuple[MapArray, ...] | None:
        found = [] if baseline == 0 else [one for one in (map_raw(int(k)) for k in index) if one is not None]
        return tuple(_oriented(one, lower_left) for one in found) if len(found) == index.size else None

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


def _attributes(file: "h5py.File", where: str) -> tuple[str, int, bool]:
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

    mode = choice("storage_mode", tuple(_STORAGE))
    baseline = int(choice("baseline_reference", ("0", "1")))
    choice("populated_elements", ("all", "upper_half", "lower_half"))
    return mode, baseline, choice("time_origin_location", ("upper_left", "lower_left")) == "lower_left"


ReadRaw = Callable[[int, slice, slice, MapArray], None]
MapRaw = Callable[[int], MapArray | None]
Storage = tuple[int, int, ReadRaw, MapRaw, tuple[str, ...]]


def _one_array(file: "h5py.File", where: str, q_axis: int) -> Storage:
    shape, dtype = hdf5.shape_and_dtype(file, where)
    square = tuple(length for axis, length in enumerate(shape) if axis != q_axis)
    if dtype.kind != "f" or len(shape) != 3 or square[0] != square[1]:
        raise DataError(
            f"{file.filename}: {where} has shape {shape} and dtype {dtype}; "
            f"expected floating-point maps {'(n_q, n, n)' if q_axis == 0 else '(n, n, n_q)'}."
        )

    def read(index: int, rows: slice, columns: slice, out: MapArray) -> None:
        selection: Any = (index, rows, columns) if q_axis == 0 else (rows, columns, index)
        hdf5.read_block(hdf5.dataset(file, where), selection, out, f"{file.filename}: {where}")

    def in_file(index: int) -> MapArray | None:
        cube = hdf5.mapped(hdf5.dataset(file, where), f"{file.filename}: {where}") if q_axis == 0 else None
        return None if cube is None else cube[index]

    num_maps = int(shape[q_axis])
    return num_maps, int(square[0]), read, in_file, tuple(str(k + 1) for k in range(num_maps))


def _keys(file: "h5py.File", where: str) -> Storage:
    """Maps under the names that the dataset lists, absolute or next to it."""
    names = hdf5.texts(file, where)
    parent = where.rsplit("/", 1)[0]
    paths = [name if name.startswith("/") else f"{parent}/{name}" for name in names]
    sizes = {hdf5.map_frames(file, one) for one in paths}
    if len(sizes) != 1:
        raise DataError(f"{file.filename}: {where} lists maps of {sorted(sizes)} frames; expected one size.")

    def read(index: int, rows: slice, columns: slice, out: MapArray) -> None:
        found = hdf5.dataset(file, paths[index])
        hdf5.read_block(found, np.s_[rows, columns], out, f"{file.filename}: {paths[index]}")

    def in_file(index: int) -> MapArray | None:
        return hdf5.mapped(hdf5.dataset(file, paths[index]), f"{file.filename}: {paths[index]}")

    return len(paths), sizes.pop(), read, in_file, tuple(names)


_STORAGE: dict[str, Callable[["h5py.File", str], Storage]] = {
    "one_array_q_first": lambda file, where: _one_array(file, where, 0),
    "one_array_q_last": lambda file, where: _one_array(file, where, 2),
    "data_exchange_keys": _keys,
}


def _frame_time(file: "h5py.File", instrument: str, units: Units) -> tuple[float | None, str]:
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
