"""Proposals that are fitted to the posterior, round by round, until its importance weights are even.

Every round draws points from the present proposal and weighs them, with the points of all rounds before, by the exact
density over the mixture of all proposals so far (adaptive multiple importance sampling: Cornuet, Marin, Mira and
Robert, Scand. J. Stat. 39, 798, 2012). The next proposal is fitted to the weighted points (Cappé, Douc, Guillin, Marin
and Robert, Stat. Comput. 18, 447, 2008). Where few points have all the weight, the weights are raised to a power below
one first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from homodyne.arrays import Points, Values
from homodyne.certificate.density import Evaluate
from homodyne.certificate.importance import effective, smoothed
from homodyne.certificate.proposal import Density, Normal
from homodyne.certificate.shape import Joined, Separation, in_parts
from homodyne.certificate.stage import MIN_INSIDE

GOOD_ROUNDS = 2  # in a row after which it ends
FLATTEST, KEPT_SHARE = 0.5, 0.5  # limits of the power of the posterior to which proposals are fitted
EVEN_TAIL = 0.5  # tail index of the weights, below which a proposal is good
FIXED = 20  # effective points per dimension that fix a proposal; with fewer, the weights are tempered
LEAST_POWER = 1e-4  # of weights
KEPT = 0.05  # share of the wide proposal in every other one


class Until(NamedTuple):
    """When a proposal is fitted no further: after so many rounds, or where this share of its points is effective."""

    rounds: int = 8
    even: float = 0.3


def adapt(
    evaluate: Evaluate,
    first: Density,
    kept: Density,
    known: tuple[Points, Values],
    num_points: int,
    rng: np.random.Generator,
    until: Until = Until(),  # noqa: B008  # immutable
    modes: Sequence[Normal] = (),
) -> Joined:
    """Fit a proposal to the posterior.

    Parameters
    ----------
    evaluate
        Log posterior (n,) of points (n, d), up to a constant; minus infinity outside its support. A good approximation
        will do: the proposal of the last round is judged by its caller.
    first
        Proposal to begin with.
    kept
        A wide one, whose components remain, with a small share, in every other proposal.
    known
        Points (n, d) that were drawn from `first`, and the log posterior there (n,).
    num_points
        Points in every further round.
    rng
        Source of the points.
    until
        When it ends.
    modes
        With the covariances there. Those that lie far from each other get a shape of their own.

    Returns
    -------
    Joined
        The proposal of the last round, whose parts are the one that was fitted, a `Shape` where modes are not far from
        each other, and `kept`; fresh points tell how good it is.
    """
    (points, values), proposals = known, list[Density]([first])
    log_sizes = [np.log(len(points))]
    parts = [log_sizes[0] + first.log_density(points)]
    power, good, separation = flattening(points.shape[1]), 0, Separation.of(modes)
    for _ in range(until.rounds):
        weights = tempered(power * values - logsumexp(parts, axis=0), FIXED * points.shape[1])
        proposal = Joined((in_parts(points, weights, separation, rng), kept), (1.0 - KEPT, KEPT))
        further = proposal.draw(num_points, rng)
        there = evaluate(further)
        parts = [
            np.concatenate([part, size + one.log_density(further)])
            for part, one, size in zip(parts, proposals, log_sizes, strict=True)
        ]
        points, values = np.concatenate([points, further]), np.concatenate([values, there])
        proposals.append(proposal)
        log_sizes.append(np.log(num_points))
        parts.append(log_sizes[-1] + proposal.log_density(points))
        if np.isfinite(there).sum() >= MIN_INSIDE:
            own = smoothed(there - proposal.log_density(further))
            good = good + 1 if own.ess >= until.even * num_points and own.k_hat < EVEN_TAIL else 0
            if good == GOOD_ROUNDS:
                break
    return proposal


def flattening(dimension: int) -> float:
    """Power of the posterior to which proposals are fitted: these are wider than it, and so find where its tails lead.

    It keeps half of the points effective where the posterior is normal: a share of (p (2 - p))^(d/2) for the power p.
    """
    return max(FLATTEST, 1.0 - float(np.sqrt(1.0 - KEPT_SHARE ** (2.0 / dimension))))


def tempered(log_ratios: Values, least: float) -> Values:
    """Normalised weights (n,) of log ratios (n,), raised to the largest power that leaves `least` effective points."""
    finite, power = np.isfinite(log_ratios), 1.0
    while True:
        raised = np.full(len(log_ratios), -np.inf)
        raised[finite] = power * log_ratios[finite]
        weights: Values = np.exp(raised - logsumexp(raised))
        if effective(weights)[0] >= least or power < LEAST_POWER:
            return weights
        power *= 0.8
