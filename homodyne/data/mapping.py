"""Arrays that are mapped from files: whether one is, and how what was read of it leaves memory."""

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
