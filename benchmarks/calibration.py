"""Is the independent-noise posterior right on independent noise?  The chi-square of the truth over many data sets.

Every set is simulated with the same truth and fitted by the pilot fit; the distance of the truth from the mode, in
the metric of the Laplace covariance, is chi-square distributed with as many degrees of freedom as parameters.  All sets
share one compiled program.
"""

import numpy as np
from scipy import stats

import homodyne
from benchmarks.measurement import GAP, SIGMA, TRUTH, Q
from homodyne.config.schema import Config
from homodyne.core.parameters import MODES
from homodyne.core.thin import thin_block
from homodyne.optimization.nlsq import PilotSettings, pilot_fit
from homodyne.optimization.target import build_target


def distances(mode: str, num_sets: int, num_frames: int, phi: list[float]) -> np.ndarray:
    """Chi-square of the truth for every data set."""
    params = {name: TRUTH[name] for name in MODES[mode]}
    found, target = [], None
    for seed in range(num_sets):
        data = homodyne.simulate(
            params, q=Q, gap=GAP, num_frames=num_frames, dt=0.1, phi=phi, contrast=0.3, kind="independent",
            sigma=SIGMA, seed=1000 + seed,
        )  # fmt: skip
        fresh = build_target(data, Config(analysis_mode=mode))
        target = target or fresh
        likelihood = target.likelihood
        likelihood.slot.block = fresh.likelihood.slot.block
        thin = thin_block(data.c2, data.good, 50_000)
        start = likelihood.space.coordinates(params)
        pilot = pilot_fit(
            likelihood, thin, np.random.default_rng(seed), initial=start, settings=PilotSettings(200, 4, 100)
        )
        off = pilot.mode.z - start
        found.append(off @ np.linalg.solve(pilot.mode.covariance, off))
    return np.array(found)


def run(num_sets: int = 60) -> None:
    """Print mean, coverage and the p-value of a Kolmogorov test for both modes."""
    for mode, frames, phi in (("static", 300, [0.0]), ("laminar_flow", 400, [-80.0, -45.0, -10.0, 25.0, 60.0])):
        chi2, dim = distances(mode, num_sets, frames, phi), len(MODES[mode])
        inside = {p: np.mean(chi2 < stats.chi2.ppf(p, dim)) for p in (0.5, 0.9)}
        test = stats.kstest(chi2, stats.chi2(dim).cdf).pvalue
        print(
            f"  {mode:13s} {num_sets} sets: mean chi2 {chi2.mean():.2f} ({dim} expected, "
            f"error {np.sqrt(2 * dim / num_sets):.2f}); truth inside 50 % region {100 * inside[0.5]:.0f} %, "
            f"90 % region {100 * inside[0.9]:.0f} %; KS p = {test:.2f}"
        )
