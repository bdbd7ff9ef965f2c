"""What runs in a worker process: tasks come in through a socket, one after the other, results go out.

The process is a fresh interpreter (JAX does not survive a fork) whose threads are limited by its environment, so this
module and everything it imports must stay free of JAX and NumPy: the first task brings them.

The process never outlives its parent. A thread sends a sign of life every second and ends the process when nobody
is there to take it; on Linux the kernel also kills the process as soon as the parent is gone, which works while
compiled code holds the interpreter.
"""

import ast
import ctypes
import io
import os
import pickle
import platform
import signal
import sys
import threading
import time
import tokenize
import traceback
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import spawn
from multiprocessing.connection import Connection
from types import FunctionType
from typing import Any

from homodyne.errors import ConvergenceError, HomodyneError, InputError
from homodyne.references import import_reference

BEAT, BEGUN, ENDED = b"b", b"s", b"e"
"""First byte of what a worker sends: it is alive, it has read a task, here is the outcome."""

_PR_SET_PDEATHSIG = 1
_process = {"serves": False, "knows main": False}


@dataclass(frozen=True)
class Setup:
    """What a worker must know before its first task.

    Attributes
    ----------
    run : str or bytes
        What to do with a task: "module:function", or a pickled function.
    beat : float
        Seconds between two signs of life.
    main : mapping
        Where the program of the parent came from, for models that are defined in it; empty in a notebook.
    path : tuple of str
        Where the parent finds modules.
    parent : (str, int)
        Host and number of the process that hands out the tasks.
    environment : mapping
        Variables for a process that somebody else has started.
    """

    run: str | bytes
    beat: float
    main: Mapping[str, object]
    path: tuple[str, ...]
    parent: tuple[str, int]
    environment: Mapping[str, str]


def make_setup(
    run: str | Callable[[Any], Any], beat: float = 1.0, environment: Mapping[str, str] | None = None
) -> bytes:
    """Pickled `Setup` for workers of this process."""
    main = {name: path for name, path in spawn.get_preparation_data("").items() if name.startswith("init_main")}
    path = tuple(map(os.fspath, sys.path))
    work = run if isinstance(run, str) else encode(run)
    return pickle.dumps(Setup(work, beat, main, path, _this_process(), environment or {}))


def encode(value: object, *, stays: bool = False) -> bytes:
    """Pickle something for a worker, or for a thread of this process, which `stays`.

    Raises
    ------
    InputError
        It cannot be pickled, or holds what is defined where other processes do not find it.
    """
    content = io.BytesIO()
    pickler = _Pickler(content, pickle.HIGHEST_PROTOCOL)
    try:
        pickler.dump(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"this cannot be sent to worker processes: {error}; define the model and its functions at the top level "
            "of a module, or use the backend 'sequential'"
        ) from error
    if pickler.in_main and not stays:
        _require_importable(pickler.in_main)
    return content.getvalue()


class _Pickler(pickle.Pickler):
    """Notes what it met of functions and classes that are defined in the program of this process."""

    def __init__(self, sink: io.BytesIO, protocol: int) -> None:
        super().__init__(sink, protocol)
        self.in_main: set[str] = set()

    def reducer_override(self, value: Any, /) -> Any:
        """Look at a value; it is pickled as usual."""
        if isinstance(value, type | FunctionType) and value.__module__ == "__main__":
            self.in_main.add(value.__qualname__.partition(".")[0])
        return NotImplemented


def _require_importable(names: Set[str]) -> None:
    """Refuse names of the program of this process that a worker, which imports it, does not find."""
    program = getattr(sys.modules["__main__"], "__file__", None)
    for name in sorted(names):
        if program is None:
            raise InputError(
                f"{name!r} is defined in an interactive session, where worker processes cannot find it; "
                "move it to a module, or use the backend 'sequential'"
            )
        if name in _guarded(program):
            raise InputError(_unseen(name))


@lru_cache(maxsize=1)
def _guarded(program: str) -> frozenset[str]:
    """Names that a program defines under ``if __name__ == "__main__":`` and nowhere else."""
    try:
        with tokenize.open(program) as source:
            statements = ast.parse(source.read()).body
    except (OSError, SyntaxError, ValueError):  # it has changed since, or is no Python source
        return frozenset()
    guards = [one for one in statements if isinstance(one, ast.If) and ast.unparse(one.test).startswith("__name__ ==")]
    inside = [part for one in guards for part in one.body]
    outside = [part for one in statements for part in (one.orelse if one in guards else [one])]
    return frozenset(_defined(inside) - _defined(outside))


