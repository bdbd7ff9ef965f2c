"""What a backend costs beside the work: trivial shards, memory of the coordinator, two workers against one, Slurm."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.page import Row
from homodyne.optimization.cmc.backends import BackendOptions, MultiprocessingBackend
from homodyne.optimization.cmc.store.shards import Manifest, ShardStore
from homodyne.optimization.cmc.types import ShardResult, ShardTask

SLURM = Path(__file__).parent.parent / "tests" / "schedulers" / "slurm.sh"


@dataclass(frozen=True)
class Trivial:
    """A task that is nothing but its number, and how much it is to do."""

    shard_id: int
    size: int = 1
    threads: int = 1
    attempt: int = 0
    caution: int = 0


def draws(task: Trivial) -> ShardResult:
    """A result with `size` draws of two chains."""
    ones = np.ones(2)
    samples = np.random.default_rng(task.shard_id).normal(size=(2, task.size, 2))
    return ShardResult(task.shard_id, samples, ("a", "b"), {}, 1, True, (), ones, ones, ones, 0, ones, 1, 1, 0.0)


def loop(task: Trivial) -> int:
    """Keep a core busy with a fixed number of additions."""
    total = 0
    for k in range(task.size):
        total += k
    return total


def tasks(count: int, size: int) -> list[ShardTask]:
    """Trivial tasks, which a backend takes for tasks of shards."""
    return [cast(ShardTask, Trivial(k, size)) for k in range(count)]


def overhead(count: int, size: int) -> None:
    """Run shards whose only work is to return draws into a store; print seconds and memory of this process."""
    with tempfile.TemporaryDirectory() as folder:
        store = ShardStore.create(Path(folder) / "store", Manifest("d", "m", {}, ("a", "b"), (1,) * count, 1))
        for k in range(count):
            store.write_shard(k, {"x": np.zeros(1)})
        store.finish_setup()
        began = time.perf_counter()
        backend = MultiprocessingBackend(BackendOptions(num_workers=2, run="benchmarks.backends:draws"))
        failures = backend.run(tasks(count, size), on_result=lambda _, result: store.write_result(cast(Any, result)))
        took = time.perf_counter() - began
        held = sum(file.stat().st_size for file in (store.path / "results").iterdir()) / 2**20
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert not failures
    print(f"{held:.1f} MB of draws kept: {took:.1f} s, coordinator {memory:.0f} MB")


def speed_up(size: int) -> Row:
    """The same eight shards with one worker and with two, in turn; the workers have started before."""
    seconds = {}
    for workers in (1, 2, 1, 2):
        options = BackendOptions(num_workers=workers, run="benchmarks.backends:loop")
        with MultiprocessingBackend(options) as backend:
            backend.run(tasks(workers, 10), on_result=lambda *_: None)
            began = time.perf_counter()
            backend.run(tasks(8, size), on_result=lambda *_: None)
            took = time.perf_counter() - began
        seconds[workers] = min(took, seconds.get(workers, took))
    told = f"one {seconds[1]:.1f} s, two {seconds[2]:.1f} s, ratio {seconds[1] / seconds[2]:.2f}"
    return Row("8 shards of pure Python, two workers against one", told, "1.8")


def log_prior(z: Any) -> Any:
    """Of a straight line: two standard normals."""
    return -0.5 * (z**2).sum()


def log_likelihood(z: Any, data: Any) -> Any:
    """Of a straight line with noise of one."""
    return -0.5 * ((data["y"] - z[0] - z[1] * data["x"]) ** 2).sum()


def devices() -> None:
    """Four equal shards on as many devices as JAX is told to make; print the seconds of all cores together."""
    from homodyne.optimization.cmc import LogDensityModel
    from homodyne.optimization.cmc.backends import BACKENDS

    model = LogDensityModel(("level", "slope"), log_prior, log_likelihood)
    x = np.random.default_rng(1).normal(size=(4, 20_000))
    shards = [{"x": row, "y": 1.0 - 2.0 * row} for row in x]
    began = time.process_time()
    results = BACKENDS["pjit"](BackendOptions()).run_parallel_mcmc(
        shards, {"num_warmup": 50, "num_samples": 50, "num_chains": 1}, {"level": 1.0, "slope": -2.0},
        np.eye(2) / 20_000, model=model,
    )  # fmt: skip
    took = time.process_time() - began
    mean = np.mean([result["samples"] for result in results])
    print(f"{took:.1f} core seconds, mean {mean:.9f}")


def slurm(count: int) -> Iterator[Row]:
    """Elements of plain arrays that do nothing but sleep, on the Slurm of the tests: two cores at a time."""
    if shutil.which("slurmctld") is None or os.geteuid() != 0:
        yield Row("Slurm", "not installed, or this is not root")
        return
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        subprocess.run([SLURM, "start", folder], check=True, stdout=subprocess.DEVNULL)
        environment = {**os.environ, "SLURM_CONF": str(folder / "etc" / "slurm.conf")}
        for seconds in (0.8, 1.0, 1.8):
            took = array(count, seconds, environment)
            ratio = took / (count * seconds / 2)
            work = f"Slurm alone, {count} elements that sleep {seconds} s, two at a time"
            yield Row(work, f"{took:.1f} s, {ratio:.2f} times the ideal")
    finally:
        subprocess.run([SLURM, "stop", folder], check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder)


def array(count: int, seconds: float, environment: dict[str, str]) -> float:
    """Seconds until an array has ended, looked at more often than by ``sbatch --wait``, which asks after 2, 6, 12 s."""
    began = time.perf_counter()
    options = [f"--array=0-{count - 1}", "--mem=50M", "--output=/dev/null", f"--wrap=sleep {seconds}"]
    job = subprocess.run(
        ["sbatch", "--parsable", *options], check=True, env=environment, capture_output=True, text=True
    ).stdout.strip()
    while subprocess.run(["squeue", "-h", "-j", job], env=environment, capture_output=True, check=True).stdout:
        time.sleep(0.1)
    return time.perf_counter() - began


def told(call: str, **environment: str) -> str:
    """What a call of this module prints, in a process of its own."""
    command = [sys.executable, "-c", f"from benchmarks import backends; backends.{call}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **environment})
    return done.stdout.strip()


def run(small: bool = False) -> Iterator[Row]:
    """Rows of the table."""
    yield Row("load of the machine before", f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    count = 20 if small else 1000
    for size in (10, 4000):
        yield Row(f"{count} shards without work, two worker processes", told(f"overhead({count}, {size})"), "< 20 s")
    yield speed_up(100_000 if small else 40_000_000)
    for number in (1, 2, 4):
        flags = f"--xla_force_host_platform_device_count={number}"
        found = told("devices()", XLA_FLAGS=flags, JAX_ENABLE_COMPILATION_CACHE="false")
        yield Row(f"pjit, 4 shards of 20 000 points on {number} devices made of a CPU", found)
    if not small:
        yield from slurm(50)
