"""Simulation-based calibration: on data with independent noise, the truth is one more draw of the posterior.

Truths come from the prior, so that their ranks among the draws are uniform for every parameter and for the log
likelihood if and only if the sampler is right (Talts et al., arXiv:1804.06788; Modrák et al., arXiv:2211.02383, for the
log likelihood, which sees what no parameter does). Verdicts depend on the data alone: leaving out the data sets whose
draws are refused leaves the ranks uniform. The noise of the fit is that which the data were made with.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.validation.fits import consensus, laplace, nuts, pilot_at, ranks, with_likelihood
from benchmarks.validation.scenario import LONG, SHORT, Scenario
from homodyne.errors import ConvergenceError
from homodyne.optimization.pilot import Pilot

STATIC = Scenario("static", LONG, sigma=0.1)
LAMINAR = Scenario("laminar_flow", SHORT, sigma=0.06)

METHODS = {
    "laplace, static": (STATIC, laplace),
    "nuts, static": (STATIC, nuts),
    "cmc 1, static": (STATIC, partial(consensus, num_shards=1)),
    "cmc 8, static": (STATIC, partial(consensus, num_shards=8)),
    "cmc 32, static": (STATIC, partial(consensus, num_shards=32)),
    "laplace, laminar_flow": (LAMINAR, laplace),
    "nuts, laminar_flow": (LAMINAR, nuts),
}
"""Scenario and way to draw, by name."""


def one(method: str, seed: int) -> dict[str, Any]:
    """Ranks of the truth for one data set, and the verdict."""
    scenario, draw = METHODS[method]
    data, truth, start = scenario.measure(seed)
    try:
        pilot = with_noise(pilot_at(scenario, data, start, seed), scenario.sigma)
        answer = draw(scenario, pilot, seed)
    except ConvergenceError as error:
        return {"failed": str(error)}
    found = ranks(answer, with_likelihood(truth, pilot), np.random.default_rng([seed, 3]))
    return {"ranks": found, "verdict": answer.verdict, "ess": round(answer.ess, 1)}


def with_noise(pilot: Pilot, sigma: float) -> Pilot:
    """Pilot fit whose posterior takes the noise for this."""
    noise = np.full_like(pilot.sigma, sigma)
    return replace(pilot, posterior=pilot.posterior.with_sigma(noise), sigma=noise)
