"""The posterior that samplers see: one log density of an unconstrained vector.

`Posterior.log_density` is what is optimised, sampled and certified; `Posterior.physical_draws` turns draws
of the vector into draws of everything that has a name, contrast and offset included, which are drawn from
their exact conditional distribution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from homodyne.core.likelihood import Evaluation, Likelihood

Array = np.ndarray[Any, np.dtype[Any]]
Progress = Callable[[str, int, int], None]

SIGMA_PRIOR = (np.log(0.1), 3.0)
"""Mean and standard deviation of the normal prior of log sigma, where sigma is sampled."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior of the coordinates and, where `sigma` is None, of the logarithm of the noise per angle.

    Attributes
    ----------
    likelihood : Likelihood
    sigma : (n_phi,) array or None
        Standard deviation of a point of weight one at every angle.
    """

    likelihood: Likelihood
    sigma: Array | jax.Array | None

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
            total += _log_sigma_prior(jnp.log(sigma))
        return total

    def log_likelihood(self, z: jax.Array) -> jax.Array:
        """Marginal log likelihood of the data."""
        return self.likelihood.log_likelihood(*self.split(z))

    def log_density(self, z: jax.Array) -> jax.Array:
        """Log prior plus log likelihood; -inf outside the support."""
        total = self.log_prior(z) + self.log_likelihood(z)
        return jnp.where(jnp.isfinite(total), total, -jnp.inf)

    def evaluate(self, z: Array) -> tuple[float, Evaluation]:
        """Log density at z (dim,) with everything else that the same pass over the data tells."""
        values, at = self.evaluate_many(z[None])
        return float(values[0]), jax.tree.map(lambda x: x[0], at)

    def evaluate_many(
        self, points: Array, progress: Callable[[int], None] = lambda done: None
    ) -> tuple[Array, Evaluation]:
        """Log densities at points (n, dim), with everything else along a leading axis; one pass over the data each."""
        own = self.likelihood.space.dim
        sigma = np.exp(points[:, own:]) if self.sigma is None else np.asarray(self.sigma)
        at = self.likelihood.evaluate_many(points[:, :own], sigma, progress)
        total = np.asarray(at.log_prior + at.log_likelihood)
        if self.sigma is None:
            total = total + np.asarray(_log_sigma_prior(points[:, own:]))
        return np.where(np.isfinite(total), total, -np.inf), at

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
        space = self.likelihood.space
        distinct, which = np.unique(z.reshape(-1, self.dim), axis=0, return_inverse=True)
        count, which = len(distinct), which.reshape(z.shape[:-1])
        lp, at = self.evaluate_many(distinct, lambda done: progress("contrast and offset", done, count))
        pair = scaling_draws(np.asarray(at.scaling_mean)[which], np.asarray(at.scaling_cov)[which], rng)
        draws = {name: np.asarray(at.params[name])[which] for name in space.free_names}
        draws["contrast"], draws["offset"] = pair[..., 1], pair[..., 0]
        if self.sigma is None:
            draws["sigma"] = np.exp(z[..., space.dim :])
        return draws, lp[which]


def scaling_draws(mean: Array, covariance: Array, rng: np.random.Generator) -> Array:
    """Draw (offset, contrast) of every angle, (..., n_phi, 2), from their conditional distributions."""
    noise = rng.standard_normal(mean.shape)
    return np.asarray(mean + np.einsum("...ij,...j->...i", np.linalg.cholesky(covariance), noise))


def _log_sigma_prior(log_sigma: Any) -> jax.Array:
    """Log density of the prior of the logarithms of the noise."""
    return norm.logpdf(log_sigma, *SIGMA_PRIOR).sum(axis=-1)
