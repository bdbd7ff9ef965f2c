"""Distributions with known density that are fitted to draws: what importance sampling proposes from.

Proposals are mixtures of multivariate Student t_7 (`Mixture`): heavier tails than a nearly Gaussian posterior, so that
importance weights stay bounded. `around` fits one to moments and known modes, `shaped` to a cloud of points.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from homodyne.arrays import Array, Matrix, Points, Values, Vector
from homodyne.certificate.density import Evaluate

Mode = tuple[npt.ArrayLike, npt.ArrayLike]
"""A mode (d,) and the covariance (d, d) around it."""

DEGREES = 7.0  # of freedom of every component
WIDE = 2.0  # scale of the defensive component around the main mode
DEFENSIVE = 0.1  # share of the defensive components
KERNELS = 300  # components of a fitted shape
SMALLEST = 1e-8  # variance of a component, of that of the cloud: a stuck chain repeats its points
NEIGHBOURS = 0.02  # share of the cloud that fixes one component: small, or the tips of ridges are cut off


@runtime_checkable
class Density(Protocol):
    """A normalised distribution that can be evaluated and drawn from."""

    def log_density(self, x: Points) -> Values:
        """Return the normalised log density at points (n, d), as (n,)."""
        ...

    def draw(self, n: int, rng: np.random.Generator) -> Points:
        """Return n independent points (n, d)."""
        ...


@dataclass(frozen=True)
class Normal:
    """A normal distribution: mean (d,) and Cholesky factor (d, d) of its covariance."""

    mean: Vector
    factor: Matrix

    @classmethod
    def of(cls, mean: npt.ArrayLike, covariance: npt.ArrayLike) -> "Normal":
        """Build from mean (d,) and positive definite covariance (d, d)."""
        factor: Array = np.asarray(np.linalg.cholesky(np.asarray(covariance)), dtype=np.float64)
        return cls(np.asarray(mean, dtype=np.float64), factor)

    def log_density(self, x: Points) -> Values:
        """Return the normalised log density at points (n, d), as (n,)."""
        white = np.linalg.solve(self.factor, (x - self.mean).T)
        size = np.log(np.diag(self.factor)).sum() + 0.5 * len(self.mean) * np.log(2.0 * np.pi)
        return np.asarray(-0.5 * np.square(white).sum(axis=0) - size)

    def draw(self, n: int, rng: np.random.Generator) -> Points:
        """Return n independent points (n, d)."""
        return self.mean + rng.standard_normal((n, len(self.mean))) @ self.factor.T


@dataclass(frozen=True)
class Mixture:
    """A mixture of multivariate t_7: weights (k,) that sum to one, locations (k, d), Cholesky factors (k, d, d)."""

    weights: Float[Array, "components"]
    locations: Float[Array, "components coordinates"]
    factors: Float[Array, "components coordinates coordinates"]

    def log_density(self, x: Points) -> Values:
        """Return the normalised log density at points (n, d), as (n,)."""
        from scipy.special import gammaln, logsumexp

        d = x.shape[1]
        inverse = np.linalg.inv(self.factors)
        constant = gammaln(0.5 * (DEGREES + d)) - gammaln(0.5 * DEGREES) - 0.5 * d * np.log(DEGREES * np.pi)
        parts = np.empty((len(self.weights), len(x)))
        with np.errstate(divide="ignore"):  # a component without mass counts for nothing
            shares = np.log(self.weights)
        for k, share in enumerate(shares):
            squared = np.square((x - self.locations[k]) @ inverse[k].T).sum(axis=1)
            size = np.log(np.diag(self.factors[k])).sum()
            parts[k] = share + constant - size - 0.5 * (DEGREES + d) * np.log1p(squared / DEGREES)
        total: Array = logsumexp(parts, axis=0)
        return total

    def draw(self, n: int, rng: np.random.Generator) -> Points:
        """Return n independent points (n, d), with the components' shares as even as n allows."""
        shares = (np.arange(n) + rng.random()) / n
        component = np.searchsorted(np.cumsum(self.weights), shares).clip(max=len(self.weights) - 1)
        normal = rng.standard_normal((n, self.locations.shape[1]))
        spread = np.sqrt(DEGREES / rng.chisquare(DEGREES, (n, 1)))
        steps = np.einsum("nij,nj->ni", self.factors[component], normal * spread)
        return rng.permutation(self.locations[component] + steps)

    def widened(self, factor: float) -> "Mixture":
        """Return the mixture with every component wider by a factor."""
        return replace(self, factors=factor * self.factors)

    def joined(self, other: "Mixture", share: float) -> "Mixture":
        """Return the mixture of this one and, with the given share, another."""
        return Mixture(
            np.concatenate([(1.0 - share) * self.weights, share * other.weights]),
            np.concatenate([self.locations, other.locations]),
            np.concatenate([self.factors, other.factors]),
        )


def around(main: Normal, modes: Sequence[Normal], evaluate: Evaluate) -> Mixture:
    """Fit components to a mean and covariance and to known modes, and share the points out among them.

    Nine tenths go by the Laplace estimate of the mass around each centre, log density + log sqrt det covariance; one
    tenth is split evenly between all modes and a component of twice the width around the mean.

    Parameters
    ----------
    main
        Mean and covariance of the draws.
    modes
        Further modes.
    evaluate
        Log densities (n,) of points (n, d), up to a common constant.
    """
    centres = [main, *modes]
    mass = np.ones(len(centres))
    if len(centres) > 1:
        heights = evaluate(np.array([centre.mean for centre in centres]))
        volumes = np.array([np.log(np.diag(centre.factor)).sum() for centre in centres])
        mass = np.exp(np.minimum(heights + volumes - (heights + volumes).max(), 0.0))
        mass = np.nan_to_num(mass) if np.isfinite(heights).any() else np.ones(len(centres))
    weights = (1.0 - DEFENSIVE) * mass / mass.sum()
    weights[1:] += DEFENSIVE / len(centres)
    return Mixture(
        np.append(weights, DEFENSIVE / len(centres)),
        np.array([*(centre.mean for centre in centres), main.mean]),
        np.array([*(centre.factor for centre in centres), WIDE * main.factor]),
    )


def shaped(cloud: Points) -> Mixture:
    """Fit the shape of a cloud (n, d), whatever it is, by components at thinned points.

    Each component takes mean and covariance of the nearest fiftieth of the points (5 d at least), in
    coordinates whitened by the whole cloud: a kernel density estimate with local covariances.
    """
    n, d = cloud.shape
    main = Normal.of(cloud.mean(axis=0), np.atleast_2d(np.cov(cloud, rowvar=False)))
    white = np.linalg.solve(main.factor, (cloud - main.mean).T).T
    size = min(n, max(int(NEIGHBOURS * n), 5 * d))
    chosen = np.unique(np.linspace(0, n - 1, KERNELS).astype(int))
    locations, factors = np.empty((len(chosen), d)), np.empty((len(chosen), d, d))
    for k, index in enumerate(chosen):
        near = white[np.argpartition(np.square(white - white[index]).sum(axis=1), size - 1)[:size]]
        local = np.atleast_2d(np.cov(near, rowvar=False))
        local += max(1e-4 * np.trace(local) / d, SMALLEST) * np.eye(d)
        locations[k] = main.mean + main.factor @ near.mean(axis=0)
        factors[k] = main.factor @ np.linalg.cholesky(local)
    return Mixture(np.full(len(chosen), 1.0 / len(chosen)), locations, factors)
