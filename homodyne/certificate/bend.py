"""Coordinates in which bent ridges are straight.

Ridges of posteriors are bent: one coordinate is nearly a polynomial of others. `Bend.of` takes such polynomials off,
one coordinate after the other: a triangular map of degree three that keeps volumes but for a constant (Marzouk,
Moselhy, Parno and Spantini, in Handbook of Uncertainty Quantification, 2016). Proposals are fitted, and chains run, in
the coordinates that are left.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

POINTS_TERM = 10  # effective points, at least, for each term of a polynomial
REACH = 4.0  # standard deviations within which polynomials are followed


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Bend:
    """Map between points x and unbent ones u; a JAX tree.

    Attributes
    ----------
    mean, factor : (d,) and (d, d) arrays
        Of the points, in the order of the coordinates; the factor is that of Cholesky.
    order : (d,) array
        Coordinates from the first, which stays as it is, to the last.
    coefficients : tuple of (terms,) arrays
        Polynomial of those before, for each.
    """

    mean: Any
    factor: Any
    order: Any
    coefficients: tuple[Any, ...]

    @classmethod
    def none(cls, dimension: int) -> "Bend":
        """The map that leaves points (n, dimension) as they are."""
        terms = tuple(np.zeros(_terms(np.zeros((1, k))).shape[1]) for k in range(dimension))
        return cls(np.zeros(dimension), np.eye(dimension), np.arange(dimension), terms)

    @classmethod
    def of(cls, points: Array, weights: Array, ess: float, order: npt.NDArray[np.int64]) -> "Bend":
        """Fit to points (n, d) with normalised weights (n,) worth `ess`, by least squares drawn towards zero."""
        mean, covariance = weighted_moments(points[:, order], weights)
        factor = np.linalg.cholesky(covariance)
        y = np.linalg.solve(factor, (points[:, order] - mean).T).T
        coefficients = []
        for k in range(len(order)):
            terms = _terms(y[:, :k])
            count = terms.shape[1]
            if k == 0 or ess < POINTS_TERM * count:
                coefficients.append(np.zeros(count))
                continue
            scale = np.sqrt(weights @ np.square(terms)) + 1e-300
            unit = terms / scale
            matrix = (unit * weights[:, None]).T @ unit + count / ess * np.eye(count)
            coefficients.append(np.linalg.solve(matrix, (unit * weights[:, None]).T @ y[:, k]) / scale)
        return cls(mean, factor, order, tuple(coefficients))

    @property
    def log_scale(self) -> float:
        """Logarithm of |dx / du|."""
        return float(np.log(np.diag(self.factor)).sum())

    def unbent(self, x: Array) -> Array:
        """Map x (n, d) to u (n, d)."""
        y = np.linalg.solve(self.factor, (x[:, self.order] - self.mean).T).T
        return np.stack([y[:, k] - _terms(y[:, :k]) @ c for k, c in enumerate(self.coefficients)], axis=1)

    def bent(self, u: Array) -> Array:
        """Map u (n, d) to x (n, d)."""
        return np.asarray(_bent(self, u))

    def bent_point(self, u: jax.Array) -> jax.Array:
        """Map u (d,) to x (d,), as part of a JAX program."""
        return jnp.asarray(_bent(self, u[None], jnp)[0])


def weighted_moments(points: Array, weights: Array) -> tuple[Array, Array]:
    """Mean and covariance, which is made positive definite where the points span no volume."""
    covariance = np.atleast_2d(np.cov(points, rowvar=False, aweights=weights))
    return weights @ points, covariance + 1e-9 * np.diag(np.diag(covariance)) + 1e-300 * np.eye(points.shape[1])


def _bent(bend: Bend, u: Any, xp: Any = np) -> Any:
    columns: list[Any] = []
    for k, c in enumerate(bend.coefficients):
        before = xp.stack(columns, axis=1) if columns else u[:, :0]
        columns.append(u[:, k] + _terms(before, xp) @ c)
    y = xp.stack(columns, axis=1)
    return (bend.mean + y @ bend.factor.T)[:, xp.argsort(bend.order)]


def _terms(y: Any, xp: Any = np) -> Any:
    """Constant, products of two, and cubes of the columns of y (n, k), level beyond REACH, as (n, terms)."""
    y = xp.clip(y, -REACH, REACH)
    a, b = np.triu_indices(y.shape[1])
    return xp.concatenate([xp.ones((len(y), 1)), y[:, a] * y[:, b], y**3], axis=1)
