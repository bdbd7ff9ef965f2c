"""Ten thousand million pairs on two worker processes, one task for each map, in maps that the workers make: static, 200
wave vectors, 10 000 frames. Seconds are those of one core; what a map is made in stands apart, since a measurement
has it already. The extrapolation is one reduction and one check by direct sums, without reading disks. Another size:
`python -m benchmarks.distributed MAPS FRAMES WORKERS`.
"""

import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page import Row

TRUTH = {"D0": 2e4, "alpha": -0.5, "D_offset": 300.0}
CONTRAST, SIGMA, DT, POINTS, NOISE = 0.3, 0.1, 0.1, 8, 1 << 22
LOG = "HOMODYNE_BENCHMARK_LOG"
_STRIP = 256  # rows that are made at once
_making: dict[str, float] = {}


def make(k: int, q: float, frames: int) -> np.ndarray[Any, Any]:
    """Map k: the static law, whose exponent is a difference of one function of time, and noise from a block."""
    from homodyne.physics.models.static import Static

    start = time.perf_counter()
    t = DT * np.arange(1, frames + 1)
    steps = np.asarray(Static().g(TRUTH, t[:-1], t[1:], q, 0.0, np.nan))
    exponent = np.concatenate([[0.0], np.cumsum(np.log(steps))])
    rng = np.random.default_rng(k)
    block = (SIGMA * rng.standard_normal(NOISE + frames, dtype=np.float32)).astype(np.float32)
    offsets = rng.integers(0, NOISE, frames)
    values = np.zeros((frames, frames), np.float32)
    for first in range(0, frames, _STRIP):
        rows = slice(first, min(first + _STRIP, frames))
        decay = (exponent[first:] - exponent[rows, None]).astype(np.float32)
        np.exp(np.minimum(decay, 0.0), out=decay)
        values[rows, first:] = 1.0 + CONTRAST * decay
        for i in range(rows.start, rows.stop):
            values[i, i:] += block[offsets[i] : offsets[i] + frames - i]
    _making["seconds"] = time.perf_counter() - start
    return values


def timed_pass(task: Any) -> Any:
    """Do the work of a task, and note what it took."""
    from homodyne.optimization.passes import run_pass

    start = time.perf_counter()
    row = run_pass(task)
    sent = sum(file.stat().st_size for file in task.data.iterdir()) + len(pickle.dumps(task))
    facts = {
        "worker": os.getpid(),
        "operation": task.operation,
        "making": _making["seconds"],
        "seconds": time.perf_counter() - start - _making["seconds"],
        "sent": sent,
        "returned": len(pickle.dumps(row)),
        "peak": _peak(),
    }
    with Path(os.environ[LOG]).open("a") as log:
        log.write(json.dumps(facts) + "\n")
    return row


