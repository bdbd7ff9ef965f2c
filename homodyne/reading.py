"""What bytes that nobody vouches for may raise and may cost: one rule for every door.

`reading` makes one kind of error of whatever goes wrong while such bytes are read, `require_budget` compares what they
are said to be with the file that they come from before memory is taken for them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from homodyne.errors import DataError, HomodyneError, InputError

EXPANSION = 100
"""Bytes of values per byte of a file: maps of few photons, which repeat few numbers, have 70 when compressed."""

ALLOWANCE = 1 << 26
"""Bytes of values that any file may have."""


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


def require_plausible_size(num_bytes: int, size: int, what: str) -> None:
    """As `require_budget`, for a file of `size` bytes."""
    if num_bytes > ALLOWANCE + EXPANSION * size:
        raise DataError(
            f"{what} would take {num_bytes / 1e6:.4g} MB, but the file has {size / 1e6:.3g} MB: it is damaged, or "
            f"holds one number over and over. Expected at most {EXPANSION} times the size of the file and "
            f"{ALLOWANCE / 1e6:.0f} MB; write what is meant without compression, or select fewer maps or frames."
        )
