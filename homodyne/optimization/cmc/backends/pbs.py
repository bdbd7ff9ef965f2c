"""PBS Pro, OpenPBS and Torque: what their commands are given and what they print.

States are read from the plain format of ``qstat -f``, which all of them have; the JSON of older versions is invalid.
"""

import re
import signal
from pathlib import Path
from typing import ClassVar

from homodyne.config.schema import JobsConfig
from homodyne.errors import ExecutionError
from homodyne.optimization.cmc.backends.arrays import ArrayBackend
from homodyne.optimization.cmc.backends.jobs import OUT_OF_MEMORY, OUT_OF_TIME, Dialect, State, plain_path

_SIGNALLED = (256, 128)  # exit codes above say which signal, by version
_WAITING = "QHWTM"
_ENDED = "FXC"


class PBS(Dialect):
    """Job arrays of PBS Pro and OpenPBS."""

    name = "pbs"
    array_index = "PBS_ARRAY_INDEX"
    unknown = re.compile(
        "Unknown Job|Job has finished|does not exist|Invalid state|Request invalid for state", re.IGNORECASE
    )
    ends: ClassVar[dict[int, str]] = {-29: OUT_OF_TIME, -27: OUT_OF_MEMORY, -26: OUT_OF_MEMORY}

    def directives(
        self, jobs: JobsConfig, count: int, outputs: Path | None = None, name: str = "homodyne"
    ) -> list[str]:
        """``#PBS`` lines."""
        options = [
            f"-N {name}",
            "-S /bin/bash",
            self._array(count, jobs.max_running) if count > 1 else "",
            f"-A {jobs.account}" if jobs.account else "",
            f"-q {jobs.queue}" if jobs.queue else "",
            f"-l walltime={jobs.walltime}",
            *self._resources(jobs),
            "-j oe",
            f"-o {self._output(outputs, count)}",
            *jobs.directives,
        ]
        return [f"#PBS {option}" for option in options if option]

    def _output(self, outputs: Path | None, count: int) -> str:
        stem = plain_path(outputs) if outputs else None
        return f"{stem}-{'^array_index^' if count > 1 else '0'}.out" if stem else "/dev/null"

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
        if not re.fullmatch(r"[0-9]+(\[\])?(\.[\w.-]+)?", job):
            raise ExecutionError(f"qsub printed {text.strip()!r}, expected the number of a job")
        return job

    def find_command(self, name: str) -> list[str]:
        """``qselect``."""
        return ["qselect", "-N", name]

    def status_commands(self, job: str) -> list[list[str]]:
        """``qstat`` with finished jobs, of which a server without history prints nothing, then without."""
        return [["qstat", "-x", "-t", "-f", job], ["qstat", "-t", "-f", job]]

    def parse_status(self, text: str) -> dict[int, State]:
        """One block for each element; that of the whole array says nothing."""
        found = {}
        for block in re.split(r"^Job Id: *", text.replace("\n\t", ""), flags=re.MULTILINE)[1:]:
            head = re.match(r"[0-9]+(\[([0-9]*)\])?", block)
            if head and (head[1] is None or head[2]):
                found[int(head[2] or 0)] = self._state(block)
        return found

    def _state(self, block: str) -> State:
        fields: dict[str, str] = dict(re.findall(r"^ +(\w+) = (.*)$", block, re.MULTILINE))
        letter, comment = fields.get("job_state", "Q")[:1], fields.get("comment", "")
        if letter in _WAITING:
            return State("queued")
        if letter not in _ENDED:
            return State("running")
        status = fields.get("Exit_status", fields.get("exit_status", ""))
        if not re.fullmatch("-?[0-9]+", status) or comment.startswith("Subjob "):  # what follows is of the whole array
            return State("ended", "ended; the server keeps no exit codes")
        return State("ended", self._end(int(status), comment))

    def _end(self, code: int, comment: str) -> str:
        """How an element has ended; one that was deleted while it ran has code 0 on some versions."""
        if code == 0 and "terminated" in comment:
            return f"was terminated: cancelled, or ended by the scheduler ({comment})"
        for beyond in _SIGNALLED:
            if beyond < code < beyond + signal.NSIG:
                return f"was killed by signal {code - beyond}: cancelled, or ended by the scheduler"
        if code < 0:
            return self.ends.get(code, f"was ended by the server (exit status {code})")
        return f"ended with exit code {code}"

    def cancel_command(self, job: str, element: int | None = None) -> list[str]:
        """``qdel``."""
        return ["qdel", job if element is None else job.replace("[]", f"[{element}]", 1)]


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

    def _output(self, outputs: Path | None, count: int) -> str:
        folder = plain_path(outputs.parent) if outputs else None  # where each element gets a name by itself
        return f"{folder}/" if folder else "/dev/null"

    def status_commands(self, job: str) -> list[list[str]]:
        """``qstat``, whose option -x means another format."""
        return [["qstat", "-t", "-f", job]]


class PBSBackend(ArrayBackend):
    """Shards as elements of job arrays of PBS Pro or OpenPBS."""

    dialect = PBS()


class TorqueBackend(ArrayBackend):
    """Shards as elements of job arrays of Torque."""

    dialect = Torque()
