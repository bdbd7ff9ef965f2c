"""From a sandwich covariance to the adjustment of the likelihood that gives the posterior its width."""

from typing import Any

import numpy as np

from homodyne.core.adjustment import Adjustment
from homodyne.core.sandwich import Sandwich

Array = np.ndarray[Any, np.dtype[Any]]


def adjustment_to(
    sandwich: Sandwich,
    mode: Array,
    covariance: Array,
    prior_slope: Array,
    prior: Array,
    pair_prior: Array,
) -> Adjustment:
    """Adjustment whose likelihood has the curvature of the sandwich.

    Parameters
    ----------
    sandwich : Sandwich
        At the mode.
    mode, covariance : (d,) and (d, d) arrays
        Of the posterior for independent points.
    prior_slope : (d,) array
        Gradient of the log prior at the mode.
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
        center=mode - covariance @ prior_slope,
        matrix=matrix,
        widening=float(np.sqrt(power)),
        pair_slope=sandwich.pair_slope - sandwich.elimination @ matrix,
        pair_root=pair_root,
    )


def adjusted_covariance(adjustment: Adjustment, covariance: Array, prior: Array) -> Array:
    """Covariance of the calibrated posterior where that for independent points has `covariance`, to first order."""
    information = np.linalg.inv(covariance) - prior
    narrowed = adjustment.matrix.T @ information @ adjustment.matrix / adjustment.widening**2
    return np.asarray(np.linalg.inv(narrowed + prior))
