"""Shards as elements of job arrays: one loop for every scheduler.

What is true stands in the store: a shard is done when its result is there. The scheduler only tells for whom it is
no use to wait any longer. So a coordinator may die at any time: the next one finds results and jobs where they are.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from homodyne.certificate.density import Progress
from homodyne.config.schema import JobsConfig
from homodyne.errors import ExecutionError, HomodyneError, InputError
from homodyne.optimization.cmc.backends.base import Agenda, BackendOptions, Clock, CMCBackend, OnResult
from homodyne.optimization.cmc.backends.child import Failed
from homodyne.optimization.cmc.backends.jobs import UNKNOWN, Dialect, Job, State, found, recorded, submit
from homodyne.optimization.cmc.backends.multiprocessing import MultiprocessingBackend
from homodyne.optimization.cmc.store.rounds import Round
from homodyne.optimization.cmc.types import ShardFailure, ShardTask
from homodyne.registries import BACKENDS

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
    file_delay
        How long a shared file system may take to show what a job has written there before it ended.
    silence
        How long nothing may be said of a job that was seen before.
    patience
        How long the scheduler may be out of reach, or say nothing of a job that was never seen.
    """

    first: float = 2.0
    longest: float = 60.0
    command: float = 30.0
    file_delay: float = 10.0
    silence: float = 300.0
    patience: float = 3600.0


@dataclass(frozen=True)
class _Element:
    """A task in the hands of the scheduler: number of its job, place in it, and whether an earlier run has sent it."""

    task: ShardTask
    job: int
    index: int
    earlier: bool


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
        clock = Clock(2 * (self.pace.longest + self.pace.command))
        agenda = Agenda(tasks, on_result, progress, self.options, clock)
        if not agenda.finished:
            work = Round.write(tasks, self.options.run)
            _Watch(self, work, agenda, clock).wait()
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
    factory = BACKENDS.find(job.scheduler, importing=False)
    backend = factory(BackendOptions())
    if not isinstance(backend, ArrayBackend):
        raise InputError(f"job {job.job} was submitted by the backend {job.scheduler!r}, which is not known here")
    return backend.dialect


def cancel(store: Path) -> list[Job]:
    """End every job of a store that is not known to be over, so that its shards are not tried again; return these.

    Raises
    ------
    ExecutionError
        The scheduler does not answer, or could not end a job; the others are ended all the same.
    """
    ended, troubles = [], []
    for job in recorded(store):
        dialect = dialect_of(job)
        try:
            job = found(dialect, job, store, Pace.command)
            states = dialect.status(job.job, len(job.elements), Pace.command) if job.job else []
        except ExecutionError as error:
            troubles.append(str(error))
            states = [UNKNOWN] if job.job else []
        if all(state.phase == "ended" for state in states):
            continue
        ended.append(replace(job, cancelled=True).write(store))
        if trouble := dialect.end(job.job, Pace.command):
            troubles.append(trouble)
    if troubles:
        raise ExecutionError("; ".join(dict.fromkeys(troubles)))
    return ended