def _peak() -> int:
    """Bytes of memory of this process at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(count: int, frames: int, workers: int) -> dict[str, Any]:
    """Reduce maps and take direct sums about the truth on worker processes; what it took."""
    from homodyne.config.io import load_config
    from homodyne.config.physics import scaling_of, space_of
    from homodyne.likelihood.direct import errors_against
    from homodyne.likelihood.maps import Maps
    from homodyne.likelihood.posterior import parameters_at_images, score_many
    from homodyne.likelihood.reduction import Accuracy
    from homodyne.optimization.passes import Passes
    from homodyne.optimization.problem import Problem

    t, q = DT * np.arange(1, frames + 1), np.linspace(0.003, 0.012, count)
    maps = Maps((), np.ones((count, frames), bool), t, q, np.zeros(count), None)
    arguments = [{"arguments": {"k": k, "q": float(q[k]), "frames": frames}} for k in range(count)]
    backend = {"num_workers": workers}
    config = load_config(
        {
            "analysis_mode": "static",
            "reduction": {"backend": "multiprocessing"},
            "optimization": {"cmc": {"backend": backend}},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        os.environ[LOG] = str(log)
        start = time.perf_counter()
        made, run = "benchmarks.distributed:make", "benchmarks.distributed:timed_pass"
        with Passes(maps, config, arguments, made, run) as work:
            problem = Problem(work, space_of(config, t), scaling_of(config), None)
            space = problem.space
            signal = float(np.sqrt(problem.num_pairs)) * CONTRAST / SIGMA
            grid = problem.grid({name: np.array([value]) for name, value in TRUTH.items()}, Accuracy(), signal)
            nodes = problem.reduced(grid)
            posterior = problem.posterior(nodes, np.full(count, SIGMA))
            z = space.coordinates(TRUTH)
            root = np.linalg.cholesky(np.linalg.inv(score_many(z[None], posterior).information[0]))
            points = z + np.random.default_rng(0).standard_normal((POINTS, z.size)) @ root.T
            exact = work.direct(space.model, parameters_at_images(points, posterior), posterior.nodes)
            error = float(errors_against(exact, points, posterior).std(ddof=1))
        wall = time.perf_counter() - start
        entries = [json.loads(line) for line in log.read_text().splitlines()]
    busy: dict[int, float] = defaultdict(float)
    for entry in entries:
        busy[entry["worker"]] += entry["making"] + entry["seconds"]

    def mean(name: str, operation: str = "") -> float:
        return float(np.mean([one[name] for one in entries if operation in ("", one["operation"])]))

    return {
        "pairs": nodes.num_points,
        "nodes": int(nodes.t1.size),
        "wall": wall,
        "busy": sorted(busy.values()),
        "making": mean("making"),
        "reduce": mean("seconds", "reduce"),
        "direct": mean("seconds", "direct"),
        "sent": mean("sent", "reduce") + mean("sent", "direct"),
        "returned": mean("returned", "reduce") + mean("returned", "direct"),
        "worker peak": max(one["peak"] for one in entries),
        "main peak": _peak(),
        "error": error,
    }


def rows_of(facts: Mapping[str, Any], count: int, frames: int) -> Iterator[Row]:
    """Rows of the table."""
    busy = ", ".join(f"{seconds:.0f}" for seconds in facts["busy"])
    size = f"{count} maps of {frames:,} frames, {facts['pairs']:.3g} pairs"
    yield Row(f"{size}: reduced and summed directly at {POINTS} points", f"{facts['wall']:.0f} s")
    yield Row("time that each worker was busy, making included", f"{busy} s")
    apart = ", ".join(f"{name} {facts[name]:.2f} s" for name in ("making", "reduce", "direct"))
    yield Row("one map on one core: made (once for each pass), reduced, summed directly", apart)
    sent, returned = facts["sent"] / 1e3, facts["returned"] / 1e3
    told = f"{sent:.0f} kB, {returned:.0f} kB"
    yield Row(f"sent to the workers and back for one map, of {4e-6 * frames**2:.3g} MB", told)
    peaks = f"{facts['worker peak'] / 2**30:.2f} GB, {facts['main peak'] / 2**30:.2f} GB"
    yield Row("memory at most of a worker, and of the process that fits", peaks)
    yield Row(f"error of the log density of {facts['nodes']:,} nodes a map", f"{facts['error']:.2g}", "< 0.05")
    maps = 1e12 / (facts["pairs"] / count)
    once = maps * (facts["reduce"] + facts["direct"])
    told = f"{once / 100 / 60:.0f} min reading none but these maps, {maps * returned / 1e6:.2g} GB come back"
    yield Row(f"extrapolated: 1e12 pairs ({maps:,.0f} such maps) on 100 cores that hold them", told)


def run(small: bool = False) -> Iterator[Row]:
    """Rows of the table."""
    count, frames = (2, 200) if small else (200, 10_000)
    yield from rows_of(apart(count, frames, 2), count, frames)


def apart(count: int, frames: int, workers: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.distributed", str(count), str(frames), str(workers)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:4]]
    count, frames, workers = given + [200, 10_000, 2][len(given) :]
    found = measure(count, frames, workers)
    for row in rows_of(found, count, frames):
        print(f"{row.work}: {row.measured}")
    print(json.dumps(found))
