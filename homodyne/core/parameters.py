"""Physical parameters, their priors, and the coordinates in which a sampler sees them.

`parameter_space` builds a `ParameterSpace` from the mode, the priors and the fixed values. The space maps
an unconstrained vector ``z`` to physical parameters (`physical`), to the integrals the likelihood needs
(`integrals`) and to the log density of the prior in z (`log_prior`, with its Jacobian). Priors are declared
on the physical parameters; the posterior is the same in any coordinates.

The coordinates are logarithms of the rates at two times inside the record, in which the posterior is round.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from homodyne.core.priors import Prior, make_prior
from homodyne.core.transport import amplitude_offset, anchor_integral, anchor_rate, anchor_times, rate, rate_integral
from homodyne.errors import InputError

STATIC_NAMES = ("D0", "alpha", "D_offset")
LAMINAR_NAMES = (*STATIC_NAMES, "gamma_dot_0", "beta", "gamma_dot_offset", "phi0")
MODES = {"static": STATIC_NAMES, "laminar_flow": LAMINAR_NAMES}

UNITS = {
    "D0": "Å²/s^(1+alpha)",
    "alpha": "",
    "D_offset": "Å²/s",
    "gamma_dot_0": "1/s^(1+beta)",
    "beta": "",
    "gamma_dot_offset": "1/s",
    "phi0": "deg",
    "contrast": "",
    "offset": "",
    "sigma": "",
}

DEFAULT_PRIORS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "D0": ("lognormal", {"median": 1e4, "sigma": 4.0}),
    "alpha": ("normal", {"mean": 0.0, "sd": 1.5}),
    "D_offset": ("normal", {"mean": 0.0, "sd": 1e4}),
    "gamma_dot_0": ("lognormal", {"median": 1e-2, "sigma": 4.0}),
    "beta": ("normal", {"mean": 0.0, "sd": 1.0}),
    "gamma_dot_offset": ("normal", {"mean": 0.0, "sd": 1e-1}),
    "phi0": ("uniform", {"low": -90.0, "high": 90.0}),
}
"""Wide defaults; they contain the fits published for data of this kind."""

_EDGE = 0.5  # a rate at an end of the record is close to 0 below this share of that at the next anchor
_LOGARITHM = 0.03  # an exponent is close to 0, where a power law is a logarithm, below this

Params = Mapping[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class PowerLawCoordinates:
    """Coordinates of one law ``amplitude * t**exponent + offset`` of which some parameters are fixed.

    Every free one of (amplitude, offset) is replaced by the logarithm of the rate at an anchor time: both anchors
    when both are free, the middle one (geometric mean) when one is. The exponent stands for itself.
    """

    names: tuple[str, str, str]
    fixed: Mapping[str, float]
    t_a: float
    t_b: float

    @cached_property
    def free(self) -> tuple[str, ...]:
        """Names of the parameters that are not fixed."""
        return tuple(name for name in self.names if name not in self.fixed)

    @property
    def _levels(self) -> tuple[str, ...]:
        """Free ones of amplitude and offset."""
        return tuple(name for name in (self.names[0], self.names[2]) if name in self.free)

    @property
    def _t_mid(self) -> float:
        return float(np.sqrt(self.t_a * self.t_b))

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Name of every coordinate: levels first, then the exponent."""
        rate_name = "J" if self.names[0] == "D0" else "gamma_dot"
        levels = [f"log_{rate_name}_{k}" for k in ("ab" if len(self._levels) == 2 else "m"[: len(self._levels)])]
        return (*levels, *(name for name in self.names[1:2] if name in self.free))

    def physical(self, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Amplitude, exponent and offset."""
        levels = len(self._levels)
        exponent = self._exponent(z)
        amplitude: Any = self.fixed.get(self.names[0])
        offset: Any = self.fixed.get(self.names[2])
        if levels == 2:
            amplitude, offset = amplitude_offset(jnp.exp(z[0]), jnp.exp(z[1]), exponent, self.t_a, self.t_b)
        elif self._levels == (self.names[0],):
            amplitude = (jnp.exp(z[0]) - offset) * self._t_mid ** (-exponent)
        elif levels == 1:
            offset = jnp.exp(z[0]) - amplitude * self._t_mid**exponent
        return jnp.asarray(amplitude), exponent, jnp.asarray(offset)

    def log_jacobian(self, z: jax.Array) -> jax.Array:
        """Log of |d(free physical parameters) / dz|."""
        levels = len(self._levels)
        if levels == 0:
            return jnp.zeros(())
        _, exponent, _ = self.physical(z)
        if levels == 2:
            span = jnp.log(self.t_b / self.t_a) * exponent
            return jnp.asarray(z[0] + z[1] - jnp.log(jnp.abs(jnp.expm1(span))) - exponent * np.log(self.t_a))
        return jnp.asarray(z[0] - (exponent * np.log(self._t_mid) if self._levels == (self.names[0],) else 0.0))

    def log_softening(self, z: jax.Array, ends: jax.Array) -> jax.Array:
        """See `ParameterSpace.log_softening`; ``ends`` are the first and the last time."""
        poles = jnp.zeros(())
        if len(self._levels) == 2:
            poles += jnp.log(jnp.abs(jnp.tanh(0.5 * (z[0] - z[1]))))
            if self.names[1] in self.free:
                poles += jnp.log(jnp.abs(z[2]) / (jnp.abs(z[2]) + _LOGARITHM))
        outer, inner = self.rate(z, ends), self.rate(z, jnp.array([self.t_a, self.t_b]))
        return poles + jnp.log(outer / (outer + _EDGE * inner)).sum()

    def rate(self, z: jax.Array, t: Any) -> jax.Array:
        """Rate at time t."""
        if len(self._levels) == 2:
            return anchor_rate(t, jnp.exp(z[0]), jnp.exp(z[1]), self._exponent(z), self.t_a, self.t_b)
        return rate(t, *self.physical(z))

    def integral(self, z: jax.Array, t: Any) -> jax.Array:
        """Integral of the rate from the first time to every time."""
        if len(self._levels) == 2:
            return anchor_integral(t[0], t, jnp.exp(z[0]), jnp.exp(z[1]), self._exponent(z), self.t_a, self.t_b)
        return rate_integral(t[0], t, *self.physical(z))

    def _exponent(self, z: jax.Array) -> jax.Array:
        return z[len(self._levels)] if self.names[1] in self.free else jnp.asarray(self.fixed[self.names[1]])

    def coordinates(self, params: Params) -> list[Array]:
        """Inverse of `physical`, each with the shape of the parameters; NaN where a rate is not positive."""
        amplitude, exponent, offset = (np.asarray(params[name], dtype=float) for name in self.names)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            times = (self.t_a, self.t_b) if len(self._levels) == 2 else (self._t_mid,) * len(self._levels)
            z = [np.log(amplitude * np.float64(t) ** exponent + offset) for t in times]
        return z + [exponent] * (self.names[1] in self.free)

    def positive(self, params: Params, t_first: float, t_last: float) -> Array:
        """Whether the rate is positive and finite between two times; it is monotone, so both ends decide."""
        amplitude, exponent, offset = (np.asarray(params[name], dtype=float) for name in self.names)
        with np.errstate(over="ignore", invalid="ignore"):
            ends = np.stack([amplitude * np.float64(t) ** exponent + offset for t in (t_first, t_last)])
        return np.asarray(((ends > 0) & (ends < np.inf)).all(axis=0))


@dataclass(frozen=True)
class ParameterSpace:
    """Free and fixed parameters of one analysis; see the module for what it maps."""

    mode: str
    priors: Mapping[str, Prior]
    fixed: Mapping[str, float]
    laws: tuple[PowerLawCoordinates, ...]
    t_first: float
    t_last: float

    @cached_property
    def _plain_names(self) -> tuple[str, ...]:
        """Names of the coordinates before bounded ones are stretched to the whole line."""
        angle = () if self.mode == "static" or "phi0" in self.fixed else ("phi0",)
        return (*(name for law in self.laws for name in law.coordinate_names), *angle)

    @cached_property
    def _interval(self) -> tuple[Array, Array, Array]:
        """Which coordinates are parameters with two finite bounds, and those bounds."""
        prior = [self.priors.get(name) for name in self._plain_names]
        bounded = [p is not None and np.isfinite(p.high - p.low) and not p.circular for p in prior]
        low, high = (
            np.array([getattr(p, end) if b and p else float(k) for p, b in zip(prior, bounded, strict=True)])
            for k, end in enumerate(("low", "high"))
        )
        return np.array(bounded, dtype=bool), low, high

    def _plain(self, z: jax.Array) -> jax.Array:
        """Coordinates with bounded parameters as they are."""
        bounded, low, high = self._interval
        return jnp.where(bounded, low + (high - low) * jax.nn.sigmoid(jnp.where(bounded, z, 0.0)), z)

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters of the mode."""
        return MODES[self.mode]

    @property
    def free_names(self) -> tuple[str, ...]:
        """Parameters that are fitted, in the order of `names`."""
        return tuple(name for name in self.names if name not in self.fixed)

    @cached_property
    def coordinate_names(self) -> tuple[str, ...]:
        """Names of the elements of z; ``logit`` marks a parameter between two bounds."""
        named = zip(self._plain_names, self._interval[0], strict=True)
        return tuple(f"logit_{name}" if bounded else name for name, bounded in named)

    @property
    def dim(self) -> int:
        """Length of z."""
        return len(self.coordinate_names)

    def _split(self, z: jax.Array) -> tuple[list[jax.Array], Any]:
        """Coordinates of every law, and phi0."""
        plain = self._plain(z)
        ends = np.cumsum([len(law.coordinate_names) for law in self.laws])
        parts = [plain[end - len(law.coordinate_names) : end] for law, end in zip(self.laws, ends, strict=True)]
        return parts, self.fixed["phi0"] if "phi0" in self.fixed else plain[-1]

    def physical(self, z: jax.Array) -> dict[str, jax.Array]:
        """Physical parameters by name, the fixed ones included; a differentiable function of z (dim,)."""
        params: dict[str, jax.Array] = {}
        parts, phi0 = self._split(z)
        for law, part in zip(self.laws, parts, strict=True):
            params.update(zip(law.names, law.physical(part), strict=True))
        if self.mode == "laminar_flow":
            params["phi0"] = jnp.asarray(phi0)
        return params

    def coordinates(self, params: Params) -> Array:
        """Inverse of `physical`: (dim,) for numbers, (count, dim) for arrays of values.

        Raises
        ------
        InputError
            When a rate is not positive at the anchor times, or a value lies outside its bounds.
        """
        angle = [np.asarray(params["phi0"], dtype=float)] if self._plain_names[-1] == "phi0" else []
        columns = [x for law in self.laws for x in law.coordinates(params)] + angle
        z = np.stack(np.broadcast_arrays(*columns), axis=-1)
        bounded, low, high = self._interval
        with np.errstate(invalid="ignore", divide="ignore"):
            z[..., bounded] = (np.log(z - low) - np.log(high - z))[..., bounded]
        if not np.isfinite(z).all():
            given = ", ".join(f"{name} = {params[name]}" for name in self.names)
            raise InputError(f"{given}: the rates J and gamma_dot must be positive and values inside their bounds")
        return z

    def canonical(self, z: Array, around: float = 0.0) -> Array:
        """Bring a circular phi0 within 90 degrees of `around` in points (..., >= dim): phi0 + 180 is the same flow."""
        z = np.array(z)
        if self._plain_names[-1] == "phi0" and self.priors["phi0"].circular:
            k = self.dim - 1
            z[..., k] -= 180.0 * np.round((z[..., k] - around) / 180.0)
        return z

    def apart(self, z: jax.Array, center: Any) -> jax.Array:
        """Difference z - center of points (..., dim), a circular phi0 by the shorter way."""
        gap = z - jnp.asarray(center)
        if self._plain_names[-1] == "phi0" and self.priors["phi0"].circular:
            gap = gap.at[..., -1].add(-180.0 * jnp.round(gap[..., -1] / 180.0))
        return gap

    def supported(self, z: jax.Array) -> jax.Array:
        """Whether J and γ̇ are positive from first to last time; each is monotone, so both ends decide."""
        ends = jnp.array([self.t_first, self.t_last])
        parts, _ = self._split(z)
        return jnp.stack([(law.rate(p, ends) > 0).all() for law, p in zip(self.laws, parts, strict=True)]).all()

    def integrals(self, z: jax.Array, t: Any) -> tuple[jax.Array, jax.Array | None, Any]:
        """Integrals of J (Å²) and γ̇ from ``t[0]`` to every t, and phi0 in degrees; the last two None when static."""
        parts, phi0 = self._split(z)
        transport = self.laws[0].integral(parts[0], t)
        if self.mode == "static":
            return transport, None, None
        return transport, self.laws[1].integral(parts[1], t), phi0

    def log_prior(self, z: jax.Array) -> jax.Array:
        """Log density of the prior in z, Jacobian included; -inf where a rate is not positive or a prior is 0."""
        params = self.physical(z)
        bounded, low, high = self._interval
        inside = jnp.where(bounded, z, 0.0)
        slope = jax.nn.log_sigmoid(inside) + jax.nn.log_sigmoid(-inside) + np.log(high - low)
        total = jnp.where(bounded, slope, 0.0).sum()
        for law, part in zip(self.laws, self._split(z)[0], strict=True):
            total += law.log_jacobian(part)
        for name in self.free_names:
            total += self.priors[name].log_prob(params[name])
        return jnp.where(self.supported(z) & jnp.isfinite(total), total, -jnp.inf)

    def log_softening(self, z: jax.Array) -> jax.Array:
        """Log of a factor of the prior that hardly varies but near the edges, where it is 0: so maxima are inside.

        As the exponent goes to 0 between two different rates at the anchors, the amplitude goes to infinity, and the
        Jacobian with 1/|exponent|; as the rates become equal, the amplitude goes to 0: a wide log-normal prior of it
        leaves poles at both. And rates may be 0 at the first or last time, where the density just ends. `z` may be
        longer than the space.
        """
        ends = jnp.array([self.t_first, self.t_last])
        parts, _ = self._split(z[: self.dim])
        return sum((law.log_softening(part, ends) for law, part in zip(self.laws, parts, strict=True)), jnp.zeros(()))

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, Array]:
        """Draws of the physical parameters from the prior, whatever the sign of the rates, (count,) each."""
        values = {name: self.priors[name].quantile(rng.uniform(size=count)) for name in self.free_names}
        return {name: values[name] if name in values else np.full(count, self.fixed[name]) for name in self.names}

    def draw_supported(self, rng: np.random.Generator, count: int) -> Array:
        """Coordinates of `count` draws from the prior with positive rates over the record, (count, dim).

        Raises
        ------
        InputError
            When fewer than one draw in a hundred has positive rates.
        """
        params = self.draw(rng, 100 * count)
        supported = np.all([law.positive(params, self.t_first, self.t_last) for law in self.laws], axis=0)
        which = np.flatnonzero(supported)[:count]
        if which.size < count:
            raise InputError(
                f"J(t) and gamma_dot(t) are positive from {self.t_first:g} s to {self.t_last:g} s for {which.size} of "
                f"{100 * count} draws from the prior: change the priors, bounds or fixed values of "
                f"{', '.join(name for law in self.laws for name in law.names)}"
            )
        return self.coordinates({name: value[which] for name, value in params.items()})


