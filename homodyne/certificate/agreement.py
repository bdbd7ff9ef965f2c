"""Whether draws and weighted points describe the same distribution.

`compare` looks at means, widths, correlations, tails, and at one feature for everything else: the probability that a
point is attributed to the posterior rather than to the draws' own density, which is the feature that tells two
distributions apart best. Every difference is judged against a tolerance plus twice its Monte Carlo error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from homodyne.arrays import Array, Chains, Points, Values, Vector
from homodyne.certificate.chains import array_stats

MEAN = 0.1  # tolerated shift of a mean, in standard deviations
SPREAD = 0.15  # tolerated relative error of a variance
COVARIANCE = 0.2  # tolerated error of the covariance matrix of whitened coordinates
TAIL = 0.02  # tolerated error of a tail probability of 0.05
OVERLAP = 0.02  # tolerated difference of attribution; draws that are off by 10 % in total variation show 0.016
RESOLUTION = 0.75  # largest Monte Carlo error, in units of the tolerance, with which agreement can be claimed


@dataclass(frozen=True)
class Estimate:
    """Values and their Monte Carlo errors."""

    value: Float[Array, "features"]
    error: Float[Array, "features"]


@dataclass(frozen=True)
class Comparison:
    """What the weighted points say about the draws.

    ``shift`` (d,) is weighted mean minus draws' mean in standard deviations, ``width_ratio`` (d,) weighted standard
    deviation over the draws'. ``complaint`` names the worst disagreement, ``doubt`` what could not be resolved.
    """

    shift: Vector
    width_ratio: Vector
    complaint: str | None
    doubt: str | None


@dataclass(frozen=True)
class Weighted:
    """Points of the posterior, and a control that shares their noise.

    ``points`` (n, d) with normalised ``weights`` (n,); ``control_weights`` (n,) turn the same points into another
    distribution, which ``control_sample`` (m, d) represents without that noise.
    """

    points: Points
    weights: Values
    control_weights: Values
    control_sample: Float[Array, "others coordinates"]


class _Features:
    """Functions of a point whose expectations are compared, in units of their tolerances."""

    def __init__(self, flat: Points, names: Sequence[str]) -> None:
        self.mean, self.sd = flat.mean(axis=0), flat.std(axis=0)
        self.factor = np.linalg.cholesky(np.atleast_2d(np.cov(flat, rowvar=False)))
        self.low, self.high = np.quantile(flat, [0.05, 0.95], axis=0)
        self.pairs = np.tril_indices(flat.shape[1])
        self.labels = [
            *(f"the mean of {name}" for name in names),
            *(f"the width of {name}" for name in names),
            *("the covariance of the parameters" for _ in self.pairs[0]),
            *(f"the lower tail of {name}" for name in names),
            *(f"the upper tail of {name}" for name in names),
            "the joint distribution of the parameters",
        ]

    def __call__(self, x: Points) -> Float[Array, "points features"]:
        unit = (x - self.mean) / self.sd
        white = np.linalg.solve(self.factor, (x - self.mean).T).T
        products = white[:, self.pairs[0]] * white[:, self.pairs[1]]
        tails = np.hstack([x < self.low, x > self.high])
        return np.hstack([unit / MEAN, unit**2 / SPREAD, products / COVARIANCE, tails / TAIL])


def compare(draws: Chains, independent: bool, target: Weighted, overlap: Estimate, names: Sequence[str]) -> Comparison:
    """Compare draws (chain, draw, d) with weighted points.

    Parameters
    ----------
    draws
        The draws in question; their Monte Carlo error comes from their effective sample size, unless independent.
    independent
        Whether the draws are independent.
    target
        Weighted points of the posterior.
    overlap
        Expected attribution under the posterior minus that under the draws, one number with its error.
    names
        d parameter names.
    """
    flat = draws.reshape(-1, draws.shape[2])
    features = _Features(flat, names)
    posterior, given = _weighted_means(features, target), _means(features(flat), draws.shape[:2], independent)
    difference = np.append(posterior.value - given.value, overlap.value / OVERLAP)
    error = np.append(np.hypot(posterior.error, given.error), overlap.error / OVERLAP)
    d = len(names)
    shift = MEAN * posterior.value[:d]
    ratio = np.sqrt(np.maximum(SPREAD * posterior.value[d : 2 * d] - shift**2, 0.0))
    excess = np.abs(difference) - 2.0 * error
    worst, vaguest = int(np.argmax(excess)), int(np.argmax(error))
    complaint = doubt = None
    if not excess[worst] <= 1.0:
        complaint = f"{features.labels[worst]} is off, {_in_words(worst, d, shift, ratio, difference[worst])}"
    if not error[vaguest] <= RESOLUTION:
        doubt = f"{features.labels[vaguest]} is known to {error[vaguest]:.1f} times its tolerance only"
    return Comparison(shift, ratio, complaint, doubt)


def _in_words(worst: int, d: int, shift: Vector, ratio: Vector, difference: float) -> str:
    if worst < d:
        return f"by {shift[worst]:+.2f} standard deviations"
    if worst < 2 * d:
        return f"by a factor of {ratio[worst - d]:.2f}"
    return f"by {abs(difference):.1f} times the tolerance"


def _weighted_means(features: _Features, target: Weighted) -> Estimate:
    """Expectations under the posterior; the control takes out, by regression, the noise that it shares."""
    values, n = features(target.points), len(target.points)
    raw, control = target.weights @ values, target.control_weights @ values
    noise = n * target.weights[:, None] * (values - raw)
    shared = n * target.control_weights[:, None] * (values - control)
    scale = np.square(shared).sum(axis=0)
    slope = np.divide((noise * shared).sum(axis=0), scale, out=np.zeros_like(scale), where=scale > 0.0)
    sample = features(target.control_sample)
    spread = slope * sample.std(axis=0) / np.sqrt(len(sample))
    error = np.sqrt(np.square(noise - slope * shared).mean(axis=0) / n + np.square(spread))
    return Estimate(raw - slope * (control - sample.mean(axis=0)), error)


def _means(values: Float[Array, "draws features"], shape: tuple[int, int], independent: bool) -> Estimate:
    """Means over the draws of values (draws, k), with errors from the effective sample sizes."""
    if independent:
        return Estimate(values.mean(axis=0), values.std(axis=0) / np.sqrt(len(values)))
    columns = np.moveaxis(values.reshape(*shape, -1), 2, 0)
    return Estimate(values.mean(axis=0), np.asarray(array_stats().mcse(columns, method="mean"), dtype=np.float64))


def overlap(at_points: Values, weights: Values, at_draws: Float[Array, "chains draws"], independent: bool) -> Estimate:
    """Expected attribution under the posterior minus that under draws, where it is known at some of them.

    Parameters
    ----------
    at_points, weights
        Attribution at points of the posterior, and their normalised weights, (n,) each.
    at_draws
        Attribution at draws (chain, draw).
    independent
        Whether the draws are independent.
    """
    given = _means(at_draws.reshape(-1, 1), at_draws.shape, independent)
    centre = weights @ at_points
    error = np.sqrt(np.square(weights * (at_points - centre)).sum())
    return Estimate(centre - given.value, np.hypot(error, given.error))


def overlap_of_weights(at_points: Values, weights: Values, own_weights: Values) -> Estimate:
    """Expected attribution under the posterior minus that under the draws' own density, both by weighted points."""
    ours, theirs = weights @ at_points, own_weights @ at_points
    noise = weights * (at_points - ours) - own_weights * (at_points - theirs)
    return Estimate(np.array([ours - theirs]), np.array([np.sqrt(np.square(noise).sum())]))
