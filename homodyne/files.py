"""The one door through which files are written: whole or not at all, and never over a file of somebody else.

`write_atomically` takes content that is in memory, `replacing` yields a file for content that is not, `write_together`
takes several files that belong together. An existing file is replaced only when it is of the `Kind` that is written,
which its content says. What is being written lies beside its place, under a name of `STAGE`, locked by its writer;
`remove_abandoned` removes those whose writer is dead.
"""

import errno
import fcntl
import io
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homodyne.arguments import as_path
from homodyne.errors import ExecutionError, InputError

STAGE = re.compile(r"\.homodyne-[0-9a-f]{16}\.part")
"""Names of files that are being written."""

_HELD = f".homodyne-{0:016x}.part"  # file in a folder whose owner has locked it
_OWNER = ".homodyne-owner"  # file in a temporary folder that its owner has locked
_TEMPORARY = "homodyne-"
_ENDS = 65536  # bytes at either end of a file in which the mark of its kind lies


@dataclass(frozen=True)
class Kind:
    """Files that this program writes, and may therefore replace.

    Attributes
    ----------
    name : str
        What such a file is, for messages.
    mark : bytes
        What each of them, and no other file, has near its beginning or end.
    """

    name: str
    mark: bytes


OWN = Kind("file of its own", b"")
"""Any file, in a folder where everything is the program's, such as a store."""
FIGURE = Kind("figure", b"homodyne figure 1")
RESULT = Kind("result", b"homodyne result 2 sha256 ")
TABLE = Kind("table", b"parameter,unit,file,model,method,uncertainty,verdict,q_min,q_max")
FITS = Kind("table of fits", b"file,q_min,q_max,verdict,method")
LATEX_TABLE = Kind("table for LaTeX", b"% homodyne table 1")
SCHEMA = Kind("JSON schema", b'{\n  "$comment": "homodyne schema 1"')
REPORT = Kind("report", b"homodyne report 1")
CAPTIONS = Kind("list of captions", b"homodyne captions 1")
PLAN = Kind("plan", b"homodyne plan 1")
NEXUS = Kind("NeXus file of a result", b"homodyne nexus 1")
MEASUREMENT = Kind("measurement", b"homodyne_two_time")


def write_atomically(path: str | os.PathLike[str], content: bytes | memoryview, kind: Kind | None) -> Path:
    """Write `content` to `path`, whole or not at all, and return the path.

    Parameters
    ----------
    kind
        What an existing file must be to be replaced; None for a path where no file may be.

    Raises
    ------
    InputError, ExecutionError
        As `replacing`.
    """
    with replacing(path, kind) as sink:
        sink.write(content)
    return Path(path)


def write_together(contents: Mapping[Path, bytes], kind: Kind | None) -> None:
    """Write files that belong together: none takes its place before all are on the disk.

    Raises
    ------
    InputError, ExecutionError
        As `replacing`.
    """
    with ExitStack() as stack:
        parts = [stack.enter_context(_staged(path, kind)) for path in contents]
        for part, content in zip(parts, contents.values(), strict=True):
            part.sink.write(content)
        for part in parts:
            part.finish()
        for part in parts:
            part.put()


@contextmanager
def replacing(path: str | os.PathLike[str], kind: Kind | None) -> Iterator["Sink"]:
    """Yield a file to write; it takes the place of `path` when the block ends well, else nothing changes.

    An existing file is replaced when it is of the kind; a symbolic link is followed.

    Raises
    ------
    InputError
        The directory does not exist or cannot be written to, the path is a directory, or a file of another kind.
    ExecutionError
        Writing failed, for instance because the disk is full. A file that was there before is intact.
    """
    with _staged(path, kind) as part:
        yield part.sink
        part.finish()
        part.put()


def require_writable(path: str | os.PathLike[str], kind: Kind | None) -> None:
    """Refuse, before any work is done, a path that `replacing` would refuse.

    Raises
    ------
    InputError
        As `replacing`.
    """
    with _staged(path, kind):
        pass


