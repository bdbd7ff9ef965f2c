"""A likelihood for independent points, made as wide as correlated noise leaves the estimate.

The points of a map share noise, so the likelihood L that takes them as independent is too narrow. The calibrated one is

    L(z0 + C (z - z0)) with the noise sigma * widening

about its maximum z0. The widening, one number, keeps the shape of the likelihood far from z0; C, in the metric of the
posterior a symmetric matrix near one, turns what is left into the sandwich covariance H^-1 J H^-1. Directions that only
the prior knows stay as they are. (Ribatet, Cooley and Davison, Stat. Sinica 22, 813 (2012), where the widening is one.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_NOTHING = 1e-12  # share of the precision of offset and contrast that is rounding


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Adjustment:
    """What turns the likelihood for independent points into the calibrated one.

    Attributes
    ----------
    center : (d,) array
        Maximum z0 of the likelihood.
    matrix : (d, d) array
        C.
    widening : float
        Factor of the noise.
    pair_slope : (n_phi, 2, d) array
        Change of the conditional mean of (offset, contrast) with z - z0, on top of what the adjusted likelihood has.
    pair_root : (n_phi, 2, 2) array
        Factor of a root of their conditional covariance, both without their prior.
    """

    center: Array
    matrix: Array
    widening: float
    pair_slope: Array
    pair_root: Array

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists, for JSON."""
        return {name: np.asarray(value).tolist() for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Adjustment":
        """Rebuild what `to_dict` returned; TypeError or ValueError where it is something else."""
        arrays: dict[str, Any] = {name: np.asarray(value, dtype=np.float64) for name, value in record.items()}
        return cls(**{**arrays, "widening": float(arrays.get("widening", np.nan))})

    def pair(self, apart: Array, mean: Array, covariance: Array, prior: Array) -> tuple[Array, Array]:
        """Conditional mean (..., n_phi, 2) and covariance (..., n_phi, 2, 2) of (offset, contrast), calibrated.

        The prior is taken out of what the adjusted likelihood says, and put back where the width is right.

        Parameters
        ----------
        apart : (..., d) array
            z - z0.
        mean, covariance
            Of the adjusted likelihood and the prior.
        prior : (2, 2) array
            Mean and precision of the prior.
        """
        whole, expected, known = np.linalg.inv(covariance), prior[0], np.diag(prior[1])
        values, vectors = np.linalg.eigh(whole - known)
        least = _NOTHING * np.trace(whole, axis1=-2, axis2=-1)[..., None]  # an angle without data has no information
        back = np.swapaxes(vectors, -1, -2)
        scatter = (vectors / np.maximum(values, least)[..., None, :]) @ back
        free = _times(scatter, _times(whole, mean) - known @ expected)
        free = free + np.einsum("kia,...a->...ki", self.pair_slope, apart)
        information = np.linalg.inv(self.pair_root @ scatter @ np.swapaxes(self.pair_root, -1, -2))
        found = np.linalg.inv(information + known)
        return _times(found, _times(information, free) + known @ expected), found


def _times(matrix: Array, vector: Array) -> Array:
    """Product of matrices (..., 2, 2) and vectors (..., 2)."""
    return np.asarray((matrix @ vector[..., None])[..., 0])


def unadjusted(dim: int, num_angles: int) -> Adjustment:
    """Adjustment that leaves a likelihood of `dim` coordinates as it is."""
    pair = np.zeros((num_angles, 2, dim)), np.tile(np.eye(2), (num_angles, 1, 1))
    return Adjustment(np.zeros(dim), np.eye(dim), 1.0, *pair)
