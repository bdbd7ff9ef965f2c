"""What a backend is: it runs every task somewhere and hands the results over; it does not do the work itself.

A new backend is a subclass of `CMCBackend` with `run` and `get_backend_name`, entered with `register_backend`.
`Agenda` keeps the books for it: attempts, failures, early stop.
"""

import logging
import math
import statistics
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any

import numpy.typing as npt

from homodyne.arguments import Faults
from homodyne.arrays import Array
from homodyne.certificate.density import Progress
from homodyne.config.schema import JobsConfig
from homodyne.errors import InputError
from homodyne.files import temporary_folder
from homodyne.optimization.cmc.backends.child import Failed, attempt, find_function
from homodyne.optimization.cmc.backends.tasks import as_mapping, write_tasks
from homodyne.optimization.cmc.types import ShardFailure, ShardResult, ShardTask

logger = logging.getLogger(__name__)

SLOW = 3.0
"""A straggler takes longer than this many medians of the shards that are finished."""

EARLY = 30.0
"""Seconds after which one is reported, long before it may be run a second time."""

RUN_SHARD = "homodyne.optimization.cmc.worker:run_shard"
"""The function that does the work: samples a shard, or evaluates statistics on it."""

Outcome = ShardResult | Array
OnResult = Callable[[int, Outcome], None]
Run = str | Callable[[Any], Any]


@dataclass(frozen=True)
class BackendOptions:
    """What can be asked of a backend; each uses what applies to it.

    Attributes
    ----------
    num_workers : int, optional
        Processes; as many as there are cores by default.
    timeout : float, optional
        Seconds that one attempt at a shard may take; no limit by default.
    max_attempts : int
        Times that a shard is tried.
    early_stop : int
        The run ends when this many shards have finished and every one has failed; 0 never ends it.
    silence : float
        Seconds without a sign of life after which a worker is taken for dead. Compiled code may hold the
        interpreter for a while, so this is long.
    straggler : float
        Seconds after which a shard that also takes three times as long as the others is reported; an executor with
        a free place runs it a second time, and the first answer counts. Infinite for never, as the two above.
    run : str or callable
        What to do with a task, as "module:function" or a function that can be pickled.
    jobs : JobsConfig, optional
        What jobs of a scheduler are given.
    own_process : bool
        Whether workers of executors run tasks in processes beside them; they do where there is a time limit.
    """

    num_workers: int | None = None
    timeout: float | None = None
    max_attempts: int = 2
    early_stop: int = 3
    silence: float = 300.0
    straggler: float = 300.0
    run: Run = RUN_SHARD
    jobs: JobsConfig | None = None
    own_process: bool = False

    def __post_init__(self) -> None:
        with Faults() as faults:
            for name, least in {"num_workers": 1, "max_attempts": 1, "early_stop": 0}.items():
                value = getattr(self, name)
                if not (name == "num_workers" and value is None):
                    faults.integer(name, value, least)
            for name in ("timeout", "silence", "straggler"):
                value = getattr(self, name)
                if not (name == "timeout" and value is None) and not (isinstance(value, float) and value == math.inf):
                    faults.number(name, value, above=0.0)  # infinite: never
            faults.kind("jobs", self.jobs, JobsConfig)


