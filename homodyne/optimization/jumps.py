"""Coordinates in which a posterior is round, and jumps of chains between its parts, from points with exact weights."""

import numpy as np

from homodyne.arrays import Array
from homodyne.certificate.bend import weighted_moments
from homodyne.certificate.importance import effective
from homodyne.certificate.proposal import DEGREES, Mixture
from homodyne.certificate.shape import LARGEST, Shape
from homodyne.optimization.nuts import MOST_ATTEMPTS, Frame, Jumps


def frame_of(shape: Shape, points: Array, weights: Array) -> Frame:
    """Coordinates that follow a shape, and jumps to draws of it; points (n, d) with weights (n,) are the posterior."""
    center, covariance = weighted_moments(shape.bend.unbent(points), weights)
    factor = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
    share = effective(weights)[0] / len(weights)
    attempts = int(np.clip(np.ceil(1.0 / share), 1, MOST_ATTEMPTS))
    return Frame(center, covariance, shape.bend, _jumps(shape.mixture, center, factor, attempts))


def _jumps(mixture: Mixture, center: Array, factor: Array, attempts: int) -> Jumps:
    """The mixture of unbent coordinates in whitened ones, filled up to one number of components.

    `attempts` at once are enough for one of them to be worth a draw of the posterior.
    """
    more = LARGEST + 1 - len(mixture.weights)
    with np.errstate(divide="ignore"):
        shares = np.log(np.pad(mixture.weights, (0, more)))
    locations = np.linalg.solve(factor, (mixture.locations - center).T).T
    factors = np.linalg.solve(factor, mixture.factors)
    factors = np.concatenate([factors, np.repeat(np.eye(len(center))[None], more, axis=0)])
    return Jumps(shares, np.pad(locations, ((0, more), (0, 0))), factors, np.linalg.inv(factors), DEGREES, attempts)
