"""Files of arrays that are checked before they are believed.

`seal` and `unseal` are for small files that must not change: an ordinary ``.npz`` whose archive comment, the last
64 bytes of the file, is the SHA-256 of everything before it. `memory_map` opens large arrays: its header is compared
with the size of the file before anything is mapped.
"""

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homodyne.errors import InputError

NUMBERS = "biufc"
"""Kinds of types that may be stored: truth values, integers, real and complex numbers."""

_DIGEST = 64  # characters of a SHA-256
_MAX_JSON = 2**22  # bytes


def digest(*parts: bytes | memoryview) -> str:
    """SHA-256 of the parts, one after the other, as 64 hexadecimal characters."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def pieces(arrays: Mapping[str, npt.NDArray[Any]]) -> Iterator[bytes | memoryview]:
    """Everything that makes arrays what they are, in an order that does not depend on that of the mapping."""
    for name in sorted(arrays):
        value = np.asarray(arrays[name], order="C")
        yield f"{name} {value.dtype.str} {value.shape}\n".encode()
        yield value.reshape(-1).view(np.uint8).data


def seal(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Content of a sealed ``.npz`` file."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, value in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(value, order="C"), allow_pickle=False)
        archive.comment = b"0" * _DIGEST
    content = sink.getvalue()[:-_DIGEST]
    return content + digest(content).encode()


def unseal(file: Path) -> dict[str, npt.NDArray[Any]] | None:
    """Arrays of a sealed file; None when there is no such file.

    Raises
    ------
    InputError
        It is damaged, or something else.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"it cannot be read: {error.strerror or error}") from error
    if digest(memoryview(content)[:-_DIGEST]).encode() != content[-_DIGEST:]:
        raise InputError("its checksum is wrong: it is truncated, damaged or another kind of file")
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise InputError(f"{member.filename} is compressed, which homodyne does not do")
                with archive.open(member) as stream:
                    _check_header(stream, member.file_size)
                    stream.seek(0)
                    value = np.lib.format.read_array(stream, allow_pickle=False)
                arrays[member.filename.removesuffix(".npy")] = value
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise InputError(f"it does not hold arrays: {error}") from error
    return arrays


def read_json(file: Path, limit: int = _MAX_JSON) -> dict[str, Any]:
    """Mapping in a JSON file of at most `limit` bytes.

    Raises
    ------
    InputError
        There is none.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(limit + 1)
        value = json.loads(content) if len(content) <= limit else None
    except OSError as error:
        raise InputError(f"cannot read {os.fspath(file)!r}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{os.fspath(file)!r} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{os.fspath(file)!r} holds no mapping of moderate size: homodyne did not write it")
    return value


def array_layout(file: Path) -> dict[str, Any]:
    """Type and shape of the array in a ``.npy`` file, whose size agrees with them.

    Raises
    ------
    InputError
        The file is truncated, damaged, or holds something else than numbers.
    """
    try:
        with file.open("rb") as stream:
            dtype, shape = _check_header(stream, os.fstat(stream.fileno()).st_size)
    except OSError as error:
        raise InputError(f"cannot read {os.fspath(file)!r}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise InputError(f"{os.fspath(file)!r} cannot be used: {error}; copy or write the store again") from error
    return {"dtype": dtype.str, "shape": list(shape)}


def memory_map(file: Path) -> npt.NDArray[Any]:
    """Read-only array whose values stay in a ``.npy`` file until they are used.

    Raises
    ------
    InputError
        As `array_layout`.
    """
    layout = array_layout(file)
    if 0 in layout["shape"]:  # nothing to map
        return np.empty(layout["shape"], dtype=layout["dtype"])
    mapped: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    return mapped


def _check_header(stream: Any, size: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Read the header of an array and see whether a file of `size` bytes holds just that."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise InputError(f"version {version} of the npy format is not one that homodyne writes")
    shape, _, dtype = readers[version](stream)
    if dtype.kind not in NUMBERS:
        raise InputError(f"it holds {dtype}, expected numbers")
    expected = stream.tell() + dtype.itemsize * math.prod(shape)
    if min(shape, default=0) < 0 or expected != size:
        raise InputError(f"it has {size} bytes, {dtype} {shape} needs {expected}")
    return dtype, shape
