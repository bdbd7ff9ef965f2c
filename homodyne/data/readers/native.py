"""The package's own files, NPZ and HDF5 with the same fields: everything of TwoTimeData comes back.

Whatever is read is compared with its SHA-256 first; a part of a map is read with the rest of it.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from homodyne.arrays import AnyArray
from homodyne.data import checks
from homodyne.data.checks import MapArray, MapArrays
from homodyne.data.readers import hdf5
from homodyne.data.readers.catalog import Catalog, maps_of
from homodyne.data.readers.npz import Members
from homodyne.data.units import Units
from homodyne.errors import DataError
from homodyne.mapping import release_pages
from homodyne.reading import require_budget

NAME = "homodyne"
CONTAINERS = ("HDF5", "NPZ")
MARK = "homodyne_two_time"
VERSION, UNSEALED = 3, 2
SEAL = "sha256"
"""Field with digests, 32 bytes each: of all other fields but the maps, then of every map and every map of weights."""
MAPS = ("c2", "weights")
MAX_FACTS = 1_000_000  # bytes
SCALARS = ("gap", "dt", "age_origin")
REQUIRED = (MARK, "c2", "t", "phi", "q", "alive", "frames", "scalars", "source")
OPTIONAL = ("diagonal", "pixels", "mean_counts")


class GroupFields:
    """The fields of an HDF5 file, which lie at its root; as `Members` has those of an NPZ file."""

    def __init__(self, file: h5py.File) -> None:
        self._file, self.path = file, file.filename
        self.names = hdf5.group_names(file, "/")

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a dataset."""
        return hdf5.shape_and_dtype(self._file, name)[0]

    def array(self, name: str, most: int) -> AnyArray:
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


Source: TypeAlias = h5py.File | Members


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
    if version.size != 1 or int(version.reshape(-1)[0]) not in (VERSION, UNSEALED):
        raise DataError(
            f"{path}: {MARK} is {version}; this version of homodyne reads {UNSEALED} and {VERSION}. Update homodyne, "
            "or write the data again."
        )
    sealed = int(version.reshape(-1)[0]) != UNSEALED
    lacking = [name for name in REQUIRED if name not in fields.names] + [SEAL] * (sealed != (SEAL in fields.names))
    if lacking:
        raise DataError(f"{path}: {', '.join(lacking)} missing; expected a file written by homodyne.")
    shape = fields.shape("c2")
    if len(shape) != 3 or shape[1] != shape[2] or 0 in shape:
        raise DataError(f"{path}: c2 has shape {shape}; expected (n_maps, n, n).")
    n_maps, n = shape[:2]
    num_weights = fields.shape("weights")[0] if "weights" in fields.names else 0
    if num_weights and (not sealed or fields.shape("weights") not in ((1, n, n), (n_maps, n, n))):
        raise DataError(f"{path}: weights has shape {fields.shape('weights')}; expected {shape} or {(1, n, n)}.")
    shapes: dict[str, tuple[int, ...]] = {"t": (n,), "frames": (2,), "scalars": (len(SCALARS),)}
    shapes |= dict.fromkeys(("phi", "q", "pixels", "mean_counts"), (n_maps,))
    shapes |= dict.fromkeys(("alive", "diagonal"), (n_maps, n))
    most = {MARK: 1, "source": MAX_FACTS, **{name: math.prod(size) for name, size in shapes.items()}}
    arrays = {name: fields.array(name, limit) for name, limit in most.items() if name in fields.names}
    seals = _seals(fields, n_maps + num_weights, arrays) if sealed else []
    maps, weights = _Maps(fields, "c2", n, seals[:n_maps]), _Maps(fields, "weights", n, seals[n_maps:])
    for name, size in shapes.items():
        if name in arrays and arrays[name].shape != size:
            raise DataError(f"{path}: {name} has shape {arrays[name].shape}; expected {size}.")
    gap, dt, age_origin = (float(x) for x in arrays["scalars"])
    extra = {name: arrays[name].astype(np.float64) if name in arrays else None for name in OPTIONAL}
    return Catalog(
        num_maps=n_maps,
        num_frames=n,
        read_map=maps.read,
        read_weights=weights.read if num_weights else None,
        num_weights=num_weights,
        map_file=None if isinstance(fields, Members) else maps.in_file,
        q=checks.per_map("q", arrays["q"], n_maps),
        phi=checks.real_vector("phi", arrays["phi"], n_maps),
        dt=checks.real_scalar("dt", dt, "s"),
        dt_where="scalars",
        age_origin=age_origin,
        times=checks.ages(arrays["t"], n),
        first_frame=int(arrays["frames"][0]),
        gap=None if np.isnan(gap) else gap,
        facts=_source(path, arrays["source"]),
        missing=tuple(name for name in OPTIONAL if extra[name] is None),
        alive=arrays["alive"] != 0,
        # without one, an absent diagonal keeps the values on the diagonal of the maps from being taken for it
        diagonal=np.full((n_maps, n), np.nan) if extra["diagonal"] is None else extra["diagonal"],
        pixels=extra["pixels"],
        mean_counts=extra["mean_counts"],
    )


