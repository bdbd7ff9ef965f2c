"""Prior distributions of physical parameters, restricted to bounds.

`make_prior` builds one from its name and arguments. A `Prior` is a JAX tree whose numbers are leaves, so that a program
compiled for one serves every other prior of the same kind. Distribution functions are SciPy's; log densities are JAX
functions, cut at the bounds and normalised again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from scipy import stats

from homodyne.errors import InputError

Arguments = Mapping[str, float]


@dataclass(frozen=True)
class _Kind:
    """SciPy distribution (distribution function and its inverse) and JAX log density of one kind of prior."""

    distribution: Callable[[Arguments], Any]
    log_density: Callable[[jax.Array, Any], jax.Array]
    support: tuple[float, float] = (-np.inf, np.inf)


_NORMAL = _Kind(lambda a: stats.norm(a["mean"], a["sd"]), lambda x, a: norm.logpdf(x, a["mean"], a["sd"]))
_KINDS = {
    "normal": _NORMAL,
    "truncated_normal": _NORMAL,
    "lognormal": _Kind(
        lambda a: stats.lognorm(a["sigma"], scale=a["median"]),
        lambda x, a: norm.logpdf(jnp.log(x), jnp.log(a["median"]), a["sigma"]) - jnp.log(x),
        (0.0, np.inf),
    ),
    "uniform": _Kind(
        lambda a: stats.uniform(a["low"], a["high"] - a["low"]),
        lambda x, a: jnp.zeros_like(x) - jnp.log(a["high"] - a["low"]),
    ),
    "loguniform": _Kind(
        lambda a: stats.loguniform(a["low"], a["high"]),
        lambda x, a: -jnp.log(x) - jnp.log(jnp.log(a["high"] / a["low"])),
        (0.0, np.inf),
    ),
    "half_normal": _Kind(
        lambda a: stats.halfnorm(scale=a["sd"]),
        lambda x, a: norm.logpdf(x, 0.0, a["sd"]) + np.log(2.0),
        (0.0, np.inf),
    ),
}
PRIOR_KINDS = tuple(_KINDS)
"""Names of the distributions."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prior:
    """A distribution restricted to ``low <= x <= high``; build it with `make_prior`.

    Attributes
    ----------
    arguments : mapping of str to float
        Those of the kind, as in `homodyne.config.schema`.
    low, high : float
        Bounds.
    log_mass : float
        Logarithm of the probability that the distribution without bounds has between them.
    median : float
        Between the bounds.
    kind : str
        Name of the distribution.
    bounded : (bool, bool)
        Whether the lower and the upper bound are finite.
    circular : bool
        Whether the interval is closed to a circle.
    """

    arguments: Mapping[str, float]
    low: float
    high: float
    log_mass: float
    median: float
    kind: str = field(metadata={"static": True})
    bounded: tuple[bool, bool] = field(metadata={"static": True})
    circular: bool = field(default=False, metadata={"static": True})

    def on_circle(self, period: float) -> "Prior":
        """Close a uniform prior over whole periods to a circle, which has no ends; others stay as they are.

        The density of the open line is that of the circle, so a draw may leave the interval and means the same.
        """
        turns = (self.high - self.low) / period
        return replace(self, circular=True) if self.kind == "uniform" and turns >= 1 and turns == round(turns) else self

    def log_prob(self, x: jax.Array) -> jax.Array:
        """Log density at x; -inf outside the bounds, with a gradient that is zero there."""
        if self.circular:
            return jnp.zeros_like(x) - jnp.log(self.high - self.low)
        inside = (x > self.low) & (x < self.high)
        safe = jnp.where(inside, x, self.median)
        return jnp.where(inside, _KINDS[self.kind].log_density(safe, self.arguments) - self.log_mass, -jnp.inf)

    def quantile(self, p: Any) -> Any:
        """Inverse of the distribution function, for p in (0, 1)."""
        return _quantile(self.kind, self.arguments, self.low, self.high, p)


def make_prior(
    kind: str,
    arguments: Mapping[str, float],
    bounds: tuple[float, float] | None = None,
    *,
    name: str = "parameter",
    support: tuple[float, float] = (-np.inf, np.inf),
) -> Prior:
    """Build a prior.

    Parameters
    ----------
    kind : str
        One of `PRIOR_KINDS`.
    arguments : mapping
        Those of that kind, as in `homodyne.config.schema`, which checks them.
    bounds : (low, high), optional
        Values outside are impossible; the density is normalised inside.
    name : str
        Parameter that error messages name.
    support : (low, high)
        Values that the parameter can have at all.

    Raises
    ------
    InputError
        For an unknown kind or other arguments than it has; when low is not below high, or the prior has no mass within
        the bounds.
    """
    if kind not in _KINDS:
        raise InputError(f"prior of {name} is {kind!r}: expected one of {', '.join(_KINDS)}")
    low, high = support if bounds is None else (max(support[0], bounds[0]), min(support[1], bounds[1]))
    if "low" in arguments:
        if not arguments["low"] < arguments["high"]:
            raise InputError(f"prior of {name}: low = {arguments['low']} must be below high = {arguments['high']}")
        low, high = max(low, arguments["low"]), min(high, arguments["high"])
    low, high = max(low, _KINDS[kind].support[0]), min(high, _KINDS[kind].support[1])
    numbers = {key: float(value) for key, value in arguments.items()}
    try:
        distribution = _KINDS[kind].distribution(numbers)
    except KeyError as missing:
        raise InputError(f"prior {kind} of {name} needs {missing.args[0]!r}, got {', '.join(numbers)}") from None
    mass = float(distribution.cdf(high) - distribution.cdf(low)) if low < high else 0.0
    if not mass > 1e-12:
        raise InputError(
            f"prior {kind} of {name} has no support between {low} and {high}: widen the bounds or move the prior"
        )
    median = float(_quantile(kind, numbers, low, high, 0.5))
    ends = bool(np.isfinite(low)), bool(np.isfinite(high))
    return Prior(numbers, float(low), float(high), float(np.log(mass)), median, kind, ends)


def _quantile(kind: str, arguments: Arguments, low: float, high: float, p: Any) -> Any:
    whole = _KINDS[kind].distribution(arguments)
    below, above = whole.cdf(low), whole.cdf(high)
    return np.clip(whole.ppf(below + np.asarray(p) * (above - below)), low, high)
