"""Log density and gradient of 50 million pairs (2000 frames, 25 angles), laminar flow, on reduced data, against the
direct sum over all pairs; error of the log density at draws of the normal approximation at the mode."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import jax
import numpy as np

from benchmarks.measurement import TRUTH, laminar_flow
from benchmarks.page import Row
from homodyne.config.io import load_config
from homodyne.likelihood.direct import direct_moments, reduction_errors
from homodyne.likelihood.posterior import inside, log_density
from homodyne.optimization.pilot import Pilot, PilotSettings, pilot_fit
from homodyne.optimization.problem import build_problem

SEARCH = PilotSettings(num_candidates=40, num_starts=1)
CHECKS = 8

value_and_gradient = jax.jit(jax.value_and_grad(log_density))


def seconds(call: Callable[[], object], runs: int) -> float:
    """Median time of a call after one warm-up."""
    jax.block_until_ready(call())
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def pilot_of(num_frames: int, num_angles: int, **measured: object) -> Pilot:
    """Pilot fit that starts at the truth."""
    problem = build_problem(laminar_flow(num_frames, num_angles, **measured), load_config())  # type: ignore[arg-type]
    start = problem.space.coordinates({**TRUTH, **measured.get("truth", {})})  # type: ignore[dict-item]
    return pilot_fit(replace(problem, initial=start), np.random.default_rng(0), SEARCH)


def run(small: bool = False) -> Iterator[Row]:
    """Rows of the table."""
    pilot = pilot_of(*((100, 3) if small else (2000, 25)))
    problem, mode, maps = pilot.problem, pilot.mode, pilot.problem.maps
    posterior, point = jax.device_put(pilot.posterior), pilot.space.parameters_at(mode.z[None])
    pairs, number = pilot.posterior.nodes.num_points, int(pilot.grid.limits[-1])
    yield Row("pairs of frames, all maps", f"{pairs:,}")
    yield Row("nodes of a map", f"{number:,}; {pairs / maps.num_maps / number:.0f} times fewer than its pairs")
    yield Row("reduction", f"{seconds(lambda: problem.reduced(pilot.grid).weight, 1):.1f} s")
    fast = seconds(lambda: value_and_gradient(mode.z, posterior), 50)
    yield Row("log density and gradient", f"{1e3 * fast:.2f} ms", "" if small else "< 8 ms")
    slow = seconds(lambda: direct_moments(pilot.space.model, point, maps).g, 1)
    yield Row("direct sum over all pairs, value alone", f"{1e3 * slow:.0f} ms, {slow / fast:.0f} times as long")
    noise = np.random.default_rng(1).standard_normal((4 * CHECKS, len(mode.z)))
    points = mode.z + noise @ np.linalg.cholesky(mode.covariance).T
    errors = reduction_errors(points[inside(points, posterior)][:CHECKS], pilot.posterior, maps)
    yield Row(f"standard deviation of the error at {len(errors)} draws", f"{errors.std(ddof=1):.2g}", "< 0.05")
