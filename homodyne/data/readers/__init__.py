"""Which reader takes which file: :func:`open_catalog` finds out the layout and lists the maps of a file.

One module per layout, which `homodyne.registries.FORMATS` knows by its name. It has

    NAME            the value of ``format``
    CONTAINERS      those of HDF5, NPZ and NPY that it reads
    absent(source)  what marks the layout and is not in an open file
    catalog(source, units)  the maps of a file, and how one is read

Detection looks at the content, never at the name. Files are opened in a process of their own, see `process`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from homodyne.arguments import as_mapping, as_path
from homodyne.data.readers import hdf5, npy, npz
from homodyne.data.readers.catalog import Catalog
from homodyne.data.readers.process import open_in_process
from homodyne.data.units import Units
from homodyne.errors import DataError, InputError
from homodyne.reading import reading
from homodyne.registries import FORMATS

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


AVERAGES = ("/xpcs/multitau", "/exchange/norm-0-g2", "/entry/data/g2", "/entry/data_0/g2", "/g2")
"""Where files hold g2 without two-time maps."""

_OPENERS: dict[str, Callable[[Path], AbstractContextManager[object]]] = {
    "HDF5": hdf5.open_hdf5,
    "NPZ": npz.open_npz,
    "NPY": npy.open_npy,
}


@contextmanager
def open_catalog(
    path: str | Path,
    format: str | None = None,  # noqa: A002  the public keyword
    units: Mapping[str, str] | None = None,
) -> Iterator[Catalog]:
    """Open a file, find out its layout (or take the one named) and list its maps.

    Raises
    ------
    DataError
        No such file, a directory, empty, damaged, or of a layout that is not known; the message says what was
        looked for.
    """
    file = as_path("path", path)
    name = None if format is None else FORMATS.name_of(format)
    _container(file)
    stated = {str(quantity): str(unit) for quantity, unit in as_mapping("units", units, "quantity and unit").items()}
    with open_in_process(path, name, stated) as catalog:
        yield catalog


@contextmanager
def open_here(
    path: str | Path,
    format: str | None = None,  # noqa: A002
    units: Mapping[str, str] | None = None,
) -> Iterator[Catalog]:
    """Do what `open_catalog` does in this process, which a damaged file can end."""
    file = Path(path)
    try:
        readers = [
            FORMATS.find(name) for name in (dict.fromkeys((*FORMATS, *FORMATS.names())) if format is None else [format])
        ]
    except InputError as error:
        raise DataError(f"format = {format!r}: {error}") from error
    container = _container(file)
    candidates = [reader for reader in readers if container in reader.CONTAINERS]
    if not candidates:
        raise DataError(f"{file} is {container}, which is no container of format = {format!r}.")
    with ExitStack() as stack:
        with reading(str(file)):
            opened = stack.enter_context(_OPENERS[container](file))
        lacking = {reader.NAME: reader.absent(opened) for reader in candidates}
        complete = [reader for reader in candidates if not lacking[reader.NAME]]
        if len(complete) > 1:
            raise DataError(
                f"{file} holds maps in several layouts, {' and '.join(one.NAME for one in complete)}. Choose with "
                "format=."
            )
        if complete:
            yield _listed(complete[0], opened, file, Units(units))
            return
        averages = [one for one in AVERAGES if container == "HDF5" and hdf5.find(opened, one) is not None]
    only = f" It holds g2 ({averages[0]}), averages over time, from which no two-time fit is made." if averages else ""
    raise DataError(
        f"{file} is {container} of a layout that is not known.{only} Looked for "
        + "; ".join(f"{name}: {', '.join(paths)} (missing)" for name, paths in lacking.items())
        + "."
    )


def _listed(reader: Any, opened: Any, file: Path, units: Units) -> Catalog:
    """Catalog of an open file, which says what units were assumed."""
    found: Catalog = reader.catalog(opened, units)
    units.require_used()
    assumed = [
        f"unit of {name}: {unit} assumed (--unit {name}=... if it is another)" for name, unit in units.assumed.items()
    ]
    return replace(found, path=str(file), format=reader.NAME, missing=(*found.missing, *assumed))


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
    if head[:1] == b"\x80":
        raise DataError(
            f"{path} is a pickle, as Xana and Python write; opening one runs whatever program it holds, so none is "
            "opened here. If you trust it, load it in Python, and hand its arrays to homodyne.from_cube."
        )
    raise DataError(f"{path} is no HDF5, NPZ or NPY file (it starts with {head!r}); expected one of them.")