def make_folder(folder: Path) -> Path:
    """Make a folder, and those above it, where there is none; return it.

    Raises
    ------
    InputError
        It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # the second of a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot make the folder {os.fspath(folder)!r}: {reason}; choose another, or have it made for you"
        ) from error
    return folder


@contextmanager
def writable_folder(folder: Path) -> Iterator[None]:
    """Make a folder where there is none; what was made is removed again at the end when nothing is in it.

    Raises
    ------
    InputError
        It cannot be made, or not be written to.
    """
    made = [each for each in (folder, *folder.parents) if not os.path.exists(each)]
    try:
        try:
            make_folder(folder)
            require_writable(folder / ".homodyne", OWN)
        except InputError as error:
            raise InputError(f"cannot write to the folder {os.fspath(folder)!r}: {error}") from error
        yield
    finally:
        with suppress(OSError, ValueError):
            for each in made:
                each.rmdir()


@contextmanager
def held_folder(folder: Path, otherwise: str) -> Iterator[None]:
    """Keep other processes that would hold a folder out of it while the block runs, where the file system has locks.

    Parameters
    ----------
    folder
        It exists.
    otherwise
        What else somebody may do who is kept out, for the message.

    Raises
    ------
    ExecutionError
        Another process holds it.
    InputError
        It cannot be written to.
    """
    file = folder / _HELD
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise InputError(f"cannot write to {os.fspath(folder)!r}: {error.strerror}; {otherwise}") from error
        try:
            if not _lock(descriptor):
                raise ExecutionError(
                    f"{os.fspath(folder)!r} is in use by another homodyne: wait until it has finished, stop it, or "
                    f"{otherwise}"
                )
            if os.fstat(descriptor).st_nlink:  # else its holder has ended, and removed it, since it was opened
                try:
                    yield
                finally:
                    with suppress(OSError):
                        file.unlink()
                return
        finally:
            os.close(descriptor)


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove what dead processes have left half-written in a folder and below; return what it was."""
    found = [Path(place) / name for place, _, names in os.walk(folder) for name in names if STAGE.fullmatch(name)]
    return [file for file in found if _abandoned(file, file)]


def remove_abandoned_temporaries() -> list[Path]:
    """Remove temporary folders of dead processes; return them."""
    folders = Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*")
    return [folder for folder in folders if _abandoned(folder / _OWNER, folder)]


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Folder that is removed when the block ends; where its process is killed, by `remove_abandoned_temporaries`."""
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
    try:
        descriptor = os.open(folder / _OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor)
            yield folder
        finally:
            os.close(descriptor)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Part:
    """A file that is being written beside its place."""

    def __init__(self, path: str | os.PathLike[str], target: Path, stage: Path, raw: io.FileIO) -> None:
        self.path, self.target, self.stage, self.raw = path, target, stage, raw
        self.sink = Sink(raw)

    def finish(self) -> None:
        """Bring everything to the disk."""
        with self.failures():
            self.sink.require_written()
            os.fsync(self.raw.fileno())

    def put(self) -> None:
        """Take the place."""
        with self.failures():
            os.replace(self.stage, self.target)

    @contextmanager
    def failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ExecutionError(
                f"writing {os.fspath(self.path)!r} failed: {error.strerror or error}; the file that was there before, "
                "if any, is intact; make room or write elsewhere"
            ) from error


@contextmanager
def _staged(path: str | os.PathLike[str], kind: Kind | None) -> Iterator[_Part]:
    """Yield an empty file that can take the place of `path`; it is removed when the block ends."""
    try:
        target = Path(os.path.realpath(as_path("path", path)))
        stage = target.with_name(f".homodyne-{secrets.token_hex(8)}.part")
        if target.is_dir():
            raise IsADirectoryError(21, "is a directory")
        _require_kind(path, target, kind)
        raw = io.FileIO(os.open(stage, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "r+")
    except InputError:
        raise
    except (OSError, ValueError) as error:  # the second of a zero byte in the name
        raise InputError(
            f"cannot write {os.fspath(path)!r}: {getattr(error, 'strerror', None) or error}; choose a file in a "
            "directory that exists and that you may write to"
        ) from error
    part = _Part(path, target, stage, raw)
    try:
        with raw:
            _lock(raw.fileno())
            with part.failures():
                yield part
    finally:
        with suppress(OSError):
            stage.unlink()


def _require_kind(path: str | os.PathLike[str], target: Path, kind: Kind | None) -> None:
    """Refuse an existing file that must not be replaced."""
    if not target.exists() or kind == OWN:
        return
    if not target.is_file():
        raise InputError(f"{os.fspath(path)!r} is no ordinary file; choose another name")
    if kind is None:
        raise InputError(f"{os.fspath(path)!r} exists; choose another name or remove it")
    with target.open("rb") as stream:
        ends = stream.read(_ENDS)
        stream.seek(max(stream.seek(0, os.SEEK_END) - _ENDS, 0))
        ends += stream.read()
    if kind.mark not in ends:
        raise InputError(
            f"{os.fspath(path)!r} exists and is no {kind.name} that homodyne has written: it is not replaced; choose "
            "another name"
        )


def _lock(descriptor: int) -> bool:
    """Let other processes see that the owner of a file lives, where the file system can tell; false where one does."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _abandoned(lock: Path, place: Path) -> bool:
    """Remove a file or folder when nobody holds its lock; whether that was so."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


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
        """Return True, as `writable` and `seekable` do."""
        return True

    writable = seekable = readable

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
