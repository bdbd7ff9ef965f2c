"""Replace a file atomically: afterwards the path holds either the whole new content or what it held before.

`write_atomically` takes content that is in memory, `replacing` yields a file for content that is not.
"""

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from homodyne.errors import ExecutionError, InputError


def write_atomically(path: str | os.PathLike[str], content: bytes | memoryview) -> Path:
    """Write `content` to `path`, whole or not at all, and return the path.

    Raises
    ------
    InputError, ExecutionError
        As `replacing`.
    """
    with replacing(path) as sink:
        sink.write(content)
    return Path(path)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator["Sink"]:
    """Yield a file to write; it takes the place of `path` when the block ends well, else nothing changes.

    An existing file is replaced; a symbolic link is followed.

    Raises
    ------
    InputError
        The directory does not exist or cannot be written to, or the path is a directory.
    ExecutionError
        Writing failed, for instance because the disk is full. A file that was there before is intact.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".homodyne-{secrets.token_hex(8)}.part")
    try:
        if target.is_dir():
            raise IsADirectoryError(21, "is a directory")
        raw = io.FileIO(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), "r+")
    except OSError as error:
        raise InputError(
            f"cannot write {os.fspath(path)!r}: {error.strerror}; choose a file in a directory "
            "that exists and that you may write to"
        ) from error
    try:
        with raw:
            sink = Sink(raw)
            yield sink
            sink.require_written()
            os.fsync(raw.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise ExecutionError(
            f"writing {os.fspath(path)!r} failed: {error.strerror or error}; the file that was there before, "
            "if any, is intact; make room or write elsewhere"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


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
