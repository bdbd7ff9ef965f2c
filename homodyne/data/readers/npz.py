"""NPZ files: members are checked by their headers and maps are read one at a time; nothing is unpickled.

Layout: wavevector_q_list, phi_angles_list, t1, t2 and c2_exp (n_phi, n, n), in s, 1/Å and degrees unless the user says
otherwise; weights (n_phi, n, n) or (1, n, n) of pairs and frame_weights (n,), where there are any.
"""

import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from homodyne.arrays import AnyArray
from homodyne.data import checks
from homodyne.data.checks import FloatArray, MapArray
from homodyne.data.readers.catalog import Catalog
from homodyne.data.units import Units
from homodyne.errors import DataError
from homodyne.reading import reading, require_budget

NAME = "npz"
CONTAINERS = ("NPZ",)
MEMBERS = ("wavevector_q_list", "phi_angles_list", "t1", "t2", "c2_exp")
WEIGHTS = ("weights", "frame_weights")


@dataclass(frozen=True)
class _Member:
    """One array of the archive: the stream behind its header, where that starts, and what the header says."""

    stream: IO[bytes]
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


class Members:
    """The arrays of one NPZ file; each is opened once, so that maps read in order are read once."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        self._streams: list[IO[bytes]] = []
        self._opened: dict[str, _Member] = {}
        self.names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]

    def _member(self, name: str) -> _Member:
        """Open an array and compare its header with the bytes that follow."""
        if name in self._opened:
            return self._opened[name]
        if name not in self.names:
            raise DataError(f"{self.path}: array {name} is missing; the file holds {', '.join(self.names)}.")
        stream = self._archive.open(f"{name}.npy")
        self._streams.append(stream)
        version = npy_format.read_magic(stream)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        member = _Member(stream, stream.tell(), shape, dtype)
        present = self._archive.getinfo(f"{name}.npy").file_size - member.start
        if dtype.hasobject or member.num_bytes != present:
            raise DataError(
                f"{self.path}: array {name} has shape {shape} and dtype {dtype}, but {present} bytes follow; "
                "expected plain numbers of that size."
            )
        if fortran and len(shape) > 1:
            raise DataError(f"{self.path}: array {name} is in Fortran order; save np.ascontiguousarray of it.")
        return self._opened.setdefault(name, member)

    def close(self) -> None:
        """Close the arrays that were opened."""
        for stream in self._streams:
            stream.close()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, from its header."""
        with self._reading(name):
            return self._member(name).shape

    def array(self, name: str, most: int) -> AnyArray:
        """Read an array of at most so many numbers."""
        with self._reading(name):
            member = self._member(name)
            if member.dtype.kind not in "fiub" or int(np.prod(member.shape, dtype=object)) > most:
                raise DataError(
                    f"{self.path}: array {name} has shape {member.shape} and dtype {member.dtype}; expected at most "
                    f"{most} numbers."
                )
            require_budget(member.num_bytes, self.path, f"{self.path}: array {name}")
            member.stream.seek(member.start)
            return np.frombuffer(member.stream.read(member.num_bytes), member.dtype).reshape(member.shape)

    def block(self, name: str, index: int, frames: slice, out: MapArray) -> None:
        """Read map number `index` of a (n_maps, n, n) array row by row, in the range of frames."""
        with self._reading(name):
            member = self._member(name)
            shape, dtype = member.shape, member.dtype
            if dtype.kind != "f" or len(shape) != 3 or shape[1] != shape[2]:
                raise DataError(
                    f"{self.path}: {name} has shape {shape} and dtype {dtype}; expected floating-point maps "
                    "(n_phi, n, n)."
                )
            row_bytes = shape[1] * dtype.itemsize
            member.stream.seek(member.start + (index * shape[1] + frames.start) * row_bytes)
            with np.errstate(over="ignore", invalid="ignore"):
                for row in out:
                    row[:] = np.frombuffer(member.stream.read(row_bytes), dtype)[frames]

    def _reading(self, name: str) -> AbstractContextManager[None]:
        return reading(f"{self.path}: array {name}")


@contextmanager
def open_npz(path: Path) -> Iterator[Members]:
    """Open an NPZ file."""
    with zipfile.ZipFile(path) as archive:
        members = Members(path, archive)
        try:
            yield members
        finally:
            members.close()


