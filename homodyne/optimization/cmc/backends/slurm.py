"""Slurm: what its commands are given and what they print."""

import re
from contextlib import suppress
from pathlib import Path

from homodyne.config.schema import JobsConfig
from homodyne.errors import ExecutionError, InputError
from homodyne.optimization.cmc.backends.arrays import ArrayBackend
from homodyne.optimization.cmc.backends.jobs import (
    FORGOTTEN,
    OUT_OF_MEMORY,
    OUT_OF_TIME,
    Dialect,
    State,
    ask,
    plain_path,
)

_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_ALIVE = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "SUSPENDED", "STOPPED", "RESIZING"}
_OPEN = _WAITING | _ALIVE
_ACCOUNTS = "JobID,State,ExitCode"
_ENDS = {
    "OUT_OF_MEMORY": OUT_OF_MEMORY,
    "TIMEOUT": OUT_OF_TIME,
    "CANCELLED": "was cancelled",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "was preempted",
}


class Slurm(Dialect):
    """Job arrays of Slurm.

    States are read by ``scontrol``, which needs no accounting but forgets a job soon after its end (MinJobAge, five
    minutes); from then on ``sacct`` knows how it ended, where a site keeps accounts.
    """

    name = "slurm"
    array_index = "SLURM_ARRAY_TASK_ID"
    unknown = re.compile("Invalid job id|already completing or completed", re.IGNORECASE)

    def directives(
        self, jobs: JobsConfig, count: int, outputs: Path | None = None, name: str = "homodyne"
    ) -> list[str]:
        """``#SBATCH`` lines."""
        stem = plain_path(outputs) if outputs else None
        if jobs.select is not None:
            raise InputError("optimization.cmc.backend.jobs.select is for pbs; slurm has cpus, memory_gb and gpus")
        most = f"%{jobs.max_running}" if jobs.max_running else ""
        options = [
            f"--job-name={name}",
            f"--array=0-{count - 1}{most}" if count > 1 else "",
            f"--account={jobs.account}" if jobs.account else "",
            f"--partition={jobs.queue}" if jobs.queue else "",
            f"--time={jobs.walltime}",
            "--nodes=1",
            "--ntasks=1",
            f"--cpus-per-task={jobs.cpus}",
            f"--mem={round(jobs.memory_gb * 1024)}M" if jobs.memory_gb else "",
            f"--gres=gpu:{jobs.gpus}" if jobs.gpus else "",
            f"--output={stem}-{'%a' if count > 1 else '0'}.out" if stem else "--output=/dev/null",
            *jobs.directives,
        ]
        return [f"#SBATCH {option}" for option in options if option]

    def submit_command(self, script: Path) -> list[str]:
        """``sbatch``."""
        return ["sbatch", "--parsable", str(script)]

    def parse_id(self, text: str) -> str:
        """Number before the name of a cluster, if there is one."""
        job = text.strip().partition(";")[0]
        if not re.fullmatch("[0-9]+", job):
            raise ExecutionError(f"sbatch printed {text.strip()!r}, expected the number of a job")
        return job

    def status_commands(self, job: str) -> list[list[str]]:
        """``scontrol show job``."""
        return [["scontrol", "show", "job", "-o", job]]

    def find_command(self, name: str) -> list[str]:
        """``squeue``, of arrays once."""
        return ["squeue", "-h", "-t", "all", "-o", "%F", "-n", name]

    def status(self, job: str, count: int, timeout: float) -> list[State]:
        """States of the elements, from the accounts when the controller has forgotten the job."""
        found = super().status(job, count, timeout)
        if any(state.reason == FORGOTTEN or state.phase == "unknown" for state in found):
            with suppress(ExecutionError, InputError):  # there are no accounts, or no sacct
                known = self.parse_accounts(ask(["sacct", "-X", "-n", "-P", "-o", _ACCOUNTS, "-j", job], timeout))
                return [known.get(element, state) for element, state in enumerate(found)]
        return found

    def parse_accounts(self, text: str) -> dict[int, State]:
        """Elements that have ended; the accounts lag behind, so what they say of others means nothing."""
        rows = [line.split("|") for line in text.splitlines()]
        ended = {name: _end(state.partition(" ")[0], code) for name, state, code in rows if state not in _OPEN}
        return {int(name.partition("_")[2] or 0): state for name, state in ended.items()}

    def parse_status(self, text: str) -> dict[int, State]:
        """One line for each element, and one for all that wait."""
        return {element: _state(line) for line in text.splitlines() for element in _elements(line)}

    def cancel_command(self, job: str, element: int | None = None) -> list[str]:
        """``scancel``."""
        return ["scancel", job if element is None else f"{job}_{element}"]


def _field(line: str, name: str) -> str:
    found = re.search(rf"(?:^| ){name}=(\S*)", line)
    return found[1] if found else ""


def _elements(line: str) -> list[int]:
    """Elements that a line is about: "7", "3-9%2", "1,4-6", and 0 for a plain job."""
    if not _field(line, "JobId"):
        return []
    ranges = _field(line, "ArrayTaskId").partition("%")[0] or "0"
    ends = [re.findall(r"\d+", part) for part in ranges.split(",")]
    return [element for pair in ends if pair for element in range(int(pair[0]), int(pair[-1]) + 1)]


def _state(line: str) -> State:
    state, why = _field(line, "JobState"), _field(line, "Reason")
    if state in _WAITING:
        return State("queued", "" if why in ("None", "Priority", "Resources") else why)
    if state in _ALIVE:
        return State("running")
    return _end(state, _field(line, "ExitCode"))


def _end(state: str, exit_code: str) -> State:
    code, _, number = exit_code.partition(":")
    if state in _ENDS:
        return State("ended", _ENDS[state])
    if number not in ("", "0"):
        return State("ended", f"was killed by signal {number}")
    return State("ended", f"ended with exit code {code}" if code else f"ended in state {state}")


class SlurmBackend(ArrayBackend):
    """Shards as elements of job arrays of Slurm."""

    dialect = Slurm()