class CMCBackend(ABC):
    """Runs tasks.

    A backend may keep processes from one `run` to the next while it is used in a ``with`` block.

    Attributes
    ----------
    reason : str
        Why this backend was selected; empty when the caller has made it.
    elsewhere : bool
        Whether tasks may run when this process is over: they need a store that stays, and a model that they import.
    """

    reason: str = ""
    elsewhere: bool = False

    @abstractmethod
    def run(
        self, tasks: Sequence[ShardTask], *, on_result: OnResult, progress: Progress | None = None
    ) -> list[ShardFailure]:
        """Run every task and return the failures, in the order of the tasks.

        What comes of a task does not depend on the backend, the worker, the order or the fate of other tasks.

        Parameters
        ----------
        tasks
            One for each shard; the first are started first.
        on_result
            Called in this thread with the number of the shard and its result, as they come. What it raises ends
            the run.
        progress
            Called with ("shards", number finished, total).

        Raises
        ------
        InputError
            Two tasks for one shard, or tasks that cannot be sent. A shard that fails raises nothing.
        """

    def require_sendable(self, model: object) -> None:  # noqa: B027  most backends see when they hand out tasks
        """Refuse, before any work is done, a model that the workers cannot be given.

        Raises
        ------
        InputError
            The message says how it is defined for them.
        """

    def run_parallel_mcmc(
        self,
        shards: Sequence[Mapping[str, object]],
        mcmc_config: Mapping[str, object],
        init_params: Mapping[str, float],
        inv_mass_matrix: npt.ArrayLike,
        *,
        model: object = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """Sample the subposteriors of shards that are in memory.

        Parameters
        ----------
        shards
            Mappings of arrays, as `shard_data_stratified` gives them; numbers and ``"indices"`` are left out.
        mcmc_config
            Values of `NutsSettings` by name.
        init_params
            Starting point: coordinates without bounds, by the model's names.
        inv_mass_matrix : (d, d) array
            Covariance of the posterior of one shard.
        model
            What is sampled, see `as_model`; its prior enters every shard with power 1 / number of shards.
        seed
            The draws of a shard depend on it, the shard and its position only.
        progress
            As of `run`.

        Returns
        -------
        list of dict
            In the order of `shards`: the fields of a `ShardResult` (``samples`` (chain, draw, D), ``converged``, ...)
            or of a `ShardFailure`, with ``converged`` false and the ``reason``. A shard that fails raises nothing.

        Raises
        ------
        InputError
            The arguments do not fit together.
        """
        outcomes: dict[int, Any] = {}
        with temporary_folder() as folder:
            tasks = write_tasks(folder, shards, mcmc_config, init_params, inv_mass_matrix, model, seed, progress)
            failures = self.run(tasks, on_result=outcomes.__setitem__, progress=progress)
        outcomes |= {failure.shard_id: failure for failure in failures}
        return [as_mapping(outcomes[task.shard_id]) for task in tasks]

    @abstractmethod
    def get_backend_name(self) -> str:
        """Name in the registry."""

    def close(self) -> None:  # noqa: B027  most backends hold nothing
        """Release what is held between runs."""

    def __enter__(self) -> "CMCBackend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Clock:
    """Seconds that this process has seen pass: it stands still while the process is stopped or the machine sleeps.

    Parameters
    ----------
    most
        Seconds between two looks at most; what is more was not seen.
    source
        Seconds since some moment; never the time of day, which jumps.
    """

    def __init__(self, most: float, source: Callable[[], float] = time.monotonic) -> None:
        self._most, self._source = most, source
        self._last, self._seen = source(), 0.0

    def __call__(self) -> float:
        """Look at the clock."""
        now = self._source()
        self._seen += min(now - self._last, self._most)
        self._last = now
        return self._seen


class Agenda:
    """Which tasks are still to do, and what has come of the others.

    Parameters
    ----------
    tasks, on_result, progress
        As of `CMCBackend.run`.
    options
        Its `max_attempts`, `early_stop` and `straggler` are used.
    clock
        Seconds since some moment.
    """

    def __init__(
        self,
        tasks: Sequence[ShardTask],
        on_result: OnResult,
        progress: Progress | None,
        options: BackendOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open = {task.shard_id: task for task in tasks}
        if len(self._open) != len(tasks):
            raise InputError(f"two tasks for one shard: {sorted(task.shard_id for task in tasks)}")
        self._order = list(self._open)
        self._waiting = deque(tasks)
        self._on_result, self._progress, self._options = on_result, progress, options
        self._first = {task.shard_id: task.attempt for task in tasks}
        self._reasons: dict[int, list[str]] = {}
        self._failures: dict[int, ShardFailure] = {}
        self._clock = clock
        self._taken: dict[int, tuple[ShardTask, float]] = {}
        self._begun: dict[int, tuple[ShardTask, float]] = {}
        self._reported: set[int] = set()  # shards whose slowness has been reported
        self._slow: set[int] = set()  # shards that were returned as stragglers
        self._silent = True  # until that has been reported
        self._seconds: list[float] = []  # that finished shards have taken

    @property
    def finished(self) -> bool:
        """Whether nothing is to be done or waited for any more."""
        return not self._open

    @property
    def num_waiting(self) -> int:
        """Tasks that nobody has taken."""
        return len(self._waiting)

    @property
    def failures(self) -> list[ShardFailure]:
        """Failures so far, in the order of the tasks."""
        return [self._failures[shard_id] for shard_id in self._order if shard_id in self._failures]

    def take(self) -> ShardTask:
        """Take the next task."""
        task = self._waiting.popleft()
        self._taken[task.shard_id] = task, self._clock()
        return task

    def put_back(self, task: ShardTask) -> None:
        """Return a task that was taken but not begun."""
        self._begun.pop(task.shard_id, None)
        self._waiting.appendleft(task)

    def note_begun(self, task: ShardTask) -> bool:
        """Note that a task runs by now; return whether that is news."""
        news = task.shard_id not in self._begun
        if news:
            self._begun[task.shard_id] = task, self._clock()
        return news

    def stragglers(self) -> list[ShardTask]:
        """Report tasks that run for much longer than finished ones did, and return those worth a second run; each once.

        They are reported early, and returned after `straggler` seconds. The last task that is open, when none has
        finished, is both as soon as it could be a straggler: its answer may be lost.
        """
        lone = len(self._open) == 1 and not self._seconds and not self._waiting
        running = {shard_id: self._taken[shard_id] for shard_id in self._open} if lone else self._begun
        limit, now, found = self._options.straggler, self._clock(), []
        if limit == math.inf:
            return []
        earliest = limit if lone else min(limit, EARLY)
        for task, since in running.values():
            seconds, shard_id = now - since, task.shard_id
            slow = bool(self._seconds) and seconds > SLOW * statistics.median(self._seconds)
            if shard_id not in self._reported and (slow or lone) and seconds >= earliest:
                logger.warning("shard %d has been running for %.0f s, %s", shard_id, seconds, self._usual())
                self._reported.add(shard_id)
            if shard_id not in self._slow and (slow or lone) and seconds >= limit:
                self._slow.add(shard_id)
                found.append(task)
        return found

    def warn_of_silence(self, known: str = "") -> None:
        """Report that nothing has come of any task yet, once, with what is known of workers that say no more."""
        since = min((since for _, since in self._taken.values()), default=math.inf)
        seconds = self._clock() - since
        if self._silent and not self._seconds and not self._reasons and seconds >= self._options.silence / 2:
            self._silent = False
            known = known or "that is the only sign of life of these workers: look whether they run"
            logger.warning("no shard has come back for %.0f s; %s", seconds, known)

    def _usual(self) -> str:
        if not self._seconds:
            return "and none has finished to compare it with"
        return f"the median of the {len(self._seconds)} finished shards is {statistics.median(self._seconds):.0f} s"

    def finish(self, task: ShardTask, outcome: Any) -> None:
        """Note what has come of a task: a result, or `Failed`."""
        _, since = self._begun.pop(task.shard_id, self._taken[task.shard_id])
        self._slow.discard(task.shard_id)
        self._reported.discard(task.shard_id)
        if isinstance(outcome, Failed):
            self._finish_failed(task, outcome)
        else:
            self._seconds.append(getattr(outcome, "seconds", self._clock() - since))
            self._on_result(task.shard_id, outcome)
            self._close(task)
        if self._options.early_stop and len(self._failures) == len(self._order) - len(self._open):
            self._stop_early()

    def _finish_failed(self, task: ShardTask, failed: Failed) -> None:
        reasons = self._reasons.setdefault(task.shard_id, [])
        reasons.append(failed.reason)
        tried = task.attempt + 1 - self._first[task.shard_id]
        if failed.retry and tried < self._options.max_attempts:
            logger.info("shard %d is tried again: %s", task.shard_id, failed.reason)
            self._waiting.appendleft(replace(task, attempt=task.attempt + 1, caution=task.caution + failed.caution))
            return
        distinct = list(dict.fromkeys(reasons))
        text = distinct[0] if len(distinct) == 1 else "; ".join(f"attempt {k + 1}: {r}" for k, r in enumerate(reasons))
        logger.warning("shard %d failed: %s", task.shard_id, text)
        self._failures[task.shard_id] = ShardFailure(task.shard_id, text, len(reasons))
        self._close(task)

    def _close(self, task: ShardTask) -> None:
        del self._open[task.shard_id]
        if self._progress is not None:
            self._progress("shards", len(self._order) - len(self._open), len(self._order))

    def _stop_early(self) -> None:
        """Give up when the first shards have all failed: the others would too."""
        if not self._open or len(self._failures) < self._options.early_stop:
            return
        reason = f"not run: the first {len(self._failures)} shards all failed"
        logger.warning("%d shards are not run, since the first %d all failed", len(self._open), len(self._failures))
        for shard_id in self._open:
            self._failures[shard_id] = ShardFailure(shard_id, reason, len(self._reasons.get(shard_id, ())))
        self._open.clear()
        self._waiting.clear()


class SequentialBackend(CMCBackend):
    """Runs one task after the other in this process, for debugging and for single cores."""

    def __init__(self, options: BackendOptions | None = None) -> None:
        self.options = options or BackendOptions()
        if self.options.timeout is not None:
            logger.warning("the backend 'sequential' cannot keep a time limit; use 'multiprocessing' for one")

    def run(
        self, tasks: Sequence[ShardTask], *, on_result: OnResult, progress: Progress | None = None
    ) -> list[ShardFailure]:
        """Run every task in this process."""
        agenda = Agenda(tasks, on_result, progress, self.options)
        while not agenda.finished:
            task = agenda.take()
            agenda.finish(task, attempt(partial(self._run_one, task)))
        return agenda.failures

    def _run_one(self, task: ShardTask) -> Outcome:
        outcome: Outcome = find_function(self.options.run)(task)
        return outcome

    def get_backend_name(self) -> str:
        """Return "sequential"."""
        return "sequential"
