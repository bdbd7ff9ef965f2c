"""NPZ files: members are checked by their headers and maps are read one at a time; nothing is unpickled.

Layout: wavevector_q_list, phi_angles_list, t1, t2 (times in s) and c2_exp (n_phi, n, n).
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from homodyne.data import checks
from homodyne.data.checks import FloatArray, MapArray
from homodyne.data.readers.catalog import Catalog
from homodyne.errors import DataError

NAME = "npz"
MEMBERS = ("wavevector_q_list", "phi_angles_list", "t1", "t2", "c2_exp")

_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError)


class Members:
    """The arrays of one NPZ file, looked at through their headers."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        self.names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[Any, tuple[int, ...], np.dtype[Any]]]:
        """Yield the stream behind the header, the shape and the dtype."""
        if name not in self.names:
            raise DataError(f"{self.path}: array {name} is missing; the file holds {', '.join(self.names)}.")
        with self._archive.open(f"{name}.npy") as stream:
            version = npy_format.read_magic(stream)
            read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
            shape, fortran, dtype = read(stream)
            stated = int(np.prod(shape, dtype=object)) * dtype.itemsize
            present = self._archive.getinfo(f"{name}.npy").file_size - stream.tell()
            if dtype.hasobject or stated != present:
                raise DataError(
                    f"{self.path}: array {name} has shape {shape} and dtype {dtype}, but {present} bytes "
                    "follow; "
                    "expected plain numbers of that size."
                )
            if fortran and len(shape) > 1:
                raise DataError(
                    f"{self.path}: array {name} is in Fortran order; save np.ascontiguousarray of it."
                )
            yield stream, shape, dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, from its header."""
        with self._reading(name), self._open(name) as (_, shape, _dtype):
            return shape

    def array(self, name: str) -> NDArray[Any]:
        """Read a small array."""
        with self._reading(name), self._open(name) as (stream, shape, dtype):
            size = int(np.prod(shape, dtype=object)) * dtype.itemsize
            checks.require_memory(4 * size, f"{self.path}: array {name}", "The file may be damaged.")
            return np.frombuffer(stream.read(size), dtype=dtype).reshape(shape)

    def block(self, name: str, index: int, frames: slice, out: MapArray) -> None:
        """Read map number `index` of a (n_maps, n, n) array row by row, in the range of frames."""
        with self._reading(name), self._open(name) as (stream, shape, dtype):
            if dtype.kind != "f" or len(shape) != 3 or shape[1] != shape[2]:
                raise DataError(
                    f"{self.path}: {name} has shape {shape} and dtype {dtype}; expected floating-point "
                    "(n_phi, n, n)."
                )
            n = shape[1]
            start = stream.tell()
            stream.seek(start + (index * n + frames.start) * n * dtype.itemsize)
            with np.errstate(over="ignore"):
                for row in out:
                    row[:] = np.frombuffer(stream.read(n * dtype.itemsize), dtype=dtype, count=n)[frames]

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except _DAMAGE as error:
            raise DataError(
                f"{self.path}: array {name} cannot be read; the file may be damaged ({error})."
            ) from error


@contextmanager
def open_npz(path: Path) -> Iterator[Members]:
    """Open an NPZ file."""
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise DataError(
            f"{path} cannot be read as NPZ; it may be damaged or incomplete ({error})."
        ) from error
    with archive:
        yield Members(path, archive)


def absent(members: Members) -> list[str]:
    """Arrays that mark this layout and are not in the file."""
    return [name for name in MEMBERS if name not in members.names]


def catalog(members: Members) -> Catalog:
    """List the maps of an NPZ file with the arrays named in MEMBERS."""
    path = members.path
    shape = members.shape("c2_exp")
    if len(shape) != 3 or shape[0] == 0 or shape[1] != shape[2]:
        raise DataError(f"{path}: c2_exp has shape {shape}; expected (n_phi, n, n).")
    n_maps, n = shape[:2]
    phi = checks.real_vector("phi_angles_list", members.array("phi_angles_list"), n_maps)
    q = checks.real_vector("wavevector_q_list", np.atleast_1d(members.array("wavevector_q_list")))
    if q.size not in (1, n_maps):
        raise DataError(
            f"{path}: wavevector_q_list has {q.size} values; expected 1 or {n_maps}, one per map."
        )
    dt, origin = _time_axis(path, members, n)
    return Catalog(
        path=str(path),
        format=NAME,
        num_maps=n_maps,
        num_frames=n,
        read_map=lambda index, frames, out: members.block("c2_exp", index, frames, out),
        q=np.broadcast_to(q, (n_maps,)).copy(),
        phi=phi,
        dt=dt,
        dt_where="t1",
        age_origin=origin,
        facts={
            "maps": "c2_exp",
            "q and phi": "wavevector_q_list, phi_angles_list",
            "first time": f"{origin + dt:g} s",
        },
        missing=("pixels per bin", "mean counts per pixel and frame"),
    )


def _time_axis(path: Path, members: Members, n: int) -> tuple[float, float]:
    """Return dt and the age before the first frame; t1 and t2 must be one uniform axis.

    A time axis that starts at zero counts from the first frame, whose age is dt (see homodyne.load).
    """
    t1, t2 = (_axis(path, name, members.array(name), n) for name in ("t1", "t2"))
    if not np.allclose(t1, t2, rtol=1e-6, atol=0):
        raise DataError(f"{path}: t1 and t2 differ; expected the same time axis.")
    steps = np.diff(t1)
    dt = float(np.mean(steps)) if n > 1 else float(t1[0])
    if n < 2 or dt <= 0 or np.any(np.abs(steps - dt) > 1e-3 * dt) or t1[0] < 0:
        raise DataError(
            f"{path}: t1 runs from {t1[0]} to {t1[-1]} s; expected uniform, increasing times from 0 or later."
        )
    return dt, max(float(t1[0]) - dt, 0.0)


def _axis(path: Path, name: str, values: NDArray[Any], n: int) -> FloatArray:
    """Return a time axis from a vector or from a mesh that repeats it."""
    if values.ndim == 2 and values.shape == (n, n):
        for line, mesh in ((values[0], values), (values[:, 0], values.T)):
            if line[0] != line[-1] and np.array_equal(mesh, np.broadcast_to(line, mesh.shape)):
                return checks.real_vector(name, line, n)
    return checks.real_vector(f"{path}: {name}", values, n)