def parameter_space(
    mode: str, t: Any, *, priors: Mapping[str, Prior] | None = None, fixed: Mapping[str, float] | None = None
) -> ParameterSpace:
    """Build the space of an analysis.

    Parameters
    ----------
    mode : "static" or "laminar_flow"
    t : (n,) array
        Times of the frames in s, increasing and positive; the first and the last one set the anchor times.
    priors : mapping, optional
        Priors by parameter name, replacing `DEFAULT_PRIORS`.
    fixed : mapping, optional
        Values of parameters that are not fitted.

    Raises
    ------
    InputError
        For nothing to fit, or amplitude and offset both free at exponent 0, where they mean the same thing.
    """
    names, given = MODES[mode], priors or {}
    fixed = {name: float(value) for name, value in (fixed or {}).items()}
    t_first, t_last = float(t[0]), float(t[-1])
    complete: dict[str, Prior] = {
        name: given.get(name) or make_prior(*DEFAULT_PRIORS[name], name=name) for name in names if name not in fixed
    }
    if "phi0" in complete:
        complete["phi0"] = complete["phi0"].on_circle(180.0)
    if not complete:
        raise InputError(f"all parameters of {mode} mode are fixed: leave at least one of {', '.join(names)} free")
    t_a, t_b = (float(x) for x in anchor_times(t_first, t_last))
    laws = []
    for triple in (names[:3], names[3:6]):
        if not triple:
            continue
        amplitude, exponent, offset = triple
        if fixed.get(exponent) == 0 and amplitude not in fixed and offset not in fixed:
            raise InputError(
                f"{exponent} is fixed at 0, where {amplitude} and {offset} are one constant: fix {offset}, say at 0"
            )
        own = {name: value for name, value in fixed.items() if name in triple}
        laws.append(PowerLawCoordinates((amplitude, exponent, offset), own, t_a, t_b))
    return ParameterSpace(mode, complete, fixed, tuple(laws), t_first, t_last)
