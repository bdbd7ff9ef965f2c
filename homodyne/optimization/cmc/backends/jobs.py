"""Job arrays of a scheduler: the script of one, its record in the store, and what a dialect has to know.

A `Dialect` is a handful of pure methods; `slurm` and `pbs` hold them. In the store of a run:

    jobs/0003.sh      the script of the fourth job
    jobs/0003.txt     its list: line k has shard, attempt and caution of element k
    jobs/0003.json    its number at the scheduler, and what it was submitted for
    jobs/0003-7.log   what element 7 has printed, unless another folder was chosen
    jobs/0003-7.out   what the scheduler and bash said of it before that began; named by PBS where it takes no name

A scheduler that says nothing of an element says nothing: its state is unknown, not ended.
"""

import logging
import os
import re
import secrets
import shlex
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from homodyne.config.schema import JobsConfig
from homodyne.errors import ExecutionError, InputError
from homodyne.files import OWN, make_folder, write_atomically
from homodyne.optimization.cmc.backends.multiprocessing import thread_limits
from homodyne.optimization.cmc.store.files import read_json, write_json
from homodyne.optimization.cmc.store.rounds import Round

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = "out of memory: give the jobs more (memory_gb), or make more shards"
OUT_OF_TIME = "reached its time limit: give the jobs more (walltime), or make more shards"

FORGOTTEN = "the scheduler does not know it any more"

_TAIL, _LINES = 2000, 3  # bytes at the end of a log that are looked at, and lines that are quoted
_PLAIN = re.compile(r"[\w./+@=-]+", re.ASCII)
"""Paths that every scheduler reads as they are."""


class NoAnswerError(ExecutionError):
    """A command of a scheduler has not ended in time: nobody knows what it has done."""


@dataclass(frozen=True)
class State:
    """An element of a job as the scheduler sees it: a hint, the files in the store are the truth."""

    phase: Literal["queued", "running", "ended", "unknown"]
    reason: str = ""


UNKNOWN = State("unknown")


class Dialect(ABC):
    """How to talk to one kind of scheduler; no method does anything but make or read text."""

    name: str
    array_index: str
    """Variable that holds the number of an element."""
    unknown: re.Pattern[str]
    """What a command says of a job that the scheduler has forgotten, has finished, or never knew."""

    @abstractmethod
    def directives(
        self, jobs: JobsConfig, count: int, outputs: Path | None = None, name: str = "homodyne"
    ) -> list[str]:
        """Lines at the head of a script for `count` elements.

        Parameters
        ----------
        jobs
            What is asked for.
        count
            Elements; a single one makes a plain job.
        outputs
            Folder and stem of the files of what scheduler and bash say, nowhere when None.
        name
            Of the job.
        """

    @abstractmethod
    def submit_command(self, script: Path) -> list[str]:
        """Command that submits a script."""

    @abstractmethod
    def parse_id(self, text: str) -> str:
        """Number of the job in what the submission has printed."""

    @abstractmethod
    def find_command(self, name: str) -> list[str]:
        """Command that prints the numbers of the jobs of a name which are not over."""

    @abstractmethod
    def status_commands(self, job: str) -> list[list[str]]:
        """Commands that tell the states of elements; they are asked in turn until the job is heard of."""

    @abstractmethod
    def parse_status(self, text: str) -> dict[int, State]:
        """States by element; a plain job is element 0."""

    @abstractmethod
    def cancel_command(self, job: str, element: int | None = None) -> list[str]:
        """Command that ends a job, or one element of an array."""

    def status(self, job: str, count: int, timeout: float) -> list[State]:
        """States of the elements of a job; those of which nothing is said are unknown.

        Raises
        ------
        ExecutionError
            No command is answered.
        """
        said, silent = "", False
        for command in self.status_commands(job):
            try:
                known = self.parse_status(ask(command, timeout))
            except ExecutionError as error:
                said = str(error)
                continue
            if known:
                return [known.get(element, UNKNOWN) for element in range(count)]
            said, silent = "", True
        if self.unknown.search(said):
            return [State("ended", FORGOTTEN)] * count
        if silent:
            return [UNKNOWN] * count
        raise ExecutionError(said)

    def end(self, job: str, timeout: float, element: int | None = None) -> str:
        """End a job or one of its elements; what went wrong, empty when it is over by now."""
        try:
            ask(self.cancel_command(job, element), timeout)
        except ExecutionError as error:
            return "" if self.unknown.search(str(error)) else str(error)
        return ""


