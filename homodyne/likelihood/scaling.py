"""Contrast and offset of every map, integrated out.

    y ~ Normal(offset + contrast * g, sigma² / w)

Given g this is linear in (offset, contrast), together called the scaling of a map, whose priors are normal. With X =
(1, g), prior mean m and precision P, the normal equations A = X'WX/sigma² + P and b = X'W(y - Xm)/sigma² hold
everything: the marginal likelihood, and the conditional distribution from which offset and contrast are drawn exactly.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from homodyne import two_by_two
from homodyne.likelihood.nodes import Moments
from homodyne.noise.adjustment import Adjustment

Array = np.ndarray[Any, np.dtype[Any]]

_Estimate = tuple[jax.Array, jax.Array]

_WEAK = 1e-10, 1e-30  # precision that says nothing, over that of the data and that of the prior


@dataclass(frozen=True)
class ScalingPrior:
    """Normal prior of the offset and of the contrast of every map, independent of each other."""

    offset_mean: float = 1.0
    offset_sd: float = 1.0
    contrast_mean: float = 0.5
    contrast_sd: float = 1.0

    @property
    def table(self) -> Array:
        """Mean and precision of (offset, contrast), (2, 2)."""
        return np.array([[self.offset_mean, self.contrast_mean], [self.offset_sd**-2.0, self.contrast_sd**-2.0]])


def marginal_log_likelihood(m: Moments, sigma: Any, scaling: Any, adjustment: Adjustment, difference: Any) -> jax.Array:
    """Log likelihood of every map with offset and contrast integrated out, (n_maps,), normalised.

    Parameters
    ----------
    m : Moments
    sigma : (n_maps,) array
        Standard deviation of a pair of weight one.
    scaling : (2, 2) array
        Mean and precision of the prior of (offset, contrast).
    adjustment : Adjustment
        Calibration for correlated noise.
    difference : (d,) array
        z minus the centre of the adjustment.
    """
    scaling, sigma = jnp.asarray(scaling), effective_noise(sigma, adjustment)
    normal, right, misfit = _normal_equations(m, sigma, scaling)
    volume = two_by_two.log_det(normal) - jnp.log(scaling[1]).sum()
    constant = -0.5 * m.points * jnp.log(2 * jnp.pi * sigma**2) + 0.5 * m.log_weights
    total = constant - 0.5 * (m.scatter / sigma**2 + misfit - two_by_two.quadratic(normal, right)) - 0.5 * volume
    before, after = _estimates(m, sigma, scaling, adjustment, difference)  # what their prior says of z, anew
    return jnp.asarray(total + _log_evidence(*after, scaling) - _log_evidence(*before, scaling))


def scaling_posterior(
    m: Moments, sigma: Any, scaling: Any, adjustment: Adjustment, difference: Any
) -> tuple[jax.Array, jax.Array]:
    """Mean (n_maps, 2) and covariance (n_maps, 2, 2) of (offset, contrast) given z; parameters as above."""
    scaling, sigma = jnp.asarray(scaling), effective_noise(sigma, adjustment)
    base = jnp.stack([m.mean, jnp.zeros_like(m.mean)], axis=1)
    mean, information = _estimates(m, sigma, scaling, adjustment, difference)[1]
    normal = information + jnp.diag(scaling[1])
    right = jnp.einsum("kij,kj->ki", information, mean - base) + scaling[1] * (scaling[0] - base)
    return two_by_two.solve(normal, right) + base, two_by_two.inverse(normal)


def scaling_draws(mean: Array, covariance: Array, rng: np.random.Generator) -> Array:
    """Draw (offset, contrast) of every map, (..., n_maps, 2), from their conditional distributions."""
    noise = rng.standard_normal(mean.shape)
    return np.asarray(mean + np.einsum("...ij,...j->...i", np.linalg.cholesky(covariance), noise))


def effective_noise(sigma: Any, adjustment: Adjustment) -> jax.Array:
    """Noise (n_maps,) that the adjusted likelihood takes instead of sigma."""
    return jnp.asarray(sigma) * adjustment.widening


def least_squares(m: Moments) -> tuple[Array, Array]:
    """Weighted sum of squared residuals (..., n_maps) at the best offset and contrast >= 0, and that contrast."""
    g, weight, gg, yg, scatter = (np.asarray(x) for x in (m.g, m.weight, m.gg, m.yg, m.scatter))
    spread = gg - g**2 / np.where(weight > 0, weight, 1.0)
    contrast = np.maximum(yg / np.where(spread > 1e-12 * gg, spread, np.inf), 0.0)
    return scatter - 2 * contrast * yg + contrast**2 * spread, contrast


def _normal_equations(m: Moments, sigma: jax.Array, scaling: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A and b for (offset - mean of the data, contrast), and the prior's misfit of zero."""
    precision = scaling[1]
    prior_mean = scaling[0] - jnp.stack([m.mean, jnp.zeros_like(m.mean)], axis=1)
    data = two_by_two.matrix(m.weight, m.g, m.gg) / sigma[:, None, None] ** 2
    right = jnp.stack([jnp.zeros_like(m.yg), m.yg], -1) / sigma[:, None] ** 2 + precision * prior_mean
    return data + jnp.diag(precision), right, (precision * prior_mean**2).sum(-1)


def _estimates(
    m: Moments, sigma: jax.Array, scaling: jax.Array, adjustment: Adjustment, difference: Any
) -> tuple[_Estimate, _Estimate]:
    """(offset, contrast) and their information without the prior, for independent pairs and as adjusted.

    What the data leave open is decided by a prior too weak to matter elsewhere; a second step takes that out.
    """
    data, right, _ = _normal_equations(m, sigma, jnp.zeros((2, 2)))
    base = jnp.stack([m.mean, jnp.zeros_like(m.mean)], axis=1)
    weak = _WEAK[0] * jnp.diagonal(data, axis1=1, axis2=2) + _WEAK[1] * scaling[1]
    found = scaling[0] - base
    normal = data + weak[:, :, None] * jnp.eye(2)
    for _ in range(2):
        found = two_by_two.solve(normal, right + weak * found)
    before = found + base, normal
    return before, adjustment.scaling(difference, *before)


def _log_evidence(mean: jax.Array, information: jax.Array, scaling: jax.Array) -> jax.Array:
    """Log density of estimates (n_maps, 2) of what has a normal prior, less half the log determinant of information."""
    whole, off = information + jnp.diag(scaling[1]), mean - scaling[0]
    square = jnp.einsum("ki,kij,kj->k", off, information, two_by_two.solve(whole, scaling[1] * off))
    return jnp.asarray(-0.5 * (two_by_two.log_det(whole) + square))
