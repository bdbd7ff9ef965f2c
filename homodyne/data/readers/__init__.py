"""Which reader takes which file: :func:`open_catalog` finds out the layout and lists the maps of a file.

One module per layout, entered once in ``LAYOUTS``. Detection looks at the content, never at the name.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homodyne.data.readers import aps_8idi, aps_u, hdf5, native, npy, npz, nxxpcs
from homodyne.data.readers.catalog import Catalog
from homodyne.errors import DataError

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Layout:
    """One layout of files: how it is recognised and listed.

    Attributes
    ----------
    name : str
        Value of ``format``.
    container : str
        "HDF5", "NPZ" or "NPY".
    absent : callable
        Returns what marks the layout and is not in an open file; nothing absent means recognised.
    catalog : callable
        Lists the maps of an open file.
    """

    name: str
    container: str
    absent: Callable[[Any], list[str]]
    catalog: Callable[[Any], Catalog]


LAYOUTS = (
    Layout(native.NAME, "HDF5", native.absent_hdf5, native.catalog_hdf5),
    Layout(native.NAME, "NPZ", native.absent, native.catalog_npz),
    Layout(aps_u.NAME, "HDF5", aps_u.absent, aps_u.catalog),
    Layout(aps_8idi.NAME, "HDF5", aps_8idi.absent, aps_8idi.catalog),
    Layout(nxxpcs.NAME, "HDF5", nxxpcs.absent, nxxpcs.catalog),
    Layout(npz.NAME, "NPZ", npz.absent, npz.catalog),
    Layout(npy.NAME, "NPY", lambda source: [], npy.catalog),
)

_OPENERS: dict[str, Callable[[Path], AbstractContextManager[Any]]] = {
    "HDF5": hdf5.open_hdf5,
    "NPZ": npz.open_npz,
    "NPY": npy.open_npy,
}


@contextmanager
def open_catalog(path: str | Path, format: str | None = None) -> Iterator[Catalog]:  # noqa: A002  the public keyword
    """Open a file, find out its layout (or take the one named) and list its maps.

    Raises
    ------
    DataError
        No such file, a directory, empty, damaged, or of a layout that is not known; the message says what was
        looked for.
    """
    file = Path(path)
    names = sorted({layout.name for layout in LAYOUTS})
    if format is not None and format not in names:
        raise DataError(f"format = {format!r}; expected one of {', '.join(names)}.")
    container = _container(file)
    candidates = [one for one in LAYOUTS if one.container == container and format in (None, one.name)]
    if not candidates:
        raise DataError(f"{file} is {container}, which is no container of format = {format!r}.")
    with _OPENERS[container](file) as opened:
        lacking = {}
        for layout in candidates:
            lacking[layout.name] = layout.absent(opened)
            if not lacking[layout.name]:
                yield layout.catalog(opened)
                return
    raise DataError(
        f"{file} is {container} of a layout that is not known. Looked for "
        + "; ".join(f"{name}: {', '.join(paths)} (missing)" for name, paths in lacking.items())
        + "."
    )


def _container(path: Path) -> str:
    """Return HDF5, NPZ or NPY from the first bytes of the file."""
    try:
        if path.is_dir():
            raise DataError(f"{path} is a directory; expected a file with two-time maps.")
        if not path.exists():
            raise DataError(f"{path} does not exist; expected a file with two-time maps.")
        if not path.is_file():
            raise DataError(f"{path} is not a regular file; expected a file with two-time maps.")
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(8)
            offset = 512
            while head != _HDF5_MAGIC and offset < size:  # an HDF5 file may start behind a user block
                stream.seek(offset)
                if stream.read(8) == _HDF5_MAGIC:
                    head = _HDF5_MAGIC
                offset *= 2
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}).") from error
    if size == 0:
        raise DataError(f"{path} is empty; expected a file with two-time maps.")
    if head == _HDF5_MAGIC:
        return "HDF5"
    if head[:4] == b"PK\x03\x04":
        return "NPZ"
    if head[:6] == b"\x93NUMPY":
        return "NPY"
    raise DataError(f"{path} is no HDF5, NPZ or NPY file (it starts with {head!r}); expected one of them.")
