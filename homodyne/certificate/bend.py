"""Coordinates in which bent ridges are straight.

Ridges of posteriors are bent: one coordinate is nearly a polynomial of others. `Bend.of` takes such polynomials off,
one coordinate after the other: a triangular map of degree three that keeps volumes but for a constant (Marzouk,
Moselhy, Parno and Spantini, in Handbook of Uncertainty Quantification, 2016). Proposals are fitted, and chains run, in
the coordinates that are left.
"""

from dataclasses import dataclass
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from homodyne.arrays import Array, Leaf, Matrix, Points, Values, Vector

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

    mean: Leaf
    factor: Leaf
    order: Leaf
    coefficients: tuple[Leaf, ...]

    @classmethod
    def none(cls, dimension: int) -> "Bend":
        """The map that leaves points (n, dimension) as they are."""
        terms = tuple(np.zeros(_count(k)) for k in range(dimension))
        return cls(np.zeros(dimension), np.eye(dimension), np.arange(dimension), terms)

    @classmethod
    def of(
        cls, points: Points, weights: Values, ess: float, order: Int[npt.NDArray[np.int64], "coordinates"]
    ) -> "Bend":
        """Fit to points (n, d) with normalised weights (n,) worth `ess`, by least squares drawn towards zero."""
        mean, covariance = weighted_moments(points[:, order], weights)
        factor = np.linalg.cholesky(covariance)
        y = np.linalg.solve(factor, (points[:, order] - mean).T).T
        terms, coefficients = _terms(y[:, :-1]), []
        scale = np.sqrt(weights @ np.square(terms)) + 1e-300
        unit = terms / scale
        weighted = unit * weights[:, None]
        products, along = weighted.T @ unit, weighted.T @ y
        for k in range(len(order)):
            count = _count(k)
            if k == 0 or ess < POINTS_TERM * count:
                coefficients.append(np.zeros(count))
                continue
            matrix = products[:count, :count] + count / ess * np.eye(count)
            coefficients.append(np.linalg.solve(matrix, along[:count, k]) / scale[:count])
        return cls(mean, factor, order, tuple(coefficients))

    @property
    def log_scale(self) -> float:
        """Logarithm of |dx / du|."""
        return float(np.log(np.diag(self.factor)).sum())

    def unbent(self, x: Points) -> Points:
        """Map x (n, d) to u (n, d)."""
        y = np.linalg.solve(self.factor, (x[:, self.order] - self.mean).T).T
        table = np.stack([np.pad(c, (0, len(self.coefficients[-1]) - len(c))) for c in self.coefficients], axis=1)
        return np.asarray(y - _terms(y[:, :-1]) @ table)

    def bent(self, u: Points) -> Points:
        """Map u (n, d) to x (n, d)."""
        return np.asarray(_bent(self, u))

    def bent_point(self, u: Float[jax.Array, "coordinates"]) -> Float[jax.Array, "coordinates"]:
        """Map u (d,) to x (d,), as part of a JAX program."""
        return jnp.asarray(_bent(self, u[None], jnp)[0])


def weighted_moments(points: Points, weights: Values) -> tuple[Vector, Matrix]:
    """Mean and covariance, which is made positive definite where the points span no volume."""
    covariance = np.atleast_2d(np.cov(points, rowvar=False, aweights=weights))
    return weights @ points, covariance + 1e-9 * np.diag(np.diag(covariance)) + 1e-300 * np.eye(points.shape[1])


def _bent(bend: Bend, u: Leaf, xp: ModuleType = np) -> Leaf:
    terms = xp.ones((len(u), 1))
    y = u[:, :0]
    for k, c in enumerate(bend.coefficients):
        y = xp.concatenate([y, u[:, k : k + 1] + (terms @ c)[:, None]], axis=1)
        terms = xp.concatenate([terms, *_terms_of_last(y, xp)], axis=1)
    return (bend.mean + y @ bend.factor.T)[:, xp.argsort(bend.order)]


def _terms(y: Points) -> Float[Array, "points terms"]:
    """Terms of polynomials in the columns of y (n, k), as (n, `_count(k)`); those of the first columns come first."""
    terms = [np.ones((len(y), 1))]
    for k in range(y.shape[1]):
        terms.extend(_terms_of_last(y[:, : k + 1]))
    return np.concatenate(terms, axis=1)


def _terms_of_last(y: Leaf, xp: ModuleType = np) -> tuple[Leaf, Leaf]:
    """Products of two and cube, of the last column of y (n, k) with all of them, level beyond REACH."""
    y = xp.clip(y, -REACH, REACH)
    return y * y[:, -1:], y[:, -1:] ** 3


def _count(k: int) -> int:
    """Terms of a polynomial in k coordinates: a constant, products of two, and cubes."""
    return 1 + k * (k + 1) // 2 + k
