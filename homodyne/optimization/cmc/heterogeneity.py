"""Do the shards agree? Cochran's Q for all of them, for each parameter, and for each shard against the others.

:func:`compare_shards` is the entry; it takes moments and returns numbers with p-values. If the model is right and the
shards are parts of one data set, the mean of shard m scatters about the common value with the shard's own posterior
covariance. Two things are added to this textbook statement, without which healthy runs fail: the Monte Carlo error of
the means, and the noise of covariances that are estimated from S effective draws (precisions are too large by
(S - 1) / (S - d - 2), and squared distances have the heavy tail of Hotelling's T^2).

A shard that does not identify a parameter has a wide posterior and hence little weight. A prior that dominates makes
shards agree better than the null distribution says; the tests for disagreement are then on the safe side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from homodyne.arrays import Array
from homodyne.optimization.cmc.divergence import inverse, pair_distances, symmetric_kl

SAME = 0.999  # share of identical shards whose means are as close as Monte Carlo error allows


@dataclass(frozen=True, eq=False)
class ShardMoments:
    """Moments of M subposteriors with d coordinates.

    Attributes
    ----------
    means : (M, d) array
    covariances : (M, d, d) array
        Of the draws, divided by their number less one.
    ess : (M, d) array
        Effective draws for each mean.
    ess_spread : (M,) array
        Effective draws for the covariance.
    """

    means: Array
    covariances: Array
    ess: Array
    ess_spread: Array

    def subset(self, keep: Sequence[int]) -> "ShardMoments":
        """Moments of some of the shards, by position."""
        rows = list(keep)
        return ShardMoments(self.means[rows], self.covariances[rows], self.ess[rows], self.ess_spread[rows])

    def marginal(self, k: int) -> "ShardMoments":
        """Moments of one coordinate."""
        one = slice(k, k + 1)
        return ShardMoments(self.means[:, one], self.covariances[:, one, one], self.ess[:, one], self.ess_spread)

    @cached_property
    def product(self) -> "_Product":
        """What the tests need of the product of the shards; computed when it is first used."""
        return _product(self)


@dataclass(frozen=True)
class QTest:
    """One homogeneity test.

    Attributes
    ----------
    q : float
        Cochran's Q.
    expected : float
        Its mean for healthy shards.
    p : float
        Probability of a larger Q for healthy shards: small when they disagree.
    p_low : float
        Probability of a smaller one: small when they agree too well.
    """

    q: float
    expected: float
    p: float
    p_low: float


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Every shard against the product of the others.

    Attributes
    ----------
    distance : (M,) array
        Squared distance in units of its covariance; about d for healthy shards.
    score : (M, d) array
        Distance per parameter in standard deviations.
    p : (M,) array
        Probability of a healthy shard being as far off, in all parameters together or in the worst one.
    """

    distance: Array
    score: Array
    p: Array


@dataclass(frozen=True, eq=False)
class Heterogeneity:
    """What :func:`compare_shards` finds. Shards are given by position 0 ... M - 1, parameters likewise.

    Attributes
    ----------
    overall : QTest
    parameters : tuple of QTest
        For each parameter alone.
    p_parameters : (d,) array
        Their p-values after Holm's correction for having d of them.
    leave_one_out : LeaveOneOut
    outliers : tuple of int
        Shards that disagree with those that remain once they are left out, the worst first.
    identical : tuple of pairs
        Shards whose means are as close as if both had the same data.
    divergence : (M, M) array
        Symmetric divergence of every pair, in nats.
    mean, covariance : arrays
        Of the normal product of the shards, (d,) and (d, d).
    mean_error : (d,) array
        Monte Carlo standard error of that mean.
    """

    overall: QTest
    parameters: tuple[QTest, ...]
    p_parameters: Array
    leave_one_out: LeaveOneOut
    outliers: tuple[int, ...]
    identical: tuple[tuple[int, int], ...]
    divergence: Array
    mean: Array
    covariance: Array
    mean_error: Array


@dataclass(frozen=True, eq=False)
class _Product:
    """Moments in units in which the product of the shards has mean near 0 and marginal precisions near 1."""

    origin: Array
    scale: Array
    x: Array  # (M, d) means
    covariances: Array  # (M, d, d), Monte Carlo error included
    precisions: Array  # (M, d, d), unbiased
    free: Array  # (M,) degrees of freedom of the covariances
    ess: Array  # (M, d)
    precision: Array  # (d, d) of the product
    mean: Array  # (d,) of the product

    @property
    def dimension(self) -> int:
        return int(self.x.shape[1])

    @property
    def noise(self) -> Array:
        """Relative variance of the precisions: of a quadratic form it is twice this."""
        return np.asarray(1.0 / (self.free - self.dimension - 3.0))


