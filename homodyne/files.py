"""Replace a file atomically: afterwards the path holds either the whole new content or what it held before.

Content is made in memory first, so that a full disk is an ordinary error of one ``write`` and never a
half-written container.
"""

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from homodyne.errors import ExecutionError, InputError

_WRONG_PLACE = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ELOOP,
    }
)


def write_atomically(path: str | os.PathLike[str], content: bytes | memoryview) -> Path:
    """Write ``content`` to ``path`` through a temporary file in the same directory and ``os.replace``.

    Parameters
    ----------
    path : str or path
        Target; an existing file is replaced, a symbolic link is followed.
    content : bytes-like
        Everything the file shall hold.

    Returns
    -------
    Path
        The path that was given.

    Raises
    ------
    InputError
        The directory does not exist or cannot be written, or the path is a directory.
    ExecutionError
        The machine failed while writing (disk full, quota, size limit). The old file is intact in both
        cases and nothing is left.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".homodyne-{secrets.token_hex(8)}.part")
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as error:
        if error.errno in _WRONG_PLACE:
            raise InputError(
                f"cannot write {os.fspath(path)!r}: {error.strerror}; choose a directory you may write to"
            ) from error
        raise ExecutionError(
            f"writing {os.fspath(path)!r} failed: {error.strerror}; make room or write elsewhere"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return Path(path)
