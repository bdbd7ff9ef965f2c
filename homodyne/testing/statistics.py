"""Assertions about draws whose tolerance is their own Monte Carlo error.

They fail for bias, or for draws that mix too badly to show bias (a floor of effective draws is demanded), but not for
luck: a correct sampler fails one assertion in ten thousand, however many coordinates are compared.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from homodyne.arrays import Array
from homodyne.certificate.chains import array_stats

LUCK = 1e-4  # probability that an assertion about correct draws fails


def assert_mean(draws: npt.ArrayLike, expected: npt.ArrayLike, min_ess: float = 400.0) -> None:
    """Assert the means of draws (chain, draw, d), or independent draws (n, d), to be ``expected`` (d,)."""
    x = _chains(draws)
    mean, error, ess = _means(x, _is_independent(draws))
    _compare("mean", mean, np.broadcast_to(np.asarray(expected, dtype=np.float64), mean.shape), error, ess, min_ess)


def assert_covariance(
    draws: npt.ArrayLike, mean: npt.ArrayLike, covariance: npt.ArrayLike, min_ess: float = 100.0
) -> None:
    """Assert second moments about the exact ``mean`` (d,) to be the exact ``covariance`` (d, d).

    All products of coordinates whitened by the exact covariance are compared with one or zero, so that narrow
    directions count as much as wide ones.
    """
    x = _chains(draws)
    factor = np.linalg.cholesky(np.atleast_2d(np.asarray(covariance, dtype=np.float64)))
    white = np.linalg.solve(factor, (x - np.asarray(mean)).reshape(-1, x.shape[2]).T).T
    rows, columns = np.tril_indices(x.shape[2])
    products = (white[:, rows] * white[:, columns]).reshape(*x.shape[:2], -1)
    value, error, ess = _means(products, _is_independent(draws))
    _compare("whitened covariance", value, (rows == columns).astype(np.float64), error, ess, min_ess)


def assert_quantiles(
    draws: npt.ArrayLike,
    quantile: Callable[[float], npt.ArrayLike],
    min_ess: float = 100.0,
    probabilities: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95),
) -> None:
    """Assert that the exact marginal quantiles, ``quantile(p)`` as (d,), cut off the right shares of the draws."""
    x = _chains(draws)
    below = np.concatenate([(x < np.asarray(quantile(p))).astype(np.float64) for p in probabilities], axis=2)
    value, error, ess = _means(below, _is_independent(draws))
    _compare("share below a quantile", value, np.repeat(probabilities, x.shape[2]), error, ess, min_ess)


def assert_same_distribution(first: npt.ArrayLike, second: npt.ArrayLike, min_ess: float = 100.0) -> None:
    """Assert two sets of draws, each (chain, draw, d) or independent (n, d), to have one distribution.

    Compares means, all second moments, and shares below the pooled 5 %, 50 % and 95 % quantiles.
    """
    a, b = _chains(first), _chains(second)
    pooled = np.concatenate([a.reshape(-1, a.shape[2]), b.reshape(-1, b.shape[2])])
    factor = np.linalg.cholesky(np.atleast_2d(np.cov(pooled, rowvar=False)))
    rows, columns = np.tril_indices(a.shape[2])
    levels = np.quantile(pooled, [0.05, 0.5, 0.95], axis=0)

    def features(x: Array) -> Array:
        flat = x.reshape(-1, x.shape[2])
        white = np.linalg.solve(factor, (flat - pooled.mean(axis=0)).T).T
        below = [(flat < level).astype(np.float64) for level in levels]
        return np.hstack([white, white[:, rows] * white[:, columns], *below]).reshape(*x.shape[:2], -1)

    one, error_one, ess_one = _means(features(a), _is_independent(first))
    two, error_two, ess_two = _means(features(b), _is_independent(second))
    ess = np.minimum(ess_one, ess_two)
    _compare("feature", one, two, np.hypot(error_one, error_two), ess, min_ess)


def _chains(draws: npt.ArrayLike) -> Array:
    x = np.asarray(draws, dtype=np.float64)
    x = x[None] if x.ndim == 2 else x
    assert x.ndim == 3, f"draws have shape {x.shape}, expected (chain, draw, d) or (n, d)"
    assert np.isfinite(x).all(), f"{(~np.isfinite(x)).sum()} values of the draws are not finite"
    return x


def _is_independent(draws: npt.ArrayLike) -> bool:
    return np.ndim(draws) == 2


def _means(x: Array, independent: bool) -> tuple[Array, Array, Array]:
    """Means over chains and draws, their Monte Carlo errors and effective sample sizes, (k,) each."""
    mean, sd = x.mean(axis=(0, 1)), x.std(axis=(0, 1), ddof=1)
    if independent:
        ess = np.full(x.shape[2], float(x.shape[1]))
    else:
        ess = np.asarray(array_stats().ess(np.moveaxis(x, 2, 0), method="mean"), dtype=np.float64)
        moving = (np.ptp(x, axis=1) > 0.0).all(axis=0) | (sd == 0.0)
        ess = np.where(moving, ess, 0.0)  # a chain that never moves has no effective draws
    with np.errstate(divide="ignore"):
        return mean, sd / np.sqrt(ess), ess


def _compare(what: str, value: Array, expected: Array, error: Array, ess: Array, min_ess: float) -> None:
    from scipy.stats import norm

    poorest = int(np.argmin(ess))
    assert ess[poorest] >= min_ess, (
        f"{what} {poorest} has {ess[poorest]:.0f} effective draws, {min_ess:.0f} are demanded to say anything"
    )
    limit = norm.isf(0.5 * LUCK / len(value))
    score = np.abs(value - expected) / np.where(error > 0.0, error, np.finfo(np.float64).tiny)
    score = np.where(value == expected, 0.0, score)
    worst = int(np.argmax(score))
    assert score[worst] <= limit, (
        f"{what} {worst} is {value[worst]:.6g} +- {error[worst]:.2g}, expected {expected[worst]:.6g}: "
        f"{score[worst]:.1f} standard errors off, at most {limit:.1f} are luck"
    )
