"""Any `concurrent.futures.Executor` as a backend: it brings the workers, the `Agenda` keeps the books.

`ExecutorBackend` is given a function that makes the executor; `pools` holds ready ones.
"""

import logging
import os
import pickle
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace

from homodyne.certificate.density import Progress
from homodyne.optimization.cmc.backends import child
from homodyne.optimization.cmc.backends.base import Agenda, BackendOptions, Clock, CMCBackend, OnResult
from homodyne.optimization.cmc.backends.child import Failed
from homodyne.optimization.cmc.backends.multiprocessing import QUIET, run_beside, thread_limits
from homodyne.optimization.cmc.types import ShardFailure, ShardTask

logger = logging.getLogger(__name__)

TICK = 1.0  # most seconds between two looks for stragglers
LOOK = 5.0  # seconds between two questions for workers


@contextmanager
def _unchanged_environment() -> Iterator[None]:
    """Put the environment of this process back: Dask leaves in it its threads, Parsl is given a PATH."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


class ClusterExecutor(Executor, ABC):
    """An executor whose workers come and go without a word: without any, what it was given waits.

    Attributes
    ----------
    own : bool
        Whether this process has started it, and may start another one when its workers do not come back.
    """

    own: bool = False

    @abstractmethod
    def num_workers(self) -> int:
        """Workers that are connected; called in a thread of its own, for an answer may take long or never come."""


ExecutorFactory = Callable[[], AbstractContextManager[Executor]]


class ExecutorBackend(CMCBackend):
    """Runs tasks through an executor.

    In a ``with`` block the executor is kept from one `run` to the next. An executor cannot end a task that has
    begun: what is running when a run ends early is waited for, and a time limit is kept by a process of its own that
    the worker starts for the task.

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
    keeps_time
        Whether there is a time limit at all; work that must stay in the worker itself has none.
    beside
        Whether every task runs in a process beside the worker, for executors that the death of a worker can damage.
    """

    def __init__(
        self,
        executor_factory: ExecutorFactory,
        options: BackendOptions | None = None,
        *,
        name: str = "executor",
        in_flight: int | None = None,
        keeps_time: bool = True,
        beside: bool = False,
    ) -> None:
        self.options = options or BackendOptions()
        self._factory, self._name, self._in_flight = executor_factory, name, in_flight
        self._executor: Executor | None = None
        self._held = ExitStack()
        self._kept = False
        self._beside = beside or self.options.own_process or (self.options.timeout is not None and keeps_time)
        if self.options.timeout is not None and not keeps_time:
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

    @_unchanged_environment()
    def run(
        self, tasks: Sequence[ShardTask], *, on_result: OnResult, progress: Progress | None = None
    ) -> list[ShardFailure]:
        """Run every task through the executor."""
        clock = Clock(2 * TICK)
        agenda = Agenda(tasks, on_result, progress, self.options, clock)
        flight = _Flight(child.make_setup(self.options.run, environment=thread_limits(1)))
        workers = _Workers(self._name, clock)
        try:
            while not agenda.finished:
                if workers.lost(self._executor) > self.options.silence:
                    self._put_back(agenda, flight)
                    workers = _Workers(self._name, clock)
                agenda.warn_of_silence(workers.known)
                self._submit(agenda, flight)
                with suppress(queue.Empty):
                    future = flight.done.get(timeout=TICK)
                    if future in flight.tasks:
                        self._land(agenda, flight, future)
        finally:
            for future in flight.tasks:
                _cancel(future)
            if not self._kept:
                self.close()
        return agenda.failures

    def _submit(self, agenda: Agenda, flight: "_Flight") -> None:
        """Hand over what waits, then stragglers a second time, as far as there are places."""
        limit = 1 if flight.suspects else self._in_flight
        flight.slow += agenda.stragglers()
        while (agenda.num_waiting or flight.slow) and (limit is None or len(flight.tasks) < limit):
            again = not agenda.num_waiting
            task = flight.slow.pop(0) if again else agenda.take()
            flight.doubled |= again
            try:
                future = self._hand_over(task, flight.setup)
            except BrokenExecutor:
                if not again:
                    agenda.put_back(task)
                if not flight.tasks:  # it broke when it was idle
                    self._renew()
                    continue
                return  # what is in flight will tell
            flight.tasks[future] = task
            if limit is not None:
                agenda.note_begun(task)
            future.add_done_callback(flight.done.put)

    def _hand_over(self, task: ShardTask, setup: bytes) -> "Future[bytes]":
        if self._executor is None:
            self._executor = self._held.enter_context(self._factory())
        message = child.encode(task, stays=isinstance(self._executor, ThreadPoolExecutor))
        if not self._beside:
            return self._executor.submit(child.run_elsewhere, setup, message)
        limits = replace(self.options, run="", jobs=None)
        return self._executor.submit(run_beside, limits, task.shard_id, task.threads, setup, message)

    def _land(self, agenda: Agenda, flight: "_Flight", future: "Future[bytes]") -> None:
        """Handle a future that is done."""
        error = None if future.cancelled() else future.exception()
        if isinstance(error, BrokenExecutor):
            if len(flight.tasks) > 1:  # nobody knows whose fault it was
                flight.suspects = self._put_back(agenda, flight)
                return
            self._renew()
        flight.suspects = max(flight.suspects - 1, 0)
        self._note_begun(agenda, flight, future)
        if future.cancelled():
            outcome: object = Failed("the executor cancelled it")
        elif error is not None:
            logger.info("shard %d: %s", flight.tasks[future].shard_id, error)
            outcome = Failed(f"the worker was lost ({type(error).__name__})")
        else:
            outcome = pickle.loads(future.result())
        task = flight.tasks.pop(future)
        twins = [other for other, same in flight.tasks.items() if same is task] if flight.doubled else []
        for twin in twins:
            del flight.tasks[twin]
            _cancel(twin)
        flight.slow = [other for other in flight.slow if other is not task]
        agenda.finish(task, outcome)

    def _note_begun(self, agenda: Agenda, flight: "_Flight", landed: "Future[bytes]") -> None:
        """What was handed over before a task that has landed runs by now, and so does the next: a place is free."""
        before = True
        for future, task in flight.tasks.items():
            if future is landed:
                before = False
            elif agenda.note_begun(task) and not before:
                return

    def _put_back(self, agenda: Agenda, flight: "_Flight") -> int:
        """Give up an executor and take back what it was given; return how many tasks."""
        self._renew()
        tasks = {task.shard_id: task for task in flight.tasks.values()}
        for task in reversed(tasks.values()):
            agenda.put_back(task)
        flight.tasks.clear()
        flight.slow.clear()
        return len(tasks)

    def _renew(self) -> None:
        """Give up a broken executor."""
        self._executor = None
        self._held.close()


def _cancel(future: "Future[bytes]") -> None:
    with suppress(NotImplementedError):  # Parsl cannot
        future.cancel()


class _Flight:
    """What the executor has been given: tasks by future, those done, stragglers, and how many to try one at a time."""

    def __init__(self, setup: bytes) -> None:
        self.setup, self.suspects, self.doubled = setup, 0, False
        self.slow: list[ShardTask] = []
        self.tasks: dict[Future[bytes], ShardTask] = {}
        self.done: queue.SimpleQueue[Future[bytes]] = queue.SimpleQueue()


class _Workers:
    """What is known of the workers of an executor."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.known = ""
        self._name, self._clock, self._warned = name, clock, False
        self._question: Future[int] | None = None
        self._asked = self._there = clock()

    def lost(self, executor: Executor | None) -> float:
        """Ask now and then; seconds since an executor that may be replaced has had a worker, 0 for any other."""
        now = self._clock()
        if not isinstance(executor, ClusterExecutor):
            self._there = now
            return 0.0
        if self._question is None or (self._question.done() and now - self._asked >= LOOK):
            self._question, self._asked = _answer_of(executor.num_workers), now
        answered = self._question.done() and self._question.exception() is None
        count = self._question.result() if answered else 0
        number = "no workers" if count == 0 else "1 worker" if count == 1 else f"{count} workers"
        self.known = f"{self._name} has {number}" if answered else f"{self._name} does not answer"
        if count:
            if self._warned:
                logger.info("%s again", self.known)
            self._there, self._warned = now, False
        elif now - self._there >= QUIET and not self._warned:
            logger.warning("%s, for %.0f s: shards wait", self.known, now - self._there)
            self._warned = True
        return now - self._there if executor.own else 0.0


def _answer_of(question: Callable[[], int]) -> "Future[int]":
    """The answer to a question that a thread of its own asks."""
    answer: Future[int] = Future()

    def ask() -> None:
        try:
            answer.set_result(question())
        except Exception as error:  # noqa: BLE001  whatever a cluster that goes away raises
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return answer