@dataclass(frozen=True)
class Job:
    """A submitted job.

    Attributes
    ----------
    number : int
        Counts the jobs of a store.
    scheduler : str
        Name of the dialect.
    job : str
        What the scheduler calls it.
    round : str
        Name of the round that its elements work for.
    elements : tuple of (shard, attempt, caution)
    logs : str
        Folder of the logs.
    cancelled : bool
        Whether a user has ended it: nothing of it is to be tried again.
    name : str
        Of the job at the scheduler, by which it is found when the answer to the submission is lost; `job` is empty
        until that is known.
    """

    number: int
    scheduler: str
    job: str
    round: str
    elements: tuple[tuple[int, int, int], ...]
    logs: str
    cancelled: bool = False
    name: str = ""

    @classmethod
    def read(cls, file: Path) -> "Job":
        """Read the record of a job."""
        entries = read_json(file)
        try:
            elements = tuple((int(a), int(b), int(c)) for a, b, c in entries.pop("elements"))
            return cls(elements=elements, **entries)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{os.fspath(file)!r} is no record of a job ({error}); remove it") from error

    def write(self, store: Path) -> "Job":
        """Write the record of a job."""
        write_json(store / "jobs" / f"{self.number:04d}.json", asdict(self))
        return self

    def last_words(self, element: int) -> str:
        """Last lines that an element has printed, or else what scheduler and bash have said of it; or nothing."""
        stem, number = Path(self.logs) / f"{self.number:04d}-{element}", self.job.partition(".")[0].rstrip("[]")
        own = [stem.with_suffix(".log"), stem.with_suffix(".out")]
        named = [f"homodyne*.o{number}{ending}" for ending in (f".{element}", f"-{element}", "")]
        texts = (_tail(path) for path in (*own, *(path for one in named for path in Path(self.logs).glob(one))))
        return next(filter(None, texts), "")


