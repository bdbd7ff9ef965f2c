"""How far apart the shards' normal approximations are: symmetric Kullback-Leibler divergence.

:func:`symmetric_kl` gives the matrix of a picture, :func:`kl_threshold` the value that healthy shards of one size
exceed with a chosen probability. Healthy shards are not close to each other: their means scatter as widely as their
posteriors are, so that the divergence of two of them is about the number of parameters, however good the run.
"""

import numpy as np

from homodyne.arrays import Array
from homodyne.errors import InputError


def _kl_divergence_gaussian(mu_p: Array, Sigma_p: Array, mu_q: Array, Sigma_q: Array) -> float:
    """Kullback-Leibler divergence KL(p || q) of two normal distributions, in nats.

    Exact (Kullback, Information Theory and Statistics, 1959, chapter 9, eq. 1.2); units cancel by scaling every
    coordinate with its standard deviation, nothing is added to a covariance.

    Parameters
    ----------
    mu_p, mu_q
        Means (d,).
    Sigma_p, Sigma_q
        Covariances (d, d).

    Raises
    ------
    InputError
        A covariance is not positive definite.
    """
    scale = np.sqrt(np.diag(Sigma_q))
    factor_p = _factor(Sigma_p, scale, "Sigma_p")
    factor_q = _factor(Sigma_q, scale, "Sigma_q")
    spread = np.linalg.solve(factor_q, factor_p)
    shift = np.linalg.solve(factor_q, (np.asarray(mu_q) - np.asarray(mu_p)) / scale)
    log_ratio = 2.0 * np.log(np.diag(factor_q) / np.diag(factor_p)).sum()
    return float(0.5 * (np.square(spread).sum() + shift @ shift - len(scale) + log_ratio))


def symmetric_kl(means: Array, covariances: Array) -> Array:
    """Half the sum of KL(p || q) and KL(q || p) for all pairs of M shards (M, M), in nats; zero on the diagonal.

    The logarithms of the determinants cancel: what is left are a distance of means and a trace.

    Parameters
    ----------
    means
        (M, d).
    covariances
        (M, d, d).

    Raises
    ------
    InputError
        A covariance is not positive definite.
    """
    count, dimension = means.shape
    precisions = np.stack([inverse(matrix, f"the covariance of shard {m}") for m, matrix in enumerate(covariances)])
    trace = precisions.reshape(count, -1) @ covariances.reshape(count, -1).T
    shape = 0.25 * (trace + trace.T) - 0.5 * dimension
    np.fill_diagonal(shape, 0.0)
    return np.asarray(pair_distances(means, precisions) + shape)


def pair_distances(means: Array, precisions: Array) -> Array:
    """Squared distances (M, M) of means (M, d) in units of twice the covariance: (a - b)' (P_a + P_b) (a - b) / 4.

    The distance of two healthy shards of one size is chi-square with d degrees of freedom.
    """
    distance = np.empty((len(means), len(means)))
    for m, precision in enumerate(precisions):
        shift = means - means[m]
        distance[m] = np.einsum("mk,mk->m", shift @ precision, shift)
    return np.asarray(0.25 * (distance + distance.T))


def inverse(covariance: Array, name: str) -> Array:
    """Inverse of a covariance by way of its correlations: units, however different, do no harm.

    Raises
    ------
    InputError
        It is not positive definite; the message begins with ``name``.
    """
    sd = np.sqrt(np.diag(covariance))
    factor = _factor(covariance, sd, name)
    half = np.linalg.solve(factor, np.diag(1.0 / sd))
    return np.asarray(half.T @ half)


def _factor(covariance: Array, scale: Array, name: str) -> Array:
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.linalg.cholesky(np.asarray(covariance) / np.outer(scale, scale)))
    except np.linalg.LinAlgError as error:
        raise InputError(f"{name} is not positive definite") from error


def kl_expectation(dimension: int, ess: float) -> float:
    """Mean symmetric divergence of two healthy shards of one size with S effective draws each.

    Means differ by twice the covariance (plus Monte Carlo error), which gives d (1 + 1 / S); covariances from few
    draws differ by chance and their inverses are too large by (S - 1) / (S - d - 2), the mean of the inverse Wishart
    distribution.
    """
    free = ess - dimension - 2.0
    place = dimension * (1.0 + 1.0 / ess) * (ess - 1.0) / free
    return place + 0.5 * dimension * (dimension + 1.0) / free


def kl_threshold(dimension: int, num_shards: int, ess: float, false_alarm: float = 0.01) -> float:
    """Symmetric divergence that the worst pair of healthy shards exceeds with probability ``false_alarm``, or less.

    The part from the means is a multiple of F(d, 2 (S - d - 2)): the precisions of two shards are averaged in it.
    The part from the covariances enters with its mean; it varies little compared with the first.

    Parameters
    ----------
    dimension
        Number of parameters d.
    num_shards
        M; the worst of M (M - 1) / 2 pairs is compared.
    ess
        Effective draws S per shard.

    Raises
    ------
    InputError
        Too few effective draws for that many parameters.
    """
    from scipy.stats import f

    if not ess > dimension + 4:
        raise InputError(f"a shard has {ess:.0f} effective draws; {dimension} parameters need {dimension + 5} or more")
    pairs = max(num_shards * (num_shards - 1) // 2, 1)
    tail = f.isf(false_alarm / pairs, dimension, 2.0 * (ess - dimension - 2.0))
    place = dimension * (1.0 + 1.0 / ess) * (ess - 1.0) / (ess - dimension - 2.0)
    return float(kl_expectation(dimension, ess) + place * (tail - 1.0))
