"""Prior distributions of physical parameters, restricted to bounds.

`make_prior` builds one from its name and arguments; `Prior.log_prob` and `Prior.quantile` are all that the
rest needs. Distribution functions are SciPy's; log densities are JAX functions, cut at the bounds and
normalised again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
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
    log_density: Callable[[jax.Array, Arguments], jax.Array]


_NORMAL = _Kind(lambda a: stats.norm(a["mean"], a["sd"]), lambda x, a: norm.logpdf(x, a["mean"], a["sd"]))
_KINDS = {
    "normal": _NORMAL,
    "truncated_normal": _NORMAL,
    "lognormal": _Kind(
        lambda a: stats.lognorm(a["sigma"], scale=a["median"]),
        lambda x, a: norm.logpdf(jnp.log(x), np.log(a["median"]), a["sigma"]) - jnp.log(x),
    ),
    "uniform": _Kind(
        lambda a: stats.uniform(a["low"], a["high"] - a["low"]),
        lambda x, a: jnp.full_like(x, -np.log(a["high"] - a["low"])),
    ),
    "loguniform": _Kind(
        lambda a: stats.loguniform(a["low"], a["high"]), lambda x, a: -jnp.log(x) - np.log(np.log(a["high"] / a["low"]))
    ),
    "half_normal": _Kind(
        lambda a: stats.halfnorm(scale=a["sd"]), lambda x, a: norm.logpdf(x, 0.0, a["sd"]) + np.log(2.0)
    ),
}


@dataclass(frozen=True)
class Prior:
    """A distribution restricted to ``low <= x <= high``; build it with `make_prior`."""

    kind: str
    arguments: Mapping[str, float]
    low: float
    high: float
    circular: bool = False

    @cached_property
    def _whole(self) -> Any:
        return _KINDS[self.kind].distribution(self.arguments)

    @cached_property
    def _mass(self) -> tuple[float, float]:
        """Distribution function at both bounds."""
        return float(self._whole.cdf(self.low)), float(self._whole.cdf(self.high))

    def on_circle(self, period: float) -> "Prior":
        """Close a uniform prior over whole periods to a circle, which has no ends; others stay as they are.

        The density of the open line is that of the circle, so a draw may leave the interval and means the
        same.
        """
        turns = (self.high - self.low) / period
        return replace(self, circular=True) if self.kind == "uniform" and turns >= 1 and turns == round(turns) else self

    def log_prob(self, x: jax.Array) -> jax.Array:
        """Log density at x; -inf outside the bounds, with a gradient that is zero there."""
        if self.circular:
            return jnp.full_like(x, -np.log(self.high - self.low))
        inside = (x > self.low) & (x < self.high)
        mass = self._mass[1] - self._mass[0]
        safe = jnp.where(inside, x, float(self.quantile(0.5)))
        return jnp.where(inside, _KINDS[self.kind].log_density(safe, self.arguments) - np.log(mass), -jnp.inf)

    def quantile(self, p: Any) -> Any:
        """Inverse of the distribution function, for p in (0, 1)."""
        low, high = self._mass
        return np.clip(self._whole.ppf(low + np.asarray(p) * (high - low)), self.low, self.high)


def make_prior(
    kind: str, arguments: Mapping[str, float], bounds: tuple[float, float] | None = None, *, name: str = "parameter"
) -> Prior:
    """Build a prior.

    Parameters
    ----------
    kind : str
        "normal", "lognormal", "uniform", "loguniform", "truncated_normal" or "half_normal".
    arguments : mapping
        Those of that kind, as in `homodyne.config.schema`, which checks them.
    bounds : (low, high), optional
        Values outside are impossible; the density is normalised inside.
    name : str
        Parameter that error messages name.

    Raises
    ------
    InputError
        When low is not below high, or the prior has no mass within the bounds.
    """
    low, high = (-np.inf, np.inf) if bounds is None else bounds
    if "low" in arguments:
        if not arguments["low"] < arguments["high"]:
            raise InputError(f"prior of {name}: low = {arguments['low']} must be below high = {arguments['high']}")
        low, high = max(low, arguments["low"]), min(high, arguments["high"])
    if kind in ("lognormal", "half_normal", "loguniform"):
        low = max(low, 0.0)
    prior = Prior(kind, dict(arguments), float(low), float(high))
    if not low < high or not prior._mass[1] - prior._mass[0] > 1e-12:
        raise InputError(
            f"prior {kind} of {name} has no support between {low} and {high}: widen the bounds or move the prior"
        )
    return prior