def compare_shards(moments: ShardMoments, false_alarm: float = 0.01) -> Heterogeneity:
    """Test the shards for disagreement, name those that are off, and those that are too much alike.

    Parameters
    ----------
    moments
        Of two or more shards, each with d + 5 effective draws for its covariance or more.
    false_alarm
        Probability of naming a healthy shard as an outlier, and of naming a healthy pair as identical.

    Raises
    ------
    InputError
        A covariance is not positive definite.
    """
    product = moments.product
    covariance = np.linalg.inv(product.precision)
    # Monte Carlo error of the product's mean: each shard's error with the weight of the shard
    share = covariance @ product.precisions
    error = np.einsum("mij,mjk,mik->i", share, _monte_carlo(product.covariances, product.ess), share)
    tests = tuple(cochran_q(moments.marginal(k)) for k in range(product.dimension))
    return Heterogeneity(
        cochran_q(moments),
        tests,
        holm(np.array([test.p for test in tests])),
        leave_one_out(moments),
        find_outliers(moments, false_alarm),
        find_identical(moments, false_alarm),
        symmetric_kl(
            (moments.means - product.origin) / product.scale,
            moments.covariances / np.outer(product.scale, product.scale),
        ),
        product.origin + product.scale * product.mean,
        covariance * np.outer(product.scale, product.scale),
        product.scale * np.sqrt(error),
    )


def cochran_q(moments: ShardMoments) -> QTest:
    """Cochran's Q = sum_m (x_m - x)' P_m (x_m - x) with its distribution for healthy shards.

    With known covariances Q is chi-square with (M - 1) d degrees of freedom (Cochran, Biometrics 10, 101, 1954).
    Here the precisions P_m are unbiased estimates from S_m effective draws. Their noise lowers the mean of Q,
    because the weights follow the noise, and raises its variance; both to first order in 1 / S (as in Johansen,
    Biometrika 67, 85, 1980). Q is compared with the multiple of an F distribution of this mean and variance.
    """
    from scipy.stats import f

    product = moments.product
    count, dimension = product.x.shape
    residual = product.x - product.mean
    q = float(np.einsum("mi,mij,mj->", residual, product.precisions, residual))
    share = np.asarray(np.linalg.solve(product.precision, product.precisions))
    first, second = _traces(share)  # of the shard's share H in the product; residuals have covariance 1 - H
    rest, rest_square = dimension - first, dimension - 2.0 * first + second
    loss = product.noise @ (first - second + rest * first)
    spread = product.noise @ (np.square(rest) + 2.0 * rest_square)
    freedom = (count - 1.0) * dimension
    expected, variance = freedom - loss, 2.0 * freedom + 2.0 * spread
    excess = variance * freedom / (2.0 * expected**2)  # 1 for chi-square
    other = (freedom - 2.0 + 4.0 * excess) / max(excess - 1.0, 1e-9)
    value = q / expected * other / (other - 2.0)
    return QTest(q, expected, float(f.sf(value, freedom, other)), float(f.cdf(value, freedom, other)))


def leave_one_out(moments: ShardMoments) -> LeaveOneOut:
    """Each shard against the product of the others: Hotelling's T^2 with the degrees of freedom of two covariances.

    The covariance of the difference is the sum of the shard's and of the product's; its degrees of freedom are those
    of Nel and van der Merwe (Communications in Statistics 15, 3719, 1986). Each parameter is looked at too, because
    a shift of one parameter drowns in the scatter of many: p is twice the smaller of the two p-values.
    """
    from scipy.stats import f, t

    product = moments.product
    dimension = product.dimension
    precision = _others(product.precisions)
    pull = _others(np.einsum("mij,mj->mi", product.precisions, product.x))
    rest = np.linalg.inv(precision)
    shift = product.x - np.einsum("mij,mj->mi", rest, pull)
    rest_free, loss = _rest_noise(product)
    rest *= (1.0 + loss)[:, None, None]
    total = product.covariances + rest
    distance = np.einsum("mi,mi->m", shift, np.linalg.solve(total, shift[:, :, None])[:, :, 0])
    own, others = (_traces(np.linalg.solve(total, part)) for part in (product.covariances, rest))
    free = (dimension + dimension**2) / (
        (own[1] + own[0] ** 2) / product.free + (others[1] + others[0] ** 2) / rest_free
    )
    p_joint = f.sf(distance * (free - dimension + 1.0) / (dimension * free), dimension, free - dimension + 1.0)
    variance = np.diagonal(total, axis1=1, axis2=2)
    part = np.diagonal(product.covariances, axis1=1, axis2=2) / variance
    score = shift / np.sqrt(variance)
    free_each = 1.0 / (part**2 / product.free[:, None] + (1.0 - part) ** 2 / rest_free[:, None])
    p_worst = np.min(2.0 * t.sf(np.abs(score), free_each), axis=1) * dimension
    p = np.minimum(2.0 * np.minimum(p_joint, p_worst), 1.0) if dimension > 1 else p_joint
    return LeaveOneOut(distance, score, np.asarray(p))


