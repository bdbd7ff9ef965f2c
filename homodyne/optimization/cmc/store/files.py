"""Files that are compared with what was written before they are believed.

`seal` and `unseal` are for small files of arrays: an ordinary ``.npz`` whose archive comment, the last 64 bytes of the
file, is the SHA-256 of everything before it. `write_json` and `read_json` are for plain values, with the SHA-256 of all
others among them. `memory_map` opens a large array: its header is compared with the size of the file before anything is
mapped, and its bytes with the SHA-256 that `array_entry` gave when it was written.
"""

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from homodyne.arguments import Json
from homodyne.arrays import AnyArray
from homodyne.errors import InputError
from homodyne.files import OWN, write_atomically
from homodyne.reading import reading

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


def pieces(arrays: Mapping[str, AnyArray]) -> Iterator[bytes | memoryview]:
    """Everything that makes arrays what they are, in an order that does not depend on that of the mapping."""
    for name in sorted(arrays):
        value = np.asarray(arrays[name], order="C")
        yield f"{name} {value.dtype.str} {value.shape}\n".encode()
        yield value.reshape(-1).view(np.uint8).data


def seal(arrays: Mapping[str, AnyArray]) -> bytes:
    """Content of a sealed ``.npz`` file."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, value in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(value, order="C"), allow_pickle=False)
        archive.comment = b"0" * _DIGEST
    content = sink.getvalue()[:-_DIGEST]
    return content + digest(content).encode()


def unseal(file: Path) -> dict[str, AnyArray] | None:
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


def write_json(file: Path, entries: Mapping[str, object], limit: int = _MAX_JSON) -> None:
    """Write a mapping of plain values with its SHA-256.

    Raises
    ------
    InputError
        A value is not plain, there are more than `limit` bytes, or the file cannot be written.
    """
    sealed = {"sha256": digest(to_json(entries, sort_keys=True).encode()), **entries}
    content = to_json(sealed, indent=1).encode()
    if len(content) > limit:
        raise InputError(f"{os.fspath(file)!r} would have {len(content)} bytes, more than {limit}; use fewer shards")
    write_atomically(file, content, OWN)


def read_json(file: Path, limit: int = _MAX_JSON) -> dict[str, Json]:
    """Mapping that `write_json` has written, as it was written.

    Raises
    ------
    InputError
        There is none, or it has changed since.
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
    if value.pop("sha256", None) != digest(to_json(value, sort_keys=True).encode()):
        raise InputError(f"{os.fspath(file)!r} is damaged or was changed by hand: its SHA-256 is wrong; restore it")
    return value


def to_json(value: Json, **options: Json) -> str:
    """Plain values as text.

    Raises
    ------
    InputError
        They are not plain.
    """
    try:
        return json.dumps(value, **options)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"only plain values can be stored (text, numbers, lists, mappings): {error}") from error


def array_entry(file: Path) -> dict[str, Json]:
    """Type, shape and SHA-256 of a ``.npy`` file, whose size agrees with its type and shape.

    Raises
    ------
    InputError
        The file is truncated, damaged, or holds something else than numbers.
    """
    try:
        with file.open("rb") as stream:
            dtype, shape = _check_header(stream, os.fstat(stream.fileno()).st_size)
            stream.seek(0)
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {os.fspath(file)!r}: {error.strerror or error}") from error
    except InputError as error:
        raise InputError(f"{os.fspath(file)!r} cannot be used: {error}; copy or write the store again") from error
    return {"dtype": dtype.str, "shape": list(shape), "sha256": sha256}


def memory_map(file: Path, entry: Mapping[str, Json]) -> AnyArray:
    """Read-only array whose values stay in a ``.npy`` file, which is as `array_entry` has described it.

    Raises
    ------
    InputError
        The file is damaged, or another one.
    """
    if array_entry(file) != entry:
        raise InputError(
            f"{os.fspath(file)!r} is damaged: its content is not what was written (SHA-256); copy or write it again"
        )
    if 0 in entry["shape"]:  # nothing to map
        return np.empty(entry["shape"], dtype=entry["dtype"])
    mapped: AnyArray = np.load(file, mmap_mode="r", allow_pickle=False)
    return mapped


def _check_header(stream: IO[bytes], size: int) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    """Read the header of an array and see whether a file of `size` bytes holds just that."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with reading("its header", InputError):  # which is Python text
        version = np.lib.format.read_magic(stream)
        if version not in readers:
            raise InputError(f"version {version} of the npy format is not one that homodyne writes")
        shape, _, dtype = readers[version](stream)
    if dtype.kind not in NUMBERS:
        raise InputError(f"it holds {dtype}, expected numbers")
    expected = stream.tell() + dtype.itemsize * math.prod(shape)
    if min(shape, default=0) < 0 or expected != size:
        raise InputError(f"it has {size} bytes, {dtype} {shape} needs {expected}")
    return dtype, shape
