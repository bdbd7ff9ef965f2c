"""APS 8-ID-I results from before the upgrade: /exchange/C2T_all and /xpcs."""

import re

import h5py
import numpy as np

from homodyne.data.readers import hdf5
from homodyne.data.readers.aps_u import numbered_bins, roi_statistics
from homodyne.data.readers.catalog import Catalog
from homodyne.data.units import Units
from homodyne.errors import DataError

NAME = "aps-8idi"
CONTAINERS = ("HDF5",)
MAPS = "/exchange/C2T_all"
POINTER = "/xpcs/output_data"
BINS = "/xpcs/qphi_bin_to_process"
Q_LIST, PHI_LIST = "/xpcs/dqlist", "/xpcs/dphilist"
PERIOD = "/measurement/instrument/detector/exposure_period"


def absent(file: h5py.File) -> list[str]:
    """Paths that mark this layout and are not in the file."""
    lists = [path for path in (Q_LIST,) if hdf5.find(file, path) is None]
    return lists if _results(file) else [MAPS, *lists]


def _results(file: h5py.File) -> list[str]:
    """Groups /exchange, /exchange_1, ... that hold two-time maps."""
    names = [f"/{name}" for name in hdf5.group_names(file, "/") if re.fullmatch(r"exchange(_\d+)?", name)]
    return [name for name in names if hdf5.find(file, f"{name}/C2T_all") is not None]


def catalog(file: h5py.File, units: Units) -> Catalog:
    """List the maps of an 8-ID-I file; map k belongs to bin qphi_bin_to_process[k], counted from 1."""
    path = file.filename
    group, unused = hdf5.named(file, POINTER, _results(file))
    maps = f"{group}/C2T_all"
    names, bins = numbered_bins(file, maps, "g2", BINS)
    q_list, phi_list = (hdf5.vector(file, where, finite=False) for where in (Q_LIST, PHI_LIST))
    if q_list.size != phi_list.size or bins.min() < 1 or bins.max() > q_list.size:
        raise DataError(
            f"{path}: {Q_LIST} has {q_list.size} and {PHI_LIST} {phi_list.size} values for bins "
            f"{bins.min()}..{bins.max()} of {BINS}; expected one value per bin, bins counted from 1."
        )
    q = q_list[bins - 1] * hdf5.factor(file, Q_LIST, "q", units)
    phi = phi_list[bins - 1] * hdf5.factor(file, PHI_LIST, "phi", units)
    if not (np.isfinite(q).all() and np.isfinite(phi).all()):
        bad = bins[~(np.isfinite(q) & np.isfinite(phi))][0]
        raise DataError(f"{path}: bin {bad} has no finite q and phi in {Q_LIST} and {PHI_LIST}; expected numbers.")
    where = (PERIOD, "/xpcs/avg_frames", "/xpcs/stride_frames")
    parts = [hdf5.optional_scalar(file, one) for one in where]
    dt = None if any(one is None for one in parts) else float(np.prod(np.array(parts, dtype=np.float64)))
    if dt is not None:
        dt *= hdf5.factor(file, PERIOD, "frame_time", units)
    missing = [f"dt: {' * '.join(where)}"] if dt is None or dt <= 0 else []
    stored = hdf5.SquareMaps(file, [f"{maps}/{name}" for name in names])
    pixels, _ = roi_statistics(file, "/xpcs/dqmap", "/xpcs/mask", None, q_list.size, missing)

    return Catalog(
        num_maps=stored.num_maps,
        num_frames=stored.num_frames,
        read_map=stored.read_map,
        map_file=stored.map_file,
        q=q,
        phi=phi,
        dt=dt if dt is not None and dt > 0 else None,
        dt_where=" * ".join(where),
        pixels=None if pixels is None else pixels[bins - 1],
        names=tuple(names),
        facts={"maps": maps, "q and phi": f"{Q_LIST}, {PHI_LIST}"},
        missing=tuple(missing),
        unused=(*unused, *hdf5.other_masks(file, "/xpcs/mask")),
    )
