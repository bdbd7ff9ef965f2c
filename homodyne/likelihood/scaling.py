"""Contrast and offset of every map, integrated out.

    y ~ Normal(offset + contrast * g, sigma² / w)

Given g this is linear in (offset, contrast), together called the scaling of a map. Their prior is a mixture of normal
distributions, K of them, often one. With X = (1, g), and mean m and precision P of one of these, the normal equations
A = X'WX/sigma² + P and b = X'W(y - Xm)/sigma² hold everything: the marginal likelihood, and the conditional
distribution from which offset and contrast are drawn exactly.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Float

from homodyne import two_by_two
from homodyne.arrays import Array, Leaf
from homodyne.likelihood.nodes import Moments
from homodyne.noise.adjustment import Adjustment, Calibration
from homodyne.physics.compiling import Numbers

Sigma: TypeAlias = Float[Numbers, "maps"]
Difference: TypeAlias = Float[Numbers, "coordinates"]
_Estimate: TypeAlias = tuple[Float[jax.Array, "maps 2"], Float[jax.Array, "maps 2 2"]]

_WEAK = 1e-10, 1e-30  # precision that says nothing, over that of the data and that of the prior


Components = Sequence[tuple[float, float, float]]
"""Normal distributions that together are the prior of a quantity: weight, mean and standard deviation of each."""


def loguniform(low: float, high: float) -> Components:
    """Normal distributions, one for every factor of about two, whose logarithm is about uniform from low to high.

    The density times the value is constant within 5 % but for the last factor of two at both ends, which are soft.
    """
    count = max(1, round(np.log2(high / low)))
    means = low * (high / low) ** ((np.arange(count) + 0.5) / count)
    return [(1.0 / count, float(mean), float(mean) / 2.0) for mean in means]


class ScalingPrior(NamedTuple):
    """Prior of the offset and of the contrast of a map, a mixture of normal distributions; maps are independent.

    Attributes
    ----------
    log_weight : (K,) array
    mean, precision : (K, 2) array
        Of (offset, contrast), which are independent within each.
    """

    log_weight: Float[Leaf, "components"]
    mean: Float[Leaf, "components 2"]
    precision: Float[Leaf, "components 2"]

    @classmethod
    def product(cls, offset: "Components", contrast: "Components") -> "ScalingPrior":
        """Prior of an offset and a contrast that are independent, from those of each."""
        pairs = [(a, b) for a in offset for b in contrast]
        log_weight, mean, sd = np.moveaxis(np.array(pairs), -1, 0)
        return cls(np.log(log_weight).sum(-1), mean, sd**-2.0)

    def to_power(self, power: float | jax.Array) -> "ScalingPrior":
        """Prior to a power, up to a factor: exact for one normal distribution, else where neighbours are alike."""
        if len(self.log_weight) == 1:
            return self._replace(precision=power * self.precision)
        height = 0.5 * jnp.log(self.precision).sum(-1)
        weight = power * (self.log_weight + height) - height
        return self._replace(log_weight=weight - logsumexp(weight))

    def log_density(self, pairs: Float[Numbers, "*pairs 2"]) -> Float[jax.Array, "*pairs"]:
        """Log density at pairs (..., 2)."""
        return jnp.asarray(logsumexp(self._terms(pairs), axis=-1))

    def precision_at(self, pairs: Float[Numbers, "*pairs 2"]) -> Float[jax.Array, "*pairs 2"]:
        """Mean precision (..., 2) of the normal distributions to which pairs (..., 2) may belong."""
        return jax.nn.softmax(self._terms(pairs), axis=-1) @ jnp.asarray(self.precision)

    @property
    def middle(self) -> Float[jax.Array, "2"]:
        """Mean of (offset, contrast), (2,)."""
        return jnp.exp(jnp.asarray(self.log_weight)) @ jnp.asarray(self.mean)

    def _terms(self, pairs: Float[Numbers, "*pairs 2"]) -> Float[jax.Array, "*pairs components"]:
        precision = jnp.asarray(self.precision)
        square = precision * (jnp.asarray(pairs)[..., None, :] - self.mean) ** 2
        return jnp.asarray(self.log_weight + 0.5 * (jnp.log(precision / (2 * jnp.pi)) - square).sum(-1))


class ScalingPosterior(NamedTuple):
    """Distribution of (offset, contrast) of every map given g: a mixture as its prior.

    log_weight (..., K, n_maps), mean (..., K, n_maps, 2), covariance (..., K, n_maps, 2, 2).
    """

    log_weight: Float[Leaf, "components maps"]
    mean: Float[Leaf, "components maps 2"]
    covariance: Float[Leaf, "components maps 2 2"]

    def moments(self) -> tuple[jax.Array, jax.Array]:
        """Mean (..., n_maps, 2) and covariance (..., n_maps, 2, 2)."""
        weight = jnp.exp(jnp.asarray(self.log_weight))
        mean = (weight[..., None] * self.mean).sum(axis=-3)
        off = self.mean - mean[..., None, :, :]
        square = self.covariance + off[..., :, None] * off[..., None, :]
        return mean, (weight[..., None, None] * square).sum(axis=-4)


def marginal_log_likelihood(
    m: Moments, sigma: Sigma, prior: ScalingPrior, adjustment: Adjustment, difference: Difference
) -> Float[jax.Array, "maps"]:
    """Log likelihood of every map with offset and contrast integrated out, (n_maps,), normalised.

    Parameters
    ----------
    m : Moments
    sigma : (n_maps,) array
        Standard deviation of a pair of weight one.
    prior : ScalingPrior
    adjustment : Adjustment
        Calibration for correlated noise.
    difference : (d,) array
        z minus the centre of the adjustment.
    """
    return jnp.asarray(logsumexp(_terms(m, sigma, prior, adjustment, difference)[0], axis=0))


def scaling_posterior(
    m: Moments, sigma: Sigma, prior: ScalingPrior, adjustment: Adjustment, difference: Difference
) -> ScalingPosterior:
    """Distribution of (offset, contrast) of every map given z; parameters as above."""
    total, (mean, information) = _terms(m, sigma, prior, adjustment, difference)
    base = jnp.stack([m.mean, jnp.zeros_like(m.mean)], axis=1)

    def one(own: jax.Array, precision: jax.Array) -> tuple[jax.Array, jax.Array]:
        normal = information + jnp.diag(precision)
        right = jnp.einsum("kij,kj->ki", information, mean - base) + precision * (own - base)
        return two_by_two.solve(normal, right) + base, two_by_two.inverse(normal)

    return ScalingPosterior(total - logsumexp(total, axis=0), *jax.vmap(one)(*map(jnp.asarray, prior[1:])))


def scaling_estimate(
    m: Moments, sigma: Sigma, prior: ScalingPrior, adjustment: Adjustment, difference: Difference
) -> _Estimate:
    """What the data alone say of (offset, contrast): estimate (n_maps, 2), information (n_maps, 2, 2); see above."""
    return _estimates(m, effective_noise(sigma, adjustment), prior, adjustment, difference)[1]


def scaling_draws(found: ScalingPosterior, rng: np.random.Generator) -> Float[Array, "... maps 2"]:
    """Draw (offset, contrast) of every map, (..., n_maps, 2), from their conditional distributions."""
    weight, mean, covariance = (np.asarray(values) for values in found)
    if weight.shape[-2] == 1:
        mean, covariance = mean[..., 0, :, :], covariance[..., 0, :, :, :]
    else:
        below = np.cumsum(np.exp(weight), axis=-2)[..., :-1, :] < rng.random((*weight.shape[:-2], 1, weight.shape[-1]))
        which = below.sum(axis=-2)[..., None, :, None]
        mean = np.take_along_axis(mean, which, axis=-3)[..., 0, :, :]
        covariance = np.take_along_axis(covariance, which[..., None], axis=-4)[..., 0, :, :, :]
    noise = rng.standard_normal(mean.shape)
    return np.asarray(mean + np.einsum("...ij,...j->...i", np.linalg.cholesky(covariance), noise))


def effective_noise(sigma: Float[Numbers, "maps"], calibration: Adjustment | Calibration) -> Float[jax.Array, "maps"]:
    """Noise (n_maps,) that the calibrated likelihood takes instead of sigma."""
    return jnp.asarray(jnp.asarray(sigma) * calibration.widening)


def least_squares(m: Moments) -> tuple[Float[Array, "*many maps"], Float[Array, "*many maps"]]:
    """Weighted sum of squared residuals (..., n_maps) at the best offset and contrast >= 0, and that contrast."""
    g, weight, gg, yg, scatter = (np.asarray(x) for x in (m.g, m.weight, m.gg, m.yg, m.scatter))
    spread = gg - g**2 / np.where(weight > 0, weight, 1.0)
    contrast = np.maximum(yg / np.where(spread > 1e-12 * gg, spread, np.inf), 0.0)
    return scatter - 2 * contrast * yg + contrast**2 * spread, contrast


def _terms(
    m: Moments, sigma: Sigma, prior: ScalingPrior, adjustment: Adjustment, difference: Difference
) -> tuple[Float[jax.Array, "components maps"], _Estimate]:
    """Logarithms of the terms (K, n_maps) whose sum is the likelihood, and what the data say of (offset, contrast)."""
    noise = effective_noise(sigma, adjustment)
    constant = -0.5 * m.points * jnp.log(2 * jnp.pi * noise**2) + 0.5 * m.log_weights
    before, after = _estimates(m, noise, prior, adjustment, difference)

    def one(log_weight: jax.Array, mean: jax.Array, precision: jax.Array) -> jax.Array:
        normal, right, misfit = _normal_equations(m, noise, mean, precision)
        volume = two_by_two.log_det(normal) - jnp.log(precision).sum()
        total = constant - 0.5 * (m.scatter / noise**2 + misfit - two_by_two.quadratic(normal, right)) - 0.5 * volume
        # what the prior says of z through offset and contrast, anew
        change = _log_evidence(*after, mean, precision) - _log_evidence(*before, mean, precision)
        return jnp.asarray(log_weight + total + change)

    return jax.vmap(one)(*map(jnp.asarray, prior)), after


def _normal_equations(
    m: Moments, sigma: Sigma, mean: Float[jax.Array, "2"], precision: Float[jax.Array, "2"]
) -> tuple[Float[jax.Array, "maps 2 2"], Float[jax.Array, "maps 2"], Float[jax.Array, "maps"]]:
    """A and b for (offset - mean of the data, contrast), and the prior's misfit of zero."""
    prior_mean = mean - jnp.stack([m.mean, jnp.zeros_like(m.mean)], axis=1)
    data = two_by_two.matrix(m.weight, m.g, m.gg) / sigma[:, None, None] ** 2
    right = jnp.stack([jnp.zeros_like(m.yg), m.yg], -1) / sigma[:, None] ** 2 + precision * prior_mean
    return data + jnp.diag(precision), right, (precision * prior_mean**2).sum(-1)


