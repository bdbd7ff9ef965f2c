"""Whether weighted points that are to replace wrong draws are right themselves.

Points of a proposal that was fitted to wrong draws may miss what the draws miss, and their weights do not show it: the
tail index is that of the tail that was reached. A correction is therefore repeated with a wider proposal around its own
result until two results in a row agree (adaptive importance sampling; Cappé, Guillin, Marin and Robert, J. Comput.
Graph. Stat. 13, 907 (2004)). Half of the points come from components around each mode, which reach farther than the
shape of the result, half from that shape, a little wider: where it is bent, the former hardly hit it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from homodyne.arrays import Points, Values
from homodyne.certificate.agreement import Estimate, Weighted, compare
from homodyne.certificate.density import Evaluate
from homodyne.certificate.importance import Weights, smoothed
from homodyne.certificate.proposal import Normal, around
from homodyne.certificate.shape import Joined, Separation, in_parts
from homodyne.certificate.stage import CONTROL, MIN_INSIDE

WIDER = 1.3  # width of the next proposal over that of the present result
ROUNDS = 6  # at most
EFFECTIVE = 10  # points per dimension that fix a component


@dataclass(frozen=True)
class Confirmation:
    """Points (n, d) and weights of the last round; ``complaint`` tells what still changes, None when nothing does."""

    points: Points
    weights: Weights
    complaint: str | None


def confirm(
    evaluate: Evaluate,
    points: Points,
    weights: Weights,
    centres: tuple[Normal, Sequence[Normal]],
    names: Sequence[str],
    k_limit: float,
    rng: np.random.Generator,
) -> Confirmation:
    """Repeat a correction around its own result until it stays what it is.

    Parameters
    ----------
    evaluate
        Exact log posterior (n,) of points (n, d).
    points, weights
        The correction, (n, d) and their weights.
    centres
        The one that the draws were taken for, and every mode that is known.
    names
        d parameter names.
    k_limit
        Largest tail index of the weights.
    rng
        Source of the points.
    """
    around_all, separation = [centres[0], *centres[1]], Separation.of(centres[1])
    for _ in range(ROUNDS):
        if weights.ess <= len(names):
            return Confirmation(points, weights, f"only {weights.ess:.1f} points are effective")
        share = np.exp(weights.log_weights)
        around_all = _refitted(around_all, points, share)
        wider = [Normal(centre.mean, WIDER * centre.factor) for centre in around_all]
        shape = in_parts(points, share, separation, rng, WIDER)
        proposal = Joined((around(wider[0], wider[1:], evaluate), shape), (0.5, 0.5))
        further = proposal.draw(len(points), rng)
        values = evaluate(further)
        if np.isfinite(values).sum() < MIN_INSIDE or np.isnan(values).any():
            return Confirmation(points, weights, "a wider proposal leaves the posterior")
        found = smoothed(values - proposal.log_density(further))
        before = points[rng.choice(len(points), max(int(weights.ess), 10 * len(names)), p=share)]
        even = np.full(len(further), 1.0 / len(further))
        target = Weighted(further, np.exp(found.log_weights), even, proposal.draw(CONTROL, rng))
        complaint = compare(before[None], True, target, Estimate(np.zeros(1), np.zeros(1)), names).complaint
        points, weights = further, found
        if complaint is None and found.k_hat < k_limit:
            return Confirmation(points, weights, None)
    return Confirmation(points, weights, complaint or f"their tail index is {found.k_hat:.2f}")


def _refitted(centres: Sequence[Normal], points: Points, share: Values) -> list[Normal]:
    """Mean and covariance of the weighted points that are nearest to each centre; few points leave it as it was."""
    nearest = np.argmax([centre.log_density(points) for centre in centres], axis=0)
    found = []
    for k, centre in enumerate(centres):
        own, weight = points[nearest == k], share[nearest == k]
        if weight.sum() > 0.0 and weight.sum() ** 2 / np.square(weight).sum() >= EFFECTIVE * points.shape[1]:
            mean = weight @ own / weight.sum()
            centre = Normal.of(mean, np.atleast_2d(np.cov(own, rowvar=False, aweights=weight)))
        found.append(centre)
    return found