def _tail(file: Path) -> str:
    """Last lines of a file that say something, in one."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL))
            lines = stream.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return "; ".join("".join(c if c.isprintable() else " " for c in line) for line in said[-_LINES:])


def plain_path(path: Path) -> str | None:
    """A path as a scheduler reads it; None for one with characters that some of them take for something else."""
    return str(path) if _PLAIN.fullmatch(str(path)) else None


def recorded(store: Path) -> list[Job]:
    """Every job that was submitted for a store, in that order."""
    return [Job.read(file) for file in sorted((store / "jobs").glob("[0-9]*.json"))]


def submit(
    dialect: Dialect, jobs: JobsConfig, work: Round, elements: Sequence[tuple[int, int, int]], timeout: float
) -> Job:
    """Write script, list and record of a job, and submit it.

    Where no answer comes to the submission, the record says so: its `job` is empty, see `found`.

    Raises
    ------
    ExecutionError
        The scheduler refuses it.
    """
    folder = work.store.path.resolve() / "jobs"
    logs = Path(jobs.log_directory).resolve() if jobs.log_directory else folder
    for each in (folder, logs):
        make_folder(each)
    number = len(list(folder.glob("[0-9]*.sh")))
    stem, name = folder / f"{number:04d}", f"homodyne{secrets.token_hex(3)}"
    text = "".join(f"{shard} {attempt} {caution}\n" for shard, attempt, caution in elements)
    write_atomically(stem.with_suffix(".txt"), text.encode(), OWN)
    setup = work.store.manifest.setup
    config, maps = setup.get("config", {}), str(setup.get("maps") or "")
    named = (
        config.get("analysis_mode"),
        config.get("optimization", {}).get("cmc", {}).get("sharding", {}).get("strategy"),
    )
    place = work.store.path.resolve()
    script = job_script(dialect, jobs, place, work.name, number, len(elements), worker_options(named, maps), name)
    write_atomically(stem.with_suffix(".sh"), script.encode(), OWN)
    job = Job(number, dialect.name, "", work.name, tuple(elements), str(logs), name=name).write(work.store.path)
    try:
        said = ask(dialect.submit_command(stem.with_suffix(".sh")), timeout)
    except NoAnswerError as error:
        logger.warning("%s: whether the job is there is asked by its name", error)
        return job
    except (ExecutionError, InputError):
        (folder / f"{number:04d}.json").unlink(missing_ok=True)
        raise
    try:
        return replace(job, job=dialect.parse_id(said)).write(work.store.path)
    except ExecutionError as error:
        logger.warning("%s: the number is asked by its name", error)
        return job


def found(dialect: Dialect, job: Job, store: Path, timeout: float) -> Job:
    """The record of a job with its number, asked for by its name; as it was where the scheduler has no such job.

    Raises
    ------
    ExecutionError
        The scheduler does not answer.
    """
    said = [] if job.job else ask(dialect.find_command(job.name), timeout).split()
    return replace(job, job=dialect.parse_id(said[0])).write(store) if said else job


def worker_options(names: Sequence[str | None], maps: str = "") -> list[str]:
    """Options by which workers import the modules of what is named as ``module:name``, and a function that makes maps.

    A store may not name these to them.
    """
    modules = sorted({name.partition(":")[0] for name in names if name and ":" in name})
    return [*(part for module in modules for part in ("--import", module)), *(["--maps", maps] if maps else [])]


def job_script(
    dialect: Dialect,
    jobs: JobsConfig,
    store: Path,
    name: str,
    number: int,
    count: int,
    options: Sequence[str] = (),
    title: str = "homodyne",
) -> str:
    """Text of the script of a job with `count` elements; a single one makes a plain job.

    `options` are further ones of the workers, see `worker_options`; `title` is the name of the job.
    """
    stem = store / "jobs" / f"{number:04d}"
    logs = Path(jobs.log_directory).resolve() if jobs.log_directory else store / "jobs"
    exports = thread_limits(jobs.num_cpus)
    exports |= {} if jobs.num_gpus else {"JAX_PLATFORMS": "cpu"}
    exports |= jobs.environment
    worker = [jobs.python or sys.executable, "-m", "homodyne", "worker", str(store), *options]
    lines = [
        "#!/bin/bash",
        *dialect.directives(jobs, count, logs / stem.name, title),
        f"element=${{{dialect.array_index}}}" if count > 1 else "element=0",
        f'exec > {shlex.quote(f"{logs / stem.name}-")}"$element".log 2>&1',
        f"cd -- {shlex.quote(os.getcwd())} || exit 1",
        *(f"module load {shlex.quote(module)} || exit 1" for module in jobs.modules),
        *(f"export {variable}={shlex.quote(value)}" for variable, value in exports.items()),
        f'read -r shard attempt caution < <(sed -n "$((element + 1))p" {shlex.quote(f"{stem}.txt")})',
        f'exec {shlex.join(worker)} "$shard" --round {name} --attempt "$attempt" --caution "$caution"',
    ]
    return "\n".join(lines) + "\n"


def ask(command: Sequence[str], timeout: float) -> str:
    """Run a command of a scheduler and return what it prints.

    Raises
    ------
    ExecutionError
        It fails, or gives no answer within `timeout` seconds.
    InputError
        There is no such command here.
    """
    environment = {**os.environ, "LC_ALL": "C", "SLURM_BITSTR_LEN": "0"}  # full lists of elements
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, errors="replace", timeout=timeout, env=environment,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise InputError(
            f"there is no command {command[0]!r} here: start homodyne where jobs can be submitted"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"{command[0]} gave no answer within {timeout:g} s") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").replace("\n", "; ")
        raise ExecutionError(f"{command[0]} failed with exit code {done.returncode}: {said}")
    return done.stdout
