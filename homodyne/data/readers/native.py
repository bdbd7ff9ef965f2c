"""The package's own files, NPZ and HDF5 with the same fields: everything of TwoTimeData comes back."""

import json
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from homodyne.data import checks
from homodyne.data.checks import MapArray, MapArrays
from homodyne.data.readers import hdf5
from homodyne.data.readers.catalog import Catalog, maps_of
from homodyne.data.readers.npz import Members
from homodyne.data.units import Units
from homodyne.errors import DataError

if TYPE_CHECKING:
    import h5py

NAME = "homodyne"
MARK = "homodyne_two_time"
VERSION = 2
MAX_FACTS = 1_000_000  # bytes
SCALARS = ("gap", "dt", "age_origin")
REQUIRED = (MARK, "c2", "t", "phi", "q", "alive", "frames", "scalars", "source")
OPTIONAL = ("diagonal", "pixels", "mean_counts")


class GroupFields:
    """The fields of an HDF5 file, which lie at its root; as `Members` has those of an NPZ file."""

    def __init__(self, file: "h5py.File") -> None:
        self._file, self.path = file, file.filename
        self.names = hdf5.group_names(file, "/")

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a dataset."""
        return hdf5.shape_and_dtype(self._file, name)[0]

    def array(self, name: str, most: int) -> NDArray[Any]:
        """Read a dataset of at most so many numbers."""
        return hdf5.numbers(self._file, name, most)

    def block(self, name: str, index: int, frames: slice, out: MapArray) -> None:
        """Read one map."""
        found = hdf5.dataset(self._file, name)
        hdf5.read_block(found, np.s_[index, frames, frames], out, f"{self.path}: {name}")

    def map_file(self, name: str, index: NDArray[np.intp]) -> MapArrays | None:
        """Maps as they lie in the file, if they do."""
        cube = hdf5.mapped(hdf5.dataset(self._file, name), f"{self.path}: {name}")
        return None if cube is None else maps_of(cube, index)


Source: TypeAlias = "h5py.File | Members"


def _fields(source: Source) -> GroupFields | Members:
    return source if isinstance(source, Members) else GroupFields(source)


def absent(source: Source) -> list[str]:
    """Arrays that mark this layout and are not in the file."""
    return [] if MARK in _fields(source).names else [MARK]


def catalog(source: Source, units: Units) -> Catalog:
    """List the maps of one of the package's own files."""
    fields = _fields(source)
    path = str(fields.path)
    version = fields.array(MARK, 1)
    if version.size != 1 or int(version.reshape(-1)[0]) != VERSION:
        raise DataError(
            f"{path}: {MARK} is {version}; this version of homodyne reads {VERSION}. Update homodyne, or write the "
            "data again."
        )
    lacking = [name for name in REQUIRED if name not in fields.names]
    if lacking:
        raise DataError(f"{path}: {', '.join(lacking)} missing; expected a file written by homodyne.")
    shape = fields.shape("c2")
    if len(shape) != 3 or shape[1] != shape[2] or 0 in shape:
        raise DataError(f"{path}: c2 has shape {shape}; expected (n_maps, n, n).")
    n_maps, n = shape[:2]
    numbers = fields.array("scalars", len(SCALARS)).astype(np.float64).reshape(-1)
    frames = fields.array("frames", 2).reshape(-1)
    if numbers.size != len(SCALARS) or frames.size != 2:
        raise DataError(f"{path}: scalars has {numbers.size} and frames {frames.size} values; expected 3 and 2.")
    gap, dt, age_origin = (float(x) for x in numbers)
    extra = {
        name: fields.array(name, n_maps * n).astype(np.float64) if name in fields.names else None for name in OPTIONAL
    }
    alive = fields.array("alive", n_maps * n) != 0
    for name, array in {**extra, "alive": alive}.items():
        expected = (n_maps, n) if name in ("diagonal", "alive") else (n_maps,)
        if array is not None and array.shape != expected:
            raise DataError(f"{path}: {name} has shape {array.shape}; expected {expected}.")
    return Catalog(
        num_maps=n_maps,
        num_frames=n,
        read_map=lambda index, chosen, out: fields.block("c2", index, chosen, out),
        map_file=None if isinstance(fields, Members) else lambda index: fields.map_file("c2", index),
        q=checks.per_map("q", fields.array("q", n_maps), n_maps),
        phi=checks.real_vector("phi", fields.array("phi", n_maps), n_maps),
        dt=checks.real_scalar("dt", dt, "s"),
        dt_where="scalars",
        age_origin=age_origin,
        times=checks.ages(fields.array("t", n), n),
        first_frame=int(frames[0]),
        gap=None if np.isnan(gap) else gap,
        facts=_source(path, fields.array("source", MAX_FACTS)),
        missing=tuple(name for name in OPTIONAL if extra[name] is None),
        alive=alive,
        # without one, an absent diagonal keeps the values on the diagonal of the maps from being taken for it
        diagonal=np.full((n_maps, n), np.nan) if extra["diagonal"] is None else extra["diagonal"],
        pixels=extra["pixels"],
        mean_counts=extra["mean_counts"],
    )


def _source(path: str, encoded: NDArray[Any]) -> dict[str, str]:
    """Decode the facts, which are stored as the bytes of a JSON object."""
    try:
        facts = json.loads(encoded.astype(np.uint8).tobytes().decode("utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: source is not readable ({error}).") from error
    if not isinstance(facts, dict):
        raise DataError(f"{path}: source is {type(facts).__name__}; expected a JSON object.")
    return {str(key): str(value) for key, value in facts.items()}
