"""Shards as elements of job arrays: one loop for every scheduler.

What is true stands in the store: a shard is done when its result is there. The scheduler only tells for whom it is
no use to wait any longer. So a coordinator may die at any time: the next one finds results and jobs where they are.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from homodyne.config.schema import JobsConfig
from homodyne.errors import ExecutionError, InputError
from homodyne.optimization.cmc.backends import find_backend
from homodyne.optimization.cmc.backends.base import Agenda, BackendOptions, CMCBackend, OnResult
from homodyne.optimization.cmc.backends.child import Failed
from homodyne.optimization.cmc.backends.jobs import Dialect, Job, State, ask, recorded, submit
from homodyne.optimization.cmc.backends.multiprocessing import MultiprocessingBackend
from homodyne.optimization.cmc.rounds import Round
from homodyne.optimization.cmc.types import ShardFailure, ShardTask
from homodyne.optimization.density import Progress

logger = logging.getLogger(__name__)

REFUSALS = 3  # submissions that may fail, one after the other, while no job is running


@dataclass(frozen=True)
class Pace:
    """How often and how long, in seconds.

    Attributes
    ----------
    first, longest
        Pauses between two looks; they grow while nothing happens.
    command
        Limit of one call to the scheduler.
    settle
        How long a shared file system may take to show what a job has written there before it ended.
    patience
        How long the scheduler may be out of reach.
    """

    first: float = 2.0
    longest: float = 60.0
    command: float = 30.0
    settle: float = 10.0
    patience: float = 3600.0


@dataclass(frozen=True)
class _Element:
    """A task in the hands of the scheduler."""

    task: ShardTask
    job: Job
    index: int


class ArrayBackend(CMCBackend):
    """Runs tasks as elements of job arrays; they and their results must lie in a store on a shared file system.

    Rounds that evaluate statistics run in worker processes of this machine, unless `evaluate_in_jobs` is set: they
    take seconds, and a queue takes minutes. What is running when the run is interrupted goes on, and is found again.

    A subclass has the `dialect` of a scheduler.

    Parameters
    ----------
    options
        Attempts, workers for evaluations, and jobs.
    pace
        How often and how long.
    """

    dialect: Dialect
    elsewhere = True

    def __init__(self, options: BackendOptions | None = None, pace: Pace | None = None) -> None:
        self.options, self.pace = options or BackendOptions(), pace or Pace()
        self.jobs = self.options.jobs or JobsConfig()
        self._here = MultiprocessingBackend(self.options)
        self.dialect.directives(self.jobs, 2)  # refuses what this scheduler does not have
        if self.options.timeout is not None:
            logger.warning("the backend %r keeps the time limit by jobs.walltime, not by timeout", self.dialect.name)

    def get_backend_name(self) -> str:
        """Return the name of the scheduler."""
        return self.dialect.name

    def __enter__(self) -> "ArrayBackend":
        self._here.__enter__()
        return self

    def close(self) -> None:
        """End the worker processes of this machine."""
        self._here.close()

    def run(
        self, tasks: Sequence[ShardTask], *, on_result: OnResult, progress: Progress | None = None
    ) -> list[ShardFailure]:
        """Submit every task without a result, and wait."""
        if tasks and tasks[0].points is not None and not self.jobs.evaluate_in_jobs:
            return self._here.run(tasks, on_result=on_result, progress=progress)
        agenda = Agenda(tasks, on_result, progress, self.options)
        if not agenda.finished:
            work = Round.write(tasks, self.options.run)
            _Watch(self, work, agenda).wait()
            if not agenda.failures:
                work.remove()
        return agenda.failures


def dialect_of(job: Job) -> Dialect:
    """Dialect in which to ask for a recorded job.

    Raises
    ------
    InputError
        No backend here has submitted it.
    """
    factory = find_backend(job.scheduler, importing=False)
    backend = factory(BackendOptions())
    if not isinstance(backend, ArrayBackend):
        raise InputError(f"job {job.job} was submitted by the backend {job.scheduler!r}, which is not known here")
    return backend.dialect


def cancel(store: Path) -> list[Job]:
    """End every job of a store that is not over, so that its shards are not tried again; return these jobs.

    Raises
    ------
    ExecutionError
        The scheduler does not answer.
    """
    ended = []
    for job in recorded(store):
        dialect = dialect_of(job)
        if any(state.phase != "ended" for state in dialect.status(job.job, Pace.command).values()):
            ended.append(replace(job, cancelled=True).write(store))
            ask(dialect.cancel_command(job.job), Pace.command)
    return ended


class _Watch:
    """One run: what is in the hands of the scheduler, and since when it should have come back."""

    def __init__(self, backend: ArrayBackend, work: Round, agenda: Agenda) -> None:
        self.dialect, self.jobs, self.pace = backend.dialect, backend.jobs, backend.pace
        self.work, self.agenda = work, agenda
        self.held: dict[int, _Element] = {}
        self.gone: dict[int, float] = {}  # when an element without a result was first seen to have ended
        self.refused = 0  # submissions, one after the other
        self.heard = time.monotonic()

    def wait(self) -> None:
        """Take up earlier jobs, submit the rest, and settle every task."""
        pause = self.pace.first
        try:
            self._take_up()
            while not self.agenda.finished:
                open_before = len(self.held)
                self._collect()
                self._look()
                self._submit()
                pause = min(1.5 * pause, self.pace.longest) if len(self.held) == open_before else self.pace.first
                if not self.agenda.finished:
                    time.sleep(pause)
        finally:
            self._leave()

    def _take_up(self) -> None:
        """Take over the elements of earlier jobs that the scheduler still has."""
        waiting = {task.shard_id: task for task in (self.agenda.take() for _ in range(self.agenda.num_waiting))}
        for job in recorded(self.work.store.path):
            if job.round != self.work.name or job.cancelled or job.scheduler != self.dialect.name:
                continue
            for index, state in self.dialect.status(job.job, self.pace.command).items():
                shard, attempt, caution = job.elements[index] if index < len(job.elements) else (-1, 0, 0)
                if state.phase != "ended" and shard in waiting:
                    task = replace(waiting.pop(shard), attempt=attempt, caution=caution)
                    self.held[shard] = _Element(task, job, index)
                    logger.info("shard %d is already with %s, as job %s", shard, self.dialect.name, job.job)
        for task in reversed(waiting.values()):
            self.agenda.put_back(task)

    def _collect(self) -> None:
        """Settle the shards whose results are there."""
        for shard, element in list(self.held.items()):
            outcome = self.work.result(shard)
            if outcome is not None:
                self._drop(shard)
                self.agenda.settle(element.task, outcome)

    def _look(self) -> None:
        """Ask the scheduler for the others, and settle those who have had their time."""
        jobs = {element.job.number: element.job for element in self.held.values()}
        states = {number: self._status(job) for number, job in jobs.items()}
        now = time.monotonic()
        for shard, element in list(self.held.items()):
            known = states[element.job.number]
            if known is None or self.agenda.finished:
                continue
            state = known.get(element.index, State("ended", "the scheduler does not know it any more"))
            if state.phase != "ended":
                self.gone.pop(shard, None)
                if state.phase == "running":
                    self.agenda.note_begun(element.task)
            elif now - self.gone.setdefault(shard, now) >= self.pace.settle:
                self._settle(shard, element, state)
        self.agenda.stragglers()

    def _status(self, job: Job) -> dict[int, State] | None:
        """States of the elements of a job; None when the scheduler does not answer."""
        try:
            found = self.dialect.status(job.job, self.pace.command)
        except ExecutionError as error:
            silent = time.monotonic() - self.heard
            if silent > self.pace.patience:
                raise ExecutionError(f"{self.dialect.name} is out of reach for {silent:.0f} s ({error})") from error
            logger.warning("%s; %s is asked again", error, self.dialect.name)
            return None
        self.heard = time.monotonic()
        return found

    def _settle(self, shard: int, element: _Element, state: State) -> None:
        """Settle a shard whose element has ended."""
        self._drop(shard)
        outcome = self.work.result(shard)
        if outcome is not None:
            self.agenda.settle(element.task, outcome)
            return
        failed = self.work.failure(shard, element.task.attempt)
        if failed is None:
            words = element.job.last_words(element.index)
            said = f"job {element.job.job}, element {element.index}: {state.reason}, without a valid result"
            failed = Failed(f"{said}; it last said: {words}" if words else said)
        if Job.read(self.work.store.path / "jobs" / f"{element.job.number:04d}.json").cancelled:
            failed = Failed(f"job {element.job.job} was cancelled by homodyne cancel", retry=False)
        self.agenda.settle(element.task, failed)

    def _drop(self, shard: int) -> None:
        del self.held[shard]
        self.gone.pop(shard, None)

    def _submit(self) -> None:
        """Submit what waits, in arrays of the size that the scheduler takes."""
        tasks = []
        while self.agenda.num_waiting:
            task = self.agenda.take()
            outcome = self.work.result(task.shard_id)
            if outcome is None:
                tasks.append(task)
            else:
                self.agenda.settle(task, outcome)
        size = self.jobs.max_array_size
        for first in range(0, len(tasks), size):
            part = tasks[first : first + size]
            elements = [(task.shard_id, task.attempt, task.caution) for task in part]
            try:
                job = submit(self.dialect, self.jobs, self.work, elements, self.pace.command)
            except ExecutionError as error:
                self._not_now(error)
                for task in reversed(tasks[first:]):
                    self.agenda.put_back(task)
                return
            logger.info("job %s of %s has %d shards", job.job, self.dialect.name, len(part))
            self.held |= {task.shard_id: _Element(task, job, index) for index, task in enumerate(part)}
            self.heard, self.refused = time.monotonic(), 0

    def _not_now(self, error: ExecutionError) -> None:
        """Put up with a submission that failed, while others run or for a few looks."""
        self.refused += 1
        if not self.held and self.refused >= REFUSALS:
            raise error
        logger.warning("%s; it is tried again", error)

    def _leave(self) -> None:
        """End what runs in vain, or say what goes on."""
        jobs = {element.job.job: element.job for element in self.held.values()}
        if jobs and not self.agenda.finished:
            place = self.work.store.path
            logger.warning("jobs that go on: %s; to end them: homodyne cancel %s", ", ".join(jobs), place)
            return
        for job in jobs:
            ask(self.dialect.cancel_command(job), self.pace.command)
