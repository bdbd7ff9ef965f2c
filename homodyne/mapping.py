"""Arrays that are mapped from files: whether one is, and how what was read of it leaves memory."""

import mmap
import os
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from homodyne.arrays import AnyArray
from homodyne.errors import DataError

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Place:
    """Where an array lies: file, bytes from its beginning, shape, strides in bytes, type of the values."""

    file: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


def mapping_of(one: AnyArray) -> mmap.mmap | None:
    """Mapping of the file behind an array; None of any other, and of private changes, which are in memory only."""
    mapping = getattr(one, "_mmap", None)  # NumPy has no other name for it
    return mapping if isinstance(one, np.memmap) and isinstance(mapping, mmap.mmap) and one.mode != "c" else None


def intact(one: NDArray[Number]) -> NDArray[Number]:
    """Return an array after a look at the file that it is mapped from: where that was cut, reading ends the process.

    Raises
    ------
    DataError
        The file has become shorter.
    """
    mapping = mapping_of(one)
    if mapping is not None and isinstance(one, np.memmap):
        needed = one.offset - one.offset % mmap.ALLOCATIONGRANULARITY + len(mapping)
        if (size := mapping.size()) < needed:
            name = os.fspath(one.filename) if one.filename is not None else "a file"
            raise DataError(
                f"{name!r} was cut while it was in use: it has {size} bytes, {needed} were mapped; "
                "load a copy that nobody changes"
            )
    return one


def release_pages(one: AnyArray) -> None:
    """Give the memory of an array that is mapped from a file back to the system, until it is read again.

    Without that what was read counts as memory of this process until somebody needs it. Other arrays stay as they are.
    """
    mapping = mapping_of(one)
    if mapping is not None and hasattr(mapping, "madvise"):  # which some systems do not have
        mapping.madvise(mmap.MADV_DONTNEED)


def place_of(one: AnyArray) -> Place | None:
    """Where an array lies that is mapped from a file; None of any other."""
    mapping = mapping_of(one)
    if mapping is None or not isinstance(one, np.memmap) or one.filename is None:
        return None
    start = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]  # of the page that the mapping begins at
    before = one.offset - one.offset % mmap.ALLOCATIONGRANULARITY
    offset = int(before + one.__array_interface__["data"][0] - start)
    return Place(os.path.abspath(one.filename), offset, one.shape, one.strides, one.dtype.str)


def map_place(place: Place) -> AnyArray:
    """Map real numbers that lie in a file, for reading.

    Raises
    ------
    DataError
        The file cannot be read, or they do not lie in it.
    """
    dtype, size = np.dtype(place.dtype), 0
    ends = [(length - 1) * step for length, step in zip(place.shape, place.strides, strict=True)]
    low, high = (place.offset + sum(pick(end, 0) for end in ends) for pick in (min, max))
    try:
        size = os.stat(place.file).st_size
        if low >= 0 and high + dtype.itemsize <= size and dtype.kind == "f" and min(place.shape) >= 1:
            content = np.memmap(place.file, np.uint8, "r", low, (high + dtype.itemsize - low,))
            first = content[place.offset - low :][: dtype.itemsize].view(dtype)
            return as_strided(first, place.shape, place.strides, subok=True, writeable=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {place.file!r}, where a map lies: {error}") from error
    raise DataError(f"{place.file!r} has {size} bytes; a map of {dtype} {place.shape} was expected at {low} to {high}")


def changeable(one: NDArray[Number]) -> NDArray[Number]:
    """Return an array with the same values that can be changed.

    Of one that is mapped from a file only the pages that are changed are copied; the file stays as it is.
    """
    place = place_of(one)
    if place is None:
        return np.array(one)
    private = np.memmap(place.file, np.uint8, "c")
    first: NDArray[Number] = np.ndarray((), one.dtype, buffer=private, offset=place.offset)
    return as_strided(first, one.shape, one.strides)
