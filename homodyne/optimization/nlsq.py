"""Pilot fit: the modes of the posterior, their curvature, and the noise.

`pilot_fit` screens many draws from the prior on a thinned data set by weighted least squares, climbs from
the best of them (SciPy's trust region, curvature from differences of exact gradients), keeps the distinct
modes, and climbs again on all data. There the noise of every angle is taken from the residuals, and the
curvature at the mode gives the Laplace approximation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from scipy import optimize

from homodyne.core.blocks import Block
from homodyne.core.likelihood import Likelihood, ScalingPrior, least_squares
from homodyne.core.noise import residuals, robust_sigma
from homodyne.core.posterior import Posterior
from homodyne.errors import ConvergenceError
from homodyne.optimization.density import Progress

Array = np.ndarray[Any, np.dtype[Any]]

_SAME = 0.5  # modes closer than this many posterior sd are one
DEAD = 30.0
"""A mode whose log density is this far below the best one carries no mass."""
_FAR_STEPS = 30  # iterations of a climb with the stand-in for the prior
_AGREE = 4  # climbs that must agree before the other starts are left out
_SIMILAR = 0.8  # ratio of the least to the largest contrast that raises no suspicion
_TIED_STARTS = 6  # climbs with tied contrasts
_TIE = 0.005  # relative sd of the contrasts where they are tied together
_MOST_MODES = 4  # modes that are followed on all data
_LEVEL = 1e-4  # a climb stops when an accepted step gains less than this in log density
_HEAVY = 1.2  # ratio of plain to robust sd of the residuals that is reported
_FLAT = 1e-12  # ratio of curvatures, in whitened coordinates, at which a direction has none
_SHARP = 1e8  # curvature in whitened coordinates that, in every direction, is but rounding
_ARRIVED = 0.02  # length of the Newton step, in posterior sd, at which a climb has arrived
_STILL = 0.01  # change of the noise, in units of its own uncertainty, that is none
_CLOSE = 0.1  # steps of differences near an edge, relative to those elsewhere
_AT_EDGE = (
    "the density is highest at an edge (a rate or an exponent of 0): the data determine little, and priors much; fix a "
    "parameter or narrow its prior if you know more"
)
_OUTSIDE = 1e100  # cost where the density is zero
_ROUNDS = 4  # of climbing and taking the noise from the residuals


@dataclass(frozen=True)
class PilotSettings:
    """Settings of the pilot fit.

    Attributes
    ----------
    num_candidates : int
        Draws from the prior that are screened.
    num_starts : int
        Best candidates from which the fit climbs.
    max_iterations : int
        Iterations of one climb.
    depth : float
        How far below the best one a mode may lie, in log density.
    """

    num_candidates: int = 1000
    num_starts: int = 12
    max_iterations: int = 100
    depth: float = DEAD


@dataclass(frozen=True, eq=False)
class Mode:
    """A local maximum of the posterior.

    Attributes
    ----------
    z : (dim,) array
        Coordinates.
    log_density : float
        Log posterior density in z.
    covariance : (dim, dim) array
        Inverse of minus the Hessian: the Laplace approximation.
    newton_step : float
        Length of the Newton step that is left, in posterior sd.
    edge : bool
        Whether the density rises from here to an edge, see `ParameterSpace.log_softening`.
    """

    z: Array
    log_density: float
    covariance: Array
    newton_step: float
    edge: bool = False


@dataclass(frozen=True, eq=False)
class Pilot:
    """What the pilot fit found: the posterior with its noise, and its modes, best first.

    Attributes
    ----------
    sigma : (n_phi,) array
        Noise of a point of weight one, from the residuals at the best mode.
    num_starts : int
        Starts from which the fit climbed.
    num_converged : int
        Starts that reached a maximum of the thinned posterior.
    notes : tuple of str
        What a user should know of how it went.
    """

    posterior: Posterior
    modes: tuple[Mode, ...]
    sigma: Array
    num_starts: int
    num_converged: int
    num_gradients: int
    notes: tuple[str, ...]

    @property
    def mode(self) -> Mode:
        """The best mode."""
        return self.modes[0]

    def noting(self, *further: str) -> "Pilot":
        """Return the same with what its modes say of themselves and further notes."""
        notes = (*self.notes, *further)
        if self.mode.edge:
            notes = (*notes, _AT_EDGE)
        if len(self.modes) > 1:
            below = ", ".join(f"{self.mode.log_density - m.log_density:.1f}" for m in self.modes[1:])
            count = f"the posterior has {len(self.modes)} modes"
            notes = (f"{count}; the others lie {below} below the best in log density", *notes)
        return replace(self, notes=notes)


@dataclass(frozen=True)
class _Surrogate:
    """Normal density that stands in for the prior while a climb is far from its goal: it has no walls."""

    mean: Array
    precision: Array

    def __call__(self, z: Array) -> tuple[float, Array]:
        pull = self.precision @ (z - self.mean)
        return float(-0.5 * (z - self.mean) @ pull), -pull


class _Slope:
    """Log density of a posterior with its gradient in NumPy; counts the gradients."""

    def __init__(self, posterior: Posterior, surrogate: _Surrogate | None = None) -> None:
        def with_noise(z: jax.Array, sigma: jax.Array, scaling: Array) -> Any:
            return jax.value_and_grad(posterior.log_likelihood)(z), jax.value_and_grad(posterior.log_prior)(z)

        self._program = posterior.likelihood.gradients if posterior.sigma is not None else jax.jit(with_noise)
        self.likelihood = posterior.likelihood
        self.space = posterior.likelihood.space
        self.surrogate = surrogate
        self.softened = False
        self._soft = jax.jit(jax.value_and_grad(self.space.log_softening))
        self.scaling = posterior.likelihood.scaling.table
        self.gradients = 0

    def __call__(self, z: Array, sigma: Array) -> tuple[float, Array]:
        self.gradients += 1
        (value, gradient), prior = self._program(z, sigma, self.scaling)
        if self.surrogate is not None:
            prior = self.surrogate(z)
        total, slope = float(value) + float(prior[0]), np.asarray(gradient) + np.asarray(prior[1])
        if self.softened:
            softening, pull = self._soft(z)
            total, slope = total + float(softening), slope + np.asarray(pull)
        return (total, slope) if np.isfinite(total) else (-np.inf, np.zeros_like(z))

    def hessian(self, z: Array, sigma: Array, root: Array, step: float) -> Array:
        """Central differences of the gradient along the columns of `root`, in units of those columns."""
        columns = []
        for direction in root.T:
            ahead, behind = (self(z + sign * step * direction, sigma)[1] for sign in (1.0, -1.0))
            columns.append(root.T @ (ahead - behind) / (2 * step))
        table = np.array(columns)
        return np.asarray(table + table.T) / 2

    def climb(self, z: Array, sigma: Array, root: Array, max_iterations: int, step: float) -> Mode | None:
        """Go up from z in coordinates whitened by `root`; None where no maximum is reached."""
        if self(z, sigma)[0] == -np.inf:
            return None
        return self.mode(self.ascend(z, sigma, root, max_iterations, step), sigma, root, step)

    def ascend(self, z: Array, sigma: Array, root: Array, max_iterations: int, step: float) -> Array:
        """Where the way up from z, inside the support, ends: at a maximum or not."""
        last: list[Any] = [z * np.nan, np.inf]
        latest: list[Array] = [z * np.nan, z]

        def cost(w: Array) -> tuple[float, Array]:
            value, gradient = self(z + root @ w, sigma)
            latest[:] = w.copy(), -root.T @ gradient
            return -value, latest[1]

        def curvature(w: Array) -> Array:
            here = latest[1] if np.array_equal(w, latest[0]) else cost(w)[1]
            table = np.array([(cost(w + step * unit)[1] - here) / step for unit in np.eye(len(z))])
            return np.asarray(table + table.T) / 2

        def stop_when_level(intermediate_result: optimize.OptimizeResult) -> None:
            x, fun = intermediate_result.x, intermediate_result.fun
            if not np.array_equal(x, last[0]):
                if last[1] - fun < _LEVEL:
                    raise StopIteration
                last[:] = x.copy(), fun

        found = optimize.minimize(
            cost, np.zeros(len(z)), jac=True, hess=curvature, method="trust-exact", callback=stop_when_level,
            options={"maxiter": max_iterations, "gtol": 0.0, "initial_trust_radius": 1.0,
            "max_trust_radius": 100.0},
        )  # fmt: skip
        return self.space.canonical(z + root @ found.x)

    def settle(self, z: Array, sigma: Array, root: Array, max_iterations: int, step: float) -> Mode | None:
        """As `climb`, with few gradients where z is near the mode and `root` nearly right.

        Where little is determined, the density may rise up to an edge, be it that of the support or an exponent of
        zero, where it is infinite though its mass is small: then the maximum of the density without that rise stands
        for the mode.
        """
        mode = self._settle(z, sigma, root, max_iterations, step)
        if mode is None and not self.softened:
            self.softened = True
            mode = self._settle(z, sigma, root, max_iterations, _CLOSE * step)
            self.softened = False
        return mode

    def _settle(self, z: Array, sigma: Array, root: Array, max_iterations: int, step: float) -> Mode | None:
        def cost(w: Array) -> tuple[float, Array]:
            value, gradient = self(z + root @ w, sigma)
            return (-value if np.isfinite(value) else _OUTSIDE), -root.T @ gradient

        if self(z, sigma)[0] == -np.inf:
            return None
        found = optimize.minimize(
            cost, np.zeros(len(z)), jac=True, method="BFGS", options={"maxiter": max_iterations, "gtol": _ARRIVED / 4}
        )
        settled = self.mode(self.space.canonical(z + root @ found.x), sigma, root, step)
        return settled or self.climb(z, sigma, root, max_iterations, step)

    def mode(self, z: Array, sigma: Array, root: Array, step: float) -> Mode | None:
        """Curvature at z, first at the given scales and then at a third of a posterior sd; None off a maximum."""
        for width in dict.fromkeys((step, 0.3 * (_CLOSE if self.softened else 1.0))):
            negative = -self.hessian(z, sigma, root, width)
            if not np.isfinite(negative).all():
                return None
            curvature = np.linalg.eigvalsh(negative)
            if curvature[0] <= _FLAT * curvature[-1] or curvature[0] > _SHARP:
                return None
            root = root @ np.linalg.cholesky(np.linalg.inv(negative))
        value, gradient = self(z, sigma)
        newton = float(np.linalg.norm(root.T @ gradient))
        return Mode(z, value, root @ root.T, newton, self.softened) if newton < _ARRIVED else None


def pilot_fit(
    likelihood: Likelihood,
    thin: Block,
    rng: np.random.Generator,
    *,
    between: Block | None = None,
    settings: PilotSettings = PilotSettings(),
    sample_noise: bool = False,
    initial: Array | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Pilot:
    """Find the modes of the posterior, the noise and the curvature.

    Parameters
    ----------
    likelihood : Likelihood
        With all data in its slot.
    thin : Block
        A small part of the data, of the same frames and angles.
    rng : numpy Generator
        Source of the starting points.
    between : Block, optional
        A larger part, from whose modes the way to those of much data is short.
    settings : PilotSettings
    sample_noise : bool
        Whether the noise of every angle is a parameter of the posterior; otherwise it is fixed at the
        residuals' value.
    initial : (dim,) array, optional
        A point to start from besides the draws from the prior.
    progress : callable
        Told (stage, done, total).

    Raises
    ------
    ConvergenceError
        When no start reaches a maximum.
    """
    slope = _Slope(Posterior(likelihood, np.ones(len(likelihood.phi))))
    whole = likelihood.slot.block
    likelihood.slot.block = thin
    try:
        candidates = likelihood.space.draw_supported(rng, settings.num_candidates)
        visible = _visible(likelihood, candidates[::2], rng)
        starts, sigma = _screen(likelihood, np.concatenate([visible, candidates[1::2]]), settings, initial, progress)
        arrived, used = _climb_all(slope, starts, candidates, sigma, settings.max_iterations, progress)
        if not arrived:
            slope.softened = True
            arrived, used = _climb_all(slope, starts, candidates, sigma, settings.max_iterations, progress)
            slope.softened = False
        if not arrived:
            one = "one angle does not determine a flow: use mode static; otherwise " if _single_flow(likelihood) else ""
            raise ConvergenceError(
                f"the pilot fit found no maximum from {used} starts on {thin.num_points} pairs: {one}"
                "the data may determine too little (fix a parameter, or narrow its prior), the model may not "
                "describe them, or the priors exclude it; "
                "look at the maps with 'homodyne inspect' and check q, gap and the priors"
            )
        arrived = _tied(slope, arrived, candidates, sigma, progress)
        sigma = _noise(likelihood, arrived[0].z)
        refined = [
            slope.settle(m.z, sigma, _root(m.covariance), settings.max_iterations, 0.1)
            for m in _distinct(arrived, settings.depth)
        ]
        modes = (_distinct([m for m in refined if m is not None], settings.depth) or arrived[:1])[:_MOST_MODES]
        points = thin.num_points
        for block in filter(None, (between, whole)):
            likelihood.slot.block = block
            progress("pilot fit: all data", 0, 1)
            found, sigma = _all_up(slope, modes, sigma, points / block.num_points, settings)
            if found or block is whole:
                modes, points = found, block.num_points
    finally:
        likelihood.slot.block = whole
    progress("pilot fit: all data", 1, 1)
    notes: list[str] = []
    if not modes:
        raise ConvergenceError(
            "the pilot fit found a maximum on thinned data but none on all data: the posterior has no interior mode; a "
            "bound of a prior may cut it off, or parameters may not be identified (fix one, or narrow its prior)"
        )
    notes += _misfit(likelihood, modes[0].z, sigma)
    posterior = Posterior(likelihood, None if sample_noise else sigma)
    if sample_noise:
        modes, extra = _with_noise(posterior, modes, sigma, settings)
        slope.gradients += extra
    return Pilot(posterior, tuple(modes), sigma, used, len(arrived), slope.gradients, tuple(notes))


def settled(posterior: Posterior, starts: Sequence[Mode], settings: PilotSettings) -> tuple[Mode, ...]:
    """Distinct modes of a posterior with fixed noise that are reached from modes of a similar one, best first.

    Raises
    ------
    ConvergenceError
        When none is reached.
    """
    slope, sigma = _Slope(posterior), np.asarray(posterior.sigma)
    found = [slope.settle(mode.z, sigma, _root(mode.covariance), settings.max_iterations, 0.3) for mode in starts]
    modes = _distinct([mode for mode in found if mode is not None], settings.depth)
    if not modes:
        raise ConvergenceError(
            "with correlated noise the posterior has no interior mode: the data determine too little; fix a parameter "
            "or narrow its prior (uncertainty: independent hides that)"
        )
    return tuple(modes)


def _single_flow(likelihood: Likelihood) -> bool:
    return likelihood.gap is not None and len(likelihood.phi) == 1


def _visible(likelihood: Likelihood, candidates: Array, rng: np.random.Generator) -> Array:
    """Move rates to where the record can see them: a decay that takes between a frame and all of them.

    A wide prior has few draws there.  Only starting points are made so; amplitude and offset are scaled together.
    """
    moved = candidates.copy()
    t, q = likelihood.t, likelihood.q
    fastest, slowest = 3.0 / np.diff(t).min(), 0.3 / (t[-1] - t[0])
    per_rate = {"log_J_": q**2, "log_gamma_dot_": q * (likelihood.gap or 0.0) / 2}
    for prefix, factor in per_rate.items():
        levels = [k for k, name in enumerate(likelihood.space.coordinate_names) if name.startswith(prefix)]
        if levels:
            target = rng.uniform(np.log(slowest / factor), np.log(fastest / factor), len(moved))
            moved[:, levels] += (target - moved[:, levels].mean(axis=1))[:, None]
    return moved


def _screen(
    likelihood: Likelihood, candidates: Array, settings: PilotSettings, initial: Array | None, progress: Progress
) -> tuple[Array, Array]:
    """Starting points in the order of their fit with free noise, and the noise at the best."""
    if initial is not None:
        candidates = np.concatenate([initial[None], candidates])
    count = np.maximum(likelihood.slot.sums[:, 0], 1)
    noise = np.ones(len(likelihood.phi))

    def left_over(z: Array) -> Array:
        return least_squares(likelihood.evaluate(z, noise).moments)[0] / count

    cost = np.empty(len(candidates))
    for k, z in enumerate(candidates):
        left = left_over(z)
        cost[k] = 0.5 * np.sum(count * np.log(left)) if np.all(left > 0) else np.inf
        if k % 50 == 0:
            progress("pilot fit: screening", k, len(candidates))
    progress("pilot fit: screening", len(candidates), len(candidates))
    order = np.argsort(cost)[: settings.num_starts]
    if initial is not None and 0 not in order:
        order = np.concatenate([[0], order[:-1]])
    return candidates[order], np.sqrt(left_over(candidates[np.argmin(cost)]))


def _climb_all(
    slope: _Slope, starts: Array, candidates: Array, sigma: Array, max_iterations: int, progress: Progress
) -> tuple[list[Mode], int]:
    """Climb from every start, first with a normal stand-in for the prior; modes reached, best first, and starts used.

    A few starts are enough when all that arrive do so at one mode.
    """
    scales = _root(np.cov(candidates.T).reshape(2 * (len(starts[0]),)))
    stand_in = _Surrogate(candidates.mean(axis=0), np.linalg.inv(scales @ scales.T))
    arrived = []
    for k, start in enumerate(starts):
        progress("pilot fit: starts", k, len(starts))
        slope.surrogate = stand_in
        above = slope.ascend(start, sigma, scales, _FAR_STEPS, 1e-4)
        near = slope.mode(above, sigma, scales, 1e-4)
        slope.surrogate = None
        first = start if slope(above, sigma)[0] == -np.inf else above
        mode = slope.settle(first, sigma, _root(near.covariance) if near else scales, max_iterations, 1e-3)
        if mode is not None:
            arrived.append(mode)
        if len(arrived) >= _AGREE and len(_distinct(arrived, DEAD)) == 1:
            break
    progress("pilot fit: starts", len(starts), len(starts))
    return sorted(arrived, key=lambda m: -m.log_density), k + 1


def _tied(slope: _Slope, arrived: list[Mode], candidates: Array, sigma: Array, progress: Progress) -> list[Mode]:
    """Search again with the contrast of all angles tied together, where at the best mode they differ; best mode first.

    An angle whose decay the model misses loses its contrast instead, which makes a wide basin around a wrong flow
    direction or rate. Maps of one measurement have about the same contrast, so tying them leads out of it. The modes
    are those of the posterior itself: ties are cut for the second half of the climb.
    """
    contrast = least_squares(slope.likelihood.evaluate(arrived[0].z, sigma).moments)[1]
    if contrast.max() <= 0 or contrast.min() > _SIMILAR * contrast.max():
        return arrived
    free = slope.scaling
    typical = float(contrast.max())
    slope.scaling = ScalingPrior(free[0, 0], free[1, 0] ** -0.5, typical, _TIE * typical).table
    flows = _flows(slope.likelihood, arrived[0].z)
    value = [slope(z, sigma)[0] for z in flows]
    near = _climb_all(
        slope, flows[np.argsort(value)[: -_TIED_STARTS - 1 : -1]], candidates, sigma, _FAR_STEPS, progress
    )[0]
    slope.scaling = free
    further = [slope.settle(m.z, sigma, _root(m.covariance), _FAR_STEPS, 1e-2) for m in _distinct(near, DEAD)]
    return sorted([*arrived, *(m for m in further if m is not None)], key=lambda m: -m.log_density)


def _flows(likelihood: Likelihood, z: Array) -> Array:
    """Points like z with other flow directions and shear rates."""
    names = likelihood.space.coordinate_names
    levels = [k for k, name in enumerate(names) if name.startswith("log_gamma_dot_")]
    if "phi0" not in names or not levels:
        return z[None]
    turns, factors = np.meshgrid(np.arange(-90.0, 90.0, 5.0), np.arange(-2.0, 2.1, 0.25), indexing="ij")
    flows = np.tile(z, (turns.size, 1))
    flows[:, names.index("phi0")] += turns.ravel()
    flows[:, levels] += factors.reshape(-1, 1)
    return flows


def _all_up(
    slope: _Slope, modes: list[Mode], sigma: Array, shrink: float, settings: PilotSettings
) -> tuple[list[Mode], Array]:
    """Follow modes of part of the data to those of the block that is in the slot, and take the noise at the best.

    `shrink` is the ratio of the covariances.
    """

    def up(z: Array, covariance: Array) -> Mode | None:
        return slope.settle(z, sigma, _root(covariance), settings.max_iterations, 0.3)

    likelihood = slope.likelihood
    still = _STILL / np.sqrt(np.maximum(likelihood.slot.sums[:, 0], 1))
    best, covariance = modes[0], shrink * modes[0].covariance
    for _ in range(_ROUNDS):
        sigma, before = _noise(likelihood, best.z), sigma
        if covariance is best.covariance and np.all(np.abs(sigma / before - 1) < still):
            sigma = before
            break
        mode = up(best.z, covariance)
        if mode is None:
            break
        best, covariance = mode, mode.covariance
    others = [up(m.z, shrink * m.covariance) for m in modes[1:]]
    return _distinct([m for m in (best, *others) if m is not None and m is not modes[0]], settings.depth), sigma


def _root(covariance: Array) -> Array:
    return np.linalg.cholesky(covariance)


def _distinct(modes: list[Mode], depth: float) -> list[Mode]:
    """Modes that differ and are not more than `depth` below the best, best first."""
    kept: list[Mode] = []
    for mode in sorted(modes, key=lambda m: -m.log_density):
        if kept and mode.log_density < kept[0].log_density - depth:
            break
        distances = [np.linalg.norm(np.linalg.solve(_root(other.covariance), mode.z - other.z)) for other in kept]
        if all(d > _SAME for d in distances):
            kept.append(mode)
    return kept


def _noise(likelihood: Likelihood, z: Array) -> Array:
    """Robust standard deviation of the residuals of every angle at z."""
    decay, shear = likelihood.curves(z)
    scaling = likelihood.evaluate(z, np.full(len(likelihood.phi), 1e-3)).scaling_mean
    curves = np.asarray(decay), None if shear is None else (np.asarray(shear[0]), np.asarray(shear[1]))
    parts = residuals(likelihood.slot.block, *curves, np.asarray(scaling), likelihood.order)
    return np.array([robust_sigma(part) for part in parts])


def _misfit(likelihood: Likelihood, z: Array, sigma: Array) -> list[str]:
    """Say so where the residuals have heavier tails than normal noise, or a contrast comes out at zero."""
    left, contrast = least_squares(likelihood.evaluate(z, sigma).moments)
    phi, notes = likelihood.phi, []
    heavy = np.sqrt(left / np.maximum(likelihood.slot.sums[:, 0], 1)) / sigma
    if heavy.max() > _HEAVY:
        notes.append(
            f"residuals have heavy tails: their sd is {heavy.max():.2f} times the robust one at phi = "
            f"{phi[heavy.argmax()]:g} deg; look for outliers or misfit in the residual maps"
        )
    if np.any(contrast <= 0):
        listed = ", ".join(f"{angle:g}" for angle in phi[contrast <= 0])
        notes.append(f"no positive contrast at phi = {listed} deg: these angles show no decay that the model describes")
    return notes


def _with_noise(
    posterior: Posterior, modes: list[Mode], sigma: Array, settings: PilotSettings
) -> tuple[list[Mode], int]:
    """Extend every mode by the logarithm of the noise and climb again."""
    slope = _Slope(posterior)
    count = np.maximum(posterior.likelihood.slot.sums[:, 0], 2)
    extended = []
    for mode in modes:
        root = np.zeros((posterior.dim, posterior.dim))
        own = len(mode.z)
        root[:own, :own] = _root(mode.covariance)
        root[own:, own:] = np.diag(1 / np.sqrt(2 * count))
        start = np.concatenate([mode.z, np.log(sigma)])
        found = slope.climb(start, sigma, root, settings.max_iterations, 0.3)
        if found is not None:
            extended.append(found)
    if not extended:
        raise ConvergenceError("no mode was found with the noise as a parameter: use noise: fixed")
    return _distinct(extended, settings.depth), slope.gradients
