"""Where a map lies, as plain values that a worker elsewhere opens: a reference in place of the values.

A reference is a mapping that JSON can hold, with the key

    "mapped"     a file whose bytes are the map: offset, shape, strides and type of the values
    "read"       a file of a known format, read by `homodyne.load`: number of the map, and frames
    "arguments"  of a function that makes the map; which function, only the caller says, never a file
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict

import numpy as np

from homodyne.arguments import Json
from homodyne.arrays import AnyArray
from homodyne.data.files import read_map
from homodyne.data.twotime import TwoTimeData, update_with_pairs
from homodyne.errors import DataError
from homodyne.mapping import Place, map_place, place_of
from homodyne.references import import_reference

Reference = Mapping[str, Json]


def references_of(data: TwoTimeData) -> list[Reference | None]:
    """References of the maps of a measurement; None for one that is in memory only."""
    places = data.places or (None,) * data.num_maps
    return [mapped_reference(data.c2[k]) or places[k] for k in range(data.num_maps)]


def mapped_reference(one: AnyArray) -> Reference | None:
    """Reference of an array that is mapped from a file; None of any other."""
    place = place_of(one)
    if place is None:
        return None
    layout = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(place).items()}
    return {"mapped": layout.pop("file"), **layout}


def identity(reference: Reference) -> str:
    """Text that is another one as soon as the file behind a reference has another size or time of change."""
    file = file_of(reference)
    state: list[int] = []
    if file is not None:
        try:
            found = os.stat(file)
        except OSError as error:
            raise DataError(f"cannot read {file!r}, where a map lies: {error.strerror or error}") from error
        state = [found.st_size, found.st_mtime_ns, found.st_ino]
    return json.dumps([dict(reference), state], sort_keys=True)


def file_of(reference: Reference) -> str | None:
    """Name of the file behind a reference."""
    return reference.get("mapped") or reference.get("read")


def open_reference(reference: Reference, function: str | None = None) -> AnyArray:
    """Open the map (n, n) that a reference stands for.

    Parameters
    ----------
    reference : Reference
    function : str, optional
        "module:name" of the function that makes maps from arguments.

    Raises
    ------
    DataError
        The file cannot be read or is too short, or what is opened is no map.
    """
    if "read" in reference:
        frames, units = slice(*reference["frames"]), reference.get("units")
        return read_map(reference["read"], reference["format"], reference["map"], frames, units)
    if "mapped" in reference:
        shape, strides = tuple(reference["shape"]), tuple(reference["strides"])
        return map_place(Place(reference["mapped"], reference["offset"], shape, strides, reference["dtype"]))
    if "arguments" not in reference or function is None:
        raise DataError(
            f"a reference has the keys {sorted(reference)}: expected mapped, read, or arguments of a function"
        )
    make: Callable[..., object] = import_reference(function, "function that makes maps")
    made = np.asarray(make(**reference["arguments"]))
    if made.ndim != 2 or made.shape[0] != made.shape[1] or made.dtype.kind != "f":
        raise DataError(f"{function} has made {made.dtype} {made.shape}; expected a map (n, n) of real numbers")
    return made


def content_digest(one: AnyArray) -> bytes:
    """SHA-256 of the elements i < j of a map, 32 bytes."""
    found = hashlib.sha256(f"{one.dtype.str} {one.shape} ".encode())
    update_with_pairs(found, one)
    return found.digest()
