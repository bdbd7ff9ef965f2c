"""The free parameters of an analysis: their priors, and the unconstrained coordinates z in which samplers see them.

`parameter_space` builds a `ParameterSpace` from a model, priors and fixed values. The space maps z to physical
parameters (`physical`) and to the log density of the prior in z (`log_prior`, Jacobian included). Priors are declared
on the physical parameters; the posterior is the same in any coordinates. A space is a JAX tree: its numbers are leaves,
so programs that take it as an argument are compiled once for all spaces with the same model, free parameters and kinds
of priors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Bool, Float

from homodyne.arrays import Ages, AnyArray, Array, Leaf, Points, Values, Vector
from homodyne.errors import InputError
from homodyne.physics.compiling import Numbers, at_points, namespace
from homodyne.physics.coordinates import (
    SLOPE_SCALE,
    GrowthCoordinates,
    LawCoordinates,
    Place,
    level_columns,
    single_coordinate,
    single_name,
    single_value,
)
from homodyne.physics.model import CorrelationModel, Params, supported
from homodyne.physics.power_laws import middle_age
from homodyne.physics.priors import Prior, log_prob, make_prior

_SOFT = 1.0 / 12.0  # width of the ends of the window in which a direction is unwrapped, over its period
_FLAT = 1.0 / 3.0  # standard deviation of a direction of which nothing is known, over its period
_SUITED = ("slope_scales", "directions")  # what of a space depends on the data
_SLOWEST, _FASTEST = 0.3, 3.0  # decays per record and per frame between which starting points are moved


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ParameterSpace:
    """Free and fixed parameters of one analysis; see the module for what it maps.

    Attributes
    ----------
    priors : dict
        Priors of the free parameters.
    fixed : dict
        Values of the others.
    ends : (2,) array
        First and last age of the record in s.
    middle : float
        Middle age of the record in s, see `homodyne.physics.power_laws.middle_age`.
    slope_scales : dict
        rho0 of `homodyne.physics.coordinates` by the name of the law's rate.
    directions : dict
        By the name of a free direction, the value about which it is unwrapped. Its coordinate has the density on the
        circle times a window whose copies, a period from each other, add up to one: proper on the whole line, without
        an edge, and the same on the circle whatever the window.
    model : CorrelationModel
    """

    priors: Mapping[str, Prior]
    fixed: Mapping[str, Leaf]
    ends: Leaf
    middle: Leaf
    slope_scales: Mapping[str, Leaf]
    directions: Mapping[str, Leaf]
    model: CorrelationModel = field(metadata={"static": True})

    def __getstate__(self) -> dict[str, object]:
        return {one.name: getattr(self, one.name) for one in fields(self)}  # not what was worked out from them

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters of the model."""
        return self.model.parameter_names

    @cached_property
    def free_names(self) -> tuple[str, ...]:
        """Parameters that are fitted, in the order of `names`."""
        return tuple(name for name in self.names if name in self.priors)

    @cached_property
    def laws(self) -> tuple[LawCoordinates | GrowthCoordinates, ...]:
        """Power laws and growths with their coordinates."""
        powers = (LawCoordinates.of(law, self.priors) for law in self.model.coordinates())
        growths = (GrowthCoordinates.of(law, self.priors) for law in self.model.growths())
        return (*powers, *(law for law in growths if law is not None))

    @cached_property
    def singles(self) -> tuple[str, ...]:
        """Free parameters that belong to no power law."""
        taken = {name for law in self.laws for name in law.parameters}
        return tuple(name for name in self.free_names if name not in taken)

    @cached_property
    def coordinate_names(self) -> tuple[str, ...]:
        """Names of the elements of z."""
        ours = (single_name(name, self.priors[name]) for name in self.singles)
        return (*(name for law in self.laws for name in law.names), *ours)

    @property
    def dim(self) -> int:
        """Length of z."""
        return len(self.coordinate_names)

    @cached_property
    def periods(self) -> Vector:
        """Period of every coordinate, (dim,); 0 for none."""
        known = {p.name: p.period or 0.0 for p in self.model.parameters if p.name in self.priors}
        circle = {name: known[name] for name in self.singles if self.priors[name].circular}
        return np.array([circle.get(name, 0.0) for name in self.coordinate_names])

    def _place(self, law: LawCoordinates | GrowthCoordinates) -> Place:
        return Place(self.middle, self.slope_scales[law.law.rate])

    def _mapped(self, z: Numbers) -> tuple[dict[str, jax.Array], jax.Array]:
        """Physical parameters, and log |d(free parameters)/dz|."""
        params: dict[str, jax.Array] = {name: jnp.asarray(value) for name, value in self.fixed.items()}
        position, total, z = 0, jnp.zeros(()), jnp.asarray(z)
        for law in self.laws:
            size = len(law.names)
            found, log_det = law.physical(z[position : position + size], self.fixed, self.priors, self._place(law))
            params.update(found)
            position, total = position + size, total + log_det
        for k, name in enumerate(self.singles, position):
            params[name], log_det = single_value(z[k], self.priors[name])
            total += log_det
            if self.periods[k]:
                away = (z[k] - self.directions[name]) / self.periods[k]
                params[name] -= self.periods[k] * jnp.round(away)
                total += _log_window(away)
        return {name: params[name] for name in self.names}, total

    def physical(self, z: Float[Numbers, "coordinates"]) -> dict[str, jax.Array]:
        """Physical parameters by name, the fixed ones included; a differentiable function of z (dim,)."""
        return self._mapped(z)[0]

    def supported(self, z: Float[Numbers, "coordinates"]) -> Bool[jax.Array, ""]:
        """Whether the model allows the parameters for this record."""
        return self.model.supported(self.physical(z), self.ends[0], self.ends[1])

    def _judged(self, params: Params) -> tuple[dict[str, Leaf], Leaf]:
        """What the priors are of: the parameters, or shares in place of offsets; and log |d(these)/d(parameters)|."""
        judged, total = dict(params), jnp.zeros(())
        for law in self.laws:
            if isinstance(law, LawCoordinates) and law.shared and law.law.offset is not None:
                judged[law.law.offset], log_slope = law.share(params, self._place(law))
                total += log_slope
        return judged, total

    def log_prior(self, z: Float[Numbers, "coordinates"]) -> Float[jax.Array, ""]:
        """Log density of the prior in z, Jacobian included; -inf where the model or a prior excludes the point."""
        params, total = self._mapped(z)
        judged, log_slope = self._judged(params)
        total += log_slope
        free = jnp.stack([judged[name] for name in self.free_names])
        total += log_prob(tuple(self.priors[name] for name in self.free_names), free).sum()
        possible = self.model.supported(params, self.ends[0], self.ends[1]) & jnp.isfinite(total)
        return jnp.where(possible, total, -jnp.inf)

    def prior_scales(self, z: Float[Numbers, "coordinates"]) -> Float[jax.Array, "parameters"]:
        """Values, one for each of `free_names`, of which priors are normal: parameters, shares, or their logarithms."""
        params, _ = self._judged(self.physical(z))
        values = [jnp.log(params[n]) if self.priors[n].logarithmic else params[n] for n in self.free_names]
        return jnp.stack(values)

    def prior_information(self, z: Float[Numbers, "coordinates"]) -> Float[jax.Array, "coordinates coordinates"]:
        """Curvature (dim, dim) of normal priors along z, and that of logits and directions: positive semidefinite."""
        slopes = jax.jacfwd(self.prior_scales)(z)
        precision = jnp.stack([jnp.asarray(self.priors[name].numbers)[1] for name in self.free_names])
        logits = np.array([name.startswith("logit_") for name in self.coordinate_names])
        bent = jnp.where(logits, 2.0 * jax.nn.sigmoid(z) * jax.nn.sigmoid(-z), 0.0)
        return jnp.asarray(slopes.T @ (precision[:, None] * slopes)) + jnp.diag(bent + self.turning)

    @property
    def turning(self) -> Vector:
        """Precision (dim,) of directions of which nothing is known; 0 for other coordinates."""
        return np.where(self.periods > 0, 1.0 / (_FLAT * np.where(self.periods > 0, self.periods, 1.0)) ** 2, 0.0)

    def coordinates(self, params: Params) -> Float[Array, "... coordinates"]:
        """Inverse of `physical`: (dim,) for numbers, (count, dim) for arrays of values.

        Raises
        ------
        InputError
            When a rate is not positive in the middle of the record, or a value lies outside its bounds.
        """
        z = self.at(params)
        if not np.isfinite(z).all():
            first = int(np.argmin(np.isfinite(z).all(axis=-1)))
            given = ", ".join(f"{name} = {np.resize(params[name], first + 1)[-1]:g}" for name in self.names)
            raise InputError(f"{given}: rates must be positive and values inside their bounds")
        return z

    def at(self, params: Params) -> Float[Array, "... coordinates"]:
        """As `coordinates`; not finite where there are none."""
        columns = [x for law in self.laws for x in law.coordinates(params, self.priors, self._place(law))]
        columns += [single_coordinate(params[name], self.priors[name]) for name in self.singles]
        return np.stack(np.broadcast_arrays(*columns), axis=-1)

    def canonical(self, z: Float[Array, "*points coordinates"]) -> Float[Array, "*points coordinates"]:
        """Points (..., >= dim) with directions in the middle of their windows."""
        z, period = np.array(z, dtype=float), np.where(self.periods > 0, self.periods, 1.0)
        gap = z[..., : self.dim] - np.array([self.directions.get(name, 0.0) for name in self.coordinate_names])
        z[..., : self.dim] -= np.where(self.periods > 0, period * np.round(gap / period), 0.0)
        return z

    def difference(self, z: Numbers, center: Numbers) -> Float[Numbers, "... coordinates"]:
        """Differences z - center of points (..., dim), directions by the shorter way, in NumPy or JAX."""
        xp = namespace(z, center)
        gap = xp.asarray(z) - xp.asarray(center)
        period = np.where(self.periods > 0, self.periods, 1.0)
        return gap - xp.where(self.periods > 0, period * xp.round(gap / period), 0.0)  # type: ignore[no-any-return]

    def parameters_at(self, points: Points) -> dict[str, Values]:
        """`physical` at points (n, >= dim), (n,) each, in NumPy."""
        return _physical_at(points[:, : self.dim], self)  # type: ignore[no-any-return]

    def supported_at(self, points: Points) -> Bool[np.ndarray, "points"]:
        """`supported` at points (n, >= dim), (n,), in NumPy."""
        return np.asarray(_supported_at(points[:, : self.dim], self))

    def draw_supported(self, rng: np.random.Generator, count: int) -> Float[Array, "draws coordinates"]:
        """Coordinates of `count` draws from the prior that the model allows for this record, (count, dim).

        Raises
        ------
        InputError
            When fewer than one draw in a hundred is allowed.
        """
        size = 100 * count
        params: dict[str, Leaf] = {name: np.full(size, float(value)) for name, value in self.fixed.items()}
        params.update({name: self.priors[name].quantile(rng.uniform(size=size)) for name in self.free_names})
        params = self.with_offsets(params)
        with np.errstate(all="ignore"):
            allowed = np.broadcast_to(np.asarray(supported(self.model, params, *np.asarray(self.ends))), size)
        which = np.flatnonzero(allowed)[:count]
        if which.size < count:
            raise InputError(
                f"{self.model.name} allows {which.size} of {size} draws from the prior between {self.ends[0]:g} s and "
                f"{self.ends[1]:g} s: change the priors, bounds or fixed values of {', '.join(self.names)}"
            )
        return self.coordinates({name: value[which] for name, value in params.items()})

    def made_visible(self, z: Points, t: Ages, q: AnyArray, gap: float | None, rng: np.random.Generator) -> Points:
        """Points with the levels of power laws moved to where the record can see them.

        A wide prior has few draws whose decay takes between a frame and the whole record. For starting points only.
        """
        moved = z.copy()
        fastest, slowest = _FASTEST / np.diff(t).min(), _SLOWEST / (t[-1] - t[0])
        for law in self.model.coordinates():
            columns = level_columns(self.coordinate_names, law)
            factor = float(np.median(law.visible(np.asarray(q), np.nan if gap is None else gap)))
            if columns and factor > 0:
                target = rng.uniform(np.log(slowest / factor), np.log(fastest / factor), len(moved))
                moved[:, columns] += (target - moved[:, columns].mean(axis=1))[:, None]
        return moved

    def with_offsets(self, params: Params) -> dict[str, Leaf]:
        """Parameters in which shares, where the prior of an offset is one of its share, are replaced by offsets."""
        found = dict(params)
        for law in self.laws:
            if isinstance(law, LawCoordinates) and law.shared and law.law.offset is not None:
                found[law.law.offset] = law.offset_from_share(params, params[law.law.offset], self._place(law))
        return found

    def about(self, modes: Float[Array, "modes coordinates"], slope_sd: Mapping[str, float]) -> "ParameterSpace":
        """Space whose coordinates suit data with these modes (n, dim).

        `slope_sd` has the standard deviations of the slopes d log J / d log t there, by the name of the rate. The ends
        of the window of a direction are in the middle of the largest gap between modes.
        """
        scales = dict(self.slope_scales)
        for law in self.laws:
            exponent, sd = law.law.exponent, slope_sd.get(law.law.rate)
            if exponent in self.priors and sd is not None:
                prior = self.priors[exponent]
                spread = float(np.diff(prior.quantile(np.array([0.1587, 0.8413])))[0]) / 2.0
                scales[law.law.rate] = float(np.clip(sd / spread, 1e-4, 1.0))
        directions = {}
        for name in self.directions:
            column = self.coordinate_names.index(name)
            period, at = self.periods[column], np.sort(modes[:, column] % self.periods[column])
            gaps = np.diff(at, append=at[0] + period)
            directions[name] = float((at + 0.5 * (gaps + period))[np.argmax(gaps)] % period)
        return replace(self, slope_scales=scales, directions=directions)

    @property
    def suited(self) -> dict[str, dict[str, float]]:
        """What `about` has chosen for some data, in plain numbers."""
        return {part: {name: float(x) for name, x in getattr(self, part).items()} for part in _SUITED}

    def suited_as(self, record: Mapping[str, Mapping[str, float]]) -> "ParameterSpace":
        """Space with what `suited` of another one has returned; KeyError, TypeError or ValueError where it is not."""
        chosen = {part: {name: float(record[part][name]) for name in getattr(self, part)} for part in _SUITED}
        return replace(self, **chosen)  # type: ignore[arg-type]


