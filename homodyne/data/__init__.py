"""Two-time data: reading, checking, writing. ``load`` and ``from_cube`` are where to start."""

from homodyne.data.files import FileDescription, describe, load
from homodyne.data.flat import from_arrays
from homodyne.data.labelled import from_xarray
from homodyne.data.twotime import TwoTimeData, from_cube
from homodyne.data.writers import save_hdf5, save_npz, write_aps_u

__all__ = [
    "FileDescription",
    "TwoTimeData",
    "describe",
    "from_arrays",
    "from_cube",
    "from_xarray",
    "load",
    "save_hdf5",
    "save_npz",
    "write_aps_u",
]
