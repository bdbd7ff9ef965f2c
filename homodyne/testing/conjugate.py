"""Data and models whose posterior is known in closed form, also that of every shard.

Each function returns a `Conjugate`: data, the same model as plain JAX functions and as a NumPyro function, and the
exact posterior of any part of the data under any power of the prior. Coordinates are unconstrained: the logarithm
of a rate, the logit of a probability. Powers include the Jacobian, so that a tempered prior stays in its family:
the density of z = logit(theta) under Beta(a, b) is proportional to theta^a (1 - theta)^b, its power p that of
Beta(p a, p b).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.scipy.special import gammaln
from jaxtyping import PyTree

from homodyne.arrays import AnyArray, Array
from homodyne.errors import InputError
from homodyne.optimization.cmc.models.adapters import LogDensityModel

Data = Mapping[str, AnyArray]


@dataclass(frozen=True)
class Exact:
    """A posterior in closed form: mean (d,), covariance (d, d), and ``draw(n, seed)`` for (n, d) exact draws."""

    mean: Array
    covariance: Array
    draw: Callable[[int, int], Array]

    @property
    def sd(self) -> Array:
        """Standard deviations, (d,)."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))


@dataclass(frozen=True)
class Conjugate:
    """A model with simulated data and a known posterior.

    Attributes
    ----------
    label
        Name of the problem.
    data
        Arrays by name, the leading axis counts observations.
    model
        Plain JAX functions in unconstrained coordinates; picklable.
    function
        The same model for NumPyro; picklable.
    truth
        Coordinates (d,) that the data were simulated with.
    exact
        ``exact(data, power)`` is the posterior of any such data with the prior to this power.
    """

    label: str
    data: dict[str, AnyArray]
    model: LogDensityModel
    function: Callable[[PyTree], None]
    truth: Array
    exact: Callable[[Data, float], Exact]

    def posterior(self) -> Exact:
        """Return the posterior of all data."""
        return self.exact(self.data, 1.0)

    def shard(self, index: npt.ArrayLike) -> dict[str, AnyArray]:
        """Return the observations with these indices."""
        return {name: value[np.asarray(index)] for name, value in self.data.items()}


def gaussian_mean(n: int = 4000, scales: npt.ArrayLike = (1e4, 1.0, 1e-8), seed: int = 0) -> Conjugate:
    """Return the mean of correlated normal vectors with known covariance.

    Parameters
    ----------
    n
        Observations.
    scales
        (d,) standard deviations of the observations; neighbours are correlated by 0.6. The prior of each mean is
        N(scale, (5 scale)^2), independent.
    seed
        Of the simulated data.
    """
    scale = np.asarray(scales, dtype=np.float64)
    d = len(scale)
    correlation = 0.6 ** np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    factor = np.linalg.cholesky(correlation) * scale[:, None]
    rng = np.random.default_rng(seed)
    truth = scale * rng.uniform(-2.0, 2.0, d)
    data = {"y": truth + rng.standard_normal((_count(n), d)) @ factor.T}

    def exact(data: Data, power: float) -> Exact:
        w = np.asarray(data["y"]) / scale  # scale-free
        information = np.linalg.inv(correlation)
        precision = power / 25.0 * np.eye(d) + len(w) * information
        mean = np.linalg.solve(precision, power / 25.0 * np.ones(d) + information @ w.sum(axis=0))
        return _normal(mean, np.linalg.inv(precision), scale)

    model = LogDensityModel(
        [f"mu[{k}]" for k in range(d)],
        partial(_normal_prior, mean=scale, sd=5.0 * scale),
        partial(_mean_likelihood, whiten=np.linalg.inv(np.linalg.cholesky(correlation)) / scale),
        partial(_named, name="mu"),
    )
    return Conjugate("Gaussian mean", data, model, partial(_mean_numpyro, scale, factor), truth, exact)


