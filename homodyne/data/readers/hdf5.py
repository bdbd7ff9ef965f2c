"""Reading HDF5 files that nobody vouches for.

Every access of the HDF5 readers goes through here: paths are walked link by link, nothing outside the file is
opened, and sizes, shapes and types are checked before memory is allocated.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from homodyne.data import checks
from homodyne.data.checks import FloatArray, MapArray
from homodyne.data.readers.catalog import MapFile, ReadMap
from homodyne.errors import DataError

if TYPE_CHECKING:
    import h5py

_MAX_LINKS = 16  # soft links followed on the way to one dataset
_MAX_TEXT = 4096  # bytes of one string
_MAX_CHUNK_RATIO = 4  # storage chunk over dataset size; more is a decompression bomb

SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
PER_ANGSTROM = {
    **dict.fromkeys(("1/a", "1/å", "1/angstrom", "a^-1", "å^-1", "å⁻¹", "a-1", "angstrom^-1", "inverse angstrom"), 1.0),
    **dict.fromkeys(("1/nm", "nm^-1", "nm⁻¹", "nm-1"), 0.1),
}
DEGREES = {**dict.fromkeys(("deg", "degree", "degrees", "°"), 1.0), **dict.fromkeys(("rad", "radian"), 180 / np.pi)}


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what the HDF5 library raises on a damaged file into a DataError that names `what`."""
    try:
        yield
    except DataError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{what} cannot be read; the file may be damaged or incomplete ({error}).") from error


@contextmanager
def open_hdf5(path: Path) -> Iterator["h5py.File"]:
    """Open an HDF5 file for reading only."""
    import h5py

    with reading(str(path)):
        file = h5py.File(path, "r", locking="best-effort")
    with file:
        yield file


def find(file: "h5py.File", path: str) -> Any:
    """Return the group or dataset at an absolute path, or None; links that leave the file are refused."""
    import h5py

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
        return here


def _require_inside(dataset: "h5py.Dataset", where: str) -> None:
    """Refuse a dataset whose values lie in another file."""
    outside = [name for name, *_ in dataset.external or ()]
    if dataset.is_virtual:
        outside += [s.file_name for s in dataset.virtual_sources() if s.file_name != "."]
    if outside:
        raise DataError(
            f"{where} takes its values from another file ({outside[0]}); expected the data inside the file. "
            "Copy the data into it."
        )


def dataset(file: "h5py.File", path: str) -> "h5py.Dataset":
    """Return the dataset at a path, or say that it is missing."""
    import h5py

    found = find(file, path)
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{file.filename}: {path} is missing; expected a dataset there.")
    return found


def group_names(file: "h5py.File", path: str) -> list[str]:
    """Names inside a group, without opening them; empty when there is no such group."""
    import h5py

    found = find(file, path)
    if not isinstance(found, h5py.Group):
        return []
    with reading(f"{file.filename}: {path}"):
        return [str(name) for name in found]


def numbers(file: "h5py.File", path: str, *, kinds: str = "fiu") -> NDArray[Any]:
    """Read a numeric dataset of any shape after checking its type and size."""
    found = dataset(file, path)
    where = f"{file.filename}: {path}"
    with reading(where):
        if found.dtype.kind not in kinds or found.shape is None:
            raise DataError(f"{where} has dtype {found.dtype}; expected numbers.")
        _require_readable(found, where)
        return np.asarray(found[()])


def vector(file: "h5py.File", path: str, *, finite: bool = True) -> FloatArray:
    """Read a list of numbers, (n,), (1, n) or (n, 1), as float64."""
    values = numbers(file, path)
    if values.size and max(values.shape, default=1) != values.size:
        raise DataError(f"{file.filename}: {path} has shape {values.shape}; expected a list of numbers.")
    flat = values.reshape(-1).astype(np.float64)
    if finite:
        checks.real_vector(f"{file.filename}: {path}", flat)
    return flat


def integers(file: "h5py.File", path: str) -> NDArray[np.int64]:
    """Read a list of whole numbers (instruments also store them as floats)."""
    values = vector(file, path)
    if np.any(values != np.rint(values)) or np.any(np.abs(values) > 2**53):
        raise DataError(f"{file.filename}: {path} holds fractions; expected whole numbers.")
    return values.astype(np.int64)


def optional_scalar(file: "h5py.File", path: str) -> float | None:
    """Read one number of any shape with one element, or None when the dataset is not there."""
    if find(file, path) is None:
        return None
    values = vector(file, path)
    if values.size != 1:
        raise DataError(f"{file.filename}: {path} has {values.size} values; expected one number.")
    return float(values[0])