def _log_window(away: jax.Array) -> jax.Array:
    """Logarithm of a window of length one with soft ends; those of all whole steps add up to one."""
    above, below = ((end - jnp.abs(away)) / _SOFT for end in (0.5, -0.5))
    return jnp.asarray(norm.logcdf(above) + jnp.log1p(-jnp.exp(norm.logcdf(below) - norm.logcdf(above))))


def parameter_space(
    model: CorrelationModel,
    t: Ages,
    *,
    priors: Mapping[str, Prior] | None = None,
    fixed: Mapping[str, float] | None = None,
) -> ParameterSpace:
    """Build the space of an analysis.

    Parameters
    ----------
    model : CorrelationModel
    t : (n,) array
        Ages of the frames in s, increasing and positive.
    priors : mapping, optional
        Priors by parameter name, replacing the defaults of the model; they also free what the model fixes by default.
    fixed : mapping, optional
        Values of parameters that are not fitted.

    Raises
    ------
    InputError
        For unknown names, nothing to fit, or amplitude and offset both free at exponent 0, where they mean the same.
    """
    given, held = dict(priors or {}), {name: float(value) for name, value in (fixed or {}).items()}
    if unknown := [name for name in (*given, *held) if name not in model.parameter_names]:
        raise InputError(
            f"unknown parameter {', '.join(unknown)} of {model.name}: expected {', '.join(model.parameter_names)}"
        )
    held = {one.name: one.fixed for one in model.parameters if one.fixed is not None and one.name not in given} | held
    complete: dict[str, Prior] = {}
    for one in model.parameters:
        if one.name not in held:
            prior = given.get(one.name) or make_prior(*one.prior, name=one.name, support=one.support)
            complete[one.name] = prior.on_circle(one.period) if one.period else prior
    offsets = [law.offset for law in model.coordinates()]
    if wrong := [name for name, prior in complete.items() if prior.share and name not in offsets]:
        raise InputError(
            f"prior share of {', '.join(wrong)}: {model.name} has no power law of which this is the offset"
        )
    if not complete:
        names = ", ".join(model.parameter_names)
        raise InputError(f"all parameters of {model.name} are fixed: leave at least one of {names} free")
    for law in model.coordinates():
        if held.get(law.exponent) == 0 and law.amplitude in complete and law.offset in complete:
            raise InputError(
                f"{law.exponent} is fixed at 0, where {law.amplitude} and {law.offset} are one constant: fix "
                f"{law.offset}, say at 0"
            )
    rates = [law.rate for law in model.coordinates()] + [law.rate for law in model.growths()]
    scales = dict.fromkeys(rates, SLOPE_SCALE)
    middle = float(middle_age(t[0], t[-1]))
    directions = {name: 0.0 for name, prior in complete.items() if prior.circular}
    return ParameterSpace(complete, held, np.array([float(t[0]), float(t[-1])]), middle, scales, directions, model)


_physical_at = at_points(lambda z, space: space.physical(z))
_supported_at = at_points(lambda z, space: space.supported(z))
