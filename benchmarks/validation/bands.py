"""Are numbers uniform? Simultaneous bands for their distribution function, and the p-value that goes with them.

Säilynoja, Bürkner and Vehtari, Statistics and Computing 32, 32 (2022): at every point of a grid the count of values
below is binomial, and the band is as wide, pointwise, as makes the whole function stay inside with the probability
wanted. What the pointwise probability must be is found by simulation.
"""

import functools
from typing import Any

import numpy as np
from scipy.stats import binom

Array = np.ndarray[Any, np.dtype[Any]]

_SIMULATIONS = 4000


def grid(count: int) -> Array:
    """Points at which the distribution function of `count` values is looked at."""
    points = min(count, 100)
    return np.arange(1, points) / points


def uniform_p(values: Array) -> float:
    """Probability that uniform values leave a band as wide as these do, or a wider one; no sooner than 1/4001."""
    least = _least_tail(np.asarray(values)[None])[0]
    return float((1 + np.sum(_null(len(values)) <= least)) / (1 + _SIMULATIONS))


def band(count: int, level: float = 0.95) -> tuple[Array, Array]:
    """Lower and upper end of the simultaneous band of the distribution function on `grid`."""
    tail = float(np.quantile(_null(count), 1.0 - level)) / 2.0
    z = grid(count)
    return binom.ppf(tail, count, z) / count, binom.isf(tail, count, z) / count


def _least_tail(values: Array) -> Array:
    """Smallest two-sided pointwise tail probability of each row of values."""
    count, z = values.shape[1], grid(values.shape[1])
    below = np.sum(values[:, :, None] <= z, axis=1)
    low, high = _tails(count)
    return np.minimum(1.0, 2.0 * np.minimum(low[below, np.arange(len(z))], high[below, np.arange(len(z))]).min(axis=1))


@functools.lru_cache
def _tails(count: int) -> tuple[Array, Array]:
    """Probabilities of at most and of at least k of `count` values below points of the grid, (count + 1, points)."""
    k, z = np.arange(count + 1)[:, None], grid(count)
    return binom.cdf(k, count, z), binom.sf(k - 1, count, z)


@functools.lru_cache
def _null(count: int) -> Array:
    """`_least_tail` of uniform values, many times."""
    rng = np.random.default_rng(count)
    batch = max(1, 2_000_000 // (count * len(grid(count)) + 1))
    parts = [_least_tail(rng.random((min(batch, _SIMULATIONS - k), count))) for k in range(0, _SIMULATIONS, batch)]
    return np.concatenate(parts)
