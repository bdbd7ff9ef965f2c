"""Reading HDF5 files that nobody vouches for.

Every access of the HDF5 readers goes through here: paths are walked link by link, nothing outside the file is
opened, and sizes, shapes and types are checked before memory is allocated.
"""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from homodyne.arrays import AnyArray
from homodyne.data import checks
from homodyne.data.checks import FloatArray, MapArray
from homodyne.data.units import Units
from homodyne.errors import DataError
from homodyne.reading import reading, require_budget

_MAX_LINKS = 16  # soft links followed on the way to one dataset
_MAX_TEXT = 4096  # bytes of one string
_MOST_TEXTS = 10_000  # names in one list
_PIXELS = 1 << 20  # of an image handled at once
_CACHE = 1 << 27  # bytes of the cache of chunks: an image in one is decompressed once
_MAX_CHUNK_RATIO = 4  # storage chunk over dataset size; more is a decompression bomb

MOST_NUMBERS = 1_000_000
"""Longest list of numbers beside the maps: bins of a partition, frames."""

MOST_PIXELS = 1 << 28
"""Most pixels of a detector image; the largest detectors have 2e7."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading only."""
    try:
        file = h5py.File(path, "r", locking="best-effort", rdcc_nbytes=_CACHE)
    except OSError as error:
        if state := unfinished(path, error):
            raise DataError(f"{path} {state}.") from error
        raise
    with file:
        yield file


def unfinished(path: Path, error: OSError) -> str | None:
    """Say why an HDF5 file that cannot be opened is no damaged one: it is locked, open for writing, or cut off."""
    if error.errno in (errno.EAGAIN, errno.EACCES) and os.access(path, os.R_OK):
        return "is locked by a program that writes it; wait until that has closed the file, or copy it"
    with path.open("rb") as stream:
        head, size = stream.read(64), stream.seek(0, os.SEEK_END)
    version = head[8]
    # sizes of addresses; flags; addresses of base and end: HDF5 file format specification, II.A
    width, flags, start = (head[9], head[11], 12) if version >= 2 else (head[13], 0, 24 if version == 0 else 28)
    if flags & 0b101:
        return (
            "is open for writing by another program, or that ended without closing it; wait until it is closed (if it "
            "never will be: h5clear --status FILE on a copy)"
        )
    end = int.from_bytes(head[start + 2 * width : start + 3 * width], "little")
    if head.startswith(b"\x89HDF") and end > size:
        return (
            f"cannot be read: it has {size} bytes, but says that it has {end}; it is still being written or copied, or "
            "was cut off"
        )
    return None


def find(file: h5py.File, path: str) -> Any:
    """Return the group or dataset at an absolute path, or None; links that leave the file are refused."""
    where = f"{file.filename}: {path}"
    with reading(where):
        here: Any = file["/"]
        parts, followed = [part for part in path.split("/") if part], 0
        while parts:
            name = parts.pop(0)
            link = here.get(name, getlink=True) if isinstance(here, h5py.Group) else None
            if link is None:
                return None
            if isinstance(link, h5py.ExternalLink):
                raise DataError(
                    f"{where} is a link to another file ({link.filename}); expected the data inside the file. Copy the "
                    "linked data into it."
                )
            if isinstance(link, h5py.SoftLink):
                followed += 1
                if followed > _MAX_LINKS:
                    raise DataError(f"{where} leads through more than {_MAX_LINKS} links.")
                parts = [part for part in link.path.split("/") if part not in ("", ".")] + parts
                here = file["/"] if link.path.startswith("/") else here
            else:
                here = here[name]
        if isinstance(here, h5py.Dataset):
            _require_inside(here, where)
            _ = here.dtype, here.shape  # damaged ones raise here, not where they are used
        return here


def _require_inside(dataset: h5py.Dataset, where: str) -> None:
    """Refuse a dataset whose values lie in another file."""
    outside = [name for name, *_ in dataset.external or ()]
    if dataset.is_virtual:
        outside += [s.file_name for s in dataset.virtual_sources() if s.file_name != "."]
    if outside:
        raise DataError(
            f"{where} takes its values from another file ({outside[0]}); expected the data inside the file. "
            "Copy the data into it."
        )


def dataset(file: h5py.File, path: str) -> h5py.Dataset:
    """Return the dataset at a path, or say that it is missing."""
    found = find(file, path)
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{file.filename}: {path} is missing; expected a dataset there.")
    return found


