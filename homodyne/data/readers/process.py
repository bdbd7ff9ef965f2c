"""Files are opened by a process of their own: damage crashes the HDF5 library, holds it for ever, or fills the memory.

`open_in_process` yields the catalog of a file that such a process has open. It is a fresh interpreter under the limits
of `homodyne.reading`; it serves one file after the other, and is replaced when a file has ended it.
"""

import atexit
import os
import resource
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homodyne import reading
from homodyne.arguments import Json
from homodyne.data.checks import MapArray, MapArrays
from homodyne.data.readers.catalog import Catalog
from homodyne.errors import DataError, ExecutionError, HomodyneError
from homodyne.mapping import Place, map_place, place_of
from homodyne.registries import FORMATS

_WAIT = 10.0  # seconds for the end of a process that has closed its socket

_ENDS = {
    "SIGXCPU": "the library that reads it does not come to an end with it",
    "SIGBUS": "it was cut while it was read",
}

_idle: list["_Process"] = []


@contextmanager
def open_in_process(
    path: str | os.PathLike[str],
    format: str | None,  # noqa: A002
    units: Mapping[str, str] | None,
) -> Iterator[Catalog]:
    """Yield what `homodyne.data.readers.open_here` yields, in another process.

    Raises
    ------
    DataError
        As `open_here`; or the file has ended the process that read it.
    ExecutionError
        There can be no such process, or somebody has killed it.
    """
    process = _take()
    process.path = os.fspath(path)

    def read(what: str, index: int, frames: slice, out: MapArray) -> None:
        process.ask("read", what, index, frames.start, frames.stop, into=out)

    def map_file(index: NDArray[np.intp]) -> MapArrays | None:
        found = process.ask("places", index)
        if isinstance(found, tuple):
            return tuple(map_place(one) for one in found)
        return None if found is None else map_place(found)

    try:
        folder = "/" if os.path.isabs(path) else os.getcwd()
        found: Catalog = process.ask("open", folder, process.path, format, (_path(), _added()), units, reading.SECONDS)
        yield replace(
            found,
            read_map=partial(read, "read_map"),
            read_weights=found.read_weights and partial(read, "read_weights"),
            map_file=found.map_file and map_file,
        )
    finally:
        process.release()


