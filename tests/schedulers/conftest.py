"""Schedulers for the tests: a real Slurm on loopback, and a double of PBS, or a real one (`openpbs.sh`)."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from homodyne import simulate
from homodyne.data import write_aps_u

HERE = Path(__file__).parent
SLURM = HERE / "slurm.sh"


@dataclass(frozen=True)
class Scheduler:
    """A scheduler that is up.

    Attributes
    ----------
    name
        Of the backend.
    folder
        Where it keeps its files.
    environment
        What its commands need.
    real
        Whether it is no double.
    """

    name: str
    folder: Path
    environment: dict[str, str]
    real: bool = False

    def call(self, *command: str) -> str:
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=True
        )
        return done.stdout

    def keep_history(self, keep: bool) -> None:
        """Whether PBS tells how jobs have ended that are over."""
        if self.real:
            self.call("qmgr", "-c", f"set server job_history_enable = {keep}")
        elif keep:
            (self.folder / "no-history").unlink()
        else:
            (self.folder / "no-history").touch()


def absent(reason: str) -> None:
    """Say loudly that tests cannot run; where CI is set, that is a failure."""
    message = f"REAL SLURM WAS NOT TESTED: {reason}; run tests/packages.sh as root"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def real_slurm(tmp_path_factory) -> Iterator[Scheduler]:
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        absent(f"{', '.join(missing)} not installed" if missing else "the tests do not run as root")
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    folder.parent.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = min(probe.getsockname()[1], 65000)
    environment = {**os.environ, "SLURM_TEST_PORT": str(port)}
    try:
        subprocess.run([SLURM, "start", folder], check=True, timeout=600, env=environment)
        yield Scheduler("slurm", folder, {"SLURM_CONF": str(folder / "etc" / "slurm.conf")}, real=True)
    finally:
        subprocess.run([SLURM, "stop", folder], check=True, timeout=600, env=environment)


@pytest.fixture
def slurm(real_slurm, monkeypatch) -> Scheduler:
    """Slurm alone."""
    for name, value in real_slurm.environment.items():
        monkeypatch.setenv(name, value)
    return real_slurm


def pbs_double(folder: Path, kind: str) -> Scheduler:
    """Commands of the double in a folder, first in the search path."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("qsub", "qstat", "qselect", "qdel"):
        (programs / name).write_text(f"#!{sys.executable}\n" + (HERE / "pbs_double.py").read_text())
        (programs / name).chmod(0o755)
    search = os.pathsep.join([str(programs), os.environ["PATH"]])
    return Scheduler(kind, folder, {"PATH": search, "PBS_DOUBLE": str(folder), "PBS_DOUBLE_KIND": kind})


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A static measurement: 40 frames, two angles."""
    path = tmp_path_factory.mktemp("data") / "run.h5"
    truth = {"D0": 2e4, "alpha": -0.5, "D_offset": 100.0}
    write_aps_u(
        path,
        simulate(
            truth, kind="independent", q=0.01, num_frames=40, dt=0.1, phi=[0.0, 90.0], contrast=0.3, sigma=0.01, seed=1
        ),
    )
    return path


@pytest.fixture(scope="module", params=["slurm", "pbs", "torque"])
def scheduler(request, tmp_path_factory) -> Iterator[Scheduler]:
    """Every scheduler, one after the other; its commands are those that are found."""
    kind = request.param
    if kind == "slurm":
        found = request.getfixturevalue("real_slurm")
    elif kind == "pbs" and "OPENPBS" in os.environ:  # openpbs.sh run: its commands are there already
        found = Scheduler(kind, Path(os.environ["OPENPBS"]), {}, real=True)
    else:
        found = pbs_double(tmp_path_factory.mktemp(kind), kind)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        yield found
