"""The likelihood of a block of data, with contrast and offset of every angle integrated out.

    y ~ Normal(offset_phi + contrast_phi * g, sigma_phi^2 / w)

Given g this is linear in (offset, contrast), whose priors are normal, so the integral is closed: with X = (1, g), prior mean m and
precision P, the normal equations A = X'WX/sigma^2 + P and b = X'W(y - Xm)/sigma^2 hold everything.  `Likelihood` gives the marginal log
likelihood as a JAX function of the curves, and the conditional distribution of (offset, contrast) from which they are drawn exactly.
Everything is formed from the moments of the block, the only pass over the data.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from homodyne.core.blocks import Block
from homodyne.core.correlation import SHEAR_CONVENTIONS, shear_argument_scale
from homodyne.core.moments import BlockSlot, Implementation, MomentFunction, moment_function
from homodyne.core.parameters import ParameterSpace

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ScalingPrior:
    """Normal prior of the offset and of the contrast of every angle, independent of each other."""

    offset_mean: float = 1.0
    offset_sd: float = 1.0
    contrast_mean: float = 0.5
    contrast_sd: float = 1.0

    @property
    def mean(self) -> Array:
        """(offset, contrast)."""
        return np.array([self.offset_mean, self.contrast_mean])

    @property
    def precision(self) -> Array:
        """Diagonal of the prior precision, (offset, contrast)."""
        return np.array([self.offset_sd, self.contrast_sd]) ** -2.0


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Marginal likelihood of the physical curves given a block.

    Attributes
    ----------
    slot : BlockSlot
        The data.  Exchange ``slot.block`` only through `with_block`, which also renews the sums.
    space : ParameterSpace
    t : (n,) array
        Times of all frames in s.
    phi : (n_phi,) array
        Angles in degrees.
    q : float
        Wave vector in 1/Å.
    gap : float or None
        Distance of the plates in Å, for laminar flow.
    scaling : ScalingPrior
    shear_convention : "he2024" or "legacy"
    implementation : "numba" or "jax"
    """

    slot: BlockSlot
    space: ParameterSpace
    t: Array
    phi: Array
    q: float
    gap: float | None
    scaling: ScalingPrior = ScalingPrior()
    shear_convention: str = "he2024"
    implementation: Implementation = "numba"

    @cached_property
    def sums(self) -> Array:
        """Sums over the data per angle, see `Block.sums`."""
        return self.slot.block.sums()

    @cached_property
    def _moments(self) -> MomentFunction:
        order = SHEAR_CONVENTIONS[self.shear_convention].order
        return moment_function(self.slot, self.implementation, order)

    def with_block(self, block: Block) -> "Likelihood":
        """The same likelihood of other data."""
        return Likelihood(
            BlockSlot(block), self.space, self.t, self.phi, self.q, self.gap,
            self.scaling, self.shear_convention, self.implementation,
        )  # fmt: skip

    def curves(self, z: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        """q^2 int J dt at every frame and, with shear, the pair (h per angle, int γ̇ dt at every frame)."""
        transport, strain, phi0 = self.space.integrals(z, self.t)
        decay = self.q**2 * transport
        if strain is None or self.gap is None:
            return decay, None
        return decay, (shear_argument_scale(self.phi, phi0, self.q, self.gap, self.shear_convention), strain)

    def moments(self, z: jax.Array) -> jax.Array:
        """Sums of w g, w g^2 and w (y - ybar) g per angle, (n_phi, 3); NaN where a rate is not positive.

        ``ybar`` is the mean of the data at that angle; centring keeps digits that a map near 1 would lose.
        """
        usable = self.space.supported(z)
        inside = jnp.where(usable, z, jnp.asarray(self._inside))
        g, gg, yg = self._moments(*self.curves(inside)).T
        centred = jnp.stack([g, gg, yg - jnp.asarray(self.sums[:, 2]) * g], axis=1)
        return jnp.where(usable, centred, jnp.nan)

    @cached_property
    def _inside(self) -> Array:
        """Some point of the support, so that no invalid curve is ever formed."""
        return self.space.draw_supported(np.random.default_rng(0), 1)[0]

    def log_likelihood(self, z: jax.Array, sigma: jax.Array) -> jax.Array:
        """Marginal log likelihood, normalised; -inf where a rate is not positive.

        Parameters
        ----------
        z : (dim,) array
            Coordinates of `space`.
        sigma : (n_phi,) array
            Standard deviation of a point of weight one.
        """
        total = self.from_moments(self.moments(z), sigma).sum()
        return jnp.where(jnp.isfinite(total), total, -jnp.inf)

    def from_moments(self, moments: jax.Array, sigma: jax.Array) -> jax.Array:
        """Marginal log likelihood of every angle, (n_phi,)."""
        count, _, _, scatter, log_weights = jnp.asarray(self.sums).T
        normal, right, misfit = self._normal_equations(moments, sigma)
        root = jnp.linalg.cholesky(normal)
        half = jax.scipy.linalg.solve_triangular(root, right[..., None], lower=True)[..., 0]
        log_det = 2 * jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(-1) - np.log(self.scaling.precision).sum()
        constant = -0.5 * count * jnp.log(2 * jnp.pi * sigma**2) + 0.5 * log_weights
        return constant - 0.5 * (scatter / sigma**2 + misfit - (half**2).sum(-1)) - 0.5 * log_det

    def _normal_equations(self, moments: jax.Array, sigma: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """A, b and the square of the data beyond its scatter, for data and prior mean both measured from ybar.

        Unknowns are (offset - ybar, contrast), whose prior mean is (m_offset - ybar, m_contrast).
        """
        _, weight, mean, _, _ = jnp.asarray(self.sums).T
        g, gg, yg = moments.T
        precision = jnp.asarray(self.scaling.precision)
        prior_mean = jnp.asarray(self.scaling.mean) - jnp.stack([mean, jnp.zeros_like(mean)], axis=1)
        data = jnp.stack([jnp.stack([weight, g], -1), jnp.stack([g, gg], -1)], -2) / sigma[:, None, None] ** 2
        normal = data + jnp.diag(precision)
        right = jnp.stack([jnp.zeros_like(yg), yg], -1) / sigma[:, None] ** 2 + precision * prior_mean
        return normal, right, (precision * prior_mean**2).sum(-1)

    def scaling_posterior(self, moments: jax.Array, sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Conditional mean (n_phi, 2) and covariance (n_phi, 2, 2) of (offset, contrast) given the curves."""
        normal, right, _ = self._normal_equations(moments, sigma)
        mean = jnp.linalg.solve(normal, right[..., None])[..., 0]
        origin = jnp.stack([jnp.asarray(self.sums[:, 2]), jnp.zeros(len(self.phi))], axis=1)
        return origin + mean, jnp.linalg.inv(normal)

    def residual_sum(self, moments: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Least weighted sum of squared residuals per angle over contrast >= 0 and offset, and that contrast."""
        _, weight, _, scatter, _ = jnp.asarray(self.sums).T
        g, gg, yg = moments.T
        spread = gg - g**2 / weight
        contrast = jnp.maximum(yg / jnp.where(spread > 1e-12 * gg, spread, jnp.inf), 0.0)
        return scatter - 2 * contrast * yg + contrast**2 * spread, contrast
