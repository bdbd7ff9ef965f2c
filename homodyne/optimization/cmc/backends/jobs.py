"""Job arrays of a scheduler: the script of one, its record in the store, and what a dialect has to know.

A `Dialect` is a handful of pure methods; `slurm` and `pbs` hold them. In the store of a run:

    jobs/0003.sh      the script of the fourth job
    jobs/0003.txt     its list: line k has shard, attempt and caution of element k
    jobs/0003.json    its number at the scheduler, and what it was submitted for
    jobs/0003-7.log   what element 7 has printed, unless another folder was chosen
"""

import json
import os
import re
import shlex
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from homodyne.config.schema import JobsConfig
from homodyne.errors import ExecutionError, InputError
from homodyne.files import write_atomically
from homodyne.optimization.cmc.backends.multiprocessing import thread_limits
from homodyne.optimization.cmc.rounds import Round
from homodyne.optimization.cmc.store_files import read_json

OUT_OF_MEMORY = "out of memory: give the jobs more (memory_gb), or make more shards"
OUT_OF_TIME = "reached its time limit: give the jobs more (walltime), or make more shards"

_TAIL = 2000  # bytes at the end of a log that are looked at


@dataclass(frozen=True)
class State:
    """An element of a job as the scheduler sees it: a hint, the files in the store are the truth."""

    phase: Literal["queued", "running", "ended"]
    reason: str = ""


class Dialect(ABC):
    """How to talk to one kind of scheduler; no method does anything but make or read text."""

    name: str
    array_index: str
    """Variable that holds the number of an element."""
    unknown: re.Pattern[str]
    """What a command says of a job that the scheduler has forgotten, or never knew."""

    @abstractmethod
    def directives(self, jobs: JobsConfig, count: int) -> list[str]:
        """Lines at the head of a script for `count` elements."""

    @abstractmethod
    def submit_command(self, script: Path) -> list[str]:
        """Command that submits a script."""

    @abstractmethod
    def parse_id(self, text: str) -> str:
        """Number of the job in what the submission has printed."""

    @abstractmethod
    def status_commands(self, job: str) -> list[list[str]]:
        """Commands that tell the states of all elements; the first that works is used."""

    @abstractmethod
    def parse_status(self, text: str) -> dict[int, State]:
        """States by element; a plain job is element 0."""

    @abstractmethod
    def cancel_command(self, job: str) -> list[str]:
        """Command that ends a job."""

    def status(self, job: str, timeout: float) -> dict[int, State]:
        """States by element; empty when the scheduler does not know the job.

        Raises
        ------
        ExecutionError
            It does not answer.
        """
        said = ""
        for command in self.status_commands(job):
            try:
                return self.parse_status(ask(command, timeout))
            except ExecutionError as error:
                said = str(error)
        if self.unknown.search(said):
            return {}
        raise ExecutionError(said)


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
    """

    number: int
    scheduler: str
    job: str
    round: str
    elements: tuple[tuple[int, int, int], ...]
    logs: str
    cancelled: bool = False

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
        write_atomically(store / "jobs" / f"{self.number:04d}.json", json.dumps(asdict(self)).encode())
        return self

    def last_words(self, element: int) -> str:
        """Last line that an element has printed; empty when there is none."""
        try:
            with (Path(self.logs) / f"{self.number:04d}-{element}.log").open("rb") as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL))
                lines = stream.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def recorded(store: Path) -> list[Job]:
    """Every job that was submitted for a store, in that order."""
    return [Job.read(file) for file in sorted((store / "jobs").glob("[0-9]*.json"))]


def submit(
    dialect: Dialect, jobs: JobsConfig, work: Round, elements: Sequence[tuple[int, int, int]], timeout: float
) -> Job:
    """Write script, list and record of a job, and submit it.

    Raises
    ------
    ExecutionError
        The scheduler refuses it, or does not answer.
    """
    folder = work.store.path.resolve() / "jobs"
    logs = Path(jobs.log_directory).resolve() if jobs.log_directory else folder
    for each in (folder, logs):
        each.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("[0-9]*.sh")))
    stem = folder / f"{number:04d}"
    text = "".join(f"{shard} {attempt} {caution}\n" for shard, attempt, caution in elements)
    write_atomically(stem.with_suffix(".txt"), text.encode())
    setup = work.store.manifest.setup
    model, maps = str(setup.get("config", {}).get("analysis_mode", "")), str(setup.get("maps") or "")
    script = job_script(dialect, jobs, work.store.path.resolve(), work.name, number, len(elements), model, maps)
    write_atomically(stem.with_suffix(".sh"), script.encode())
    said = ask(dialect.submit_command(stem.with_suffix(".sh")), timeout)
    job = Job(number, dialect.name, dialect.parse_id(said), work.name, tuple(elements), str(logs))
    return job.write(work.store.path)


def job_script(
    dialect: Dialect,
    jobs: JobsConfig,
    store: Path,
    name: str,
    number: int,
    count: int,
    model: str = "",
    maps: str = "",
) -> str:
    """Text of the script of a job with `count` elements; a single one makes a plain job.

    A correlation model of one's own, ``module:Class``, and a function that makes maps are named to the workers, who
    import them: a store may not.
    """
    stem = store / "jobs" / f"{number:04d}"
    logs = Path(jobs.log_directory).resolve() if jobs.log_directory else store / "jobs"
    exports = thread_limits(jobs.num_cpus)
    exports |= {} if jobs.num_gpus else {"JAX_PLATFORMS": "cpu"}
    exports |= jobs.environment
    worker = [jobs.python or sys.executable, "-m", "homodyne", "worker", str(store)]
    worker += ["--model", model] if ":" in model else []
    worker += ["--maps", maps] if maps else []
    lines = [
        "#!/bin/bash",
        *dialect.directives(jobs, count),
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
        raise ExecutionError(f"{command[0]} gave no answer within {timeout:g} s") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").replace("\n", "; ")
        raise ExecutionError(f"{command[0]} failed with exit code {done.returncode}: {said}")
    return done.stdout
