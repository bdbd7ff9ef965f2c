"""Tasks that need no JAX: what a worker process does with them can be told from a number or a word."""

import ctypes
import mmap
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from homodyne.errors import ConvergenceError, InputError


@dataclass(frozen=True)
class FakeTask:
    shard_id: int
    action: str = "return"
    folder: Path | None = None
    threads: int = 1
    attempt: int = 0
    caution: int = 0
    payload: bytes = b""


def run(task):
    """Do what the task says, or only on the first attempt when it says "first ...", and return what is seen."""
    if task.folder is not None:
        path = task.folder / f"{task.shard_id}-{task.attempt}.pid"
        path.with_suffix(".part").write_text(str(os.getpid()))
        path.with_suffix(".part").rename(path)
    action = task.action.removeprefix("first ")
    if action == task.action or task.attempt == 0:
        ACTIONS[action](task)
    seen = {"shard": task.shard_id, "attempt": task.attempt, "caution": task.caution, "pid": os.getpid()}
    seen["parent"] = os.getppid()
    return {**seen, "payload": task.payload}


def sample(task):
    """Draws that depend on the shard only, after `run`."""
    import numpy as np

    run(task)
    return np.random.default_rng(task.shard_id).normal(size=(2, 50, 1))


def look(task):
    """What a fresh worker looks like from inside."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC", "JAX_PLATFORMS")
    return {
        "modules": sorted({"jax", "numpy", "scipy"} & set(sys.modules)),
        "environ": {name: os.environ.get(name) for name in names},
        "interrupts": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "pid": os.getpid(),
        "files": sorted(os.readlink(f"/proc/self/fd/{entry}") for entry in os.listdir("/proc/self/fd") if _open(entry)),
    }


def _open(entry):
    return os.path.exists(f"/proc/self/fd/{entry}")


def refuse(task):
    raise InputError("the model has no parameters")


def diverge(task):
    raise ConvergenceError(f"shard {task.shard_id} diverges")


def stumble(task):
    raise ZeroDivisionError("by zero")


def hang(task):
    time.sleep(600)


def hang_in_compiled_code(task):
    """Hold the interpreter all the time, so that no other thread runs."""
    ctypes.PyDLL(None).sleep(600)


def hang_unseen_by_the_kernel(task):
    """Hang without the kernel's help against outliving the parent."""
    ctypes.CDLL(None).prctl(1, 0)
    time.sleep(600)


def wait(task):
    """Wait until the folder holds a file of this name."""
    while not (task.folder / "go").exists():
        time.sleep(0.02)
    (task.folder / f"{task.shard_id}.done").touch()


def stop(task):
    os.kill(os.getpid(), signal.SIGSTOP)


def die(task):
    os.kill(os.getpid(), signal.SIGKILL)


def cut(task):
    """Read a mapped file that is cut meanwhile."""
    file = task.folder / "mapped"
    file.write_bytes(bytes(mmap.PAGESIZE))
    with file.open("r+b") as stream:
        mapped = mmap.mmap(stream.fileno(), 0)
        stream.truncate(0)
        mapped[0]


def leave(task):
    os._exit(7)


def return_at_once(task):
    pass


ACTIONS = {
    "return": return_at_once,
    "refuse": refuse,
    "diverge": diverge,
    "stumble": stumble,
    "hang": hang,
    "hang in compiled code": hang_in_compiled_code,
    "hang unseen": hang_unseen_by_the_kernel,
    "stop": stop,
    "wait": wait,
    "die": die,
    "cut": cut,
    "leave": leave,
}
