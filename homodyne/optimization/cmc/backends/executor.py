"""Any `concurrent.futures.Executor` as a backend: it brings the workers, the `Agenda` keeps the books.

`ExecutorBackend` is given a function that makes the executor; `pools` holds ready ones.
"""

import logging
import pickle
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any

from homodyne.optimization.cmc.backends import child
from homodyne.optimization.cmc.backends.base import Agenda, BackendOptions, CMCBackend, OnResult
from homodyne.optimization.cmc.backends.child import Failed
from homodyne.optimization.cmc.types import ShardFailure, ShardTask
from homodyne.optimization.density import Progress

logger = logging.getLogger(__name__)

ExecutorFactory = Callable[[], AbstractContextManager[Executor]]


class ExecutorBackend(CMCBackend):
    """Runs tasks through an executor.

    In a ``with`` block the executor is kept from one `run` to the next. An executor cannot end a task that has
    begun, so there is no time limit, and what is running when a run ends early is waited for.

    Parameters
    ----------
    executor_factory
        Called without arguments for an executor, which is a context manager; wrap one that is to stay open in
        `contextlib.nullcontext`. It is called again when the executor breaks.
    options
        Limits and attempts.
    name
        Name of the backend.
    in_flight
        Most tasks handed to the executor at a time, all by default. A pool that breaks as a whole when a worker dies
        (`concurrent.futures.BrokenExecutor`) is best given as many as it has workers: these tasks are run again one
        at a time, and only one that breaks the pool alone has used an attempt.
    """

    def __init__(
        self,
        executor_factory: ExecutorFactory,
        options: BackendOptions | None = None,
        *,
        name: str = "executor",
        in_flight: int | None = None,
    ) -> None:
        self.options = options or BackendOptions()
        self._factory, self._name, self._in_flight = executor_factory, name, in_flight
        self._executor: Executor | None = None
        self._held = ExitStack()
        self._kept = False
        if self.options.timeout is not None:
            logger.warning("the backend %r cannot keep a time limit; use 'multiprocessing' for one", name)

    def get_backend_name(self) -> str:
        """Return the name given, "executor" by default."""
        return self._name

    def __enter__(self) -> "ExecutorBackend":
        self._kept = True
        return self

    def close(self) -> None:
        """Shut the executor down."""
        self._kept, self._executor = False, None
        self._held.close()

    def run(
        self, tasks: Sequence[ShardTask], *, on_result: OnResult, progress: Progress | None = None
    ) -> list[ShardFailure]:
        """Run every task through the executor."""
        agenda = Agenda(tasks, on_result, progress, self.options)
        flight = _Flight(child.make_setup(self.options.run))
        try:
            while not agenda.finished:
                self._submit(agenda, flight)
                future = flight.done.get()
                if future in flight.tasks:
                    self._land(agenda, flight, future)
        finally:
            for future in flight.tasks:
                with suppress(NotImplementedError):  # Parsl cannot
                    future.cancel()
            if not self._kept:
                self.close()
        return agenda.failures

    def _submit(self, agenda: Agenda, flight: "_Flight") -> None:
        limit = 1 if flight.suspects else self._in_flight
        while agenda.num_waiting and (limit is None or len(flight.tasks) < limit):
            task = agenda.take()
            message = child.encode(task)
            if self._executor is None:
                self._executor = self._held.enter_context(self._factory())
            try:
                future = self._executor.submit(child.run_elsewhere, flight.setup, message)
            except BrokenExecutor:
                agenda.put_back(task)
                if not flight.tasks:  # it broke when it was idle
                    self._renew()
                    continue
                return  # what is in flight will tell
            flight.tasks[future] = task
            future.add_done_callback(flight.done.put)

    def _land(self, agenda: Agenda, flight: "_Flight", future: "Future[bytes]") -> None:
        """Handle a future that is done."""
        error = None if future.cancelled() else future.exception()
        if isinstance(error, BrokenExecutor):
            self._renew()
            if len(flight.tasks) > 1:  # nobody knows whose fault it was
                flight.suspects = len(flight.tasks)
                for task in reversed(flight.tasks.values()):
                    agenda.put_back(task)
                flight.tasks.clear()
                return
        flight.suspects = max(flight.suspects - 1, 0)
        if future.cancelled():
            outcome: Any = Failed("the executor cancelled it")
        elif error is not None:
            logger.info("shard %d: %s", flight.tasks[future].shard_id, error)
            outcome = Failed(f"the worker was lost ({type(error).__name__})")
        else:
            outcome = pickle.loads(future.result())
        agenda.settle(flight.tasks.pop(future), outcome)

    def _renew(self) -> None:
        """Give up a broken executor."""
        self._executor = None
        self._held.close()


class _Flight:
    """What the executor has been given: tasks by future, those done, and how many are to be tried one at a time."""

    def __init__(self, setup: bytes) -> None:
        self.setup, self.suspects = setup, 0
        self.tasks: dict[Future[bytes], ShardTask] = {}
        self.done: queue.SimpleQueue[Future[bytes]] = queue.SimpleQueue()
