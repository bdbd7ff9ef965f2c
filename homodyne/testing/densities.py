"""Posteriors with known answers, for tests of any sampler or certificate.

Each function returns a `Problem`: a log density as samplers receive it, exact moments and quantiles, independent
exact draws, and the modes with the covariances that a pilot fit would find there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from homodyne.arrays import Array
from homodyne.errors import InputError


@dataclass(frozen=True)
class Problem:
    """A distribution of d coordinates about which everything is known.

    Attributes
    ----------
    label
        Name of the problem.
    names
        d coordinate names.
    log_density
        JAX function of (d,), without normalisation; minus infinity outside the support.
    mean, covariance
        Exact moments, (d,) and (d, d).
    draw
        ``draw(n, seed)`` returns (n, d) independent exact draws.
    quantile
        ``quantile(p)`` returns the exact marginal quantiles (d,).
    modes
        (mode, inverse of minus the Hessian there): what a pilot fit finds.
    """

    label: str
    names: tuple[str, ...]
    log_density: Callable[[jax.Array], jax.Array]
    mean: Array
    covariance: Array
    draw: Callable[[int, int], Array]
    quantile: Callable[[float], Array]
    modes: tuple[tuple[Array, Array], ...]

    @property
    def sd(self) -> Array:
        """Exact standard deviations, (d,)."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    def laplace(self, n: int, seed: int, mode: int = 0) -> Array:
        """Draw (n, d) from the Gaussian approximation at one of the modes."""
        center, covariance = self.modes[mode]
        noise = np.random.default_rng(seed).standard_normal((n, len(center)))
        return center + noise @ np.linalg.cholesky(covariance).T


def gaussian(covariance: npt.ArrayLike, mean: npt.ArrayLike | None = None) -> Problem:
    """Return a normal distribution of any covariance (d, d) and mean (d,), zero unless given."""
    sigma = np.asarray(covariance, dtype=np.float64)
    mu = np.zeros(len(sigma)) if mean is None else np.asarray(mean, dtype=np.float64)
    factor = np.linalg.cholesky(sigma)

    def log_density(z: jax.Array) -> jax.Array:
        w = jax.scipy.linalg.solve_triangular(factor, z - mu, lower=True)
        return -0.5 * w @ w

    def draw(n: int, seed: int) -> Array:
        return mu + np.random.default_rng(seed).standard_normal((n, len(mu))) @ factor.T

    def quantile(p: float) -> Array:
        from scipy.stats import norm

        return mu + np.sqrt(np.diag(sigma)) * float(norm.ppf(p))

    return Problem("gaussian", _names(len(mu)), log_density, mu, sigma, draw, quantile, ((mu, sigma),))


def random_covariance(d: int, seed: int, condition: float = 50.0, scales: Sequence[float] = (1.0,)) -> Array:
    """Return a (d, d) covariance with a random orientation, a condition number and scales (repeated to d)."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    unit = (rotation * np.geomspace(1.0, condition, d)) @ rotation.T
    sd = np.resize(np.asarray(scales, dtype=np.float64), d) / np.sqrt(np.diag(unit))
    matrix = unit * np.outer(sd, sd)
    return np.asarray(0.5 * (matrix + matrix.T))


def banana(d: int = 2, bend: float = 1.0, width: float = 1.0) -> Problem:
    """Return a curved ridge: z0 ~ N(0, 1), z1 ~ N(bend (z0^2 - 1), width^2), and d - 2 standard normals."""
    _at_least(d, 2)

    def log_density(z: jax.Array) -> jax.Array:
        return -0.5 * (((z[1] - bend * (z[0] ** 2 - 1.0)) / width) ** 2 + z[0] ** 2 + jnp.sum(z[2:] ** 2))

    def draw(n: int, seed: int) -> Array:
        z = np.random.default_rng(seed).standard_normal((n, d))
        z[:, 1] = bend * (z[:, 0] ** 2 - 1.0) + width * z[:, 1]
        return z

    variance, peak, curvature = np.ones(d), np.zeros(d), np.ones(d)
    variance[1], peak[1], curvature[1] = 2.0 * bend**2 + width**2, -bend, width**2
    quantile = _quantile_of_mixtures({1: (lambda s: bend * (s**2 - 1.0), lambda s: width + 0.0 * s)}, d)
    mode = (peak, np.diag(curvature))
    return Problem("banana", _names(d), log_density, np.zeros(d), np.diag(variance), draw, quantile, (mode,))


def funnel(d: int = 3, scale: float = 3.0) -> Problem:
    """Return Neal's funnel: z0 ~ N(0, scale^2) and z1, z2 ... ~ N(0, exp(z0)); its mode is in the narrow neck."""
    _at_least(d, 2)

    def log_density(z: jax.Array) -> jax.Array:
        return -0.5 * ((z[0] / scale) ** 2 + jnp.sum(z[1:] ** 2) * jnp.exp(-z[0]) + (d - 1) * z[0])

    def draw(n: int, seed: int) -> Array:
        z = np.random.default_rng(seed).standard_normal((n, d))
        z[:, 0] *= scale
        z[:, 1:] *= np.exp(0.5 * z[:, :1])
        return z

    neck = -0.5 * (d - 1) * scale**2
    peak, curvature = np.zeros(d), np.full(d, np.exp(neck))
    peak[0], curvature[0] = neck, scale**2
    variance = np.full(d, np.exp(0.5 * scale**2))
    variance[0] = scale**2
    spread = {k: (lambda s: 0.0 * s, lambda s: np.exp(0.5 * scale * s)) for k in range(1, d)}
    quantile = _quantile_of_mixtures(spread, d, {0: scale})
    mode = (peak, np.diag(curvature))
    return Problem("funnel", _names(d), log_density, np.zeros(d), np.diag(variance), draw, quantile, (mode,))


