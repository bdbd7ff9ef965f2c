"""The posterior that samplers see: prior and marginal likelihood as one log density of an unconstrained vector.

`Posterior.log_density` is what is optimised, sampled and certified; `Posterior.physical_draws` turns draws of the vector into draws of
everything that has a name, contrast and offset included, which are drawn from their exact conditional distribution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from homodyne.core.likelihood import Likelihood

Array = np.ndarray[Any, np.dtype[Any]]
Progress = Callable[[str, int, int], None]

SIGMA_PRIOR = (np.log(0.1), 3.0)
"""Mean and standard deviation of the normal prior of log sigma, where sigma is sampled."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior of the coordinates of `likelihood.space` and, where `sigma` is None, of the logarithm of the noise per angle.

    Attributes
    ----------
    likelihood : Likelihood
    sigma : (n_phi,) array or None
        Standard deviation of a point of weight one at every angle.
    """

    likelihood: Likelihood
    sigma: Array | None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the elements of z."""
        own = self.likelihood.space.coordinate_names
        extra = () if self.sigma is not None else tuple(f"log_sigma[{k}]" for k in range(len(self.likelihood.phi)))
        return (*own, *extra)

    @property
    def dim(self) -> int:
        """Length of z."""
        return len(self.names)

    def split(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Coordinates and noise of every angle."""
        if self.sigma is not None:
            return z, jnp.asarray(self.sigma)
        own = self.likelihood.space.dim
        return z[:own], jnp.exp(z[own:])

    def log_prior(self, z: jax.Array) -> jax.Array:
        """Log density of the prior in z."""
        own, sigma = self.split(z)
        total = self.likelihood.space.log_prior(own)
        if self.sigma is None:
            mean, sd = SIGMA_PRIOR
            total += jax.scipy.stats.norm.logpdf(jnp.log(sigma), mean, sd).sum()
        return total

    def log_likelihood(self, z: jax.Array) -> jax.Array:
        """Marginal log likelihood of the data."""
        return self.likelihood.log_likelihood(*self.split(z))

    def log_density(self, z: jax.Array) -> jax.Array:
        """Log prior plus log likelihood; -inf outside the support."""
        total = self.log_prior(z) + self.log_likelihood(z)
        return jnp.where(jnp.isfinite(total), total, -jnp.inf)

    @cached_property
    def value(self) -> Callable[[Any], jax.Array]:
        """Compiled `log_density`."""
        return jax.jit(self.log_density)

    @cached_property
    def value_and_gradient(self) -> Callable[[Any], tuple[jax.Array, jax.Array]]:
        """Compiled `log_density` with its gradient."""
        return jax.jit(jax.value_and_grad(self.log_density))

    @cached_property
    def _named(self) -> Callable[[Any], Any]:
        def named(z: jax.Array) -> Any:
            own, sigma = self.split(z)
            moments = self.likelihood.moments(own)
            mean, cov = self.likelihood.scaling_posterior(moments, sigma)
            log_density = self.log_prior(z) + self.likelihood.from_moments(moments, sigma).sum()
            return self.likelihood.space.physical(own), sigma, mean, cov, log_density

        return jax.jit(named)

    def physical_draws(
        self, z: Array, rng: np.random.Generator, progress: Progress = lambda stage, done, total: None
    ) -> tuple[dict[str, Array], Array]:
        """Draws of the physical parameters, contrast, offset and, where sampled, sigma from draws of z.

        Parameters
        ----------
        z : (..., dim) array
            Draws of the coordinates; every distinct one costs one pass over the data.
        rng : numpy Generator
            Source of the conditional draws of (offset, contrast).
        progress : callable
            Told ("contrast and offset", passes done, total).

        Returns
        -------
        draws : dict
            Free parameters of shape (...,), "contrast" and "offset" (and "sigma") of shape (..., n_phi).
        log_density : (...,) array
            Exact log posterior density at the draws of z.
        """
        space, n_phi = self.likelihood.space, len(self.likelihood.phi)
        distinct, which = np.unique(z.reshape(-1, self.dim), axis=0, return_inverse=True)
        count, which = len(distinct), which.reshape(z.shape[:-1])
        params, lp = np.empty((count, len(space.names))), np.empty(count)
        sigma, mean, root = np.empty((count, n_phi)), np.empty((count, n_phi, 2)), np.empty((count, n_phi, 2, 2))
        for k, point in enumerate(distinct):
            by_name, sigma[k], mean[k], cov, lp[k] = self._named(point)
            params[k] = [by_name[name] for name in space.names]
            root[k] = np.linalg.cholesky(cov)
            progress("contrast and offset", k + 1, count)
        noise = rng.standard_normal((*which.shape, n_phi, 2))
        pair = mean[which] + np.einsum("...ij,...j->...i", root[which], noise)
        draws = {name: params[which, k] for k, name in enumerate(space.names) if name in space.free_names}
        draws["contrast"], draws["offset"] = pair[..., 1], pair[..., 0]
        if self.sigma is None:
            draws["sigma"] = sigma[which]
        return draws, lp[which]
