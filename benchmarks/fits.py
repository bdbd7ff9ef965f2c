"""Whole fits of laminar flow from arrays to the verdict, 2000 frames of 25 angles (50 million pairs) unless another
size is said; then what took longest. `mapped` data are 2000 frames of 200 angles in a file (4e8 pairs)."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measurement import GAP, Memory, Q, laminar_flow
from benchmarks.page import Row

ANGLES_AT_ONCE = 10  # that are simulated together for a file
AIMS = {
    ("laplace", "independent"): "< 12 s, < 0.6 GB",
    ("laplace", "calibrated"): "< 25 s, < 0.6 GB",
    ("nuts", "independent"): "< 30 s, < 0.6 GB, effective draws > 400",
}


def one(method: str, uncertainty: str, num_frames: int, num_angles: int, times: int, file: str = "") -> None:
    """Fit, and print what the last of some times took as JSON."""
    import homodyne
    from homodyne.data import from_cube

    if file:
        t, phi = 0.1 * np.arange(1, num_frames + 1), np.linspace(-85.0, 85.0, num_angles)
        data = from_cube(np.load(file, mmap_mode="r"), t, phi, Q, gap=GAP)
    else:
        data = laminar_flow(num_frames, num_angles)
    with Memory() as memory:
        for _ in range(times):
            start = time.perf_counter()
            result = homodyne.fit(data, mode="laminar_flow", method=method, uncertainty=uncertainty)
            took = time.perf_counter() - start
    facts = {
        "pairs": result.num_points,
        "seconds": took,
        "verdict": result.verdict,
        "ess": min(np.min(x) for x in result.diagnostics["ess_bulk"].values()),
        "more": memory.more,
        "peak": memory.peak / 2**30,
        "error": result.diagnostics["reduction"]["error"],
        "timings": result.timings,
    }
    print(json.dumps(facts, default=float))


def run(small: bool = False) -> Iterator[Row]:
    """Rows of the table."""
    size = (60, 3) if small else (2000, 25)
    for (method, uncertainty), aim in AIMS.items():
        facts = fit(method, uncertainty, *size, 1)
        yield Row(f"{method}, {uncertainty}", described(facts), aim)
        yield Row("of this", longest(facts))
    facts = fit("auto", "calibrated", 60, 3, 2)
    yield Row(f"default settings, {facts['pairs']:,} pairs, second fit of a process", described(facts), "< 5 s")
    with tempfile.TemporaryDirectory() as folder:
        num_frames, num_angles = (60, 20) if small else (2000, 200)
        file = write_maps(Path(folder) / "maps.npy", num_frames, num_angles)
        facts = fit("laplace", "independent", num_frames, num_angles, 1, str(file))
    yield Row(f"laplace, independent, mapped, {facts['pairs']:,} pairs", described(facts), "< 3 GB in all")
    yield Row("of this", longest(facts))


def write_maps(path: Path, num_frames: int, num_angles: int) -> Path:
    """Write simulated maps into an NPY file, some angles at a time."""
    shape = num_angles, num_frames, num_frames
    maps = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    phi = np.linspace(-85.0, 85.0, num_angles)
    for k in range(0, num_angles, ANGLES_AT_ONCE):
        some = slice(k, k + ANGLES_AT_ONCE)
        maps[some] = laminar_flow(num_frames, num_angles, seed=k, phi=phi[some]).c2
    maps.flush()
    return path


def fit(*what: object) -> dict[str, Any]:
    """Run `one` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.fits", *map(str, what)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def described(facts: dict[str, Any]) -> str:
    """One line on how a fit went."""
    memory = f"{facts['more']:.2f} GB more than before it, {facts['peak']:.2f} GB in all"
    return (
        f"{facts['seconds']:.1f} s, {facts['verdict']}, {memory}; effective draws {facts['ess']:.0f} or more, "
        f"error of the log density {facts['error']:.2g}"
    )


def longest(facts: dict[str, Any]) -> str:
    """The parts that took longest."""
    parts = sorted(facts["timings"].items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts[:5])


if __name__ == "__main__":
    one(*sys.argv[1:3], *map(int, sys.argv[3:6]), *sys.argv[6:])  # type: ignore[arg-type]
