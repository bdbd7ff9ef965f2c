"""What bytes that nobody vouches for may raise and may cost: one rule for every door.

`reading` makes one kind of error of whatever goes wrong while such bytes are read, `require_budget` compares what they
are said to be with the file that they come from before memory is taken for them. `limit_process` holds a process that
does nothing but read to that, whatever the libraries that it uses do.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from homodyne.device.config import taken_address_space
from homodyne.errors import DataError, HomodyneError, InputError

EXPANSION = 100
"""Bytes of values per byte of a file: maps of few photons, which repeat few numbers, have 70 when compressed."""

ALLOWANCE = 1 << 26
"""Bytes of values that any file may have."""

SECONDS = 10
"""Computing time that a reading process has for anything it is asked, and one more for each megabyte of the file."""

ROOM = 1 << 29
"""Bytes of address space that a reading process has beside what it is told to read."""

_COPIES = 4  # of what is read: stored, decompressed, converted
_limited = {"address space": 0}


@contextmanager
def reading(what: str, kind: type[InputError] = DataError) -> Iterator[None]:
    """Turn whatever the reading of foreign bytes raises into one kind of error that names `what`.

    Damage reaches libraries in their depth, so no list of exceptions is complete; errors of our own pass.
    """
    try:
        yield
    except HomodyneError:
        raise
    except Exception as error:  # foreign bytes may raise anything
        said = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        raise kind(f"{what} cannot be read; it may be damaged, incomplete or still being written ({said}).") from error


def require_budget(num_bytes: int, path: str | os.PathLike[str], what: str) -> None:
    """Refuse values that take far more memory than the file they come from.

    Raises
    ------
    DataError
        More than ALLOWANCE and EXPANSION bytes per byte of the file.
    """
    size = os.stat(path).st_size
    require_plausible_size(num_bytes, size, what)
    if _limited["address space"]:
        _limited["address space"] += _COPIES * num_bytes
        _set_limit(resource.RLIMIT_AS, _limited["address space"])


def limit_process(path: str | os.PathLike[str], seconds: int, num_bytes: int = 0) -> None:
    """Limit what this process may take from now on for reading a file: `seconds`, `ROOM`, and what `num_bytes` need.

    What `require_budget` grants comes on top. A process that does not keep to it gets no memory, or is ended by
    SIGXCPU.
    """
    used, size = resource.getrusage(resource.RUSAGE_SELF), os.stat(path).st_size if os.path.exists(path) else 0
    _set_limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds + size / 1e6) + 1)
    if taken := taken_address_space():
        _limited["address space"] = taken + ROOM + _COPIES * num_bytes
        _set_limit(resource.RLIMIT_AS, _limited["address space"])


def _set_limit(kind: int, value: int) -> None:
    """Set a limit of this process, as far as whoever started it allows."""
    most = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))


def require_plausible_size(num_bytes: int, size: int, what: str) -> None:
    """As `require_budget`, for a file of `size` bytes."""
    if num_bytes > ALLOWANCE + EXPANSION * size:
        raise DataError(
            f"{what} would take {num_bytes / 1e6:.4g} MB, but the file has {size / 1e6:.3g} MB: it is damaged, or "
            f"holds one number over and over. Expected at most {EXPANSION} times the size of the file and "
            f"{ALLOWANCE / 1e6:.0f} MB; write what is meant without compression, or select fewer maps or frames."
        )