def two_modes(d: int = 2, separation: float = 8.0, weight: float = 0.5, ratio: float = 1.0) -> Problem:
    """Return weight N(0, 1) + (1 - weight) N(separation e0, ratio^2): two modes with known weights."""
    shift = separation * np.eye(d)[0]

    def log_density(z: jax.Array) -> jax.Array:
        near = jnp.log(weight) - 0.5 * jnp.sum(z**2)
        far = jnp.log1p(-weight) - d * jnp.log(ratio) - 0.5 * jnp.sum((z - shift) ** 2) / ratio**2
        return jnp.logaddexp(near, far)

    def draw(n: int, seed: int) -> Array:
        rng = np.random.default_rng(seed)
        far = rng.random((n, 1)) > weight
        return np.where(far, shift + ratio * rng.standard_normal((n, d)), rng.standard_normal((n, d)))

    def quantile(p: float) -> Array:
        from scipy.optimize import brentq
        from scipy.stats import norm

        reach = 10.0 * (1.0 + ratio)
        return np.array(
            [
                brentq(
                    lambda x, s=s: weight * norm.cdf(x) + (1.0 - weight) * norm.cdf((x - s) / ratio) - p,
                    -reach,
                    s + reach,
                )
                for s in shift
            ]
        )

    mean = (1.0 - weight) * shift
    within = (weight + (1.0 - weight) * ratio**2) * np.eye(d)
    covariance = within + weight * (1.0 - weight) * np.outer(shift, shift)
    modes = ((np.zeros(d), np.eye(d)), (shift, ratio**2 * np.eye(d)))
    return Problem("two modes", _names(d), log_density, mean, covariance, draw, quantile, modes)


def bounded(d: int = 2, peak: float = 0.0) -> Problem:
    """Return z0 ~ N(peak, 1) cut to z0 > 0 (its mode is on the bound when peak <= 0), and d - 1 standard normals."""
    from scipy.stats import norm, truncnorm

    shift = peak * np.eye(d)[0]
    marginal = truncnorm(-peak, np.inf, loc=peak)

    def log_density(z: jax.Array) -> jax.Array:
        return jnp.where(z[0] > 0.0, -0.5 * jnp.sum((z - shift) ** 2), -jnp.inf)

    def draw(n: int, seed: int) -> Array:
        z = np.random.default_rng(seed).standard_normal((n, d))
        z[:, 0] = marginal.ppf(norm.cdf(z[:, 0]))
        return z

    def quantile(p: float) -> Array:
        q = np.full(d, float(norm.ppf(p)))
        q[0] = marginal.ppf(p)
        return q

    mean, variance = np.zeros(d), np.ones(d)
    mean[0], variance[0] = marginal.mean(), marginal.var()
    mode = (np.maximum(shift, 0.0), np.eye(d))
    return Problem("bounded", _names(d), log_density, mean, np.diag(variance), draw, quantile, (mode,))


def skewed(d: int = 3, shape: float = 2.0) -> Problem:
    """Return independent logarithms of gamma variates of the given shape: smooth, unimodal, skewed to the left."""
    from scipy.special import digamma, polygamma
    from scipy.stats import gamma

    def log_density(z: jax.Array) -> jax.Array:
        return jnp.sum(shape * z - jnp.exp(z))

    def draw(n: int, seed: int) -> Array:
        return np.log(np.random.default_rng(seed).gamma(shape, size=(n, d)))

    def quantile(p: float) -> Array:
        return np.full(d, np.log(gamma.ppf(p, shape)))

    mean, covariance = np.full(d, digamma(shape)), float(polygamma(1, shape)) * np.eye(d)
    mode = (np.full(d, np.log(shape)), np.eye(d) / shape)
    return Problem("skewed", _names(d), log_density, mean, covariance, draw, quantile, (mode,))


def _names(d: int) -> tuple[str, ...]:
    return tuple(f"z{k}" for k in range(d))


def _at_least(d: int, least: int) -> None:
    if d < least:
        raise InputError(f"d is {d}, must be at least {least}")


_Shape = Callable[[Array], Array]


def _quantile_of_mixtures(
    mixtures: dict[int, tuple[_Shape, _Shape]], d: int, scales: dict[int, float] | None = None
) -> Callable[[float], Array]:
    """Quantiles of coordinates k ~ N(center(s), spread(s)^2) with s ~ N(0, 1), of normal coordinates otherwise."""

    def quantile(p: float) -> Array:
        from scipy.optimize import brentq
        from scipy.stats import norm

        s = np.linspace(-9.0, 9.0, 20001)  # the trapezoid rule is exact to rounding for these smooth integrands
        mass = norm.pdf(s) * (s[1] - s[0])
        q = np.full(d, float(norm.ppf(p)))
        for k, scale in (scales or {}).items():
            q[k] *= scale
        for k, (center, spread) in mixtures.items():
            at, width = center(s), spread(s)
            reach = float(np.max(np.abs(at) + 9.0 * width))
            q[k] = brentq(lambda x, at=at, w=width: mass @ norm.cdf((x - at) / w) - p, -reach, reach, xtol=1e-13)
        return q

    return quantile
