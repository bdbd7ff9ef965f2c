"""Prior distributions of physical parameters, restricted to bounds.

`make_prior` builds one from its name and arguments. Every kind is normal or flat in x or in log x, cut at bounds, so
that a `Prior` is a row of numbers: programs compiled for one serve every other. The prior ``share`` of the offset of a
power law is log-normal in the share of the power law in the rate in the middle of the record (below one where the
offset is positive): what is known beforehand of an offset is how it compares with the rate, whatever its size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from scipy.special import ndtr, ndtri

from homodyne.arrays import Leaf
from homodyne.errors import InputError

Arguments = Mapping[str, float]

_KINDS: Mapping[str, tuple[str, ...]] = {
    "normal": ("mean", "sd"),
    "truncated_normal": ("mean", "sd", "low", "high"),
    "lognormal": ("median", "sigma"),
    "uniform": ("low", "high"),
    "loguniform": ("low", "high"),
    "half_normal": ("sd",),
    "share": ("median", "sigma"),
}
PRIOR_KINDS = tuple(_KINDS)
"""Names of the distributions."""

_LOGARITHMIC = ("lognormal", "loguniform", "share")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Prior:
    """A distribution restricted to ``low <= x <= high``; build it with `make_prior`.

    With u = x, or log x where it is logarithmic, the log density of x is ``-0.5 precision (u - mean)² + constant``
    (less u where it is logarithmic).

    Attributes
    ----------
    numbers : (6,) array
        mean, precision (0 for a flat density), constant, low, high, median.
    logarithmic : bool
    bounded : (bool, bool)
        Whether the lower and the upper bound are finite.
    circular : bool
        Whether the interval is closed to a circle.
    share : bool
        Whether x is not the parameter, which is the offset of a power law, but the share of that law without it in
        the rate in the middle of the record.
    """

    numbers: Leaf
    logarithmic: bool = field(metadata={"static": True})
    bounded: tuple[bool, bool] = field(metadata={"static": True})
    circular: bool = field(default=False, metadata={"static": True})
    share: bool = field(default=False, metadata={"static": True})

    @property
    def low(self) -> Leaf:
        """Lower bound."""
        return self.numbers[3]

    @property
    def high(self) -> Leaf:
        """Upper bound."""
        return self.numbers[4]

    @property
    def median(self) -> Leaf:
        """Median between the bounds."""
        return self.numbers[5]

    def on_circle(self, period: float) -> "Prior":
        """Close a uniform prior over whole periods to a circle, which has no ends; others stay as they are.

        The density of the open line is that of the circle, so a draw may leave the interval and means the same.
        """
        turns = (self.high - self.low) / period
        flat = self.numbers[1] == 0 and not self.logarithmic
        return replace(self, circular=True) if flat and turns >= 1 and turns == round(turns) else self

    def log_prob(self, x: ArrayLike) -> jax.Array:
        """Log density at x; -inf outside the bounds, with a gradient that is zero there."""
        return log_prob((self,), jnp.asarray(x)[..., None])[..., 0]

    def quantile(self, p: ArrayLike) -> Leaf:
        """Inverse of the distribution function, for p in (0, 1)."""
        mean, precision, _, low, high, _ = np.asarray(self.numbers, dtype=float)
        if self.logarithmic:
            with np.errstate(divide="ignore"):
                low, high = np.log(low), np.log(high)
        u = _normal_quantile(mean, precision**-0.5, low, high, p) if precision else low + np.asarray(p) * (high - low)
        return np.clip(np.exp(u) if self.logarithmic else u, self.low, self.high)


def log_prob(
    priors: tuple[Prior, ...], x: Float[jax.Array, "*points parameters"]
) -> Float[jax.Array, "*points parameters"]:
    """Log densities of several priors at x (..., len(priors)), one for each."""
    mean, precision, constant, low, high, median = jnp.stack([jnp.asarray(p.numbers) for p in priors], axis=-1)
    logarithmic, circular = (np.array([getattr(p, name) for p in priors]) for name in ("logarithmic", "circular"))
    inside = ((x > low) & (x < high)) | circular
    safe = jnp.where(inside, x, median)
    u = jnp.where(logarithmic, jnp.log(jnp.where(logarithmic, safe, 1.0)), safe)
    density = -0.5 * precision * (u - mean) ** 2 + constant - jnp.where(logarithmic, u, 0.0)
    return jnp.where(inside, density, -jnp.inf)


def make_prior(
    kind: str,
    arguments: Arguments,
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
    if set(arguments) != set(_KINDS[kind]):
        raise InputError(f"prior {kind} of {name} needs {', '.join(_KINDS[kind])}, got {', '.join(arguments)}")
    given = {key: float(value) for key, value in arguments.items()}
    low, high = support if bounds is None else (np.maximum(support[0], bounds[0]), np.minimum(support[1], bounds[1]))
    if "low" in given:
        if not given["low"] < given["high"]:
            raise InputError(f"prior of {name}: low = {given['low']} must be below high = {given['high']}")
        low, high = max(low, given["low"]), min(high, given["high"])
    if kind == "share":
        if bounds is not None:
            raise InputError(
                f"{name} has bounds and the prior share, which is one of its share of the rate: give {name} another "
                "prior too, say {type: normal, mean: 0, sd: 1e4}, or no bounds"
            )
        low, high = 0.0, np.inf
    logarithmic = kind in _LOGARITHMIC
    if logarithmic or kind == "half_normal":
        low = max(low, 0.0)
    failure = InputError(
        f"prior {kind} of {name} has no support between {low} and {high}: widen the bounds or move the prior"
    )
    if not low < high:
        raise failure
    with np.errstate(divide="ignore"):
        ends = (np.log(low), np.log(high)) if logarithmic else (low, high)
    if kind in ("uniform", "loguniform"):
        mean, precision, constant = 0.0, 0.0, -np.log(ends[1] - ends[0])
    else:
        mean = np.log(given["median"]) if logarithmic else given.get("mean", 0.0)
        sd = given["sigma"] if logarithmic else given["sd"]
        below, above = (float(ndtr((end - mean) / sd)) for end in ends)
        if not above - below > 1e-12:
            raise failure
        precision, constant = sd**-2.0, -np.log(sd) - 0.5 * np.log(2 * np.pi) - np.log(above - below)
    bounded = bool(np.isfinite(low)), bool(np.isfinite(high))
    numbers = np.array([mean, precision, constant, low, high, np.nan])
    prior = Prior(numbers, logarithmic, bounded, share=kind == "share")
    return replace(prior, numbers=np.append(prior.numbers[:5], prior.quantile(0.5)))


def _normal_quantile(mean: float, sd: float, low: float, high: float, p: ArrayLike) -> Leaf:
    below, above = ndtr((low - mean) / sd), ndtr((high - mean) / sd)
    return mean + sd * ndtri(below + np.asarray(p) * (above - below))