def _defined(statements: Iterable[ast.AST]) -> set[str]:
    parts = [part for one in statements for part in ast.walk(one)]
    bound = {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    return bound | {part.name for part in parts if isinstance(part, ast.FunctionDef | ast.ClassDef)}


def _unseen(name: str) -> str:
    return (
        f"worker processes, which import this program, do not find {name!r} in it: what is defined under "
        "if __name__ == '__main__' does not exist for them; define it above that line, or in a module of its own, or "
        "use the backend 'sequential'"
    )


@dataclass(frozen=True)
class Failed:
    """A task came to no result.

    Attributes
    ----------
    reason : str
    retry : bool
        Whether another attempt can help.
    caution : bool
        Whether the sampler itself was the reason, so that another attempt needs smaller steps.
    """

    reason: str
    retry: bool = True
    caution: bool = False


def attempt(work: Callable[[], object]) -> object:
    """Result of `work`, or `Failed` when it raises: one failing shard must not end the run."""
    try:
        return work()
    except HomodyneError as error:
        return Failed(str(error), not isinstance(error, InputError), isinstance(error, ConvergenceError))
    except Exception as error:  # noqa: BLE001  the one place where a failing shard becomes a recorded failure
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Failed(f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})")


def find_function(run: str | Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Function behind "module:function"; a function is returned as it is."""
    found: Callable[[Any], Any] = run if callable(run) else import_reference(run, "function of workers")
    return found


def is_worker() -> bool:
    """Whether this process is a worker."""
    return _process["serves"]


def serve(descriptor: int, parent: int) -> None:
    """Take tasks from the socket with number `descriptor` until the process with number `parent` closes it."""
    _process["serves"] = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _end_with(parent)
    os.set_inheritable(descriptor, False)
    link, lock = Connection(descriptor), threading.Lock()

    def send(kind: bytes, content: bytes = b"") -> None:
        with lock:
            link.send_bytes(kind + content)

    try:
        setup: Setup = pickle.loads(link.recv_bytes())
        threading.Thread(target=_beat, args=(send, setup.beat), daemon=True).start()
        while True:
            message = link.recv_bytes()
            send(BEGUN)
            send(ENDED, run_task(setup, message))
    except (EOFError, OSError):  # the parent has closed the socket or is gone
        return


def run_task(setup: Setup, message: bytes) -> bytes:
    """Run the task in `message`, and pickle what comes of it: a result, or `Failed`."""

    def work() -> bytes:
        run = find_function(setup.run if isinstance(setup.run, str) else _load(setup.run, setup.main))
        return pickle.dumps(run(_load(message, setup.main)), pickle.HIGHEST_PROTOCOL)

    outcome = attempt(work)
    return outcome if isinstance(outcome, bytes) else pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)


class _Unpickler(pickle.Unpickler):
    """Runs the program of the parent as a module when, and only when, a task needs something defined there."""

    def __init__(self, content: bytes, main: Mapping[str, object]) -> None:
        super().__init__(io.BytesIO(content))
        self._main = main

    def find_class(self, module: str, name: str, /) -> object:
        """Find a class or function by its module and name."""
        if module == "__main__" and not _process["knows main"]:
            spawn.prepare(dict(self._main))
            _process["knows main"] = True
        try:
            return super().find_class(module, name)
        except AttributeError as error:
            if module == "__main__":  # defined there by other ways
                raise InputError(_unseen(name)) from error
            raise


def set_environment(changes: Mapping[str, str]) -> None:
    """Change the environment of a worker, before it imports what reads it."""
    os.environ.update(changes)


def run_elsewhere(setup: bytes, message: bytes) -> bytes:
    """Do `run_task` in a process that somebody else has started, or in a thread of the parent itself."""
    known: Setup = pickle.loads(setup)
    if is_parent(setup):
        _process["knows main"] = True
    else:
        sys.path += [place for place in known.path if place not in sys.path]
        if "jax" not in sys.modules:  # which reads it once
            os.environ.update(known.environment)
    return run_task(known, message)


def is_parent(setup: bytes) -> bool:
    """Whether this is the process that hands out the tasks."""
    known: Setup = pickle.loads(setup)
    return known.parent == _this_process()


def _this_process() -> tuple[str, int]:
    return platform.node(), os.getpid()


def _load(content: bytes, main: Mapping[str, Any]) -> Any:
    return _Unpickler(content, main).load()


def _beat(send: Callable[[bytes], None], seconds: float) -> None:
    """Send signs of life; end the process when nobody takes them."""
    while True:
        time.sleep(seconds)
        try:
            send(BEAT)
        except OSError:
            os._exit(1)


def _end_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, and see whether that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
