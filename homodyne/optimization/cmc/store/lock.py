"""One process at a time: a lock file that tells who holds it.

The kernel's ``flock`` decides; it ends with the process that holds it, however that ends. The file also names the
holder, for the message to others and for file systems on which ``flock`` reaches no further than the own machine.
Its holder touches it every few seconds: a note of another machine is given up by `release`, and only when it has not
been touched for minutes, and is not while somebody looks.
"""

import errno
import fcntl
import json
import logging
import os
import secrets
import shlex
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from homodyne.errors import ExecutionError, InputError

logger = logging.getLogger(__name__)

_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
_MAX_NOTE = 4096  # bytes
BEAT = 15.0  # seconds between two touches
STALE = 300.0  # seconds without a touch after which a holder may be taken for dead


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
        note = {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "token": secrets.token_hex(8)}
        _write_note(descriptor, note)
        ended = threading.Event()
        beat = threading.Thread(target=_beat, args=(descriptor, path, note, ended), daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()
            if _read_note(descriptor) == note:
                _write_note(descriptor, {})
    finally:
        os.close(descriptor)  # which releases the lock


def release(path: Path) -> str:
    """Give up a lock whose holder has died on another machine; return who that was, empty when nobody held it.

    Raises
    ------
    ExecutionError
        It lives: on this machine, or it has touched the lock within the last minutes, or does now.
    InputError
        There is no such lock.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"cannot open {os.fspath(path)!r}: {error.strerror or error}") from error
    try:
        note = _read_note(descriptor)
        if not note:
            return ""
        proven = _flock(descriptor, path)
        here = note.get("host") == socket.gethostname() and note.get("boot") == _boot()
        alive = ("It lives." if not proven and _alive(note.get("pid")) else "") if here else _sign_of_life(path)
        if alive:
            raise ExecutionError(f"{_refusal(path, note)} {alive}")
        _write_note(descriptor, {})
        return f"process {note.get('pid', 'unknown')} on {note.get('host', 'an unknown machine')}"
    finally:
        os.close(descriptor)


def _beat(descriptor: int, path: Path, note: dict[str, object], ended: threading.Event) -> None:
    """Touch the lock until it has ended, or somebody else has it."""
    while not ended.wait(BEAT):
        if _read_note(descriptor) != note:
            logger.error("%s was taken over by another process while this one gave no sign of life", path)
            return
        with suppress(OSError):
            os.utime(descriptor)


def _sign_of_life(path: Path) -> str:
    """What tells that somebody touches a lock; empty when nothing does.

    The clock of the file system may have been set since the last touch: a lock that is not of the last minutes by that
    clock is watched for two beats.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent) as fresh:
            silent = os.fstat(fresh.fileno()).st_mtime - _touched(path)
    except OSError as error:
        raise InputError(f"cannot write to {os.fspath(path.parent)!r}: {error.strerror or error}") from error
    if 0.0 <= silent < STALE:
        return f"It gave a sign of life {silent:.0f} s ago."
    before = _touched(path)
    logger.info("looking for %.0f s whether somebody touches %s", 2 * BEAT, path)
    time.sleep(2 * BEAT)
    return "" if _touched(path) == before else "It gives signs of life."


def _touched(path: Path) -> float:
    """When a lock was touched; opened again, for file systems that remember what they have told."""
    with path.open("rb") as stream:
        return os.fstat(stream.fileno()).st_mtime


def _boot() -> str:
    """What tells this start of this machine from others; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _flock(descriptor: int, path: Path) -> bool:
    """Take the kernel's lock; false where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise ExecutionError(_refusal(path, _read_note(descriptor))) from error
        if error.errno not in _UNSUPPORTED:
            raise
        logger.warning("the file system of %s has no locks; only its note tells whether somebody uses it", path)
        return False
    return True


def _acquire(descriptor: int, path: Path) -> None:
    """Take the kernel's lock, and judge what a holder before has left in the file."""
    proven = _flock(descriptor, path)  # nobody on this machine holds it
    note = _read_note(descriptor)
    if not note:
        return
    boot = note.get("boot", _boot())
    if note.get("host") != socket.gethostname() or (boot != _boot() and _sign_of_life(path)):
        command = f"homodyne unlock {shlex.quote(os.fspath(path.parent))}"
        raise ExecutionError(f"{_refusal(path, note)} If that process has died, run: {command}")
    if not proven and boot == _boot() and _alive(note.get("pid")):
        raise ExecutionError(_refusal(path, note))
    logger.warning("taking over %s from process %s, which has ended without releasing it", path, note.get("pid"))


def _refusal(path: Path, note: dict[str, object]) -> str:
    return (
        f"{os.fspath(path.parent)!r} is in use by process {note.get('pid', 'unknown')} "
        f"on {note.get('host', 'an unknown machine')}: wait until it has finished, or stop it."
    )


def _alive(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read_note(descriptor: int) -> dict[str, object]:
    try:
        note = json.loads(os.pread(descriptor, _MAX_NOTE, 0) or b"{}")
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _write_note(descriptor: int, note: dict[str, object]) -> None:
    content = json.dumps(note).encode() if note else b""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)