def text(value: Any, where: str) -> str:
    """Return a string attribute or scalar string dataset value as str."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise DataError(f"{where} is not a short text; expected one.")
    return value.strip()


def texts(file: "h5py.File", path: str) -> list[str]:
    """Read a list of strings."""
    found = dataset(file, path)
    where = f"{file.filename}: {path}"
    with reading(where):
        if found.dtype.kind not in "SO" or found.dtype.itemsize > _MAX_TEXT or found.size > 1 << 20:
            raise DataError(f"{where} has dtype {found.dtype} and {found.size} values; expected a list of names.")
        return [text(value, where) for value in np.atleast_1d(found[()]).reshape(-1)]


def unit_factor(units: str | None, known: dict[str, float], where: str) -> float:
    """Return the factor to our unit; no unit stated means ours."""
    if not units:
        return 1.0
    factor = known.get(units.strip().lower())
    if factor is None:
        raise DataError(f"{where} is in {units!r}; expected one of {', '.join(known)}.")
    return factor


def scale(file: "h5py.File", path: str, known: dict[str, float]) -> float:
    """Return the factor to our unit from the `units` attribute of a dataset."""
    where = f"{path} (attribute units)"
    with reading(where):
        value = dataset(file, path).attrs.get("units")
    return unit_factor(None if value is None else text(value, where), known, path)


def shape_and_dtype(file: "h5py.File", path: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return what the header of a dataset says."""
    found = dataset(file, path)
    with reading(f"{file.filename}: {path}"):
        return tuple(int(length) for length in found.shape or ()), found.dtype


def map_frames(file: "h5py.File", path: str) -> int:
    """Return the number of frames of a square map after checking its shape and type."""
    shape, dtype = shape_and_dtype(file, path)
    if dtype.kind != "f" or len(shape) != 2 or shape[0] != shape[1]:
        raise DataError(
            f"{file.filename}: {path} has shape {shape} and dtype {dtype}; "
            "expected a square map of floating-point numbers."
        )
    return shape[0]


def square_maps(file: "h5py.File", paths: Sequence[str]) -> tuple[int, ReadMap, MapFile]:
    """Return the number of frames, and the functions that read and map maps after checking that they have as many."""
    num_frames = map_frames(file, paths[0])

    def one(index: int) -> "h5py.Dataset":
        n = map_frames(file, paths[index])
        if n != num_frames:
            raise DataError(f"{file.filename}: {paths[index]} has {n} frames, but {paths[0]} has {num_frames}.")
        return dataset(file, paths[index])

    def read_map(index: int, frames: slice, out: MapArray) -> None:
        read_block(one(index), np.s_[frames, frames], out, f"{file.filename}: {paths[index]}")

    def map_file(index: NDArray[np.intp]) -> tuple[MapArray, ...] | None:
        found = [mapped(one(int(k)), f"{file.filename}: {paths[k]}") for k in index]
        return tuple(one for one in found if one is not None) if all(one is not None for one in found) else None

    return num_frames, read_map, map_file


def mapped(found: "h5py.Dataset", where: str) -> MapArray | None:
    """Return a dataset as it lies in the file, mapped into memory; None unless it is float32 in one piece."""
    import h5py

    with reading(where):
        layout = found.id.get_create_plist().get_layout()
        if found.dtype != np.float32 or layout != h5py.h5d.CONTIGUOUS or found.id.get_storage_size() != found.nbytes:
            return None
        return np.memmap(found.file.filename, np.float32, "r", found.id.get_offset(), found.shape)


def read_block(found: "h5py.Dataset", selection: Any, out: MapArray, where: str) -> None:
    """Read part of a dataset straight into a float32 array."""
    with reading(where):
        _require_readable(found, where, read=4 * out.size)
        with np.errstate(over="ignore"):
            found.read_direct(out, selection)


def _require_readable(found: "h5py.Dataset", where: str, read: int | None = None) -> None:
    """Check memory for values and storage chunk, and that the compression can be undone."""
    import h5py

    checks.require_memory(found.nbytes if read is None else read, where, "The file may be damaged.")
    if found.chunks is None:
        return
    chunk = int(np.prod(found.chunks, dtype=object)) * found.dtype.itemsize
    if chunk > _MAX_CHUNK_RATIO * found.nbytes + (1 << 20):
        raise DataError(f"{where} is stored in chunks of {found.chunks}, far beyond its shape {found.shape}.")
    checks.require_memory(chunk, f"{where} (storage chunk)", "The file may be damaged.")
    filters = found.id.get_create_plist()
    for k in range(filters.get_nfilters()):
        if not h5py.h5z.filter_avail(filters.get_filter(k)[0]):
            import hdf5plugin  # noqa: F401  registers more compression filters
