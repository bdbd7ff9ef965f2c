"""The likelihood of two-time maps from whole arrays of pairs of frames: slow, obvious, right."""

from typing import Any

import numpy as np
from scipy.special import logsumexp

from homodyne.likelihood.maps import Maps
from homodyne.likelihood.nodes import Moments
from homodyne.likelihood.scaling import ScalingPrior, loguniform
from homodyne.physics.model import CorrelationModel

Array = np.ndarray[Any, np.dtype[Any]]


SCALING = ScalingPrior.product([(1.0, 1.0, 0.1)], loguniform(0.01, 1.0))
"""Prior of offset and contrast as it is by default."""


def whole_maps(model: CorrelationModel, params: dict[str, float], maps: Maps) -> list[tuple[Array, Array]]:
    """Values and g of every map at all its pairs of frames that are there, each (number of pairs,)."""
    i, j = np.triu_indices(maps.num_frames, 1)
    gap, found = np.nan if maps.gap is None else maps.gap, []
    for k in range(maps.num_maps):
        y, g = maps.values[k][i, j], model.g(params, maps.t[i], maps.t[j], maps.q[k], maps.phi[k], gap)
        there = maps.alive[k][i] & maps.alive[k][j] & np.isfinite(y)
        found.append((np.asarray(y[there], dtype=np.float64), np.asarray(g)[there]))
    return found


def whole_moments(model: CorrelationModel, params: dict[str, float], maps: Maps) -> Moments:
    """`Moments` of maps, for independent pairs of weight one."""
    rows = []
    for y, g in whole_maps(model, params, maps):
        off = y - y.mean()
        rows.append([y.size, y.size, y.mean(), off @ off, 0.0, g.sum(), g @ g, off @ g])
    return Moments(*np.array(rows, dtype=np.float64).T)


def integrated(y: Array, g: Array, sigma: float, prior: ScalingPrior, points: int = 200) -> float:
    """Log of the likelihood of one map, integrated over offset and contrast by quadrature.

    Gauss-Legendre over eight standard deviations of what data and each normal distribution of the prior leave of them.
    """
    parts = zip(prior.mean, prior.precision, strict=True)
    return float(logsumexp(prior.log_weight + np.array([_integrated(y, g, sigma, *one, points) for one in parts])))


def _integrated(y: Array, g: Array, sigma: float, mean: Array, precision: Array, points: int) -> float:
    design = np.stack([np.ones_like(g), g], axis=1)
    information = design.T @ design / sigma**2 + np.diag(precision)
    middle = np.linalg.solve(information, design.T @ y / sigma**2 + precision * mean)
    root = np.linalg.cholesky(np.linalg.inv(information))
    x, weight = np.polynomial.legendre.leggauss(points)
    x, weight = 8.0 * x, 8.0 * weight
    pairs = middle + np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2) @ root.T
    left = ((y - pairs[:, :1] - pairs[:, 1:] * g) ** 2).sum(axis=1) / sigma**2
    log_likelihood = -0.5 * left - y.size * np.log(sigma * np.sqrt(2 * np.pi))
    log_prior = -0.5 * ((pairs - mean) ** 2 * precision).sum(axis=1) + 0.5 * np.log(precision / (2 * np.pi)).sum()
    total = log_likelihood + log_prior
    volume = np.outer(weight, weight).ravel() * np.prod(np.diag(root))
    return float(total.max() + np.log(volume @ np.exp(total - total.max())))
