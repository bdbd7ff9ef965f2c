"""APS-U NeXus results: /xpcs/twotime and /xpcs/qmap, as boost_corr writes them."""

import re

import h5py
import numpy as np
from numpy.typing import NDArray

from homodyne.data.checks import FloatArray
from homodyne.data.readers import hdf5
from homodyne.data.readers.catalog import Catalog
from homodyne.data.units import Units
from homodyne.errors import DataError

NAME = "aps-u"
CONTAINERS = ("HDF5",)
MAPS = "/xpcs/twotime/correlation_map"
BINS = "/xpcs/twotime/processed_bins"
CONFIG = "/xpcs/twotime/config"
QMAP = "/xpcs/qmap"
FRAME_TIME = "/entry/instrument/detector_1/frame_time"
SCATTERING = "/xpcs/temporal_mean/scattering_2d"


def absent(file: h5py.File) -> list[str]:
    """Paths that mark this layout and are not in the file."""
    return [path for path in (MAPS, QMAP) if hdf5.find(file, path) is None]


def catalog(file: h5py.File, units: Units) -> Catalog:
    """List the maps of an APS-U file."""
    names, bins = numbered_bins(file, MAPS, "c2", BINS)
    q, phi, num_bins = _bin_positions(file, bins, units)
    dt, dt_where, average = _frame_interval(file, units)
    stored = hdf5.SquareMaps(file, [f"{MAPS}/{name}" for name in names])
    missing = [] if dt is not None else [f"dt: {dt_where}"]
    pixels, mean_counts = roi_statistics(file, f"{QMAP}/dynamic_roi_map", f"{QMAP}/mask", SCATTERING, num_bins, missing)

    return Catalog(
        num_maps=stored.num_maps,
        num_frames=stored.num_frames,
        read_map=stored.read_map,
        map_file=stored.map_file,
        q=q,
        phi=phi,
        dt=dt,
        dt_where=dt_where,
        pixels=None if pixels is None else pixels[bins - 1],
        mean_counts=None if mean_counts is None else mean_counts[bins - 1] * average,
        names=tuple(names),
        facts={"maps": MAPS, "q and phi": f"{QMAP}/dynamic_index_mapping"},
        missing=tuple(missing),
        unused=(*_unused(file), *hdf5.other_masks(file, f"{QMAP}/mask")),
    )


def _unused(file: h5py.File) -> list[str]:
    """What the file says beside the maps."""
    begin, lines = hdf5.optional_scalar(file, f"{CONFIG}/begin_frame"), []
    if begin is not None and begin not in (0, 1):
        lines = [
            f"begin_frame = {begin:g}: the maps begin at that frame of the record, and ages with them (age_origin)"
        ]
    return lines + ["multi-tau results in /xpcs/multitau"] * (hdf5.find(file, "/xpcs/multitau") is not None)