def _estimates(
    m: Moments, sigma: Sigma, prior: ScalingPrior, adjustment: Adjustment, difference: Difference
) -> tuple[_Estimate, _Estimate]:
    """(offset, contrast) and their information without the prior, for independent pairs and as adjusted.

    What the data leave open is decided by a prior too weak to matter elsewhere; a second step takes that out.
    """
    data, right, _ = _normal_equations(m, sigma, jnp.zeros(2), jnp.zeros(2))
    base = jnp.stack([m.mean, jnp.zeros_like(m.mean)], axis=1)
    weak = _WEAK[0] * jnp.diagonal(data, axis1=1, axis2=2) + _WEAK[1] * jnp.asarray(prior.precision).min(axis=0)
    found = prior.middle - base
    normal = data + weak[:, :, None] * jnp.eye(2)
    for _ in range(2):
        found = two_by_two.solve(normal, right + weak * found)
    before = found + base, normal
    return before, adjustment.scaling(difference, *before)


def _log_evidence(mean: jax.Array, information: jax.Array, prior_mean: jax.Array, precision: jax.Array) -> jax.Array:
    """Log density of estimates (n_maps, 2) of what has a normal prior, less half the log determinant of information."""
    whole, off = information + jnp.diag(precision), mean - prior_mean
    square = jnp.einsum("ki,kij,kj->k", off, information, two_by_two.solve(whole, precision * off))
    return jnp.asarray(-0.5 * (two_by_two.log_det(whole) + square))
