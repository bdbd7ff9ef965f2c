"""Which way of widening a posterior for correlated noise covers best?  Coverage over simulated speckle.

The ways: `independent` points; `curvature`, the likelihood moved by a matrix alone; `moved`, finished draws moved about
the mode; `widened`, more noise and a matrix for the rest; `at its mode`, that with the sandwich made at the mode of the
calibrated posterior, which the package does. Every posterior is weighted exactly.
"""

import functools
from dataclasses import replace
from typing import Any

import numpy as np

import homodyne
from benchmarks.measurement import GAP, TRUTH, Q
from homodyne.config.schema import Config, SpeckleConfig
from homodyne.core.parameters import MODES
from homodyne.core.posterior import Posterior
from homodyne.data.twotime import TwoTimeData
from homodyne.errors import ConvergenceError
from homodyne.optimization import calibration
from homodyne.optimization.nlsq import Mode, Pilot, PilotSettings, pilot_fit, settled
from homodyne.optimization.target import Target, build_target

Array = np.ndarray[Any, np.dtype[Any]]

TRUTHS = {"laminar_flow": TRUTH, "static": {"D0": 2e4, "alpha": -0.8, "D_offset": 500.0}}
ANGLES = {"laminar_flow": [0.0, 45.0, 90.0, 135.0], "static": [0.0]}
PIXELS = {0.1: 4000, 1.0: 1000, 10.0: 1000}
DRAWS = 400
SEARCH = PilotSettings(num_candidates=40, num_starts=1)


def measure(mode: str, counts: float, frames: int, seed: int) -> TwoTimeData:
    """Simulate speckle of known truth."""
    return homodyne.simulate(
        {name: TRUTHS[mode][name] for name in MODES[mode]}, q=Q, gap=GAP if mode == "laminar_flow" else None,
        num_frames=frames, dt=0.1, phi=ANGLES[mode], contrast=0.3, mean_counts=counts, pixels=PIXELS[counts], seed=seed,
    )  # fmt: skip


@functools.cache
def compiled(mode: str, frames: int) -> Target:
    """Programs that serve every data set of one size."""
    return build_target(measure(mode, 1.0, frames, 0), Config(analysis_mode=mode))


def weighted(posterior: Posterior, mode: Mode, rng: np.random.Generator) -> Array:
    """Draws of z by importance resampling from a wide t around the mode."""
    root = np.linalg.cholesky(mode.covariance)
    scale = np.sqrt(5.0 / rng.chisquare(5.0, DRAWS))[:, None]
    step = rng.standard_normal((DRAWS, len(mode.z))) * scale
    z = mode.z + 1.1 * step @ root.T
    log_proposal = -0.5 * (5.0 + len(mode.z)) * np.log1p(np.sum(step**2, axis=1) / 5.0)
    log_weight = posterior.evaluate_many(z)[0] - log_proposal
    weight = np.exp(log_weight - log_weight.max())
    return z[rng.choice(DRAWS, DRAWS, p=weight / weight.sum())]


def ways(data: TwoTimeData, pilot: Pilot, rng: np.random.Generator) -> dict[str, Array]:
    """Draws (n, d) of every way."""
    report = calibration.noise_report(data, pilot, SpeckleConfig())
    mode, narrow = pilot.mode, pilot.mode.covariance
    found = {"independent": weighted(pilot.posterior, mode, rng)}
    root, wide = np.linalg.cholesky(narrow), np.linalg.cholesky(report.covariance)
    found["moved"] = report.adjustment.center + (found["independent"] - mode.z) @ (wide @ np.linalg.inv(root)).T
    likelihood = pilot.posterior.likelihood
    widened, wider = report.adjustment, report.adjustment.widening
    alone = replace(
        widened, matrix=widened.matrix / wider, widening=1.0,
        pair_slope=widened.pair_slope * wider, pair_spread=widened.pair_spread * wider**2,
    )  # fmt: skip
    for name, adjustment in (("curvature", alone), ("widened", widened)):
        posterior = Posterior(likelihood.through(adjustment), pilot.sigma)
        try:
            (best, *_) = settled(posterior, [replace(mode, covariance=report.covariance)], SEARCH)
            found[name] = weighted(posterior, best, rng)
        except ConvergenceError:
            found[name] = np.empty((0, len(mode.z)))
    try:
        there, _ = calibration.calibrated(data, pilot, SpeckleConfig(), report, SEARCH)
        found["at its mode"] = weighted(there.posterior, there.mode, rng)
    except ConvergenceError:
        found["at its mode"] = np.empty((0, len(mode.z)))
    return found


def ranks(mode: str, counts: float, frames: int, seed: int) -> dict[str, Array] | None:
    """Share of the draws below the truth, for every coordinate of z, by way; None where the pilot fit failed."""
    target, data = compiled(mode, frames), measure(mode, counts, frames, 1000 + seed)
    fresh = build_target(data, Config(analysis_mode=mode))
    target.likelihood.slot.block = fresh.likelihood.slot.block
    truth = target.likelihood.space.coordinates(TRUTHS[mode])
    rng = np.random.default_rng(seed)
    try:
        pilot = pilot_fit(target.likelihood, fresh.thin, rng, settings=SEARCH, initial=truth)
    except ConvergenceError:
        return None
    found = ways(data, pilot, rng)
    return {name: np.mean(z < truth, axis=0) if len(z) else np.full(len(truth), np.nan) for name, z in found.items()}


def run(num_sets: int = 40) -> None:
    """Print the coverage of nominal 50 % and 90 % intervals over all coordinates."""
    for mode in TRUTHS:
        for rate in PIXELS:
            every = [found for k in range(num_sets) if (found := ranks(mode, rate, 120, k)) is not None]
            for name in every[0]:
                table = np.array([found[name] for found in every])
                inside = [100 * np.nanmean(np.abs(table - 0.5) < half) for half in (0.25, 0.45)]
                failed = np.isnan(table[:, 0]).sum()
                print(
                    f"  {mode:13s} {rate:5g} counts, {len(every)} sets, {name:12s} truth inside 50 % interval "
                    f"{inside[0]:3.0f} %, 90 % interval {inside[1]:3.0f} %, no mode {failed}",
                    flush=True,
                )
