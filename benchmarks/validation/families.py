"""Families of small models whose posterior is known: conjugate, by quadrature over one parameter, or on a grid.

Each function draws one case from a seed, which fixes priors, data and number of shards. Exact answers are of the
parameters themselves, not of unconstrained coordinates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import numpyro
import numpyro.distributions as dist
from scipy import special, stats

from homodyne.optimization.cmc.models.adapters import LogDensityModel

Array = npt.NDArray[np.float64]
Data = dict[str, npt.NDArray[Any]]
LogDensity = Callable[..., Array]

LEVELS = np.array([0.04, 0.05, 0.06, 0.5, 0.94, 0.95, 0.96])
"""Quantiles that are known; the outer ones give the density at those of 5 % and 95 %."""
SHARDS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, eq=False)
class Case:
    """A model with data and its exact posterior.

    Attributes
    ----------
    model
        For NumPyro, or a `LogDensityModel`.
    data
        Arrays by name.
    num_shards
        Shards.
    exact
        By site: mean, standard deviation and quantiles at `LEVELS` of every component, (components, 9).
    prior_sites
        As for `sample_consensus`.
    """

    model: Callable[[Any], None]
    data: Data
    num_shards: int
    exact: dict[str, Array]
    prior_sites: tuple[str, ...] | None = None


def known(*distributions: Any) -> Array:
    """Exact answers (components, 9) of frozen scipy distributions."""
    return np.array([[own.mean(), own.std(), *own.ppf(LEVELS)] for own in distributions])


def on_grid(log_density: LogDensity, *limits: tuple[float, float]) -> Array:
    """Exact answers (d, 9) from a log density ``f(x0, x1, ...)`` of arrays, inside limits of d = 1 or 2 coordinates.

    A grid of two dimensions is laid twice, the second time where the first has found any mass.
    """
    count = 60_001 if len(limits) == 1 else 601
    for last in (False, True):
        axes = [np.linspace(low, high, count) for low, high in limits]
        values = log_density(*np.meshgrid(*axes, indexing="ij"))
        mass = np.exp(np.nan_to_num(values, nan=-np.inf) - np.nanmax(values))
        sides = [mass.sum(axis=tuple(j for j in range(len(axes)) if j != k)) for k in range(len(axes))]
        if last or len(limits) == 1:
            break
        limits = tuple(_reached(axis, side) for axis, side in zip(axes, sides, strict=True))
    return np.array([of_weights(axis, side) for axis, side in zip(axes, sides, strict=True)])


def of_weights(x: Array, weights: Array) -> Array:
    """Exact answers (9,) of a density at increasing equidistant points."""
    weights = weights / weights.sum()
    mean = weights @ x
    below = np.cumsum(weights) - 0.5 * weights
    return np.array([mean, np.sqrt(weights @ (x - mean) ** 2), *np.interp(LEVELS, below, x)])


def _reached(axis: Array, mass: Array) -> tuple[float, float]:
    """Ends of what holds all mass but a billionth of the highest, and a step beyond."""
    inside = np.flatnonzero(mass > 1e-9 * mass.max())
    return float(axis[max(inside[0] - 1, 0)]), float(axis[min(inside[-1] + 1, len(axis) - 1)])


def _start(seed: int, family: int, most: int = 64) -> tuple[np.random.Generator, int]:
    """Generator of a case, and its number of shards."""
    rng = np.random.default_rng([seed, family, 11])
    return rng, int(rng.choice([count for count in SHARDS if count <= most]))


def _summed(values: Callable[[float], Array], data: npt.NDArray[Any]) -> Array:
    """Sum of an array over data, one after the other: grids are large."""
    total = values(data[0])
    for own in data[1:]:
        total = total + values(own)
    return total


# ---------------------------------------------------------------- conjugate


def normal_mean(seed: int) -> Case:
    """A normal mean with known noise."""
    rng, shards = _start(seed, 0)
    sigma, width = 10.0 ** rng.uniform(-2.0, 2.0), 10.0 ** rng.uniform(-1.0, 1.0)
    y = width * rng.normal() + sigma * rng.standard_normal(shards * int(rng.integers(2, 40)))
    return Case(_normal(width, sigma), {"y": y}, shards, {"mean": _normal_posterior(y, width, sigma)})


def strong_prior(seed: int) -> Case:
    """A prior far narrower than what the data know, and at odds with them."""
    rng, shards = _start(seed, 1)
    y = 3.0 + rng.standard_normal(2 * shards)
    return Case(_normal(0.02, 1.0), {"y": y}, shards, {"mean": _normal_posterior(y, 0.02, 1.0)})


def one_each(seed: int) -> Case:
    """As many shards as observations."""
    rng, shards = _start(seed, 2)
    y = rng.normal() + rng.standard_normal(shards)
    return Case(_normal(10.0, 1.0), {"y": y}, shards, {"mean": _normal_posterior(y, 10.0, 1.0)})


def _normal(width: float, sigma: float) -> Callable[[Any], None]:
    def model(data: Any) -> None:
        mean = numpyro.sample("mean", dist.Normal(0.0, width))
        numpyro.sample("y", dist.Normal(mean, sigma), obs=data["y"])

    return model


def _normal_posterior(y: Array, width: float, sigma: float) -> Array:
    precision = width**-2 + len(y) * sigma**-2
    return known(stats.norm(y.sum() * sigma**-2 / precision, precision**-0.5))


def poisson_rate(seed: int) -> Case:
    """A Poisson rate; often most counts are zero."""
    rng, shards = _start(seed, 3)
    a, b, rate = rng.uniform(0.5, 3.0), rng.uniform(0.1, 2.0), 10.0 ** rng.uniform(-1.5, 1.5)
    y = rng.poisson(rate, shards * int(rng.integers(1, 20)))

    def model(data: Any) -> None:
        numpyro.sample("y", dist.Poisson(numpyro.sample("rate", dist.Gamma(a, b))), obs=data["y"])

    return Case(model, {"y": y}, shards, {"rate": known(stats.gamma(a + y.sum(), scale=1.0 / (b + len(y))))})


def waiting_time(seed: int) -> Case:
    """The rate of exponential waiting times."""
    rng, shards = _start(seed, 4)
    a, b = rng.uniform(0.5, 3.0), rng.uniform(0.1, 2.0)
    y = rng.exponential(10.0 ** rng.uniform(-1.5, 1.5), shards * int(rng.integers(1, 20)))

    def model(data: Any) -> None:
        numpyro.sample("y", dist.Exponential(numpyro.sample("rate", dist.Gamma(a, b))), obs=data["y"])

    return Case(model, {"y": y}, shards, {"rate": known(stats.gamma(a + len(y), scale=1.0 / (b + y.sum())))})


def probability(seed: int) -> Case:
    """A probability of binomial counts, often next to 0 or 1."""
    rng, shards = _start(seed, 5)
    a, b, trials = rng.uniform(0.5, 3.0), rng.uniform(0.5, 3.0), int(rng.integers(1, 6))
    y = rng.binomial(trials, rng.beta(0.4, 0.4), shards * int(rng.integers(1, 20)))

    def model(data: Any) -> None:
        p = numpyro.sample("p", dist.Beta(a, b))
        numpyro.sample("y", dist.Binomial(trials, probs=p), obs=data["y"])

    exact = known(stats.beta(a + y.sum(), b + trials * len(y) - y.sum()))
    return Case(model, {"y": y}, shards, {"p": exact})


def variance(seed: int) -> Case:
    """The variance of normal noise around zero."""
    rng, shards = _start(seed, 6)
    a, b = rng.uniform(2.5, 5.0), rng.uniform(0.5, 3.0)
    y = rng.normal(0.0, 10.0 ** rng.uniform(-1.0, 1.0), shards * int(rng.integers(1, 20)))

    def model(data: Any) -> None:
        numpyro.sample(
            "y", dist.Normal(0.0, jnp.sqrt(numpyro.sample("variance", dist.InverseGamma(a, b)))), obs=data["y"]
        )

    exact = known(stats.invgamma(a + 0.5 * len(y), scale=b + 0.5 * np.sum(y**2)))
    return Case(model, {"y": y}, shards, {"variance": exact})


def shares(seed: int) -> Case:
    """Shares of categories, some of which may never occur."""
    rng, shards = _start(seed, 7)
    a = rng.uniform(0.5, 3.0, int(rng.integers(2, 5)))
    y = rng.choice(len(a), p=rng.dirichlet(np.full(len(a), 0.5)), size=shards * int(rng.integers(2, 20)))

    def model(data: Any) -> None:
        numpyro.factor("y", jnp.log(numpyro.sample("share", dist.Dirichlet(a)))[data["y"]])

    after = a + np.bincount(y, minlength=len(a))
    return Case(model, {"y": y}, shards, {"share": known(*(stats.beta(own, after.sum() - own) for own in after))}, ())


def regression(seed: int) -> Case:
    """Linear regression with correlated columns and known noise."""
    rng, shards = _start(seed, 8, most=32)
    x = rng.standard_normal((shards * 10, 3))
    x[:, 2] = x[:, 0] + 10.0 ** rng.uniform(-2.0, 0.0) * x[:, 2]
    y = x @ rng.standard_normal(3) + rng.standard_normal(len(x))

    def model(data: Any) -> None:
        slope = numpyro.sample("slope", dist.Normal(0.0, 3.0).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(data["x"] @ slope, 1.0), obs=data["y"])

    covariance = np.linalg.inv(x.T @ x + np.eye(3) / 9.0)
    normals = [stats.norm(m, v**0.5) for m, v in zip(covariance @ x.T @ y, np.diag(covariance), strict=True)]
    return Case(model, {"x": x, "y": y}, shards, {"slope": known(*normals)})


def without_data(seed: int) -> Case:
    """A second parameter that the data do not depend on."""
    rng, shards = _start(seed, 9, most=32)
    y = rng.normal() + rng.standard_normal(4 * shards)
    priors = [
        (dist.Normal(2.0, 3.0), stats.norm(2.0, 3.0)),
        (dist.StudentT(5.0, 0.0, 1.0), stats.t(5.0)),
        (dist.HalfNormal(2.0), stats.halfnorm(scale=2.0)),
        (dist.Gamma(1.0, 1.0), stats.gamma(1.0)),
        (dist.Uniform(-1.0, 1.0), stats.uniform(-1.0, 2.0)),
    ]
    prior, exact = priors[seed % len(priors)]

    def model(data: Any) -> None:
        numpyro.sample("free", prior)
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=data["y"])

    return Case(model, {"y": y}, shards, {"mean": _normal_posterior(y, 5.0, 1.0), "free": known(exact)})


def on_the_edge(seed: int) -> Case:
    """A uniform prior with data at, or beyond, one of its bounds."""
    rng, shards = _start(seed, 10)
    n = shards * int(rng.integers(2, 20))
    y = float(rng.choice([-0.3, 0.0, 1.0, 1.2])) + rng.uniform(0.1, 2.0) * rng.standard_normal(n)

    def model(data: Any) -> None:
        numpyro.sample("y", dist.Normal(numpyro.sample("level", dist.Uniform(0.0, 1.0)), 1.0), obs=data["y"])

    mean, sd = y.mean(), len(y) ** -0.5
    exact = stats.truncnorm(-mean / sd, (1.0 - mean) / sd, loc=mean, scale=sd)
    return Case(model, {"y": y}, shards, {"level": known(exact)})


def up_to_an_end(seed: int) -> Case:
    """Uniform values up to an unknown end, anywhere under its prior: the posterior is highest at a wall."""
    rng, shards = _start(seed, 31)
    end = 10.0 ** rng.uniform(-2.0, 4.0)
    y = end * rng.random(shards * int(rng.integers(1, 10)) + 2)

    def model(data: Any) -> None:
        numpyro.sample("y", dist.Uniform(0.0, numpyro.sample("end", dist.Pareto(0.1 * end, 1.5))), obs=data["y"])

    return Case(model, {"y": y}, shards, {"end": known(stats.pareto(1.5 + len(y), scale=max(0.1 * end, y.max())))})


# ---------------------------------------------------------------- one parameter, on a grid


def outliers(seed: int) -> Case:
    """A Student-t location with a tenth of wild values."""
    rng, shards = _start(seed, 11, most=32)
    y = rng.standard_t(3.0, shards * int(rng.integers(3, 10)))
    y[rng.random(len(y)) < 0.1] += rng.choice([-1.0, 1.0]) * 30.0
    return _location(dist.Normal(0.0, 10.0), stats.norm(0.0, 10.0), 3.0, y, shards, 25.0)


def second_cluster(seed: int) -> Case:
    """A Student-t location with data in two places: the smaller one may hold a second mode, of any mass."""
    rng, shards = _start(seed, 12, most=16)
    n = shards * int(rng.integers(2, 8))
    here = np.arange(n) < round(n * rng.uniform(0.5, 0.65))
    y = np.where(here, 0.0, rng.uniform(6.0, 20.0)) + rng.standard_normal(n)
    return _location(dist.Normal(0.0, 10.0), stats.norm(0.0, 10.0), float(rng.choice([1.5, 3.0])), y, shards, 40.0)


def cauchy(seed: int) -> Case:
    """A Cauchy location from few and scattered values."""
    rng, shards = _start(seed, 13, most=4)
    y = rng.uniform(-12.0, 12.0, max(shards, int(rng.integers(3, 8))))
    return _location(dist.Normal(0.0, 10.0), stats.norm(0.0, 10.0), 1.0, y, shards, 60.0)


def heavy_prior(seed: int) -> Case:
    """A Student-t prior at odds with normal data."""
    rng, shards = _start(seed, 14)
    nu, y = float(rng.choice([1.0, 2.0, 4.0])), rng.uniform(3.0, 12.0) + rng.standard_normal(2 * shards)

    def model(data: Any) -> None:
        mean = numpyro.sample("mean", dist.StudentT(nu, 0.0, 1.0))
        numpyro.sample("y", dist.Normal(mean, 2.0), obs=data["y"])

    def log_density(m: Array) -> Array:
        return np.asarray(stats.t(nu).logpdf(m) - 0.125 * len(y) * (m - y.mean()) ** 2)

    return Case(model, {"y": y}, shards, {"mean": on_grid(log_density, (-30.0, 40.0))})


def _location(prior: Any, same: Any, nu: float, y: Array, shards: int, reach: float) -> Case:
    """A Student-t location of unit scale under a prior, which is given twice."""

    def model(data: Any) -> None:
        mean = numpyro.sample("mean", prior)
        numpyro.sample("y", dist.StudentT(nu, mean, 1.0), obs=data["y"])

    def log_density(m: Array) -> Array:
        return np.asarray(same.logpdf(m) + _summed(lambda own: -0.5 * (nu + 1.0) * np.log1p((own - m) ** 2 / nu), y))

    return Case(model, {"y": y}, shards, {"mean": on_grid(log_density, (-reach, reach))})


def half_cauchy_scale(seed: int) -> Case:
    """A scale under a half-Cauchy prior; one value can be all that a shard has."""
    rng, shards = _start(seed, 15)
    scale = 10.0 ** rng.uniform(-1.0, 1.0)
    y = scale * rng.standard_normal(shards * int(rng.integers(1, 10)) + 4)

    def model(data: Any) -> None:
        numpyro.sample("y", dist.Normal(0.0, numpyro.sample("scale", dist.HalfCauchy(1.0))), obs=data["y"])

    def log_density(s: Array) -> Array:
        return np.asarray(-np.log1p(s**2) - len(y) * np.log(s) - 0.5 * np.sum(y**2) / s**2)

    root = float(np.sqrt(np.mean(y**2)))
    return Case(model, {"y": y}, shards, {"scale": on_grid(log_density, (1e-3 * root, 12.0 * root))})


def no_counts(seed: int) -> Case:
    """The logarithm of a rate of which hardly any count was seen: a wide and skew posterior."""
    rng, shards = _start(seed, 16)
    y = np.zeros(shards * int(rng.integers(1, 20)), dtype=np.int64)
    y[: int(rng.integers(0, 2))] = 1

    def model(data: Any) -> None:
        log_rate = numpyro.sample("log_rate", dist.Normal(0.0, 3.0))
        numpyro.sample("y", dist.Poisson(jnp.exp(log_rate)), obs=data["y"])

    def log_density(z: Array) -> Array:
        return np.asarray(-z * z / 18.0 + y.sum() * z - len(y) * np.exp(z))

    return Case(model, {"y": y}, shards, {"log_rate": on_grid(log_density, (-25.0, 8.0))})


def squared(seed: int) -> Case:
    """Only the square of a parameter and a little of its sign are measured: two modes, one of little mass."""
    rng, shards = _start(seed, 17, most=16)
    tilt, n = float(rng.choice([0.0, 0.02, 0.05, 0.1])), shards * int(rng.integers(2, 10))
    y = rng.uniform(0.0, 6.0) + rng.standard_normal(n)

    def model(data: Any) -> None:
        x = numpyro.sample("x", dist.Normal(0.0, 3.0))
        numpyro.sample("y", dist.Normal(x**2 + tilt * x, 1.0), obs=data["y"])

    def log_density(x: Array) -> Array:
        return np.asarray(-x * x / 18.0 - 0.5 * n * (x**2 + tilt * x - y.mean()) ** 2)

    return Case(model, {"y": y}, shards, {"x": on_grid(log_density, (-6.0, 6.0))})


def alias(seed: int) -> Case:
    """A frequency sampled evenly, with a little jitter or none: it cannot be told from others."""
    rng, shards = _start(seed, 18, most=8)
    jitter, sigma = float(rng.choice([0.0, 0.01, 0.1])), rng.uniform(0.3, 1.5)
    t = np.arange(4.0 * max(shards, 3)) + jitter * rng.standard_normal(4 * max(shards, 3))
    y = np.sin(2 * np.pi * rng.uniform(0.1, 0.4) * t) + sigma * rng.standard_normal(len(t))

    def model(data: Any) -> None:
        frequency = numpyro.sample("frequency", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(jnp.sin(2 * jnp.pi * frequency * data["t"]), sigma), obs=data["y"])

    def log_density(f: Array) -> Array:
        pairs = np.stack([t, y], axis=1)
        misfit = _summed(lambda own: (own[1] - np.sin(2 * np.pi * f * own[0])) ** 2, pairs)  # type: ignore[index]
        return np.asarray(-0.5 * f * f - 0.5 * misfit / sigma**2)

    return Case(model, {"t": t, "y": y}, shards, {"frequency": on_grid(log_density, (0.0, 6.0))})


def logistic(seed: int) -> Case:
    """Logistic regression of one slope."""
    rng, shards = _start(seed, 19)
    x = rng.standard_normal(shards * int(rng.integers(2, 10)) + 8)
    y = (rng.random(len(x)) < special.expit(rng.normal(0.0, 2.0) * x)).astype(np.int64)
    return _one_slope(x, y, 2.5, shards)


def separated(seed: int) -> Case:
    """Logistic regression without an end to the slope but for the prior."""
    rng, shards = _start(seed, 20)
    x = rng.choice([-1.0, 1.0], 2 * shards + 6) * rng.uniform(0.2, 3.0, 2 * shards + 6)
    return _one_slope(x, (x > 0.0).astype(np.int64), float(rng.choice([2.5, 10.0, 30.0])), shards)


def _one_slope(x: Array, y: npt.NDArray[np.int64], width: float, shards: int) -> Case:
    def model(data: Any) -> None:
        slope = numpyro.sample("slope", dist.Normal(0.0, width))
        numpyro.sample("y", dist.Bernoulli(logits=slope * data["x"]), obs=data["y"])

    def log_density(slope: Array) -> Array:
        signed = np.where(y == 1, x, -x)
        return np.asarray(-0.5 * (slope / width) ** 2 - _summed(lambda own: np.logaddexp(0.0, -own * slope), signed))

    return Case(model, {"x": x, "y": y}, shards, {"slope": on_grid(log_density, (-6.0 * width, 6.0 * width))})


# ---------------------------------------------------------------- two parameters, on a grid


def logistic_plane(seed: int) -> Case:
    """Logistic regression with an intercept."""
    rng, shards = _start(seed, 21)
    x = rng.standard_normal(4 * shards + 12)
    y = (rng.random(len(x)) < special.expit(rng.normal(0.0, 2.0) + rng.normal(0.0, 2.0) * x)).astype(np.int64)

    def model(data: Any) -> None:
        level = numpyro.sample("level", dist.Normal(0.0, 5.0))
        slope = numpyro.sample("slope", dist.Normal(0.0, 5.0))
        numpyro.sample("y", dist.Bernoulli(logits=level + slope * data["x"]), obs=data["y"])

    def log_density(a: Array, b: Array) -> Array:
        rows = np.stack([np.where(y == 1, -1.0, 1.0), np.where(y == 1, -x, x)], axis=1)
        losses = _summed(lambda own: np.logaddexp(0.0, own[0] * a + own[1] * b), rows)  # type: ignore[index]
        return np.asarray(-(a * a + b * b) / 50.0 - losses)

    return Case(model, {"x": x, "y": y}, shards, _named(on_grid(log_density, *[(-25.0, 25.0)] * 2), "level", "slope"))


def symmetric_mixture(seed: int) -> Case:
    """Two normal components without labels: every mode twice."""
    rng, shards = _start(seed, 22, most=8)
    n = shards * int(rng.integers(4, 12)) + 8
    y = np.where(rng.random(n) < 0.5, 0.0, rng.uniform(1.0, 6.0)) + rng.standard_normal(n)

    def model(data: Any) -> None:
        first, second = (numpyro.sample(name, dist.Normal(0.0, 5.0)) for name in ("first", "second"))
        either = jnp.logaddexp(*(dist.Normal(mean, 1.0).log_prob(data["y"]) for mean in (first, second)))
        numpyro.factor("y", either)

    def log_density(a: Array, b: Array) -> Array:
        likelihood = _summed(lambda own: np.logaddexp(-0.5 * (own - a) ** 2, -0.5 * (own - b) ** 2), y)
        return np.asarray(-(a * a + b * b) / 50.0 + likelihood)

    exact = _named(on_grid(log_density, *[(-18.0, 18.0)] * 2), "first", "second")
    return Case(model, {"y": y}, shards, exact, ())


def flat(seed: int) -> Case:
    """Flat priors of mean and log width: a shard of one or two observations has no posterior of its own."""
    rng, shards = _start(seed, 23)
    y = 10.0 ** rng.uniform(-1.0, 1.0) * (rng.normal() + rng.standard_normal(max(6, shards * int(rng.integers(1, 5)))))

    def model(data: Any) -> None:
        mean, log_sd = (
            numpyro.sample(name, dist.ImproperUniform(dist.constraints.real, (), ())) for name in ("mean", "log_sd")
        )
        numpyro.sample("y", dist.Normal(mean, jnp.exp(log_sd)), obs=data["y"])

    n, sd = len(y), y.std()
    t = stats.t(n - 1, loc=y.mean(), scale=sd / np.sqrt(n - 1))

    def log_density(s: Array) -> Array:
        return np.asarray(-(n - 1) * s - 0.5 * n * sd**2 * np.exp(-2.0 * s))

    center = float(np.log(sd))
    exact = {"mean": known(t), "log_sd": on_grid(log_density, (center - 2.5, center + 6.0))}
    return Case(model, {"y": y}, shards, exact)


def half_cauchy_width(seed: int) -> Case:
    """A mean under a flat prior and a width under a half-Cauchy prior, from few observations per shard."""
    rng, shards = _start(seed, 24)
    y = rng.normal() + 10.0 ** rng.uniform(-1.0, 1.0) * rng.standard_normal(max(8, shards * int(rng.integers(1, 5))))

    def model(data: Any) -> None:
        mean = numpyro.sample("mean", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(mean, numpyro.sample("width", dist.HalfCauchy(1.0))), obs=data["y"])

    n, center, sd = len(y), float(y.mean()), float(y.std())

    def log_density(m: Array, s: Array) -> Array:
        return np.asarray(-np.log1p(s**2) - n * np.log(s) - 0.5 * n * (sd**2 + (m - center) ** 2) / s**2)

    limits = (center - 8.0 * sd, center + 8.0 * sd), (0.02 * sd, 10.0 * sd)
    return Case(model, {"y": y}, shards, _named(on_grid(log_density, *limits), "mean", "width"))


def banana(seed: int) -> Case:
    """A curved ridge in every shard, cut to length by the prior."""
    rng, shards = _start(seed, 25, most=16)
    bend, n = rng.uniform(0.05, 0.5), shards * int(rng.integers(2, 20))
    y = rng.uniform(-2.0, 2.0) + rng.standard_normal(n)

    def model(data: Any) -> None:
        a, b = (numpyro.sample(name, dist.Normal(0.0, 3.0)) for name in ("a", "b"))
        numpyro.sample("y", dist.Normal(b + bend * a**2, 1.0), obs=data["y"])

    def log_density(a: Array, b: Array) -> Array:
        return np.asarray(-(a * a + b * b) / 18.0 - 0.5 * n * (b + bend * a * a - y.mean()) ** 2)

    return Case(model, {"y": y}, shards, _named(on_grid(log_density, *[(-18.0, 18.0)] * 2), "a", "b"))


def product(seed: int) -> Case:
    """Only the product of two parameters is measured: two ridges that may touch."""
    rng, shards = _start(seed, 26, most=16)
    n = shards * int(rng.integers(1, 6)) + 2
    y = rng.uniform(0.0, 4.0) + rng.standard_normal(n)

    def model(data: Any) -> None:
        a, b = (numpyro.sample(name, dist.Normal(0.0, 2.0)) for name in ("a", "b"))
        numpyro.sample("y", dist.Normal(a * b, 1.0), obs=data["y"])

    def log_density(a: Array, b: Array) -> Array:
        return np.asarray(-(a * a + b * b) / 8.0 - 0.5 * n * (a * b - y.mean()) ** 2)

    return Case(model, {"y": y}, shards, _named(on_grid(log_density, *[(-12.0, 12.0)] * 2), "a", "b"))


def wave(seed: int) -> Case:
    """Frequency and phase of a wave at uneven times: many narrow modes."""
    rng, shards = _start(seed, 28, most=8)
    n, sigma = 2 * max(shards, 5), rng.uniform(0.5, 1.2)
    t = np.sort(rng.uniform(0.0, 10.0, n))
    y = np.sin(2 * np.pi * rng.uniform(0.1, 1.5) * t + rng.normal()) + sigma * rng.standard_normal(n)

    def model(data: Any) -> None:
        frequency = numpyro.sample("frequency", dist.Uniform(0.0, 2.0))
        phase = numpyro.sample("phase", dist.Normal(0.0, 1.0))
        mean = jnp.sin(2 * jnp.pi * frequency * data["t"] + phase)
        numpyro.sample("y", dist.Normal(mean, sigma), obs=data["y"])

    def log_density(f: Array, p: Array) -> Array:
        rows = np.stack([t, y], axis=1)
        misfit = _summed(lambda own: (own[1] - np.sin(2 * np.pi * f * own[0] + p)) ** 2, rows)  # type: ignore[index]
        return np.asarray(-0.5 * p * p - 0.5 * misfit / sigma**2)

    exact = _named(on_grid(log_density, (0.0, 2.0), (-6.0, 6.0)), "frequency", "phase")
    return Case(model, {"t": t, "y": y}, shards, exact)


def two_lines(seed: int) -> Case:
    """A straight line with heavy-tailed noise through data of which a part follows another line."""
    rng, shards = _start(seed, 29, most=8)
    n = shards * int(rng.integers(2, 6)) + 6
    x = rng.uniform(-1.0, 1.0, n)
    other = rng.random(n) < rng.uniform(0.3, 0.5)
    y = np.where(other, 6.0 - 5.0 * x, 4.0 * x) + 0.5 * rng.standard_normal(n)

    def model(data: Any) -> None:
        level, slope = (numpyro.sample(name, dist.Normal(0.0, 5.0)) for name in ("level", "slope"))
        numpyro.sample("y", dist.StudentT(2.0, level + slope * data["x"], 0.5), obs=data["y"])

    def log_density(a: Array, b: Array) -> Array:
        rows = np.stack([x, y], axis=1)
        tails = _summed(lambda own: np.log1p(2.0 * (own[1] - a - b * own[0]) ** 2), rows)  # type: ignore[index]
        return np.asarray(-(a * a + b * b) / 50.0 - 1.5 * tails)

    exact = _named(on_grid(log_density, *[(-20.0, 20.0)] * 2), "level", "slope")
    return Case(model, {"x": x, "y": y}, shards, exact)


# ---------------------------------------------------------------- hierarchical, by quadrature over the width


def groups(seed: int, centred: bool = False) -> Case:
    """Means of groups around a common one, whose width may be near zero, as the eight schools."""
    rng, shards = _start(seed, 27, most=8)
    count, each = int(rng.integers(4, 9)), shards * int(rng.integers(1, 4))
    truth = rng.normal() + float(rng.choice([0.0, 0.5, 2.0])) * rng.standard_normal(count)
    group = np.tile(np.arange(count), each)
    y = truth[group] + 1.5 * rng.standard_normal(len(group))

    def model(data: Any) -> None:
        mean, width = numpyro.sample("mean", dist.Normal(0.0, 5.0)), numpyro.sample("width", dist.HalfNormal(2.0))
        if centred:
            level = numpyro.sample("level", dist.Normal(mean, width).expand([count]).to_event(1))
        else:
            level = mean + width * numpyro.sample("unit", dist.Normal(0.0, 1.0).expand([count]).to_event(1))
        numpyro.sample("y", dist.Normal(level[data["group"]], 1.5), obs=data["y"])

    own = np.bincount(group, y) / each
    width = np.linspace(0.0, 14.0, 4001)
    spread = width**2 + 1.5**2 / each  # variance of the mean of a group
    precision = count / spread + 1.0 / 25.0
    center = own.sum() / spread / precision
    values = -0.125 * width**2 - 0.5 * count * np.log(spread) - 0.5 * np.log(precision)
    values += -0.5 * (np.square(own).sum() / spread - precision * center**2)
    weights = np.exp(values - values.max())
    axis = np.linspace(*_ends(center, precision), 2001)
    density = weights @ stats.norm.pdf(axis, center[:, None], precision[:, None] ** -0.5)
    exact = {"width": of_weights(width, weights)[None], "mean": of_weights(axis, density)[None]}
    return Case(model, {"group": group, "y": y}, shards, exact)


def schools(seed: int, density: bool = False) -> Case:
    """One value of every group, with an error of its own, and a half-Cauchy width: often that of no group at all.

    By NumPyro, or by a log density of mean, log width and the values of the groups.
    """
    rng, shards = _start(seed, 30, most=4)
    count = int(rng.integers(5, 10))
    error = rng.uniform(8.0, 18.0, count)
    y = rng.normal(0.0, 5.0) + float(rng.choice([0.0, 5.0, 20.0])) * rng.standard_normal(count)
    y += error * rng.standard_normal(count)

    def model(data: Any) -> None:
        mean, width = numpyro.sample("mean", dist.Normal(0.0, 5.0)), numpyro.sample("width", dist.HalfCauchy(5.0))
        effect = numpyro.sample("effect", dist.Normal(mean, width).expand([count]).to_event(1))
        numpyro.sample("y", dist.Normal(effect[data["group"]], data["error"]), obs=data["y"])

    width = np.linspace(0.0, 400.0, 40_001)
    told = 1.0 / (width[:, None] ** 2 + error**2)
    precision = told.sum(axis=1) + 1.0 / 25.0
    center = told @ y / precision
    values = -np.log1p((width / 5.0) ** 2) + 0.5 * np.log(told).sum(axis=1) - 0.5 * np.log(precision)
    values += -0.5 * (told @ np.square(y) - precision * center**2)
    weights = np.exp(values - values.max())
    axis = np.linspace(-45.0, 45.0, 2001)
    marginal = weights[::20] @ stats.norm.pdf(axis, center[::20, None], precision[::20, None] ** -0.5)
    exact = {"width": of_weights(width, weights)[None], "mean": of_weights(axis, marginal)[None]}
    written = _schools_density(count) if density else model
    return Case(written, {"group": np.arange(count), "error": error, "y": y}, shards, exact)


def _schools_density(count: int) -> LogDensityModel:
    def log_prior(z: Any) -> Any:
        mean, log_width, effect = z[0], z[1], z[2:]
        width = jnp.exp(log_width)
        own = -0.5 * jnp.sum(((effect - mean) / width) ** 2) - count * log_width
        return own - 0.5 * (mean / 5.0) ** 2 - jnp.log1p((width / 5.0) ** 2) + log_width

    def log_likelihood(z: Any, data: Any) -> Any:
        return -0.5 * jnp.sum(((data["y"] - z[2:][data["group"]]) / data["error"]) ** 2)

    names = ["mean", "log width", *(f"effect {k}" for k in range(count))]
    return LogDensityModel(names, log_prior, log_likelihood, lambda z: {"mean": z[0], "width": jnp.exp(z[1])})


def _ends(center: Array, precision: Array) -> tuple[float, float]:
    reach = 8.0 / np.sqrt(precision)
    return float((center - reach).min()), float((center + reach).max())


def _named(exact: Array, *names: str) -> dict[str, Array]:
    return {name: row[None] for name, row in zip(names, exact, strict=True)}


FAMILIES: dict[str, Callable[[int], Case]] = {
    "normal mean": normal_mean,
    "strong prior": strong_prior,
    "one observation per shard": one_each,
    "Poisson rate": poisson_rate,
    "waiting time": waiting_time,
    "probability": probability,
    "variance": variance,
    "shares": shares,
    "regression": regression,
    "parameter without data": without_data,
    "on the edge": on_the_edge,
    "outliers": outliers,
    "second cluster": second_cluster,
    "Cauchy": cauchy,
    "heavy prior": heavy_prior,
    "half-Cauchy scale": half_cauchy_scale,
    "no counts": no_counts,
    "squared": squared,
    "alias": alias,
    "logistic": logistic,
    "separated": separated,
    "logistic with intercept": logistic_plane,
    "symmetric mixture": symmetric_mixture,
    "flat priors": flat,
    "half-Cauchy width": half_cauchy_width,
    "banana": banana,
    "product": product,
    "groups": groups,
    "groups, centred": partial(groups, centred=True),
    "wave": wave,
    "two lines": two_lines,
    "schools": schools,
    "up to an end": up_to_an_end,
    "schools, a density": partial(schools, density=True),
}
"""Every family by name."""
