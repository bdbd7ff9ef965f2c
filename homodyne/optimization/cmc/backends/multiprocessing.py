"""Worker processes on this machine: one interpreter each, with its own threads, memory and fate.

`MultiprocessingBackend` starts them, gives them tasks and watches them. A worker that is killed, stops, or takes too
long costs its shard one attempt and nobody else anything; see `child` for what runs inside.
"""

import logging
import math
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, cast

from homodyne.certificate.density import Progress
from homodyne.device.config import detect_hardware
from homodyne.errors import ExecutionError, InputError
from homodyne.optimization.cmc.backends import child
from homodyne.optimization.cmc.backends.base import Agenda, BackendOptions, Clock, CMCBackend, OnResult
from homodyne.optimization.cmc.backends.child import Failed
from homodyne.optimization.cmc.types import ShardFailure, ShardTask

logger = logging.getLogger(__name__)

BEAT = 1.0  # seconds between two signs of life
QUIET = 30.0  # seconds without a sign of life after which that is logged
TICK = 0.25  # most seconds between two looks at the clocks
GRACE = 10.0  # seconds that the kernel is given to end a killed process

_HINTS = {
    int(signal.SIGKILL): ", which is also what a machine out of memory does",
    int(signal.SIGBUS): ", as when a file that is mapped into memory is cut while it is read",
}

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which libraries learn how many threads they may use."""


class MultiprocessingBackend(CMCBackend):
    """Runs tasks in processes of this machine.

    In a ``with`` block the processes are kept from one `run` to the next, and with them their compiled programs.
    They use the CPU only, unless another environment is given.

    Parameters
    ----------
    options
        Number of workers, limits and attempts; the number of usable cores by default.
    environment
        Called with the number of threads of a worker for its environment variables.
    """

    def __init__(
        self,
        options: BackendOptions | None = None,
        environment: Callable[[int], Mapping[str, str]] | None = None,
    ) -> None:
        self.options = options or BackendOptions()
        self._environment = environment or worker_environment
        self.num_workers = self.options.num_workers or detect_hardware().cores
        self._workers: list[_Worker] = []
        self._events: _Events = queue.SimpleQueue()
        self._kept = False

    def get_backend_name(self) -> str:
        """Return "multiprocessing"."""
        return "multiprocessing"

    def require_sendable(self, model: object) -> None:
        """Refuse what cannot be pickled, or is found in this process only."""
        child.encode(model)

    def __enter__(self) -> "MultiprocessingBackend":
        self._kept = True
        return self

    def close(self) -> None:
        """End every worker process."""
        self._kept = False
        self._dismiss(list(self._workers))

    def run(
        self, tasks: Sequence[ShardTask], *, on_result: OnResult, progress: Progress | None = None
    ) -> list[ShardFailure]:
        """Run every task in a worker process; on any exception the busy workers are ended first."""
        if child.is_worker():
            raise InputError(
                "a worker process was asked to start workers: the program that started it runs its shards when it "
                "is merely imported; put that call under: if __name__ == '__main__'"
            )
        clock = Clock(2 * TICK)
        agenda = Agenda(tasks, on_result, progress, self.options, clock)
        self._dismiss([worker for worker in self._workers if not worker.alive])  # died between two runs
        try:
            now = clock()
            while not agenda.finished:
                self._hand_out(agenda)
                self._handle_events(agenda)
                before, now = now, clock()
                self._check_limits(agenda, now - before)
                agenda.stragglers()
        finally:
            self._dismiss([worker for worker in self._workers if worker.task is not None or not self._kept])
        return agenda.failures

    def _hand_out(self, agenda: Agenda) -> None:
        """Give waiting tasks to idle workers, and start workers while there may be more."""
        while agenda.num_waiting:
            busy = [worker for worker in self._workers if worker.task is not None]
            if len(busy) == self.num_workers:
                return
            task = agenda.take()
            message = child.encode(task)
            idle = [worker for worker in self._workers if worker.task is None]
            fitting = [worker for worker in idle if worker.threads == task.threads]
            if not fitting:
                if len(self._workers) >= self.num_workers:
                    self._dismiss(idle[:1])
                fitting = [_Worker(task.threads)]
                self._workers += fitting  # before it starts: whatever happens then, it is ended
                setup = child.make_setup(self.options.run, min(BEAT, self.options.silence / 4))
                fitting[0].start(setup, self._environment(task.threads), self._events)
            fitting[0].give(task, message)

    def _handle_events(self, agenda: Agenda) -> None:
        """Wait for something to happen, then handle everything that has happened."""
        try:
            event = self._events.get(timeout=TICK)
            while True:
                self._handle(agenda, *event)
                event = self._events.get_nowait()
        except queue.Empty:
            return

    def _handle(self, agenda: Agenda, worker: "_Worker", message: bytes | None) -> None:
        if worker not in self._workers or agenda.finished:
            return
        worker.silent, worker.warned = 0.0, False
        if message is None:
            self._workers.remove(worker)
            reason = f"the worker process {worker.end()}"
            if worker.task is not None and worker.tried and worker.running is None:
                agenda.put_back(worker.task)  # it died when it was idle, this task has not seen it
            elif worker.task is not None:
                agenda.finish(worker.task, Failed(reason))
        elif message[:1] == child.BEGUN:
            worker.running, worker.tried = 0.0, True
            if worker.task is not None:
                agenda.note_begun(worker.task)
        elif message[:1] == child.ENDED and worker.task is not None:
            task, worker.task = worker.task, None
            agenda.finish(task, pickle.loads(memoryview(message)[1:]))

    def _check_limits(self, agenda: Agenda, elapsed: float) -> None:
        """Let `elapsed` seconds pass for every busy worker, and end those that have used up a limit."""
        for worker in [worker for worker in self._workers if worker.task is not None]:
            worker.silent += elapsed
            worker.running = None if worker.running is None else worker.running + elapsed
            limit = self.options.timeout
            if limit is not None and worker.running is not None and worker.running > limit:
                reason = f"took longer than the timeout of {limit:g} s; the worker process was killed"
            elif worker.silent > self.options.silence:
                reason = f"the worker process gave no sign of life for {self.options.silence:g} s and was killed"
            else:
                worker.warn_once(self.options.silence)
                continue
            task = worker.task
            self._dismiss([worker])
            if task is not None and not agenda.finished:
                agenda.finish(task, Failed(reason))

    def _dismiss(self, workers: "Sequence[_Worker]") -> None:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.end()
            self._workers.remove(worker)


@dataclass(frozen=True)
class _Nested:
    """A task for the only worker of a worker."""

    shard_id: int
    threads: int
    setup: bytes
    message: bytes
    attempt: int = 0
    caution: int = 0


_beside = threading.local()
"""What `run_beside` keeps for this thread: the options, and the backend whose only process is beside this one."""


def run_beside(options: BackendOptions, shard_id: int, threads: int, setup: bytes, message: bytes) -> bytes:
    """Do `child.run_elsewhere` in a process beside this one, which is ended when it has used up the time limit.

    What kills that process, such as a machine out of memory, leaves this one alone. A worker of somebody else's keeps
    it for its next task, and with it the compiled programs.
    """
    if child.is_parent(setup):
        with _make_nested(options) as backend:
            return _run_in(backend, shard_id, threads, setup, message)
    if getattr(_beside, "options", None) != options:
        if hasattr(_beside, "backend"):
            _beside.backend.close()
        _beside.options, _beside.backend = options, _make_nested(options).__enter__()
    return _run_in(_beside.backend, shard_id, threads, setup, message)


def _make_nested(options: BackendOptions) -> MultiprocessingBackend:
    nested = replace(options, num_workers=1, max_attempts=1, straggler=math.inf, run=_run_nested)
    return MultiprocessingBackend(nested, lambda threads: {**os.environ, **thread_limits(threads)})


def _run_in(backend: MultiprocessingBackend, shard_id: int, threads: int, setup: bytes, message: bytes) -> bytes:
    outcomes: dict[int, Any] = {}
    task = cast(ShardTask, _Nested(shard_id, threads, setup, message))
    failures = backend.run([task], on_result=outcomes.__setitem__)
    outcome: bytes = pickle.dumps(Failed(failures[0].reason)) if failures else outcomes[shard_id]
    return outcome


def _run_nested(task: _Nested) -> bytes:
    return child.run_elsewhere(task.setup, task.message)


class _Worker:
    """A worker process as its parent sees it.

    Attributes
    ----------
    task
        What it is doing, None when it is idle.
    silent
        Seconds since its last sign of life.
    running
        Seconds since it has begun its task; None before.
    tried
        Whether it has ever begun a task.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.task: ShardTask | None = None
        self.silent = 0.0
        self.warned = False  # of its silence
        self.running: float | None = None
        self.tried = False
        self._ours, self._theirs = socket.socketpair()
        self._link = Connection(os.dup(self._ours.fileno()))
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._sender: threading.Thread | None = None

    def warn_once(self, limit: float) -> None:
        """Report a process that gives no sign of life, long before it is given up."""
        if self.warned or self.task is None or self.silent <= min(QUIET, 0.5 * limit):
            return
        self.warned = True
        logger.warning(
            "shard %d: its worker process has given no sign of life for %.0f s; after %g s it is killed and the shard "
            "tried again",
            self.task.shard_id,
            self.silent,
            limit,
        )

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, setup: bytes, environment: Mapping[str, str], events: "_Events") -> None:
        """Start the process; what it sends goes to `events`."""
        with _starting():
            with self._theirs:
                self._process = _start(self._theirs.fileno(), environment)
            reader = threading.Thread(target=self._read, args=(events,), daemon=True)
            reader.start()
        self._reader = reader
        self._send(setup)

    def give(self, task: ShardTask, message: bytes) -> None:
        """Send a task, in a thread of its own since a stopped process does not read."""
        self.task, self.silent, self.running = task, 0.0, None
        sender = threading.Thread(target=self._send, args=(message,), daemon=True)
        with _starting():
            sender.start()
        self._sender = sender

    def kill(self) -> None:
        """Kill the process, without waiting for its end."""
        if self._process is not None:
            self._process.kill()

    def end(self) -> str:
        """Make sure that the process is gone, release everything, and tell how it went."""
        code = 0 if self._process is None else _reap(self._process)
        with suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)  # ends both threads even if a grandchild holds the other side
        for thread in (self._reader, self._sender):
            if thread is not None:
                thread.join()
        self._link.close()
        self._ours.close()
        self._theirs.close()
        if code >= 0:
            return f"ended by itself with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
        return f"was killed by signal {-code} ({name}){_HINTS.get(-code, '')}"

    def _send(self, message: bytes) -> None:
        try:
            self._link.send_bytes(message)
        except OSError:  # it has died: the reader notices
            return

    def _read(self, events: "_Events") -> None:
        """Pass on what the process sends; None when it is gone."""
        try:
            while True:
                events.put((self, self._link.recv_bytes()))
        except (EOFError, OSError):
            events.put((self, None))


