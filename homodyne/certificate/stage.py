"""One stage of the certificate: points of a proposal, weighted by the exact density and compared with the draws."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from homodyne.arrays import Array, Chains, Points, Values
from homodyne.certificate.agreement import Comparison, Weighted, compare, overlap, overlap_of_weights
from homodyne.certificate.importance import Weights, effective, smoothed
from homodyne.certificate.proposal import Density

CONTROL = 20_000  # points, not evaluated, that fix expectations under a known density
MIN_INSIDE = 25  # points of finite density, at least


@dataclass(frozen=True)
class Draws:
    """The draws in question.

    Attributes
    ----------
    x
        (chain, draw, d).
    independent
        Whether they are independent.
    names
        d parameter names.
    known, known_values
        Draws (chain, some, d) at which the exact log density is known, and its values (chain, some); None for both
        when the draws come from a known normal distribution.
    """

    x: Chains
    independent: bool
    names: tuple[str, ...]
    known: Float[Array, "chains some coordinates"] | None
    known_values: Float[Array, "chains some"] | None

    @property
    def flat(self) -> Points:
        """All draws, (n, d)."""
        return self.x.reshape(-1, self.x.shape[2])

    @property
    def early(self) -> Points:
        """The first half of each chain, (n / 2, d)."""
        return self.x[:, : self.x.shape[1] // 2].reshape(-1, self.x.shape[2])


@dataclass(frozen=True)
class Stage:
    """Points (n, d) with log density and weights, what they say about the draws, and the ceiling of their number.

    The ceiling is the effective number if the posterior were exactly the density assumed for the draws.
    """

    points: Points
    values: Values
    weights: Weights
    comparison: Comparison
    ceiling: float
    ceiling_error: float


def weigh(
    draws: Draws,
    points: Points,
    values: Values,
    proposal: Density,
    own: Density,
    half: Density | None,
    rng: np.random.Generator,
) -> Stage | str:
    """Weigh the points and compare them with the draws; return a sentence where that is impossible.

    Parameters
    ----------
    draws
        The draws in question.
    points, values
        Points (n, d) of the proposal, and the exact log density there, (n,).
    proposal
        Density of the points.
    own
        Density assumed for the draws.
    half
        Density that was fitted to the first half of each chain and is compared on the other: one that has seen the
        draws which it is compared with is higher there, by d (d + 3) / 2n in its logarithm where it is normal. Where
        it is ``own`` itself, the proposal takes its place as control. None where ``own`` is known.
    rng
        Source of the control points.
    """
    broken, inside = np.isnan(values) | (values == np.inf), np.isfinite(values)
    if broken.any():
        return f"The log density is NaN or infinite at {broken.sum()} of {len(values)} points."
    if inside.sum() < MIN_INSIDE:
        return f"The posterior is zero at all but {inside.sum()} of {len(values)} points."
    log_proposal, log_own = proposal.log_density(points), own.log_density(points)
    fitted = smoothed(values - log_proposal)
    weights = np.exp(fitted.log_weights)
    own_weights = np.exp(log_own - log_proposal - np.max(log_own - log_proposal))
    own_weights /= own_weights.sum()

    if draws.known is None or draws.known_values is None:
        attributed = expit(values - fitted.log_evidence - log_own)
        difference = overlap_of_weights(attributed, weights, own_weights)
    else:
        start = 0 if half is None else draws.known.shape[1] // 2
        tried = own if half is None else half
        known, known_values = draws.known[:, start:], draws.known_values[:, start:]
        log_own_there = tried.log_density(known.reshape(-1, known.shape[2])).reshape(known_values.shape)
        at_draws = expit(known_values - fitted.log_evidence - log_own_there)
        attributed = expit(values - fitted.log_evidence - tried.log_density(points))
        difference = overlap(attributed, weights, at_draws, draws.independent)

    if half is own:
        control, sample = np.full(len(points), 1.0 / len(points)), proposal.draw(CONTROL, rng)
    else:
        control, sample = own_weights, own.draw(CONTROL, rng)
    target = Weighted(points, weights, control, sample)
    comparison = compare(draws.x, draws.independent, target, difference, draws.names)
    return Stage(points, values, fitted, comparison, *effective(own_weights))