def linear_regression(n: int = 4000, d: int = 3, collinear: float | None = None, seed: int = 0) -> Conjugate:
    """Return a linear regression with noise of known standard deviation 0.5 and a prior N(0, 10^2) per coefficient.

    Parameters
    ----------
    n
        Observations.
    d
        Columns of the design, standard normal.
    collinear
        When given, the last column is the first one plus this times standard normal noise; 0 makes them equal, so
        that only the prior tells the two coefficients apart.
    seed
        Of the simulated data.
    """
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((_count(n), d))
    if collinear is not None:
        if d < 2 or collinear < 0.0:
            raise InputError(f"collinear is {collinear} with d = {d}: must not be negative, and needs d of at least 2")
        X[:, -1] = X[:, 0] + collinear * X[:, -1]
    truth = rng.uniform(-2.0, 2.0, d)
    data = {"X": X, "y": X @ truth + 0.5 * rng.standard_normal(n)}

    def exact(data: Data, power: float) -> Exact:
        X, y = np.asarray(data["X"]), np.asarray(data["y"])
        precision = power / 100.0 * np.eye(d) + X.T @ X / 0.25
        return _normal(np.linalg.solve(precision, X.T @ y / 0.25), np.linalg.inv(precision), np.ones(d))

    model = LogDensityModel(
        [f"beta[{k}]" for k in range(d)],
        partial(_normal_prior, mean=np.zeros(d), sd=np.full(d, 10.0)),
        _regression_likelihood,
        partial(_named, name="beta"),
    )
    return Conjugate("linear regression", data, model, _regression_numpyro, truth, exact)


def beta_bernoulli(n: int = 4000, theta: float = 0.3, a: float = 2.0, b: float = 3.0, seed: int = 0) -> Conjugate:
    """Return successes with probability theta ~ Beta(a, b), coordinate logit(theta)."""
    rng = np.random.default_rng(seed)
    data = {"y": (rng.random(_count(n)) < theta).astype(np.int64)}

    def exact(data: Data, power: float) -> Exact:
        successes = int(np.sum(data["y"]))
        return _logit_beta(power * a + successes, power * b + len(data["y"]) - successes)

    model = LogDensityModel(
        ["theta"],
        partial(_beta_prior, a=a, b=b),
        _bernoulli_likelihood,
        partial(_named, name="theta", inverse=_sigmoid),
    )
    truth = np.array([np.log(theta) - np.log1p(-theta)])
    function = partial(_scalar_numpyro, "theta", "Beta", (a, b), "Bernoulli")
    return Conjugate("Beta-Bernoulli", data, model, function, truth, exact)


def poisson_gamma(n: int = 4000, rate: float = 4.0, a: float = 2.0, b: float = 0.5, seed: int = 0) -> Conjugate:
    """Return counts with mean rate ~ Gamma(a, b) (b the inverse scale), coordinate log(rate)."""
    y = np.random.default_rng(seed).poisson(rate, _count(n))
    return _of_a_rate("Poisson-Gamma", y, (rate, a, b), _poisson_likelihood, "Poisson", lambda y: (np.sum(y), len(y)))


def exponential_rate(n: int = 4000, rate: float = 4.0, a: float = 2.0, b: float = 0.5, seed: int = 0) -> Conjugate:
    """Return exponential waiting times with rate ~ Gamma(a, b) (b the inverse scale), coordinate log(rate)."""
    y = np.random.default_rng(seed).exponential(1.0 / rate, _count(n))
    return _of_a_rate(
        "exponential rate", y, (rate, a, b), _waiting_likelihood, "Exponential", lambda y: (len(y), np.sum(y))
    )


def _of_a_rate(
    label: str,
    y: AnyArray,
    numbers: tuple[float, float, float],
    likelihood: Callable[[jax.Array, PyTree], jax.Array],
    distribution: str,
    events: Callable[[AnyArray], tuple[float, float]],
) -> Conjugate:
    """Observations of a rate ~ Gamma(a, b); `events` counts what happened, and in what time."""
    rate, a, b = numbers

    def exact(data: Data, power: float) -> Exact:
        count, time = events(data["y"])
        return _log_gamma(power * a + float(count), power * b + float(time))

    model = LogDensityModel(
        ["rate"], partial(_gamma_prior, a=a, b=b), likelihood, partial(_named, name="rate", inverse=_exponential)
    )
    function = partial(_scalar_numpyro, "rate", "Gamma", (a, b), distribution)
    return Conjugate(label, {"y": y}, model, function, np.log([rate]), exact)


PROBLEMS: dict[str, Callable[..., Conjugate]] = {
    "gaussian_mean": gaussian_mean,
    "linear_regression": linear_regression,
    "beta_bernoulli": beta_bernoulli,
    "poisson_gamma": poisson_gamma,
    "exponential_rate": exponential_rate,
}
"""Every problem by name; all take n and seed."""


def _count(n: int) -> int:
    if n < 1:
        raise InputError(f"n is {n}, must be at least 1")
    return n


def _normal(mean: Array, covariance: Array, scale: Array) -> Exact:
    """Return a normal posterior from moments in units of `scale`."""
    factor = np.linalg.cholesky(covariance)

    def draw(n: int, seed: int) -> Array:
        w: Array = mean + np.random.default_rng(seed).standard_normal((n, len(mean))) @ factor.T
        return w * scale

    return Exact(mean * scale, covariance * np.outer(scale, scale), draw)


