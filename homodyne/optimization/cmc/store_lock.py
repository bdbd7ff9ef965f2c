"""One process at a time: a lock file that tells who holds it.

The kernel's ``flock`` decides; it ends with the process that holds it, however that ends. The file also names the
holder, for the message to others and for file systems on which ``flock`` reaches no further than the own machine.
"""

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from homodyne.errors import ExecutionError, InputError

logger = logging.getLogger(__name__)

_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
_MAX_NOTE = 4096  # bytes


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock at `path` while the block runs.

    Parameters
    ----------
    path
        The lock file; made when it is not there, never removed.

    Raises
    ------
    ExecutionError
        Another process holds it; the message names it.
    InputError
        The file cannot be opened for writing.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"cannot lock {os.fspath(path)!r}: {error.strerror or error}") from error
    try:
        _acquire(descriptor, path)
        _write_note(descriptor, {"pid": os.getpid(), "host": socket.gethostname()})
        try:
            yield
        finally:
            _write_note(descriptor, {})
    finally:
        os.close(descriptor)  # which releases the lock


def _acquire(descriptor: int, path: Path) -> None:
    """Take the kernel's lock, and judge what a holder before has left in the file."""
    proven = True  # that nobody on this machine holds it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise ExecutionError(_refusal(path, _read_note(descriptor))) from error
        if error.errno not in _UNSUPPORTED:
            raise
        logger.warning("the file system of %s has no locks; only its note tells whether somebody uses it", path)
        proven = False
    note = _read_note(descriptor)
    if not note:
        return
    if note.get("host") != socket.gethostname():
        raise ExecutionError(
            f"{_refusal(path, note)} If that process is no longer alive, delete {os.fspath(path)!r} and start again"
        )
    if not proven and _alive(note.get("pid")):
        raise ExecutionError(_refusal(path, note))
    logger.warning("taking over %s from process %s, which has ended without releasing it", path, note.get("pid"))


def _refusal(path: Path, note: dict[str, Any]) -> str:
    return (
        f"{os.fspath(path.parent)!r} is in use by process {note.get('pid', 'unknown')} "
        f"on {note.get('host', 'an unknown machine')}: wait until it has finished, or stop it."
    )


def _alive(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read_note(descriptor: int) -> dict[str, Any]:
    try:
        note = json.loads(os.pread(descriptor, _MAX_NOTE, 0) or b"{}")
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _write_note(descriptor: int, note: dict[str, Any]) -> None:
    content = json.dumps(note).encode() if note else b""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)
