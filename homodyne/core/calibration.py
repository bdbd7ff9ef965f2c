"""From a sandwich covariance to the adjustment of the likelihood that gives the posterior its width."""

from typing import Any

import numpy as np

from homodyne.core.adjustment import Adjustment
from homodyne.core.sandwich import Sandwich

Array = np.ndarray[Any, np.dtype[Any]]


def adjustment_to(sandwich: Sandwich, center: Array, covariance: Array) -> Adjustment:
    """Adjustment whose likelihood has the curvature of the sandwich.

    Parameters
    ----------
    sandwich : Sandwich
        At a point near the mode.
    center : (d,) array
        Maximum of the likelihood, as seen from there.
    covariance : (d, d) array
        Of the posterior for independent points.
    """
    root = np.linalg.cholesky(covariance)
    variability, information = (root.T @ x @ root for x in (sandwich.variability, sandwich.information))
    power = float(np.trace(variability) / np.trace(information))
    values, vectors = np.linalg.eigh(variability / power + np.eye(len(root)) - information)
    matrix = root @ (vectors / np.sqrt(values)) @ vectors.T @ np.linalg.inv(root)
    return Adjustment(
        center=center,
        matrix=matrix,
        widening=float(np.sqrt(power)),
        pair_slope=(sandwich.pair_slope - sandwich.elimination @ matrix) / np.sqrt(power),
        pair_spread=sandwich.pair_spread / power,
    )


def adjusted_covariance(adjustment: Adjustment, sandwich: Sandwich, prior: Array, pair_prior: Array) -> Array:
    """Covariance of the calibrated posterior to first order.

    `prior` (d, d) and `pair_prior` (2,) are the precisions of the priors of z and of (offset, contrast).
    """
    narrowed = adjustment.matrix.T @ sandwich.information @ adjustment.matrix / adjustment.widening**2
    root = np.linalg.cholesky(sandwich.pair_information)
    open_ = sandwich.pair_spread + np.swapaxes(root, 1, 2) @ np.diag(1.0 / pair_prior) @ root
    told = np.einsum("kia,kij,kjb->ab", sandwich.pair_slope, np.linalg.inv(open_), sandwich.pair_slope)
    return np.asarray(np.linalg.inv(narrowed + told + prior))