def _log_gamma(shape: float, inverse_scale: float) -> Exact:
    from scipy.special import digamma, polygamma

    def draw(n: int, seed: int) -> Array:
        return np.log(np.random.default_rng(seed).gamma(shape, 1.0 / inverse_scale, (n, 1)))

    mean = digamma(shape) - np.log(inverse_scale)
    return Exact(np.array([mean]), np.array([[polygamma(1, shape)]]), draw)


def _logit_beta(a: float, b: float) -> Exact:
    from scipy.special import digamma, polygamma

    def draw(n: int, seed: int) -> Array:
        rng = np.random.default_rng(seed)
        return np.log(rng.gamma(a, size=(n, 1))) - np.log(rng.gamma(b, size=(n, 1)))

    return Exact(np.array([digamma(a) - digamma(b)]), np.array([[polygamma(1, a) + polygamma(1, b)]]), draw)


# Densities stand at module level, so that the models can be pickled.


def _sigmoid(z: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(z)


def _exponential(z: jax.Array) -> jax.Array:
    return jnp.exp(z)


def _named(z: jax.Array, name: str, inverse: Callable[[jax.Array], jax.Array] | None = None) -> dict[str, jax.Array]:
    return {name: z if inverse is None else inverse(z[0])}


def _normal_prior(z: jax.Array, mean: Array, sd: Array) -> jax.Array:
    return jnp.sum(-0.5 * ((z - mean) / sd) ** 2 - jnp.log(sd) - 0.5 * jnp.log(2.0 * jnp.pi))


def _beta_prior(z: jax.Array, a: float, b: float) -> jax.Array:
    normalisation = gammaln(a + b) - gammaln(a) - gammaln(b)
    return normalisation - a * jax.nn.softplus(-z[0]) - b * jax.nn.softplus(z[0])


def _gamma_prior(z: jax.Array, a: float, b: float) -> jax.Array:
    return a * (z[0] + jnp.log(b)) - b * jnp.exp(z[0]) - gammaln(a)


def _mean_likelihood(z: jax.Array, data: PyTree, whiten: Array) -> jax.Array:
    white = (data["y"] - z) @ whiten.T
    size = 0.5 * len(whiten) * jnp.log(2.0 * jnp.pi) - jnp.sum(jnp.log(jnp.diag(whiten)))
    return -0.5 * jnp.sum(white**2) - len(data["y"]) * size


def _regression_likelihood(z: jax.Array, data: PyTree) -> jax.Array:
    white = (data["y"] - data["X"] @ z) / 0.5
    return -0.5 * jnp.sum(white**2) - len(white) * (jnp.log(0.5) + 0.5 * jnp.log(2.0 * jnp.pi))


def _bernoulli_likelihood(z: jax.Array, data: PyTree) -> jax.Array:
    return jnp.sum(-jnp.where(data["y"] == 1, jax.nn.softplus(-z[0]), jax.nn.softplus(z[0])))


def _poisson_likelihood(z: jax.Array, data: PyTree) -> jax.Array:
    return jnp.sum(data["y"] * z[0] - jnp.exp(z[0]) - gammaln(data["y"] + 1.0))


def _waiting_likelihood(z: jax.Array, data: PyTree) -> jax.Array:
    return jnp.sum(z[0] - jnp.exp(z[0]) * data["y"])


def _mean_numpyro(scale: Array, factor: Array, data: PyTree) -> None:
    import numpyro
    import numpyro.distributions as dist

    mu = numpyro.sample("mu", dist.Normal(scale, 5.0 * scale).to_event(1))
    with numpyro.plate("data", len(data["y"])):
        numpyro.sample("y", dist.MultivariateNormal(mu, scale_tril=factor), obs=data["y"])


def _regression_numpyro(data: PyTree) -> None:
    import numpyro
    import numpyro.distributions as dist

    with numpyro.plate("columns", data["X"].shape[1]):
        beta = numpyro.sample("beta", dist.Normal(0.0, 10.0))
    numpyro.sample("y", dist.Normal(data["X"] @ beta, 0.5), obs=data["y"])


def _scalar_numpyro(name: str, prior: str, arguments: tuple[float, float], observed: str, data: PyTree) -> None:
    import numpyro
    import numpyro.distributions as dist

    value = numpyro.sample(name, getattr(dist, prior)(*arguments))
    with numpyro.plate("data", len(data["y"])):
        numpyro.sample("y", getattr(dist, observed)(value), obs=data["y"])
