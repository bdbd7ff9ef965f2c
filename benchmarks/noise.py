"""What correlated noise does to the widths (the sandwich covariance), and the tests of a fit against its data, of 50
million pairs (2000 frames, 25 angles)."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.likelihood import pilot_of
from benchmarks.measurement import Memory
from benchmarks.page import Row
from homodyne.noise.crosscheck import cross_check
from homodyne.noise.sandwich import sandwich
from homodyne.noise.speckle_noise import CountingFacts
from homodyne.optimization.calibration import map_views

COUNTS = 2.0  # per pixel and frame


def one(num_frames: int, num_angles: int) -> None:
    """Print seconds and GB of memory of the sandwich, and of the tests after it, as JSON."""
    pilot = pilot_of(num_frames, num_angles)
    maps, z, precision = (
        pilot.problem.maps,
        pilot.mode.z,
        np.asarray(pilot.posterior.scaling.precision_at(np.tile([1.0, 0.3], (pilot.problem.maps.num_maps, 1)))),
    )
    root = np.linalg.cholesky(pilot.mode.covariance)
    squares = pilot.sigma**2 * np.asarray(pilot.posterior.nodes.sums)[:, 0]
    facts = CountingFacts(given_counts=COUNTS)
    told = []
    with Memory() as memory:
        start = time.perf_counter()
        found = sandwich(map_views(pilot, z, root), pilot.sigma, facts, root, precision, squares)
        told.append(time.perf_counter() - start)
    told.append(memory.more)
    with Memory() as memory:
        start = time.perf_counter()
        cross_check(map_views(pilot, z, np.eye(len(z))), found.noise, maps.q, maps.phi, maps.t)
        told.append(time.perf_counter() - start)
    print(json.dumps([*told, memory.more]))


def run(small: bool = False) -> Iterator[Row]:
    """Rows of the table."""
    command = [sys.executable, "-m", "benchmarks.noise", *(("100", "3") if small else ("2000", "25"))]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for name, took, memory, aim in (
        ("sandwich covariance", *told[:2], "< 10 s, < 1 GB"),
        ("tests of the fit", *told[2:], "< 3 s"),
    ):
        yield Row(f"{name}, compiling included", f"{took:.1f} s, {memory:.2f} GB more at the peak", aim)


if __name__ == "__main__":
    one(int(sys.argv[1]), int(sys.argv[2]))
