"""Arrays that are mapped from files: whether one is, and how what was read of it leaves memory."""

import mmap
from typing import Any, TypeVar

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)


def mapping_of(one: NDArray[Any]) -> mmap.mmap | None:
    """Mapping of the file behind an array; None of any other, and of private changes, which are in memory only."""
    mapping = getattr(one, "_mmap", None)  # NumPy has no other name for it
    return mapping if isinstance(one, np.memmap) and isinstance(mapping, mmap.mmap) and one.mode != "c" else None


def release_pages(one: NDArray[Any]) -> None:
    """Give the memory of an array that is mapped from a file back to the system, until it is read again.

    Without that what was read counts as memory of this process until somebody needs it. Other arrays stay as they are.
    """
    mapping = mapping_of(one)
    if mapping is not None and hasattr(mapping, "madvise"):  # which some systems do not have
        mapping.madvise(mmap.MADV_DONTNEED)


def offset_in_file(one: NDArray[Any]) -> int | None:
    """Where in its file the first element of an array lies, bytes; None of an array that is not mapped from one."""
    mapping = mapping_of(one)
    if mapping is None or not isinstance(one, np.memmap) or one.filename is None:
        return None
    start = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]  # of the page that the mapping begins at
    before = one.offset - one.offset % mmap.ALLOCATIONGRANULARITY
    return int(before + one.__array_interface__["data"][0] - start)


def changeable(one: NDArray[Number]) -> NDArray[Number]:
    """Return an array with the same values that can be changed.

    Of one that is mapped from a file only the pages that are changed are copied; the file stays as it is.
    """
    offset = offset_in_file(one)
    if offset is None or not isinstance(one, np.memmap) or one.filename is None:
        return np.array(one)
    private = np.memmap(one.filename, np.uint8, "c")
    first: NDArray[Number] = np.ndarray((), one.dtype, buffer=private, offset=offset)
    return as_strided(first, one.shape, one.strides)
