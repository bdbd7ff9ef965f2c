"""PBS Pro, OpenPBS and Torque: what their commands are told and what they print.

States are read from the plain format of ``qstat -f``, which all of them have; the JSON of older versions is invalid.
"""

import re
from pathlib import Path
from typing import ClassVar

from homodyne.config.schema import JobsConfig
from homodyne.errors import ExecutionError
from homodyne.optimization.cmc.backends.arrays import ArrayBackend
from homodyne.optimization.cmc.backends.jobs import OUT_OF_MEMORY, OUT_OF_TIME, Dialect, State

_SIGNALLED = 256  # exit codes above say which signal
_WAITING = "QHWTM"
_ENDED = "FXC"


class PBS(Dialect):
    """Job arrays of PBS Pro and OpenPBS."""

    name = "pbs"
    array_index = "PBS_ARRAY_INDEX"
    unknown = re.compile("Unknown Job|Job has finished|does not exist", re.IGNORECASE)
    ends: ClassVar[dict[int, str]] = {-29: OUT_OF_TIME, -27: OUT_OF_MEMORY, -26: OUT_OF_MEMORY}

    def directives(self, jobs: JobsConfig, count: int) -> list[str]:
        """``#PBS`` lines."""
        options = [
            "-N homodyne",
            "-S /bin/bash",
            self._array(count, jobs.max_running) if count > 1 else "",
            f"-A {jobs.account}" if jobs.account else "",
            f"-q {jobs.queue}" if jobs.queue else "",
            f"-l walltime={jobs.walltime}",
            *self._resources(jobs),
            "-j oe",
            "-o /dev/null",
            *jobs.directives,
        ]
        return [f"#PBS {option}" for option in options if option]

    def _array(self, count: int, most: int | None) -> str:
        return f"-J 0-{count - 1}" + (f"%{most}" if most else "")

    def _resources(self, jobs: JobsConfig) -> list[str]:
        memory = f":mem={round(jobs.memory_gb * 1024)}mb" if jobs.memory_gb else ""
        gpus = f":ngpus={jobs.gpus}" if jobs.gpus else ""
        return [f"-l select={jobs.select or f'1:ncpus={jobs.cpus}{memory}{gpus}'}"]

    def submit_command(self, script: Path) -> list[str]:
        """``qsub``."""
        return ["qsub", str(script)]

    def parse_id(self, text: str) -> str:
        """Last line: sites print greetings before it."""
        job = text.strip().rpartition("\n")[2]
        if not re.fullmatch(r"\d+(\[\])?(\.[\w.-]+)?", job):
            raise ExecutionError(f"qsub printed {text.strip()!r}, expected the number of a job")
        return job

    def status_commands(self, job: str) -> list[list[str]]:
        """``qstat`` with finished jobs, which a server without history refuses, then without."""
        return [["qstat", "-x", "-t", "-f", job], ["qstat", "-t", "-f", job]]

    def parse_status(self, text: str) -> dict[int, State]:
        """One block for each element; that of the whole array says nothing."""
        found = {}
        for block in re.split(r"^Job Id: *", text, flags=re.MULTILINE)[1:]:
            head = re.match(r"\d+(\[(\d*)\])?", block)
            if head and (head[1] is None or head[2]):
                found[int(head[2] or 0)] = self._state(block)
        return found

    def _state(self, block: str) -> State:
        letter = re.search(r"^\s*job_state = (\w)", block, re.MULTILINE)
        if letter is None or letter[1] in _WAITING:
            return State("queued")
        if letter[1] not in _ENDED:
            return State("running")
        status = re.search(r"^\s*exit_status = (-?\d+)", block, re.MULTILINE | re.IGNORECASE)
        if status is None:
            return State("ended", "ended; the server keeps no exit codes")
        code = int(status[1])
        if code > _SIGNALLED:
            return State("ended", f"was killed by signal {code - _SIGNALLED}: cancelled, or ended by the scheduler")
        if code < 0:
            return State("ended", self.ends.get(code, f"was ended by the server (exit status {code})"))
        return State("ended", f"ended with exit code {code}")

    def cancel_command(self, job: str) -> list[str]:
        """``qdel``."""
        return ["qdel", job]


class Torque(PBS):
    """The same for Torque."""

    name = "torque"
    array_index = "PBS_ARRAYID"
    ends: ClassVar[dict[int, str]] = {-10: OUT_OF_MEMORY, -11: OUT_OF_TIME}

    def _array(self, count: int, most: int | None) -> str:
        return f"-t 0-{count - 1}" + (f"%{most}" if most else "")

    def _resources(self, jobs: JobsConfig) -> list[str]:
        gpus = f":gpus={jobs.gpus}" if jobs.gpus else ""
        memory = [f"-l mem={round(jobs.memory_gb * 1024)}mb"] if jobs.memory_gb and not jobs.select else []
        return [f"-l nodes={jobs.select or f'1:ppn={jobs.cpus}{gpus}'}", *memory]

    def status_commands(self, job: str) -> list[list[str]]:
        """``qstat``, whose option -x means another format."""
        return [["qstat", "-t", "-f", job]]


class PBSBackend(ArrayBackend):
    """Shards as elements of job arrays of PBS Pro or OpenPBS."""

    dialect = PBS()


class TorqueBackend(ArrayBackend):
    """Shards as elements of job arrays of Torque."""

    dialect = Torque()