def group_names(file: h5py.File, path: str) -> list[str]:
    """Names inside a group, without opening them; empty when there is no such group."""
    found = find(file, path)
    if not isinstance(found, h5py.Group):
        return []
    with reading(f"{file.filename}: {path}"):
        return [str(name) for name in found]


def named(file: h5py.File, pointer: str, candidates: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """Return which of several groups holds the answer, and a note on the others.

    Parameters
    ----------
    pointer : str
        Path of the dataset, or of the attribute of the root after "@", in which the file names one of them.
    candidates : sequence of str
        Their paths.

    Raises
    ------
    DataError
        There are several, and the file names none.
    """
    if len(candidates) <= 1:
        return next(iter(candidates), None), ()
    with reading(f"{file.filename}: {pointer}"):
        if pointer.startswith("@"):
            stated = [text(file.attrs[pointer[1:]], pointer)] if pointer[1:] in file.attrs else []
        else:
            stated = texts(file, pointer, 1) if find(file, pointer) is not None else []
    chosen = [one for one in candidates if one.strip("/") in [name.strip("/") for name in stated]]
    if not chosen:
        raise DataError(
            f"{file.filename} holds several results, {', '.join(candidates)}, and {pointer}, which would name one of "
            f"them, is {stated[0] if stated else 'missing'}. Copy the one that is meant into a file of its own, or set "
            f"{pointer} in a copy."
        )
    return chosen[0], tuple(f"results in {one} ({pointer} names {chosen[0]})" for one in candidates if one != chosen[0])


def numbers(file: h5py.File, path: str, most: int = MOST_NUMBERS) -> AnyArray:
    """Read a numeric dataset of any shape after checking its type, and that it has at most so many numbers."""
    found = dataset(file, path)
    where = f"{file.filename}: {path}"
    with reading(where):
        if found.dtype.kind not in "fiu" or found.shape is None:
            raise DataError(f"{where} has dtype {found.dtype}; expected numbers.")
        if found.size > most:
            raise DataError(f"{where} has shape {found.shape}; expected at most {most} numbers.")
        _require_readable(found, where, found.nbytes)
        return np.asarray(found[()])


def vector(file: h5py.File, path: str, most: int = MOST_NUMBERS, *, finite: bool = True) -> FloatArray:
    """Read a list of numbers, (n,), (1, n) or (n, 1), as float64."""
    values = numbers(file, path, most)
    if values.size and max(values.shape, default=1) != values.size:
        raise DataError(f"{file.filename}: {path} has shape {values.shape}; expected a list of numbers.")
    flat = values.reshape(-1).astype(np.float64)
    if finite:
        checks.real_vector(f"{file.filename}: {path}", flat)
    return flat


def integers(file: h5py.File, path: str, most: int = MOST_NUMBERS) -> NDArray[np.int64]:
    """Read a list of whole numbers (instruments also store them as floats)."""
    values = vector(file, path, most)
    if np.any(values != np.rint(values)) or np.any(np.abs(values) > 2**53):
        raise DataError(f"{file.filename}: {path} holds fractions; expected whole numbers.")
    return values.astype(np.int64)


def optional_scalar(file: h5py.File, path: str) -> float | None:
    """Read one number of any shape with one element, or None when the dataset is not there."""
    if find(file, path) is None:
        return None
    values = vector(file, path, 1)
    if values.size != 1:
        raise DataError(f"{file.filename}: {path} has {values.size} values; expected one number.")
    return float(values[0])


def images(file: h5py.File, kinds: Mapping[str, str]) -> Iterator[list[AnyArray]]:
    """Yield some rows of each of several detector images of one shape, (h, w) or (1, h, w), in turn.

    `kinds` are the kinds of numbers that each path may hold.
    """
    found = {f"{file.filename}: {path}": dataset(file, path) for path in kinds}
    for (where, one), kind in zip(found.items(), kinds.values(), strict=True):
        if one.dtype.kind not in kind or len(image_shape(one)) != 2:
            raise DataError(f"{where} has shape {one.shape} and dtype {one.dtype}; expected an image of numbers.")
        height, width = image_shape(one)
        if height * width > MOST_PIXELS:
            raise DataError(f"{where} has {height} x {width} pixels; expected a detector image.")
    step = max(1, _PIXELS // max(width, 1))
    for row in range(0, height, step):
        strips = []
        for where, one in found.items():
            with reading(where):
                _require_readable(one, where, min(step, height) * width * one.dtype.itemsize)
                strips.append(np.asarray(one[(0,) * (one.ndim - 2) + (slice(row, row + step),)]))
        yield strips


def image_shape(found: h5py.Dataset) -> tuple[int, ...]:
    """Shape of an image without the axes of length one that stand before it."""
    shape = tuple(int(length) for length in found.shape or ())
    return shape[-2:] if len(shape) > 2 and set(shape[:-2]) == {1} else shape


def text(value: object, where: str) -> str:
    """Return a string attribute or scalar string dataset value as str."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise DataError(f"{where} is not a short text; expected one.")
    return value.strip()


def texts(file: h5py.File, path: str, most: int = _MOST_TEXTS) -> list[str]:
    """Read a list of strings."""
    found = dataset(file, path)
    where = f"{file.filename}: {path}"
    with reading(where):
        if found.dtype.kind not in "SO" or found.dtype.itemsize > _MAX_TEXT or found.size > most:
            raise DataError(f"{where} has dtype {found.dtype} and {found.size} values; expected at most {most} names.")
        # one by one: any number of strings may share their bytes in the file
        return [text(found[place], where) for place in np.ndindex(found.shape)]


def other_masks(file: h5py.File, *used: str) -> tuple[str, ...]:
    """What to say of masks of a file, datasets with "mask" in their names, beside those that are used."""
    found, groups, seen, num_names = [], ["/"], set(), 0
    with reading(f"{file.filename}: names of masks"):
        while groups and num_names < _MOST_TEXTS:
            here = file[groups.pop()]
            place = h5py.h5o.get_info(here.id).addr
            num_names += len(here)
            for name in () if place in seen else here:
                inside = here.get(name, getlink=True, getclass=True) is h5py.HardLink
                kind, path = here.get(name, getclass=True) if inside else None, f"{here.name.rstrip('/')}/{name}"
                if kind is h5py.Group:
                    groups.append(path)
                elif kind is h5py.Dataset and "mask" in name.lower() and path not in used:
                    found.append(path)
            seen.add(place)
    return (f"masks {', '.join(sorted(found))}",) if found else ()


def stated_unit(file: h5py.File, path: str) -> str | None:
    """Return the unit that the attributes of a dataset state: `units`, or `unit`, in any case."""
    found = dataset(file, path)
    with reading(f"{path} (attributes)"):
        names = [name for name in found.attrs if name.strip().lower() in ("units", "unit")]
        stated = {text(found.attrs[name], f"{path} (attribute {name})") for name in names} - {""}
    if len(stated) > 1:
        raise DataError(
            f"{file.filename}: {path} is in {' and in '.join(map(repr, sorted(stated)))}; expected one unit."
        )
    return next(iter(stated), None)


def attribute(file: h5py.File, path: str, name: str, most: int) -> FloatArray | None:
    """Read the numbers of an attribute of a dataset, at most so many, or None when it has no such attribute."""
    found, where = dataset(file, path), f"{file.filename}: {path} (attribute {name})"
    with reading(where):
        if name not in found.attrs:
            return None
        stored = found.attrs.get_id(name)
        if stored.dtype.kind not in "fiu" or np.prod(stored.shape, dtype=object) > most:
            raise DataError(f"{where} has shape {stored.shape} and dtype {stored.dtype}; expected {most} numbers.")
        return checks.real_vector(where, np.atleast_1d(found.attrs[name]))


def factor(file: h5py.File, path: str, quantity: str, units: Units) -> float:
    """Return the factor to our unit of the numbers of a dataset; see `Units.factor`."""
    return units.factor(quantity, stated_unit(file, path), f"{file.filename}: {path}")


def shape_and_dtype(file: h5py.File, path: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Return what the header of a dataset says."""
    found = dataset(file, path)
    with reading(f"{file.filename}: {path}"):
        return tuple(int(length) for length in found.shape or ()), found.dtype


def map_frames(file: h5py.File, path: str) -> int:
    """Return the number of frames of a square map after checking its shape and type."""
    shape, dtype = shape_and_dtype(file, path)
    if dtype.kind != "f" or len(shape) != 2 or shape[0] != shape[1]:
        raise DataError(
            f"{file.filename}: {path} has shape {shape} and dtype {dtype}; "
            "expected a square map of floating-point numbers."
        )
    return shape[0]


class SquareMaps:
    """Maps in datasets of their own, whose sizes are compared when they are opened."""

    def __init__(self, file: h5py.File, paths: Sequence[str]) -> None:
        self._file, self._paths = file, paths
        self.num_maps, self.num_frames = len(paths), map_frames(file, paths[0])

    def _opened(self, index: int) -> tuple[h5py.Dataset, str]:
        path, where = self._paths[index], f"{self._file.filename}: {self._paths[index]}"
        n = map_frames(self._file, path)
        if n != self.num_frames:
            raise DataError(f"{where} has {n} frames, but {self._paths[0]} has {self.num_frames}.")
        return dataset(self._file, path), where

    def block(self, index: int, rows: slice, columns: slice, out: MapArray) -> None:
        """Read a part of one map."""
        found, where = self._opened(index)
        read_block(found, np.s_[rows, columns], out, where)

    def in_file(self, index: int) -> MapArray | None:
        """One map as it lies in the file, if it does."""
        return mapped(*self._opened(index))

    def read_map(self, index: int, frames: slice, out: MapArray) -> None:
        """Read a range of frames of one map."""
        self.block(index, frames, frames, out)

    def map_file(self, index: NDArray[np.intp]) -> tuple[MapArray, ...] | None:
        """Maps as they lie in the file, if all do."""
        found = [one for k in index if (one := self.in_file(int(k))) is not None]
        return tuple(found) if len(found) == index.size else None


class Cube(SquareMaps):
    """Maps in one dataset, along its first axis or its last."""

    def __init__(self, file: h5py.File, path: str, q_axis: int) -> None:
        shape, dtype = shape_and_dtype(file, path)
        square = tuple(length for axis, length in enumerate(shape) if axis != q_axis)
        if dtype.kind != "f" or len(shape) != 3 or square[0] != square[1] or not 0 < shape[q_axis] <= MOST_NUMBERS:
            raise DataError(
                f"{file.filename}: {path} has shape {shape} and dtype {dtype}; "
                f"expected floating-point maps {'(n_q, n, n)' if q_axis == 0 else '(n, n, n_q)'}."
            )
        self._found, self._where, self._first = dataset(file, path), f"{file.filename}: {path}", q_axis == 0
        self.num_maps, self.num_frames = shape[q_axis], square[0]

    def block(self, index: int, rows: slice, columns: slice, out: MapArray) -> None:
        """Read a part of one map."""
        selection: object = (index, rows, columns) if self._first else (rows, columns, index)
        read_block(self._found, selection, out, self._where)

    def in_file(self, index: int) -> MapArray | None:
        """One map as it lies in the file, if it does."""
        cube = mapped(self._found, self._where) if self._first else None
        return None if cube is None else cube[index]


def mapped(found: h5py.Dataset, where: str) -> MapArray | None:
    """Return a dataset as it lies in the file, mapped into memory; None unless it is float32 in one piece."""
    with reading(where):
        layout = found.id.get_create_plist().get_layout()
        if found.dtype != np.float32 or layout != h5py.h5d.CONTIGUOUS or found.id.get_storage_size() != found.nbytes:
            return None
        return np.memmap(found.file.filename, np.float32, "r", found.id.get_offset(), found.shape)


def read_block(found: h5py.Dataset, selection: object, out: MapArray, where: str) -> None:
    """Read part of a dataset straight into a float32 array."""
    with reading(where):
        _require_readable(found, where, 4 * out.size)
        with np.errstate(over="ignore", invalid="ignore"):
            found.read_direct(out, selection)


def _require_readable(found: h5py.Dataset, where: str, num_bytes: int) -> None:
    """Check memory for the bytes that are read and for a storage chunk, and that compression can be undone."""
    require_budget(num_bytes, found.file.filename, where)
    if found.chunks is None:
        return
    chunk = int(np.prod(found.chunks, dtype=object)) * found.dtype.itemsize
    if chunk > _MAX_CHUNK_RATIO * found.nbytes + (1 << 20):
        raise DataError(f"{where} is stored in chunks of {found.chunks}, far beyond its shape {found.shape}.")
    require_budget(chunk, found.file.filename, f"{where} (a storage chunk)")
    filters = found.id.get_create_plist()
    for k in range(filters.get_nfilters()):
        if not h5py.h5z.filter_avail(filters.get_filter(k)[0]):
            import hdf5plugin  # noqa: F401  registers more compression filters