class _Process:
    """A reading process as its parent sees it."""

    def __init__(self) -> None:
        self.path = ""
        self._busy = False
        self._ours, theirs = socket.socketpair()
        program = f"import sys; sys.path[:] = {_path()!r}; from {__name__} import serve; serve({theirs.fileno()})"
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", program], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                    process_group=0,  # the parent alone hears of an interruption
                )  # fmt: skip
        except OSError as error:
            self._ours.close()
            raise ExecutionError(
                f"the process that reads files cannot be started: {error.strerror or error}; end other processes"
            ) from error
        self._link = Connection(os.dup(self._ours.fileno()))

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ask(self, *request: object, into: MapArray | None = None) -> Any:
        """Send a request, and return the answer, or fill an array with it."""
        self._busy = True
        try:
            self._link.send(request)
            answer = self._link.recv()
            if into is not None and not isinstance(answer, Exception):
                self._fill(memoryview(into.data).cast("B"))
        except (EOFError, ConnectionError):
            raise self._end_of_process() from None
        self._busy = False
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _fill(self, view: memoryview) -> None:
        while view:
            count = self._ours.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]

    def release(self) -> None:
        """Keep it for the next file; end it when an answer is still to come."""
        if not self._busy:
            with suppress(HomodyneError):
                self.ask("close")
        if self._busy:
            self._process.kill()
            self.end()
        else:
            _idle.append(self)

    def forget(self) -> None:
        """Close what leads to it."""
        self._link.close()
        self._ours.close()
        self._process.returncode = 0  # nobody here waits for it

    def end(self) -> int:
        """Let it end, and return how it went."""
        self._link.close()
        self._ours.close()
        try:
            return self._process.wait(_WAIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _end_of_process(self) -> HomodyneError:
        """What its end says of the file."""
        code = self.end()
        if code >= 0 or code == -signal.SIGKILL:
            how = f"ended with exit code {code}" if code >= 0 else "was killed, as a machine out of memory does"
            return ExecutionError(f"{self.path} cannot be read: the process that reads it {how}.")
        name = signal.Signals(-code).name
        how = _ENDS.get(name, "the library that reads it crashes")
        return DataError(f"{self.path} cannot be read; it is damaged or incomplete: {how} ({name}).")


def _path() -> list[str]:
    """Where this process finds modules."""
    return [os.fspath(one) for one in sys.path]


def _added() -> dict[str, str]:
    """Modules of the file formats that were registered here."""
    return {name: one if isinstance(one, str) else one.__name__ for name, one in FORMATS.added().items()}


def _take() -> _Process:
    with suppress(IndexError):
        while not (one := _idle.pop()).alive:
            one.end()
        return one
    return _Process()


def _forget() -> None:
    """Leave the processes of the parent to it, after a fork."""
    while _idle:
        _idle.pop().forget()


def _dismiss() -> None:
    while _idle:
        _idle.pop().end()


os.register_at_fork(after_in_child=_forget)
atexit.register(_dismiss)


class _Served:
    """What a reading process does; the names of the methods are those of the requests."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._catalog: Catalog

    def open(
        self,
        folder: str,
        path: str,
        format: str | None,  # noqa: A002
        formats: tuple[list[str], Mapping[str, str]],
        units: Mapping[str, str] | None,
        seconds: int,
    ) -> Catalog:
        """Open a file as its parent names it, with the places of modules and the file formats that the parent knows."""
        from homodyne.data.readers import open_here

        os.chdir(folder)
        self._path, self._seconds = path, seconds
        self._limit()
        self._held.enter_context(FORMATS.unchanged())
        sys.path[:], added = formats
        FORMATS.update(added)
        found = self._catalog = self._held.enter_context(open_here(path, format, units))
        there: dict[str, Json] = {
            name: getattr(found, name) and _in_the_process for name in ("read_map", "read_weights", "map_file")
        }
        return replace(found, **there)

    def read(self, what: str, index: int, first: int, stop: int) -> MapArray:
        """Read frames of a map, or of the weights of one, by the function of the catalog with this name."""
        self._limit(4 * (stop - first) ** 2)
        out = np.zeros((stop - first, stop - first), np.float32)
        getattr(self._catalog, what)(index, slice(first, stop), out)
        return out

    def places(self, index: NDArray[np.intp]) -> Place | tuple[Place, ...] | None:
        """Say where maps lie in the file."""
        self._limit()
        found = None if self._catalog.map_file is None else self._catalog.map_file(index)
        if isinstance(found, tuple):
            return tuple(place for one in found if (place := place_of(one)) is not None)
        return None if found is None else place_of(found)

    def close(self) -> None:
        """Close the file, and stand in no folder that somebody may want to remove."""
        self._held.close()
        os.chdir("/")

    def _limit(self, num_bytes: int = 0) -> None:
        reading.limit_process(self._path, self._seconds, num_bytes)


def _in_the_process(*arguments: Any) -> Any:
    """In place of a function of a catalog, which does not travel."""
    raise NotImplementedError


def serve(descriptor: int) -> None:
    """Do what the parent asks for through the socket with number `descriptor` until that is closed."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    served, pipe = _Served(), socket.socket(fileno=descriptor)
    pipe.set_inheritable(False)
    link = Connection(os.dup(descriptor))
    with suppress(EOFError, ConnectionError):
        while True:
            name, *arguments = link.recv()
            try:
                answer = getattr(served, name)(*arguments)
            except Exception as error:  # noqa: BLE001  the parent raises it
                if not isinstance(error, HomodyneError):
                    error.add_note(traceback.format_exc())
                answer = error
            if isinstance(answer, np.ndarray):
                link.send(None)
                pipe.sendall(answer.data)
            else:
                link.send(answer)
