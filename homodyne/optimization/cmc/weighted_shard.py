"""Draws of a subposterior that is nearly normal, without Markov chains: points drawn around its mode by their weights.

A shard's subposterior differs from the one that its chains would start in by little but its place. A few Newton steps
with the known covariance lead there; points of a t distribution around that place are weighed by the exact density and
resampled. Where the weights are uneven nothing is returned, and chains are due.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from homodyne.arrays import Array
from homodyne.certificate.importance import smoothed, systematic, worth
from homodyne.certificate.proposal import DEFENSIVE, WIDE, Mixture
from homodyne.optimization.nuts import Density
from homodyne.physics.compiling import at_points, compiled

Programs = tuple[Callable[..., tuple[jax.Array, jax.Array]], Callable[..., Array]]

POINTS = 500  # at least
EVEN_TAIL, EVEN_SHARE = 0.5, 0.3  # tail index of the weights, and share of effective points, to be used
_STEPS, _NEAR = 8, 0.02  # Newton steps at most, and expected gain of the last one


class WeightedDraws(NamedTuple):
    """Draws (n, d), the log density there (n,), what they are worth, and the number of evaluations."""

    draws: Array
    lp: Array
    ess: float
    num_evaluations: int


def programs(log_density: Density) -> Programs:
    """Value and gradient at a point, and values at many points, of a density (z, argument)."""
    return compiled(jax.value_and_grad(log_density)), at_points(log_density)


def weighted_draws(
    of: Programs,
    argument: object,
    center: Array,
    covariance: Array,
    n: int,
    rng: np.random.Generator,
) -> WeightedDraws | None:
    """Draws of a density that is nearly normal with a known covariance; None where it is not.

    Parameters
    ----------
    of
        `programs` of the density.
    argument
        Its argument.
    center, covariance
        Where the climb begins, (d,), and the covariance to be expected, (d, d).
    n
        Draws.
    rng
        Source of the points.
    """
    gradient_of, values_of = of
    place, spent = climbed(gradient_of, argument, center, covariance)
    if place is None:
        return None
    root = np.linalg.cholesky(covariance)
    proposal = Mixture(np.array([1.0 - DEFENSIVE, DEFENSIVE]), np.array([place, place]), np.array([root, WIDE * root]))
    points = proposal.draw(max(POINTS, 2 * n), rng)
    values = np.asarray(values_of(points, argument))
    if np.isnan(values).any() or np.isfinite(values).sum() < len(points) // 2:
        return None
    weights = smoothed(values - proposal.log_density(points))
    if not (weights.k_hat < EVEN_TAIL and weights.ess >= EVEN_SHARE * len(points)):
        return None
    chosen = rng.permutation(systematic(np.exp(weights.log_weights), n, rng))
    return WeightedDraws(points[chosen], values[chosen], worth(weights.ess, n), spent + len(points))


def climbed(
    gradient_of: Callable[..., tuple[jax.Array, jax.Array]], argument: object, start: Array, covariance: Array
) -> tuple[Array | None, int]:
    """Where Newton steps with a fixed covariance (d, d) end, None where they do not, and the number of evaluations.

    `gradient_of` gives value and gradient at a point (d,) for an argument.
    """
    z, spent = np.asarray(start, dtype=np.float64), 1
    value, gradient = (np.asarray(x) for x in gradient_of(z, argument))
    for _ in range(_STEPS):
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return None, spent
        step = covariance @ gradient
        if gradient @ step < _NEAR:
            return z, spent
        for factor in (1.0, 0.5, 0.25, 0.125):
            new, slope = (np.asarray(x) for x in gradient_of(z + factor * step, argument))
            spent += 1
            if new > value:
                break
        else:
            return None, spent
        z, value, gradient = z + factor * step, new, slope
    return None, spent
