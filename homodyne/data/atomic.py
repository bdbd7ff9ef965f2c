"""Writing a file so that it is either complete or not there, also when the disk fills up."""

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from homodyne.errors import ExecutionError, InputError


class Sink(io.RawIOBase):
    """A binary file that remembers the first failure to write instead of raising it.

    The HDF5 library crashes the process when a write fails while it closes a file, so it must not learn of
    the failure; :func:`replacing` reports it afterwards. Pass a Sink to ``h5py.File`` or ``numpy.savez``.
    """

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__()
        self._raw = raw
        self.error: OSError | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._raw.tell()

    def readinto(self, buffer: Any, /) -> int | None:
        """Read into a buffer."""
        return self._raw.readinto(buffer)

    def write(self, data: Any, /) -> int:
        """Write everything, or remember why it did not work; nothing more is written after that."""
        view = memoryview(data).cast("B")
        written = 0
        while self.error is None and written < len(view):
            try:
                written += self._raw.write(view[written:]) or 0
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """Cut or extend the file."""
        try:
            return self._raw.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def require_written(self) -> None:
        """Raise what went wrong so far, so that a long write can stop early."""
        if self.error is not None:
            raise self.error


@contextmanager
def replacing(path: str | Path) -> Iterator[Sink]:
    """Yield a file to write; it takes the place of `path` when the block ends well, else nothing changes.

    Raises
    ------
    InputError
        The directory does not exist or cannot be written to.
    ExecutionError
        Writing failed, for instance because the disk is full. A file that was there before is intact.
    """
    target = Path(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(21, "is a directory")
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error.strerror}); give a file in a directory that exists and is "
            "writable."
        ) from error
    temporary = Path(name)
    try:
        with io.FileIO(handle, "r+") as raw:
            sink = Sink(raw)
            yield sink
            sink.require_written()
            os.fsync(raw.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise ExecutionError(
            f"{target} could not be written ({error.strerror or error}); the file that was there before, "
            "if any, is "
            "intact. Free space, or choose another directory."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """Return the process's file creation mask (reading it means setting it for an instant)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
