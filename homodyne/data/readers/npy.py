"""A single .npy array: maps (n_maps, n, n) or (n, n, n_maps), or one map (n, n); the caller gives q, phi and dt."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from homodyne.arrays import AnyArray
from homodyne.data.checks import MapArray
from homodyne.data.readers.catalog import Catalog, maps_of
from homodyne.data.units import Units
from homodyne.errors import DataError

NAME = "npy"
CONTAINERS = ("NPY",)


@contextmanager
def open_npy(path: Path) -> Iterator[tuple[Path, AnyArray]]:
    """Map the array into memory; its size is checked against the file."""
    yield path, np.load(path, mmap_mode="r", allow_pickle=False)


def absent(source: tuple[Path, AnyArray]) -> list[str]:
    """Nothing: every array is of this layout."""
    return []


def catalog(source: tuple[Path, AnyArray], units: Units) -> Catalog:
    """List the maps of an array."""
    path, array = source
    cube = array[None] if array.ndim == 2 else array
    if cube.ndim == 3 and cube.shape[0] == cube.shape[1] != cube.shape[2]:
        cube = np.moveaxis(cube, -1, 0)
    if cube.dtype.kind != "f" or cube.ndim != 3 or cube.shape[1] != cube.shape[2] or cube.shape[0] == 0:
        raise DataError(
            f"{path} has shape {array.shape} and dtype {array.dtype}; "
            "expected floating-point maps (n_maps, n, n) or (n, n, n_maps), or one map (n, n)."
        )

    def read_map(index: int, frames: slice, out: MapArray) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            out[:] = cube[index, frames, frames]

    return Catalog(
        num_maps=cube.shape[0],
        num_frames=cube.shape[1],
        read_map=read_map,
        map_file=(lambda index: maps_of(cube, index)) if cube.dtype == np.float32 else None,
        missing=(
            "q: give q (--q) in 1/Å, of all maps or of each",
            "phi: give phi (--phi) with one angle per map",
            "dt: give dt (--dt) in s",
            "pixels per bin",
        ),
    )
