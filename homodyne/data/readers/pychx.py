"""pyCHX results: /g12b and what belongs to it, as its export_xpcs_results_to_h5 writes them (uid=..._Res.h5)."""

import h5py
import numpy as np

from homodyne.data.checks import BoolArray, FloatArray
from homodyne.data.readers import hdf5
from homodyne.data.readers.aps_u import roi_statistics
from homodyne.data.readers.catalog import Catalog
from homodyne.data.units import Units
from homodyne.errors import DataError

NAME = "pychx"
CONTAINERS = ("HDF5",)
MAPS = "/g12b"
POSITIONS = "/qval_dict"
LAGS = "/tausb"
BAD_FRAMES = "/bad_frame_list"
SETTINGS = "/md"
ROI, MASK = "/roi_mask", "/mask"
SAXS = "/q_saxs"
"""What only files of small angles have, where the second number of a region is an angle."""


def absent(file: h5py.File) -> list[str]:
    """Paths that mark this layout and are not in the file."""
    return [] if hdf5.find(file, MAPS) is not None else [MAPS]


def catalog(file: h5py.File, units: Units) -> Catalog:
    """List the maps of a file of pyCHX; map k is that of the region k + 1."""
    maps = hdf5.Cube(file, MAPS, q_axis=2)
    missing: list[str] = []
    q, phi = _positions(file, maps.num_maps, units, missing)
    dt = _frame_time(file, units)
    if dt is None:
        missing.append(f"dt: {LAGS}, which begins with 0 and dt")
    first, alive = _frames(file, maps.num_frames, missing)
    pixels, _ = roi_statistics(file, ROI, MASK, None, maps.num_maps, missing)
    return Catalog(
        num_maps=maps.num_maps,
        num_frames=maps.num_frames,
        read_map=maps.read_map,
        map_file=maps.map_file,
        q=q,
        phi=phi,
        dt=dt,
        dt_where=LAGS,
        first_frame=first + 1,
        alive=None if alive.all() else np.tile(alive, (maps.num_maps, 1)),
        pixels=pixels,
        names=tuple(str(k + 1) for k in range(maps.num_maps)),
        facts={"maps": MAPS, "q and phi": f"attributes of {POSITIONS}"},
        missing=tuple(missing),
        unused=hdf5.other_masks(file, ROI, MASK),
    )


def _positions(
    file: h5py.File, maps: int, units: Units, missing: list[str]
) -> tuple[FloatArray | None, FloatArray | None]:
    """Return q (1/Å) and phi (degrees) of each region; adds what is not there to `missing`."""
    if hdf5.find(file, POSITIONS) is None:
        missing += [f"q: {POSITIONS}", f"phi: {POSITIONS}"]
        return None, None
    where = f"{file.filename}: {POSITIONS}"
    regions = [hdf5.attribute(file, POSITIONS, str(k), 2) for k in range(maps)]
    numbers = {0 if one is None else one.size for one in regions}
    if numbers not in ({1}, {2}):
        raise DataError(
            f"{where} has no attributes 0 to {maps - 1} of one or two numbers each; expected q, or q and an angle, of "
            f"each of the {maps} maps of {MAPS}."
        )
    found = np.array(regions)
    q = found[:, 0] * units.factor("q", None, where)
    if numbers == {1}:
        missing.append(f"phi: a second number in {POSITIONS} (rings have none)")
        return q, None
    if hdf5.find(file, SAXS) is None:
        raise DataError(
            f"{where} has two numbers for a region, and {SAXS} is missing: at grazing incidence these are the "
            "components of q along the surface and across it. Take the maps out, and give q and phi to "
            "homodyne.from_cube."
        )
    return q, found[:, 1] * units.factor("phi", None, where)


def _frame_time(file: h5py.File, units: Units) -> float | None:
    """Return the first delay above zero, s, if delays begin as those of pyCHX do."""
    if hdf5.find(file, LAGS) is None:
        return None
    lags = hdf5.vector(file, LAGS)
    if lags.size < 2 or lags[0] != 0 or lags[1] <= 0:
        return None
    return float(lags[1]) * hdf5.factor(file, LAGS, "frame_time", units)


def _frames(file: h5py.File, num_frames: int, missing: list[str]) -> tuple[int, BoolArray]:
    """Return the image, from 0, with which the maps begin, and which of their frames are not marked as bad."""
    alive = np.ones(num_frames, dtype=bool)
    begin = None if hdf5.find(file, SETTINGS) is None else hdf5.attribute(file, SETTINGS, "beg", 1)
    if begin is None or not 0 <= begin.sum() <= hdf5.MOST_NUMBERS:
        missing.append(f"bad frames: attribute beg of {SETTINGS}, the image with which the maps begin")
        return 0, alive
    first = int(begin.sum())
    if hdf5.find(file, BAD_FRAMES) is not None:
        bad = hdf5.integers(file, BAD_FRAMES) - first
        alive[bad[(bad >= 0) & (bad < num_frames)]] = False
    return first, alive