def digests(arrays: Mapping[str, AnyArray], maps: Iterable[MapArray]) -> NDArray[np.uint8]:
    """What the field `SEAL` holds, (1 + number of maps, 32)."""
    return np.array([np.frombuffer(one, np.uint8) for one in (_digest(arrays), *map(_map_digest, maps))])


def _digest(arrays: Mapping[str, AnyArray]) -> bytes:
    found = hashlib.sha256()
    for name in sorted(arrays):
        value = np.asarray(arrays[name], order="C")
        found.update(f"{name} {value.dtype.str} {value.shape} ".encode() + value.tobytes())
    return found.digest()


def _map_digest(one: MapArray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(one, "<f4").data).digest()


def _seals(fields: GroupFields | Members, count: int, arrays: Mapping[str, AnyArray]) -> list[bytes]:
    """Digests of so many maps; DataError where what belongs to them is not what was written."""
    seals = fields.array(SEAL, 32 * (1 + count))
    if seals.shape != (1 + count, 32) or seals.dtype != np.uint8:
        raise DataError(f"{fields.path}: {SEAL} has shape {seals.shape}; expected {(1 + count, 32)}.")
    first, *others = (one.tobytes() for one in seals)
    _require(_digest(arrays) == first, fields, "what belongs to its maps")
    return others


class _Maps:
    """The maps of a field, which are as they were written; without `seals` they are not looked at."""

    def __init__(self, fields: GroupFields | Members, name: str, num_frames: int, seals: list[bytes]) -> None:
        self._fields, self._name, self._n, self._seals = fields, name, num_frames, seals

    def read(self, index: int, frames: slice, out: MapArray) -> None:
        """Read a range of frames of a map."""
        if not self._seals:
            self._fields.block(self._name, index, frames, out)
            return
        require_budget(4 * self._n**2, str(self._fields.path), "a whole map")
        whole = np.empty((self._n, self._n), np.float32)
        self._fields.block(self._name, index, slice(0, self._n), whole)
        self._compare(index, whole)
        out[:] = whole[frames, frames]

    def in_file(self, index: NDArray[np.intp]) -> MapArrays | None:
        """Maps as they lie in the file, if they do."""
        found = self._fields.map_file(self._name, index) if isinstance(self._fields, GroupFields) else None
        if found is not None and self._seals:
            for k, one in zip(index, found, strict=True):
                self._compare(int(k), one)
                release_pages(one)
        return found

    def _compare(self, index: int, one: MapArray) -> None:
        _require(_map_digest(one) == self._seals[index], self._fields, f"map {index} of {self._name}")


def _require(same: bool, fields: GroupFields | Members, what: str) -> None:
    if not same:
        raise DataError(f"{fields.path} is damaged: {what} is not what was written (SHA-256); copy or write it again.")


def _source(path: str, encoded: AnyArray) -> dict[str, str]:
    """Decode the facts, which are stored as the bytes of a JSON object."""
    try:
        facts = json.loads(encoded.astype(np.uint8).tobytes().decode("utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: source is not readable ({error}).") from error
    if not isinstance(facts, dict):
        raise DataError(f"{path}: source is {type(facts).__name__}; expected a JSON object.")
    return {str(key): str(value) for key, value in facts.items()}