_Events = queue.SimpleQueue[tuple[_Worker, bytes | None]]


@contextmanager
def _starting() -> Iterator[None]:
    """Say what to do where the system allows no more processes or threads."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # the second of a thread
        raise ExecutionError(
            f"a worker process cannot be started ({error}): raise the limit of processes (ulimit -u), or use fewer "
            "workers (num_workers)"
        ) from error


def _reap(process: subprocess.Popen[bytes]) -> int:
    """Exit code of a process that has ended or is about to; it is killed when it does not."""
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _start(descriptor: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a fresh interpreter that serves the socket `descriptor`.

    Interruptions are held back meanwhile: the process inherits that, until it has learnt to ignore them.
    """
    path = [os.fspath(entry) for entry in sys.path]
    program = (
        f"import sys; sys.path[:] = {path!r}; from {child.__name__} import serve; serve({descriptor}, {os.getpid()})"
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment,
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a worker of this machine: that of this process, with `thread_limits`, and the CPU only."""
    return {**os.environ, **thread_limits(threads), "JAX_PLATFORMS": "cpu"}


def thread_limits(threads: int) -> dict[str, str]:
    """Variables that keep the libraries of a worker to `threads` threads of the CPU.

    XLA sizes its pool by NPROC. It adds numbers in another order when the pool has a single thread than when it has
    several, so a worker has two when this process has several: otherwise its draws would differ from those sampled
    here in the last digits, and soon in all.
    """
    own = os.environ.get("NPROC", "")
    pool = int(own) if own.isdigit() else len(os.sched_getaffinity(0)) if sys.platform == "linux" else 2
    return {**dict.fromkeys(THREADS, str(threads)), "NPROC": str(max(threads, min(pool, 2)))}
