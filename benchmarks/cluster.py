"""What a run on a cluster would take: events one after the other, from the cost of a point measured here.

Nothing runs but the simulation. The figures and assumptions are those of docs/clusters.md.
"""

import heapq
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Core seconds of one point, from 50 million pairs in 50 shards (docs/performance.md, two worker processes).
PILOT, SAMPLING, CERTIFICATE, CONTRAST = 2 * 20 / 5e7, 2 * 95 / 5e7, 2 * (5 + 38 + 3) / 5e7, 2 * 24 / 5e7
START = 12.0  # seconds until a worker has imported JAX and has its program, with a cache 4
SPREAD = 0.2  # of the logarithm of the time of a shard: lengths of trajectories
LOSS = 1e-3  # workers lost in a core hour
HERE = 16  # cores where `homodyne fit` runs
WRITTEN = 4 / 1e9  # seconds that writing a point takes: 4 bytes on a file system of 1 GB/s
LOOK = 60.0  # longest pause between two looks at the scheduler
MOST_POINTS = 50_000_000  # of a shard


@dataclass(frozen=True)
class Outcome:
    """Seconds of the whole run and of its parts, core hours used, attempts that were lost."""

    seconds: float
    sampling: float
    exact: float
    core_hours: float
    lost: int


def simulate(points: float, cores: int, in_jobs: bool, loss: float = LOSS, seed: int = 0) -> Outcome:
    """Play one run through, with as few shards as there are cores, or as memory allows."""
    rng = np.random.default_rng(seed)
    shards = max(cores, int(points / MOST_POINTS))
    free = [0.0] * cores
    waiting = [0.0] * shards  # when each may begin
    heapq.heapify(waiting)
    used, end, lost = 0.0, 0.0, 0
    while waiting:
        ready, core = heapq.heappop(waiting), heapq.heappop(free)
        begin = max(ready, core)
        work = START + points / shards * SAMPLING * np.exp(SPREAD * rng.normal() - 0.5 * SPREAD**2)
        until = rng.exponential(3600.0 / loss)
        took = min(work, until)
        if until < work:
            lost += 1
            heapq.heappush(waiting, begin + took + LOOK)  # seen, and submitted again
        used, end = used + took, max(end, begin + took)
        heapq.heappush(free, begin + took)
    serial = points * (PILOT / HERE + WRITTEN)
    work = points * (CERTIFICATE + CONTRAST)
    exact = (work / cores + START + 3 * LOOK) if in_jobs else work / HERE
    used += work + points * PILOT
    return Outcome(serial + end + exact, end, exact, used / 3600.0, lost)


def run() -> None:
    """Print times and core hours; draw them where a file is named after the benchmark's name."""
    sizes, counts = (1e9, 1e11), (10, 100, 1000, 10_000)
    print("  points  cores   sampling   exact here   all       in jobs   all       core hours  lost")
    for points in sizes:
        for cores in counts:
            here, jobs = (simulate(points, cores, in_jobs) for in_jobs in (False, True))
            print(
                f"  {points:6.0e} {cores:6d} {_time(here.sampling)} {_time(here.exact)}  {_time(here.seconds)}"
                f" {_time(jobs.exact)} {_time(jobs.seconds)} {here.core_hours:10.1f} {here.lost:6d}"
            )
    worse = simulate(1e11, 1000, True, loss=100 * LOSS)
    print(f"  1e11 points, 1000 cores, a hundred times as many losses: {_time(worse.seconds)}, {worse.lost} lost")


def draw(file: Path) -> None:
    """Draw the time of the whole run over the number of cores."""
    import matplotlib.pyplot as plt

    counts = np.unique(np.logspace(1, 4, 25).astype(int))
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for points, colour in ((1e9, "tab:blue"), (1e11, "tab:orange")):
        for in_jobs, style, words in ((False, "--", f"{HERE} cores of the coordinator"), (True, "-", "the same cores")):
            hours = [simulate(points, int(cores), in_jobs).seconds / 3600.0 for cores in counts]
            label = f"$10^{{{np.log10(points):.0f}}}$ points, exact densities on {words}"
            axes.loglog(counts, hours, style, color=colour, label=label)
    axes.set(xlabel="cores that sample", ylabel="hours of the whole run, without the queue", ylim=(0.03, 100.0))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _time(seconds: float) -> str:
    return f"{seconds / 3600.0:8.2f} h" if seconds >= 3600.0 else f"{seconds / 60.0:6.1f} min"


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