def absent(members: Members) -> list[str]:
    """Arrays that mark this layout and are not in the file."""
    return [name for name in MEMBERS if name not in members.names]


def catalog(members: Members, units: Units) -> Catalog:
    """List the maps of an NPZ file with the arrays named in MEMBERS."""
    path = members.path
    shape = members.shape("c2_exp")
    if len(shape) != 3 or shape[0] == 0 or shape[1] != shape[2]:
        raise DataError(f"{path}: c2_exp has shape {shape}; expected (n_phi, n, n).")
    n_maps, n = shape[:2]
    phi = checks.real_vector("phi_angles_list", members.array("phi_angles_list", n_maps), n_maps)
    q = checks.real_vector("wavevector_q_list", np.atleast_1d(members.array("wavevector_q_list", n_maps)))
    if q.size not in (1, n_maps):
        raise DataError(f"{path}: wavevector_q_list has {q.size} values; expected 1 or {n_maps}, one per map.")
    q = q * units.factor("q", None, f"{path}: wavevector_q_list")
    phi = phi * units.factor("phi", None, f"{path}: phi_angles_list")
    scale = units.factor("frame_time", None, f"{path}: t1 and t2")
    dt, origin = (scale * time for time in _time_axis(path, members, n))
    others = [name for name in members.names if name not in (*MEMBERS, *WEIGHTS)]
    return Catalog(
        num_maps=n_maps,
        num_frames=n,
        read_map=lambda index, frames, out: members.block("c2_exp", index, frames, out),
        q=np.broadcast_to(q, (n_maps,)).copy(),
        phi=phi,
        dt=dt,
        dt_where="t1",
        age_origin=origin,
        facts={"maps": "c2_exp", "q and phi": "wavevector_q_list, phi_angles_list", "first time": f"{origin + dt:g} s"},
        missing=("pixels per bin", "mean counts per pixel and frame"),
        unused=(f"arrays {', '.join(others)}",) if others else (),
        **_weights(members, n_maps, n),
    )


def _weights(members: Members, n_maps: int, n: int) -> dict[str, Any]:
    """Return the fields of a catalog for weights of pairs and of frames."""
    found: dict[str, object] = {}
    if "weights" in members.names:
        shape = members.shape("weights")
        if shape not in ((n_maps, n, n), (1, n, n)):
            raise DataError(f"{members.path}: weights has shape {shape}; expected {(n_maps, n, n)} or {(1, n, n)}.")
        found["num_weights"] = shape[0]
        found["read_weights"] = lambda index, frames, out: members.block("weights", index, frames, out)
    if "frame_weights" in members.names:
        given = members.array("frame_weights", n)
        found["frame_weights"] = checks.real_vector(f"{members.path}: frame_weights", given, n)
    return found


def _time_axis(path: Path, members: Members, n: int) -> tuple[float, float]:
    """Return dt and the age before the first frame; t1 and t2 must be one uniform axis.

    A time axis that starts at zero counts from the first frame, whose age is dt (see homodyne.load).
    """
    t1, t2 = (_axis(path, name, members.array(name, n * n), n) for name in ("t1", "t2"))
    if not np.allclose(t1, t2, rtol=1e-6, atol=0):
        raise DataError(f"{path}: t1 and t2 differ; expected the same time axis.")
    steps = np.diff(t1)
    dt = float(np.mean(steps)) if n > 1 else float(t1[0])
    if n < 2 or dt <= 0 or np.any(np.abs(steps - dt) > 1e-3 * dt) or t1[0] < 0:
        raise DataError(
            f"{path}: t1 runs from {t1[0]} to {t1[-1]}; expected uniform, increasing times from 0 or later."
        )
    return dt, max(float(t1[0]) - dt, 0.0)


def _axis(path: Path, name: str, values: AnyArray, n: int) -> FloatArray:
    """Return a time axis from a vector or from a mesh that repeats it."""
    if values.ndim == 2 and values.shape == (n, n):
        for line, mesh in ((values[0], values), (values[:, 0], values.T)):
            if line[0] != line[-1] and np.array_equal(mesh, np.broadcast_to(line, mesh.shape)):
                return checks.real_vector(name, line, n)
    return checks.real_vector(f"{path}: {name}", values, n)