def find_outliers(moments: ShardMoments, false_alarm: float = 0.01) -> tuple[int, ...]:
    """Positions of shards that disagree with the rest, the worst first.

    The worst shard is taken out, and the others are compared again without it: a bad shard would else pull the
    product towards itself and make good shards look bad. Of two shards that disagree both are named. When the
    majority would be named, nobody is: the shards do not agree on a common value at all.
    """
    left = list(range(len(moments.means)))
    named: list[int] = []
    limit = false_alarm / len(left)
    while len(left) > 2:
        p = leave_one_out(moments.subset(left)).p
        worst = int(np.argmin(p))
        if p[worst] >= limit:
            return tuple(named)
        named.append(left.pop(worst))
        if 2 * len(named) >= len(moments.means):
            return ()
    agree = leave_one_out(moments.subset(left)).p.min() >= limit
    return tuple(named) if agree else ((0, 1) if len(moments.means) == 2 else ())


def find_identical(moments: ShardMoments, false_alarm: float = 0.01) -> tuple[tuple[int, int], ...]:
    """Pairs of shards whose means are as close as if both had the same data.

    The distance of two healthy shards, half their squared difference in units of a shard's covariance, is
    chi-square with d degrees of freedom; that of shards with the same data is smaller by the effective number of
    draws. A pair is named when its distance fits the second, and would be a surprise under the first for the closest
    of all pairs. Directions along which all shards are alike (the prior dominates) tell nothing: if three quarters
    of all pairs are closer than expected, d is reduced accordingly. With few parameters and many shards even
    identical ones cannot be told from luck, and nothing is named.
    """
    from scipy.stats import chi2

    product = moments.product
    count, dimension = product.x.shape
    first, second = np.triu_indices(count, 1)
    distance = pair_distances(product.x, product.precisions)[first, second]
    error = np.mean(1.0 / product.ess, axis=1)
    same = distance <= chi2.ppf(SAME, dimension) * 0.5 * (error[first] + error[second])
    telling = float(dimension)
    if count > 3 and 2 * same.sum() < same.size:
        ratio = np.quantile(distance, 0.75) / chi2.ppf(0.75, dimension)
        telling = dimension * min(1.0, float(ratio))
    named = same & (chi2.cdf(distance, telling) * len(first) < false_alarm)
    return tuple(zip(first[named].tolist(), second[named].tolist(), strict=True))


def holm(p: Array) -> Array:
    """Adjust p-values for their number (Holm, Scandinavian Journal of Statistics 6, 65, 1979)."""
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def _product(moments: ShardMoments) -> _Product:
    means, covariances, ess, spread = moments.means, moments.covariances, moments.ess, moments.ess_spread
    dimension = means.shape[1]
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    weights = 1.0 / variances
    scale = 1.0 / np.sqrt(weights.sum(axis=0))
    origin = (weights * means).sum(axis=0) * np.square(scale)
    scaled = (covariances + _monte_carlo(covariances, ess)) / np.outer(scale, scale)
    free = spread - 1.0
    inverses = np.stack([inverse(matrix, f"the covariance of shard {m}") for m, matrix in enumerate(scaled)])
    debias = (free - dimension - 1.0) / free
    x, precisions = (means - origin) / scale, debias[:, None, None] * inverses
    precision = precisions.sum(axis=0)
    mean = np.linalg.solve(precision, np.einsum("mij,mj->i", precisions, x))
    return _Product(origin, scale, x, scaled, precisions, free, ess, precision, mean)


def _monte_carlo(covariances: Array, ess: Array) -> Array:
    """Covariance of the error of means over correlated draws, (M, d, d)."""
    error = 1.0 / np.sqrt(ess)
    return np.asarray(covariances * error[:, :, None] * error[:, None, :])


def _traces(matrices: Array) -> tuple[Array, Array]:
    return np.trace(matrices, axis1=1, axis2=2), np.einsum("mij,mji->m", matrices, matrices)


def _others(values: Array) -> Array:
    """Sum over all rows but one, without subtracting anything."""
    before = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values[:-1], axis=0)])
    after = np.concatenate([np.cumsum(values[:0:-1], axis=0)[::-1], np.zeros_like(values[:1])])
    return np.asarray(before + after)


def _rest_noise(product: _Product) -> tuple[Array, Array]:
    """Degrees of freedom of the others' product, and by how much its noisy weights widen it, for each shard."""
    dimension = product.dimension
    share = np.trace(np.linalg.solve(product.precision, product.precisions), axis1=1, axis2=2) / dimension
    remaining = _others(share)
    free = np.square(remaining) / _others(np.square(share) / product.free)
    loss = (dimension + 1.0) * (
        _others(share * product.noise) / remaining - _others(np.square(share) * product.noise) / np.square(remaining)
    )
    return np.asarray(free), np.asarray(loss)
