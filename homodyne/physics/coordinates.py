"""Coordinates in which the posterior of a power law is round and has no wall at exponent zero.

A law J(t) = A t^a + b over a record with the middle time t_m (geometric mean of all ages, `middle_age`) is described by

    J_m = A t_m^a + b                     level in the middle           z1 = log J_m
    rho = A t_m^a / J_m                   share of the power law        z3 = log rho
    z2 = a sqrt(rho² + rho0²)             slope d log J / d log t where rho >> rho0, else a multiple of the exponent

so that A = rho J_m t_m^-a, b = J_m (1 - rho) and |d(A, a, b)/dz| = rho J_m² t_m^-a / sqrt(rho² + rho0²), which is never
zero. rho0 is the standard deviation that the data leave of the slope over that of the prior of the exponent: where the
share of the law is too small for its exponent to be seen, the coordinate is the exponent and its width that of the
prior. Without rho0 the exponent of a law with a small share would be a funnel (Neal, Ann. Stat. 31, 705, 2003).

A fraction s(t) = A exp(k (t - t_0)) + c between 0 and 1 is described in the same way by

    z1 = logit s(t_m)       level in the middle
    z2 = k sqrt(A² + rho0²) slope ds/dt where the exponential is slow and A >> rho0
    z3                      amplitude, in its bounds

so that |d(A, k, c)/dz| = s (1 - s) / sqrt(A² + rho0²) |dA/dz3|.

A parameter with one finite bound is described by the logarithm of its distance, one with two by the logit, directions
by their angle, everything else by itself.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from homodyne.arrays import AnyArray, Leaf
from homodyne.physics.model import Growth, Params, PowerLaw
from homodyne.physics.power_laws import rate
from homodyne.physics.priors import Prior

SLOPE_SCALE = 0.1
"""rho0 where nothing is known of the data."""


class Place(NamedTuple):
    """What the coordinates of a law refer to: middle time of the record in s, and rho0."""

    t_middle: Leaf
    slope_scale: Leaf


@dataclass(frozen=True)
class LawCoordinates:
    """Coordinates of the free parameters of a power law.

    Attributes
    ----------
    law : PowerLaw
    free : frozenset of str
        Names of the parameters that are not fixed.
    bounded : bool
        Whether the exponent has two finite bounds, and is described by its logit.
    shared : bool
        Whether the prior of the offset is one of rho.
    """

    law: PowerLaw
    free: frozenset[str]
    bounded: bool
    shared: bool

    @classmethod
    def of(cls, law: PowerLaw, priors: Mapping[str, Prior]) -> "LawCoordinates":
        """Coordinates of a law of which the parameters with priors are free."""
        names = frozenset(name for name in (law.amplitude, law.exponent, law.offset) if name and name in priors)
        bounded = law.exponent in priors and priors[law.exponent].bounded == (True, True)
        return cls(law, names, bounded, law.offset is not None and law.offset in priors and priors[law.offset].share)

    @property
    def _level(self) -> bool:
        return self.law.amplitude in self.free or (self.law.offset in self.free and not self.shared)

    @property
    def _share(self) -> bool:
        return self.law.offset in self.free and (self.shared or self.law.amplitude in self.free)

    @property
    def _sloped(self) -> bool:
        """Whether the exponent is described by the slope."""
        return self.law.exponent in self.free and self.law.amplitude in self.free and not self.bounded

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates: level, exponent or slope, share."""
        exponent = f"slope_{self.law.rate}" if self._sloped else f"{'logit_' * self.bounded}{self.law.exponent}"
        wanted = {
            f"log_{self.law.rate}": self._level,
            exponent: self.law.exponent in self.free,
            f"log_share_{self.law.rate}": self._share,
        }
        return tuple(name for name, present in wanted.items() if present)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters of the law."""
        return tuple(name for name in (self.law.amplitude, self.law.exponent, self.law.offset) if name)

    def physical(
        self, z: jax.Array, fixed: Params, priors: Mapping[str, Prior], place: Place
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """Parameters of the law, and log |d(free parameters)/dz|, at its coordinates z."""
        parts: dict[str, Leaf] = {"exponent": None}
        columns = iter(range(len(self.names)))
        for part, present in (
            ("level", self._level),
            ("exponent", self.law.exponent in self.free),
            ("share", self._share),
        ):
            if present:
                parts[part] = z[next(columns)]
        offset: Leaf = fixed.get(self.law.offset or "", 0.0) if self.law.offset not in self.free else None
        amplitude: Leaf = fixed.get(self.law.amplitude) if self.law.amplitude not in self.free else None
        level: Leaf = None
        share: Leaf = None
        log_det = jnp.zeros(())
        if self._level:
            base = jnp.maximum(offset, 0.0) if offset is not None else 0.0  # no wall where the amplitude vanishes
            level = base + jnp.exp(parts["level"])
            log_det += parts["level"]
        if self._share:
            share = jnp.exp(parts["share"])
        elif self.law.amplitude in self.free:
            share = (level - offset) / level
        exponent, slope = self._exponent(parts["exponent"], share, fixed, priors, place)
        log_det += slope
        log_middle = self.law.sign * exponent * jnp.log(place.t_middle)
        if self._share and self._level:
            amplitude, offset = share * level * jnp.exp(-log_middle), level * (1.0 - share)
            log_det += parts["level"] + parts["share"] - log_middle
        elif self._share:
            power = amplitude * jnp.exp(log_middle)
            offset = power * (1.0 - share) / share
            log_det += jnp.log(power) - parts["share"]
        elif self.law.amplitude in self.free:
            amplitude = (level - offset) * jnp.exp(-log_middle)
            log_det -= log_middle
        elif self.law.offset in self.free:
            offset = level - amplitude * jnp.exp(log_middle)
        found = {self.law.amplitude: amplitude, self.law.exponent: exponent}
        if self.law.offset is not None:
            found[self.law.offset] = offset
        return {name: jnp.asarray(value) for name, value in found.items()}, log_det

    def share(self, params: Params, place: Place) -> tuple[Leaf, Leaf]:
        """Share rho of the power law in the rate in the middle of the record, and log |d rho / d offset|."""
        power = self._power(params, place, jnp)
        level = power + params[self.law.offset or ""]
        return power / level, jnp.log(power) - 2.0 * jnp.log(level)

    def offset_from_share(self, params: Params, share: Leaf, place: Place) -> Leaf:
        """Offset that leaves the power law this share of the rate, in NumPy."""
        with np.errstate(all="ignore"):
            return self._power(params, place) * (1.0 - share) / share

    def _power(self, params: Params, place: Place, xp: ModuleType = np) -> Leaf:
        """Power law in the middle of the record, in NumPy or JAX."""
        amplitude, exponent, t = (
            xp.asarray(x, dtype=float) for x in (params[self.law.amplitude], params[self.law.exponent], place.t_middle)
        )
        return amplitude * xp.exp(self.law.sign * exponent * xp.log(t))

    def _exponent(
        self, z: jax.Array | None, share: Leaf, fixed: Params, priors: Mapping[str, Prior], place: Place
    ) -> tuple[jax.Array, jax.Array]:
        """Exponent and log |d exponent / dz|."""
        if z is None:
            return jnp.asarray(fixed[self.law.exponent]), jnp.zeros(())
        if self._sloped:
            scale = jnp.sqrt(share**2 + place.slope_scale**2)
            return z / scale, -jnp.log(scale)
        if self.bounded:
            return _from_interval(z, priors[self.law.exponent].low, priors[self.law.exponent].high)
        return z, jnp.zeros(())

    def coordinates(self, params: Params, priors: Mapping[str, Prior], place: Place) -> list[Leaf]:
        """Inverse of `physical` in NumPy, each with the shape of the parameters; NaN where the level is not above 0."""
        exponent = np.asarray(params[self.law.exponent], dtype=float)
        offset = np.asarray(params[self.law.offset] if self.law.offset else 0.0, dtype=float)
        with np.errstate(all="ignore"):
            power = self._power(params, place)
            level, found = power + offset, []
            if self._level:
                base = np.maximum(offset, 0.0) if self.law.offset not in self.free else 0.0
                found.append(np.log(level - base))
            if self._sloped:
                found.append(exponent * np.sqrt((power / level) ** 2 + float(place.slope_scale) ** 2))
            elif self.law.exponent in self.free:
                prior = priors[self.law.exponent]
                found.append(_to_interval(exponent, prior.low, prior.high) if self.bounded else exponent)
            if self._share:
                found.append(np.log(power / level))
        return found

    def rate(self, params: Params, t: ArrayLike) -> jax.Array:
        """Rate at time t."""
        offset = params[self.law.offset] if self.law.offset else 0.0
        return rate(t, params[self.law.amplitude], self.law.sign * params[self.law.exponent], offset)


@dataclass(frozen=True)
class GrowthCoordinates:
    """Coordinates of the parameters of a fraction that changes exponentially, of which all but the reference are free.

    Attributes
    ----------
    law : Growth
    amplitude : str
        Name of the coordinate of the amplitude.
    """

    law: Growth
    amplitude: str

    @classmethod
    def of(cls, law: Growth, priors: Mapping[str, Prior]) -> "GrowthCoordinates | None":
        """Coordinates of a law under some priors; None where its parameters are coordinates of their own."""
        if not {law.amplitude, law.exponent, law.constant} <= set(priors) or law.reference in priors:
            return None
        return cls(law, single_name(law.amplitude, priors[law.amplitude]))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates: level, slope, amplitude."""
        return f"logit_{self.law.rate}", f"slope_{self.law.rate}", self.amplitude

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters of the law."""
        return self.law.amplitude, self.law.exponent, self.law.constant

    def physical(
        self, z: jax.Array, fixed: Params, priors: Mapping[str, Prior], place: Place
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """Parameters of the law, and log |d(parameters)/dz|, at its coordinates z."""
        amplitude, log_det = single_value(z[2], priors[self.law.amplitude])
        scale = jnp.sqrt(amplitude**2 + place.slope_scale**2)
        exponent = z[1] / scale
        level, log_slope = _from_interval(z[0], jnp.zeros(()), jnp.ones(()))
        constant = level - amplitude * jnp.exp(exponent * (place.t_middle - fixed[self.law.reference]))
        found = dict(zip(self.parameters, (amplitude, exponent, constant), strict=True))
        return found, log_det - jnp.log(scale) + log_slope

    def coordinates(self, params: Params, priors: Mapping[str, Prior], place: Place) -> list[AnyArray]:
        """Inverse of `physical` in NumPy, each with the shape of the parameters; not finite outside the bounds."""
        amplitude, exponent, constant = (np.asarray(params[name], dtype=float) for name in self.parameters)
        with np.errstate(all="ignore"):
            grown = np.exp(exponent * (float(place.t_middle) - params[self.law.reference]))
            level = _to_interval(np.asarray(constant + amplitude * grown), 0.0, 1.0)
            slope = exponent * np.sqrt(amplitude**2 + float(place.slope_scale) ** 2)
            return [level, np.asarray(slope), single_coordinate(amplitude, priors[self.law.amplitude])]


def single_name(name: str, prior: Prior) -> str:
    """Name of the coordinate of a parameter that stands alone."""
    if prior.circular:
        return name
    return {(True, True): "logit_", (False, False): ""}.get(prior.bounded, "log_") + name


def single_value(z: jax.Array, prior: Prior) -> tuple[jax.Array, jax.Array]:
    """Value of a parameter that stands alone, and log |d value / dz|."""
    if prior.circular or prior.bounded == (False, False):
        return z, jnp.zeros(())
    if prior.bounded == (True, True):
        return _from_interval(z, prior.low, prior.high)
    return (prior.low + jnp.exp(z) if prior.bounded[0] else prior.high - jnp.exp(z)), z


def single_coordinate(value: ArrayLike, prior: Prior) -> AnyArray:
    """Inverse of `single_value` in NumPy; not finite outside the bounds."""
    value = np.asarray(value, dtype=float)
    with np.errstate(all="ignore"):
        if prior.circular or prior.bounded == (False, False):
            return value
        if prior.bounded == (True, True):
            return _to_interval(value, prior.low, prior.high)
        return np.asarray(np.log(value - prior.low) if prior.bounded[0] else np.log(prior.high - value))


def _from_interval(z: jax.Array, low: Leaf, high: Leaf) -> tuple[jax.Array, jax.Array]:
    log_slope = jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z) + jnp.log(high - low)
    return low + (high - low) * jax.nn.sigmoid(z), log_slope


def _to_interval(value: AnyArray, low: Leaf, high: Leaf) -> AnyArray:
    return np.asarray(np.log(value - low) - np.log(high - value))


def level_columns(names: Collection[str], law: PowerLaw) -> list[int]:
    """Positions of the level of a law among names of coordinates."""
    return [k for k, name in enumerate(names) if name == f"log_{law.rate}"]