def numbered_bins(file: h5py.File, maps: str, prefix: str, bins: str) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the maps in a group, in the order of their numbers, and the bin of each."""
    names, of_map = _numbered(file, maps, prefix), hdf5.integers(file, bins)
    if len(names) != of_map.size:
        raise DataError(
            f"{file.filename}: {maps} holds {len(names)} maps, but {bins} lists {of_map.size}; expected equal numbers."
        )
    return names, of_map


def _numbered(file: h5py.File, group: str, prefix: str) -> list[str]:
    """Names prefix_00001, prefix_00002, ... of a group in order; the numbers must be 1..n without a gap."""
    found = {}
    for name in hdf5.group_names(file, group):
        match = re.fullmatch(rf"{prefix}_(\d{{1,9}})", name)
        if match:
            found[int(match[1])] = name
    if sorted(found) != list(range(1, len(found) + 1)) or not found:
        numbers = sorted(found)
        raise DataError(
            f"{file.filename}: {group} holds {len(found)} maps"
            + (f" numbered {numbers[0]} to {numbers[-1]}" if found else "")
            + f"; expected {prefix}_00001, {prefix}_00002, ... without a gap."
        )
    return [found[k] for k in sorted(found)]


def _bin_positions(file: h5py.File, bins: NDArray[np.int64], units: Units) -> tuple[FloatArray, FloatArray, int]:
    """Return q (1/Å) and phi (degrees) of each processed bin, and the number of bins of the partition.

    Bins number the non-empty cells of the (q, phi) grid, so a bin reaches its cell through
    dynamic_index_mapping.
    """
    path = file.filename
    q_list = hdf5.vector(file, f"{QMAP}/dynamic_v_list_dim0")
    phi_list = hdf5.vector(file, f"{QMAP}/dynamic_v_list_dim1")
    grid = hdf5.integers(file, f"{QMAP}/dynamic_num_pts", 2)
    if grid.tolist() != [q_list.size, phi_list.size]:
        raise DataError(
            f"{path}: {QMAP}/dynamic_num_pts is {grid.tolist()}, but dynamic_v_list_dim0 and dynamic_v_list_dim1 have "
            f"{q_list.size} and {phi_list.size} values; expected the same numbers."
        )
    cells = hdf5.integers(file, f"{QMAP}/dynamic_index_mapping")
    if np.any(cells < 0) or np.any(cells >= q_list.size * phi_list.size) or np.unique(cells).size != cells.size:
        raise DataError(
            f"{path}: {QMAP}/dynamic_index_mapping does not name distinct cells of a {q_list.size} x {phi_list.size} "
            "grid; expected numbers from 0."
        )
    if np.any(bins < 1) or np.any(bins > cells.size) or np.unique(bins).size != bins.size:
        raise DataError(f"{path}: {BINS} holds {bins.min()}..{bins.max()}; expected distinct bins in 1..{cells.size}.")
    factors = _grid_units(file, units)
    flat = cells[bins - 1]
    return q_list[flat // phi_list.size] * factors[0], phi_list[flat % phi_list.size] * factors[1], cells.size


def _grid_units(file: h5py.File, units: Units) -> tuple[float, float]:
    """Factors to 1/Å and degrees; a partition in other coordinates than q and phi is refused."""
    path = file.filename
    names, listed = f"{QMAP}/map_names", f"{QMAP}/map_units"
    if hdf5.find(file, names) is not None:
        found = [name.lower() for name in hdf5.texts(file, names)]
        if found[:2] not in (["q", "phi"], ["q"]):
            raise DataError(f"{path}: {names} is {found}; expected a partition in q and phi.")
    stated = ["", ""] if hdf5.find(file, listed) is None else [*hdf5.texts(file, listed), "", ""]
    factors = []
    for k, quantity in enumerate(("q", "phi")):
        where = f"{QMAP}/dynamic_v_list_dim{k}"
        own = hdf5.stated_unit(file, where)
        if stated[k] and own and units.factor(quantity, own, where) != units.factor(quantity, stated[k], listed):
            raise DataError(f"{path}: {where} is in {own!r}, but {listed} says {stated[k]!r}; expected one unit.")
        factors.append(units.factor(quantity, own or stated[k], f"{path}: {where if own else listed} ({quantity})"))
    return factors[0], factors[1]


def _frame_interval(file: h5py.File, units: Units) -> tuple[float | None, str, float]:
    """Return dt = frame_time * avg_frame * stride_frame, where it was looked for, and avg_frame."""
    where = (FRAME_TIME, f"{CONFIG}/avg_frame", f"{CONFIG}/stride_frame")
    frame_time, average, stride = (hdf5.optional_scalar(file, path) for path in where)
    looked = f"{FRAME_TIME} * avg_frame * stride_frame of {CONFIG}"
    if frame_time is None or average is None or stride is None:
        absent_paths = [p for p, v in zip(where, (frame_time, average, stride), strict=True) if v is None]
        return None, f"{looked}; missing: {', '.join(absent_paths)}", 1.0 if average is None else average
    if not (frame_time > 0 and average > 0 and stride > 0):
        raise DataError(
            f"{file.filename}: frame_time = {frame_time}, avg_frame = {average}, stride_frame = {stride}; "
            "expected positive numbers."
        )
    return frame_time * hdf5.factor(file, FRAME_TIME, "frame_time", units) * average * stride, looked, average


def roi_statistics(
    file: h5py.File, roi_path: str, mask_path: str, scattering_path: str | None, num_bins: int, missing: list[str]
) -> tuple[FloatArray | None, FloatArray | None]:
    """Pixels of each bin under the mask, and mean counts per pixel; adds what is not there to `missing`."""
    if hdf5.find(file, roi_path) is None:
        missing.append(f"pixels per bin: {roi_path}")
        return None, None
    shape, kinds = hdf5.image_shape(hdf5.dataset(file, roi_path)), {roi_path: "iu"}
    mask = hdf5.find(file, mask_path)
    if mask is None:
        missing.append(f"mask: {mask_path} (all pixels of the bins are counted)")
    elif hdf5.image_shape(mask) != shape:
        raise DataError(f"{file.filename}: {mask_path} has shape {mask.shape}; expected {shape}.")
    else:
        kinds[mask_path] = "iub"
    scattering = None if scattering_path is None else hdf5.find(file, scattering_path)
    if scattering is None or scattering_path is None:
        missing.append(f"mean counts per pixel and frame{'' if scattering_path is None else f': {scattering_path}'}")
    elif hdf5.image_shape(scattering) != shape:
        missing.append(f"mean counts: {scattering_path} has shape {scattering.shape}, not {shape}")
    else:
        kinds[scattering_path] = "fiu"
    pixels, total = np.zeros(num_bins + 1), np.zeros(num_bins + 1)
    for roi, *others in hdf5.images(file, kinds):
        if roi.size and (roi.min() < 0 or roi.max() > num_bins):
            raise DataError(
                f"{file.filename}: {roi_path} has shape {shape} and values up to {roi.max()}; "
                f"expected an image of bin numbers 0..{num_bins}."
            )
        labels = roi.astype(np.int64)
        if mask is not None:
            labels[others[0] == 0] = 0
        pixels += np.bincount(labels.ravel(), minlength=num_bins + 1)
        if scattering_path in kinds:
            counts = np.where(labels > 0, others[-1].astype(np.float64), 0.0)
            total += np.bincount(labels.ravel(), weights=counts.ravel(), minlength=num_bins + 1)
    pixels, total = pixels[1:], total[1:]
    means = np.divide(total, pixels, out=np.full(num_bins, np.nan), where=pixels > 0)
    return pixels, means if scattering_path in kinds else None
