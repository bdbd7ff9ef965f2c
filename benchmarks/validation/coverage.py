"""Coverage: how often the truth of speckle data lies in intervals of the posteriors.

A regime is a kind of measurement and a number of counts; records hold the rank of every truth among the draws.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.validation.fits import from_weights, pilot_at, ranks, with_likelihood
from benchmarks.validation.scenario import LONG, SHORT, SLOW, Scenario
from homodyne.errors import ConvergenceError
from homodyne.optimization.calibration import calibrated, noise_report
from homodyne.optimization.pilot import Pilot, PilotSettings

PIXELS = {0.02: 4000, 0.1: 2000, 1.0: 1000, 10.0: 1000}
"""Counts per pixel and frame, and the pixels that make up for few of them."""
TIMES = {"short": SHORT, "long": LONG, "slow": SLOW}
_CASES = (
    ("static", "short", 0.1),
    ("static", "short", 10.0),
    ("static", "long", 0.02),
    ("static", "long", 1.0),
    ("static", "long", 10.0),
    ("static", "slow", 0.1),
    ("static", "slow", 10.0),
    ("laminar_flow", "short", 0.02),
    ("laminar_flow", "short", 1.0),
    ("laminar_flow", "long", 0.1),
    ("laminar_flow", "long", 10.0),
)
REGIMES = {
    f"{mode}, {time}, {counts:g}": Scenario(
        mode, TIMES[time], mean_counts=counts, pixels=PIXELS[counts], vague=time == "slow"
    )
    for mode, time, counts in _CASES
}
"""Scenarios by mode, correlation time and counts per pixel and frame."""


def one(regime: str, seed: int) -> dict[str, Any]:
    """Ranks of the truth by posterior, for one data set; empty where there is no posterior."""
    scenario = REGIMES[regime]
    data, truth, start = scenario.measure(seed)
    try:
        pilot = pilot_at(scenario, data, start, seed)
    except ConvergenceError as error:
        return {"failed": str(error)}
    record: dict[str, Any] = {"independent": _ranks_in(pilot, truth, seed)}
    known = scenario.config().speckle
    report = noise_report(data, pilot, known)
    try:
        wide, _ = calibrated(data, pilot, known, report, PilotSettings(), np.random.default_rng(0))
        record["calibrated"] = _ranks_in(wide, truth, seed)
    except ConvergenceError as error:
        record["calibrated"] = {"failed": str(error)}
    return record


def _ranks_in(pilot: Pilot, truth: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Ranks and standard deviations in the posterior of a pilot fit."""
    answer = from_weights(pilot, seed)
    widths = {name: np.ravel(np.std(x, axis=0)).tolist() for name, x in answer.draws.items()}
    found = ranks(answer, with_likelihood(truth, pilot), np.random.default_rng([seed, 3]))
    return {"ranks": found, "sd": widths, "ess": round(answer.ess, 1)}
