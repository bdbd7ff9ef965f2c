"""The NetCDF file of a result: groups as ArviZ names them, the rest as JSON in root attributes.

``result_to_datatree`` and ``result_to_bytes`` write, ``read_result`` reads. A file is untrusted input: the
checksum at its end must agree before HDF5 sees it, and its structure is checked before anything is loaded (no
links to other files, no more data declared than can be there).
"""

import hashlib
import io
import json
import os
from pathlib import Path

import h5py
import numpy as np
import xarray as xr

from homodyne.arguments import Json, as_path
from homodyne.arrays import AnyArray
from homodyne.errors import InputError
from homodyne.files import RESULT
from homodyne.reading import reading, require_plausible_size
from homodyne.result.record import MCMCResult, plain_fields
from homodyne.result.summary import PER_MAP, map_labels

_FORMAT = "homodyne result 2"
_SEAL = RESULT.mark
_CONSTANTS = {
    "t": ("frame", "s"),
    "q": ("map", "1/angstrom"),
    "phi": ("map", "degree"),
    "sigma": ("map", "1"),
    "gap": ((), "angstrom"),
}


def result_to_datatree(result: MCMCResult) -> xr.DataTree:
    """The result as groups posterior, sample_stats and constant_data with JSON attributes at the root."""
    index = {"chain": np.arange(result.num_chains), "draw": np.arange(result.num_draws)}
    constants = {
        name: (dims, getattr(result, name), {"units": unit})
        for name, (dims, unit) in _CONSTANTS.items()
        if getattr(result, name) is not None
    }
    places = {name: constants.pop(name) for name in ("q", "phi") if name in constants}
    if result.q is not None and result.phi is not None:  # names, because ArviZ stumbles over coordinates of a dimension
        index["map"] = np.array(map_labels(result.q, result.phi))
    groups = [
        xr.Dataset({escaped(name): _variable(result, name, draws) for name, draws in group.items()}, coords=index)
        for group in (result.samples, result.sample_stats)
    ]
    plain = {name: json.dumps(value, sort_keys=True) for name, value in _plain_fields(result).items()}
    attributes = {"homodyne_format": _FORMAT, **plain}
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(attrs=attributes),
            "posterior": groups[0],
            "sample_stats": groups[1],
            "constant_data": xr.Dataset(constants, coords=places),
        }
    )


def result_to_bytes(result: MCMCResult) -> bytes:
    """Content of the sealed NetCDF file of ``result``."""
    content = result_to_datatree(result).to_netcdf(engine="h5netcdf")
    if not isinstance(content, memoryview):
        raise TypeError(f"xarray returned {type(content).__name__} where the content of a file was expected")
    return seal(content.tobytes())


def seal(content: bytes) -> bytes:
    """``content`` followed by its SHA-256; HDF5 does not look at what follows the end of its data."""
    return content + _SEAL + hashlib.sha256(content).hexdigest().encode()


def read_result(path: str | os.PathLike[str]) -> MCMCResult:
    """The result that was written to ``path``; see ``homodyne.load_result``."""
    place = as_path("path", path)
    if not os.path.isfile(place):
        raise InputError(f"no result file at {os.fspath(path)!r}; give the .nc file that a fit has saved")
    try:
        with reading("its content", InputError):
            content = _sealed_content(place)
            _check_structure(content)
            options: dict[str, Json] = {"decode_times": False, "decode_timedelta": False, "phony_dims": "access"}
            with xr.open_datatree(io.BytesIO(content), engine="h5netcdf", **options) as tree:
                return _from_datatree(tree.load())
    except InputError as error:
        raise InputError(f"{os.fspath(path)!r} cannot be used as a result: {error}") from error


def _sealed_content(place: Path) -> bytes:
    """What stands before the seal, once the seal agrees with it: HDF5 can hang on damaged files."""
    length = len(_SEAL) + 2 * hashlib.sha256().digest_size
    with place.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - length, 0))
        end = stream.read()
        if not end.startswith(_SEAL):
            raise InputError(
                "it does not end with the checksum that this version of homodyne writes; it is truncated, "
                "was changed by another program, or is another kind of file"
            )
        stream.seek(0)
        content = stream.read(size - length)
    if hashlib.sha256(content).hexdigest().encode() != end[len(_SEAL) :]:
        raise InputError("its checksum is wrong; the file was damaged or changed after it was saved")
    return content


def _from_datatree(tree: xr.DataTree) -> MCMCResult:
    from homodyne.certificate.certify import Certificate

    plain: dict[str, Json] = {name: json.loads(tree.attrs[name]) for name in (*plain_fields(), "certificate")}
    certificate = plain.pop("certificate")
    dataset = tree["constant_data"].to_dataset()
    constants: dict[str, Json] = {name: dataset[name].values for name in _CONSTANTS if name in dataset}
    return MCMCResult(
        samples=_arrays(tree["posterior"].to_dataset()),
        sample_stats=_arrays(tree["sample_stats"].to_dataset()),
        certificate=None if certificate is None else Certificate.from_dict(certificate),
        **constants,
        **plain,
    )


def _check_structure(content: bytes) -> None:
    """Refuse links and storage outside the file, and sizes that cannot be there."""
    declared = 0
    with h5py.File(io.BytesIO(content), "r") as file:
        groups = [file]
        while groups:
            group = groups.pop()
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise InputError(f"{group.name}/{name} is a link to another place, which a result never has")
                item = group[name]
                if isinstance(item, h5py.Group):
                    groups.append(item)
                elif isinstance(item, h5py.Dataset):
                    if item.external or item.is_virtual:
                        raise InputError(f"{item.name} is stored in another file, which a result never does")
                    declared += item.nbytes
    require_plausible_size(declared, len(content), "what it declares")


def _plain_fields(result: MCMCResult) -> dict[str, object]:
    certificate = None if result.certificate is None else result.certificate.to_dict()
    return {**{name: getattr(result, name) for name in plain_fields()}, "certificate": certificate}


def _variable(result: MCMCResult, name: str, draws: AnyArray) -> tuple[tuple[str, ...], AnyArray, dict[str, str]]:
    if name in PER_MAP and result.phi is not None:
        extra: tuple[str, ...] = ("map",)
    else:
        extra = tuple(f"{escaped(name)}_dim_{k}" for k in range(draws.ndim - 2))
    return ("chain", "draw", *extra), draws, ({"units": result.units[name]} if result.units.get(name) else {})


def _arrays(dataset: xr.Dataset) -> dict[str, AnyArray]:
    return {_unescape(str(name)): variable.values for name, variable in dataset.data_vars.items()}


def escaped(name: str) -> str:
    """Names of other models may hold a slash, which NetCDF reserves for groups."""
    return name.replace("%", "%25").replace("/", "%2F")


def _unescape(name: str) -> str:
    return name.replace("%2F", "/").replace("%25", "%")