class _Watch:
    """One run: what is in the hands of the scheduler, and since when it should have come back."""

    def __init__(self, backend: ArrayBackend, work: Round, agenda: Agenda, clock: Clock) -> None:
        self.dialect, self.jobs, self.pace = backend.dialect, backend.jobs, backend.pace
        self.work, self.agenda, self.clock = work, agenda, clock
        self.sent: dict[int, Job] = {}  # every job of this run, by number
        self.held: dict[int, _Element] = {}
        self.over: set[tuple[int, int]] = set()  # elements that are finished
        self.ended: dict[int, set[int]] = {}  # elements of a job that have ended, as the scheduler last said
        self.seen: set[tuple[int, int]] = set()  # elements that the scheduler has said to have
        self.gone: dict[int, float] = {}  # since when a shard without a result is over, or not heard of
        self.refused = 0  # submissions, one after the other
        self.heard = self.clock()

    def wait(self) -> None:
        """Take up earlier jobs, submit the rest, and finish every task."""
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
        except Exception:
            self._end_all()
            raise
        except BaseException:  # an interruption
            self._say_what_goes_on()
            raise
        self._end_all()

    def _take_up(self) -> None:
        """Take over the elements of earlier jobs that the scheduler still has, or may have."""
        waiting = {task.shard_id: task for task in (self.agenda.take() for _ in range(self.agenda.num_waiting))}
        for job in reversed(recorded(self.work.store.path)):
            mine = job.round == self.work.name and not job.cancelled and job.scheduler == self.dialect.name
            if not mine or not any(shard in waiting for shard, _, _ in job.elements):
                continue
            states = self._status(job)
            for index, (shard, attempt, caution) in enumerate(job.elements):
                may_run = states is None or states[index].phase != "ended"
                if may_run and shard in waiting and self.work.failure(shard, attempt) is None:
                    task = replace(waiting.pop(shard), attempt=attempt, caution=caution)
                    self._hold(task, self.sent.get(job.number, job), index, earlier=True)
                    logger.info("shard %d is already with %s, as job %s", shard, self.dialect.name, job.job or job.name)
        for task in reversed(waiting.values()):
            self.agenda.put_back(task)

    def _hold(self, task: ShardTask, job: Job, index: int, *, earlier: bool = False) -> None:
        self.sent.setdefault(job.number, job)
        self.held[task.shard_id] = _Element(task, job.number, index, earlier)

    def _collect(self) -> None:
        """Finish the shards whose results are there, and those of which the worker has noted that it failed."""
        for shard, element in list(self.held.items()):
            outcome: object = self.work.result(shard)
            if outcome is None:
                outcome = self.work.failure(shard, element.task.attempt)
            if outcome is not None and shard in self.held:
                self._drop(shard)
                self.agenda.finish(element.task, self._unless_cancelled(element, outcome))

    def _look(self) -> None:
        """Ask the scheduler for the others, and finish those that have had their time."""
        jobs = {element.job for element in self.held.values()}
        states = {number: self._status(self.sent[number]) for number in sorted(jobs)}
        now = self.clock()
        for shard, element in list(self.held.items()):
            known = states[element.job]
            if known is None or self.agenda.finished or shard not in self.held:
                continue
            state, place = known[element.index], (element.job, element.index)
            if state.phase in ("queued", "running"):
                self.seen.add(place)
                self.gone.pop(shard, None)
                if state.phase == "running":
                    self.agenda.note_begun(element.task)
            elif (silent := now - self.gone.setdefault(shard, now)) >= self._limit(state, place):
                self._finish_ended(shard, element, state, silent)
        self.agenda.stragglers()

    def _limit(self, state: State, place: tuple[int, int]) -> float:
        """Seconds after which an element without a result has failed: silence of the scheduler is no statement."""
        if state.phase == "ended":
            return self.pace.file_delay
        return self.pace.silence if place in self.seen or not self.sent[place[0]].job else self.pace.patience

    def _status(self, job: Job) -> list[State] | None:
        """States of the elements of a job; None when the scheduler does not answer."""
        try:
            job = found(self.dialect, job, self.work.store.path, self.pace.command)
            self.sent[job.number] = job
            known = [State("unknown", "its submission was not answered")] * len(job.elements)
            if job.job:
                known = self.dialect.status(job.job, len(job.elements), self.pace.command)
        except ExecutionError as error:
            silent = self.clock() - self.heard
            if silent > self.pace.patience:
                raise ExecutionError(f"{self.dialect.name} is out of reach for {silent:.0f} s ({error})") from error
            logger.warning("%s; %s is asked again", error, self.dialect.name)
            return None
        self.heard = self.clock()
        self.ended[job.number] = {index for index, state in enumerate(known) if state.phase == "ended"}
        return known

    def _finish_ended(self, shard: int, element: _Element, state: State, silent: float) -> None:
        """Finish a shard whose element has ended, or is not heard of for too long: that one is ended first."""
        self._collect()
        if shard not in self.held:
            return
        job = self.sent[element.job]
        if state.phase == "unknown" and job.job:
            plain = len(job.elements) == 1
            if trouble := self.dialect.end(job.job, self.pace.command, None if plain else element.index):
                if silent > self.pace.patience + self.pace.silence:
                    raise ExecutionError(f"nothing is heard of job {job.job}, and it cannot be ended: {trouble}")
                logger.warning("nothing is heard of shard %d, and it cannot be ended: %s", shard, trouble)
                return
        self._drop(shard)
        if element.earlier and state.phase == "unknown" and not self._cancelled(element):
            self.agenda.put_back(element.task)
            return
        reason = state.reason or "nothing is heard of it any more"
        said = f"job {job.job or job.name}, element {element.index}: {reason}, without a valid result"
        words = job.last_words(element.index)
        failed = Failed(f"{said}; it last said: {words}" if words else said)
        self.agenda.finish(element.task, self._unless_cancelled(element, failed))

    def _cancelled(self, element: _Element) -> bool:
        return Job.read(self.work.store.path / "jobs" / f"{element.job:04d}.json").cancelled

    def _unless_cancelled(self, element: _Element, outcome: object) -> object:
        """What has come of an element; that it was cancelled where it failed and a user has said so."""
        if isinstance(outcome, Failed) and self._cancelled(element):
            return Failed(f"job {self.sent[element.job].job} was cancelled by homodyne cancel", retry=False)
        return outcome

    def _drop(self, shard: int) -> None:
        element = self.held.pop(shard)
        self.gone.pop(shard, None)
        self.over.add((element.job, element.index))

    def _submit(self) -> None:
        """Submit what waits, in arrays of the size that the scheduler takes."""
        tasks = []
        while self.agenda.num_waiting:
            task = self.agenda.take()
            outcome = self.work.result(task.shard_id)
            if outcome is None:
                tasks.append(task)
            else:
                self.agenda.finish(task, outcome)
        size = self.jobs.max_array_size
        for first in range(0, len(tasks), size):
            part = tasks[first : first + size]
            elements = [(task.shard_id, task.attempt, task.caution) for task in part]
            for task in part:
                self.work.forget_failure(task.shard_id)
            try:
                job = submit(self.dialect, self.jobs, self.work, elements, self.pace.command)
            except ExecutionError as error:
                self._not_now(error)
                for task in reversed(tasks[first:]):
                    self.agenda.put_back(task)
                return
            logger.info("job %s of %s has %d shards", job.job or job.name, self.dialect.name, len(part))
            for index, task in enumerate(part):
                self._hold(task, job, index)
            self.heard, self.refused = self.clock(), 0

    def _not_now(self, error: ExecutionError) -> None:
        """Put up with a submission that failed, while others run or for a few looks."""
        self.refused += 1
        if not self.held and self.refused >= REFUSALS:
            raise error
        logger.warning("%s; it is tried again", error)

    def _open_jobs(self) -> list[Job]:
        """Jobs of this run of which not every element is known to have ended."""
        return [
            job
            for job in self.sent.values()
            if any(
                (job.number, index) not in self.over and index not in self.ended.get(job.number, ())
                for index in range(len(job.elements))
            )
        ]

    def _end_all(self) -> None:
        """End what still runs, which is in vain; what goes wrong with that is no reason of anything else."""
        for job in self._open_jobs():
            try:
                job = found(self.dialect, job, self.work.store.path, self.pace.command)
                trouble = self.dialect.end(job.job, self.pace.command) if job.job else ""
            except HomodyneError as error:
                trouble = str(error)
            if trouble:
                logger.warning("job %s may still be there: %s", job.job or job.name, trouble)

    def _say_what_goes_on(self) -> None:
        if jobs := [job.job or job.name for job in self._open_jobs()]:
            place = self.work.store.path
            logger.warning("jobs that go on: %s; to end them: homodyne cancel %s", ", ".join(jobs), place)
