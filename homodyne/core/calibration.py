"""From a sandwich covariance to the adjustment of the likelihood that gives the posterior its width."""

from typing import Any

import numpy as np

from homodyne.core.adjustment import Adjustment
from homodyne.core.sandwich import Sandwich

Array = np.ndarray[Any, np.dtype[Any]]


def adjustment_to(sandwich: Sandwich, center: Array, covariance: Array, prior: Array, pair_prior: Array) -> Adjustment:
    """Adjustment whose likelihood has the curvature of the sandwich.

    Parameters
    ----------
    sandwich : Sandwich
        At a point near the mode.
    center : (d,) array
        Maximum of the likelihood, as seen from there.
    covariance : (d, d) array
        Of the posterior for independent points.
    prior : (d, d) array
        Precision of the prior there, positive semidefinite.
    pair_prior : (2,) array
        Precision of the prior of offset and contrast.
    """
    root = np.linalg.cholesky(covariance)
    variability, information, known = (root.T @ x @ root for x in (sandwich.variability, sandwich.information, prior))
    power = float(np.trace(variability) / np.trace(information))
    values, vectors = np.linalg.eigh(variability / power + known)
    matrix = root @ (vectors / np.sqrt(values)) @ vectors.T @ np.linalg.inv(root)
    before = power * np.linalg.inv(sandwich.pair_information + np.diag(pair_prior))
    pair_root = np.linalg.cholesky(sandwich.pair_covariance) @ np.linalg.inv(np.linalg.cholesky(before))
    return Adjustment(
        center=center,
        matrix=matrix,
        widening=float(np.sqrt(power)),
        pair_slope=sandwich.pair_slope - sandwich.elimination @ matrix,
        pair_root=pair_root,
    )


def adjusted_covariance(
    adjustment: Adjustment, sandwich: Sandwich, covariance: Array, prior: Array, pair_prior: Array
) -> Array:
    """Covariance of the calibrated posterior where that for independent points has `covariance`, to first order."""
    information = np.linalg.inv(covariance) - prior
    narrowed = adjustment.matrix.T @ information @ adjustment.matrix / adjustment.widening**2
    of_pairs = np.linalg.inv(sandwich.pair_covariance + np.diag(1.0 / pair_prior))  # what their prior tells of z
    told = np.einsum("kia,kij,kjb->ab", sandwich.pair_slope, of_pairs, sandwich.pair_slope)
    return np.asarray(np.linalg.inv(narrowed + told + prior))
