"""Pilot fit: the modes of the posterior, their curvature, and the noise.

`pilot_fit` screens draws from the prior on thinned data by weighted least squares and climbs from the best of them by
Fisher scoring with a trust region, all starts in one compiled program. At the modes it reduces all data to nodes and
climbs again. There the noise of every map is taken from the residuals, and the curvature gives the Gaussian
approximation. An optimum at an edge of the support, or where the data determine nothing, is no failure: samplers go on
from there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from homodyne.arrays import AnyArray
from homodyne.certificate.density import Progress
from homodyne.certificate.mode_search import UNSEEN
from homodyne.errors import ConvergenceError, DataError
from homodyne.likelihood.nodes import Nodes, padded
from homodyne.likelihood.posterior import Evaluation, Posterior, evaluate_many, log_densities, score_many
from homodyne.likelihood.reduction import Accuracy, Grid
from homodyne.likelihood.scaling import least_squares
from homodyne.optimization.ascent import Basins, Ends, basins, climb, root_of_inverse
from homodyne.optimization.problem import Problem, sampled_pairs
from homodyne.physics.compiling import compiled
from homodyne.physics.space import ParameterSpace

DEAD = 30.0
"""A mode whose log density is this far below the best one carries no mass."""
_MOST_MODES = 12  # modes that are followed on all data
_TRIED_MODES = 4  # modes, the heaviest, at which cells are tried
_DOUBLINGS = 5  # of the starts, at most
_OFTEN = (
    5  # starts that find a mode, at least, before no more are made: one three times as hard to find is hardly missed
)
_SPARSE = 1000  # pairs of frames for the first part of climbs from further starts
_SCANNED, _PEAKS = 256, 12  # points of a scan along a coordinate, and local maxima, the highest, that are climbed from
_PEAK_DEPTH = 1e4  # log density below the best end, from which on a local maximum is none
_HEAVY = 1.2  # ratio of plain to robust sd of the residuals that is reported
_SEEN = 7.0  # how far below the best one a mode may lie that decides about coordinates, in log density
_ARRIVED = 0.02  # length of the Newton step, in posterior sd, at a mode
_NEAR = 0.01  # gain in log density that a step of a climb on thinned data has to promise
_ROUGHLY = 0.3  # on few pairs
_FOLLOWED = 24  # of these, the best, at most
_FEW_DEPTH = 50.0  # log density on few pairs below the best, from which on a climb does not go on
_ACCURACY = Accuracy(8, 1e-4)
_STEP = 0.3  # of differences for the curvature, in posterior sd
_STILL = 0.01  # change of the noise, in its own standard errors, that is none
_ROUNDS = 4  # of climbing and taking the noise from the residuals
_RESIDUALS = 1_000_000  # pairs over all maps that the noise is taken from
_RESOLVED = 2e-7  # least noise over the values themselves; rounding to single precision makes up to 4e-8
_MAD_TO_SD = 1.4826022185056018  # 1 / quantile(normal, 3/4)
_FAR_DRAWS = 4  # points about the mode at which cells are tried
_FAR = 3.0  # spread of these, in posterior sd
_MANY = 10  # times as many pairs as thinned data have: their modes are followed on few nodes before cells are found
_COARSE = 10.0  # factor of the tolerance of these
_AT_EDGE = (
    "the density is highest at an edge of the possible parameters, or hardly curved: the data determine little, and "
    "priors much; fix a parameter or narrow its prior if you know more"
)


_ONE_START = "one start was asked for (optimization.nlsq.num_starts): no other mode was looked for"


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
    thin_points : int
        Pairs of frames used until the modes are found.
    depth : float
        How far below the best one a mode may lie, in log density.
    accuracy : Accuracy
        Of the reduction.
    """

    num_candidates: int = 1000
    num_starts: int = 12
    max_iterations: int = 100
    thin_points: int = 20_000
    depth: float = DEAD
    accuracy: Accuracy = _ACCURACY


@dataclass(frozen=True, eq=False)
class Mode:
    """A local maximum of the posterior.

    Attributes
    ----------
    z : (dim,) array
        Coordinates.
    log_density : float
    covariance : (dim, dim) array
        Inverse of minus the Hessian, with the curvature of a direction of which nothing is known added; from the
        expected curvature at an edge.
    newton_step : float
        Length of the Newton step that is left, in posterior sd.
    at_edge : bool
        Whether the density rises from here to an edge of the support, or is not curved downwards everywhere.
    """

    z: AnyArray
    log_density: float
    covariance: AnyArray
    newton_step: float
    at_edge: bool = False

    @property
    def root(self) -> AnyArray:
        """Cholesky factor (dim, dim) of the covariance."""
        return np.linalg.cholesky(self.covariance)

    def draw(self, count: int, rng: np.random.Generator) -> AnyArray:
        """Draws (count, dim) of the normal distribution around the mode, the support disregarded."""
        return self.z + rng.standard_normal((count, len(self.z))) @ self.root.T


@dataclass(frozen=True, eq=False)
class Pilot:
    """What the pilot fit found.

    Attributes
    ----------
    problem : Problem
    posterior : Posterior
        Of all data, with its noise.
    grid : Grid
        Cells of the reduction.
    coarse : Nodes or None
        The data on few nodes, for what need not be exact; None where all have few.
    modes : tuple of Mode
        Best first.
    sigma : (n_maps,) array
        Noise of a pair of weight one, from the residuals at the best mode.
    num_starts, num_converged : int
        Starts from which the fit climbed, and those of the first of them that were inside the support.
    notes : tuple of str
        What a user should know.
    ends : (n, space.dim) array
        Where the climbs on thinned data ended.
    unseen : float
        Estimate of the share of the mass in modes that were not found, by `completed`.
    """

    problem: Problem
    posterior: Posterior
    grid: Grid
    coarse: Nodes | None
    modes: tuple[Mode, ...]
    sigma: AnyArray
    num_starts: int
    num_converged: int
    notes: tuple[str, ...]
    ends: AnyArray
    unseen: float = 0.0

    @property
    def mode(self) -> Mode:
        """The best mode."""
        return self.modes[0]

    @property
    def space(self) -> ParameterSpace:
        """The parameters."""
        return self.posterior.space

    def parameters_at(self, mode: Mode) -> dict[str, float]:
        """Physical parameters at a mode by name, the fixed ones included."""
        return {name: float(value) for name, value in self.space.physical(mode.z[: self.space.dim]).items()}

    @property
    def rough(self) -> Posterior | None:
        """The posterior of the data on few nodes; None where all have few."""
        return None if self.coarse is None else replace(self.posterior, nodes=self.coarse)

    def noting(self, *further: str) -> "Pilot":
        """Return the same with what its modes say of themselves and further notes."""
        notes = (*self.notes, *further)
        if self.mode.at_edge:
            notes = (*notes, _AT_EDGE)
        if len(self.modes) > 1:
            below = ", ".join(f"{self.mode.log_density - m.log_density:.1f}" for m in self.modes[1:])
            count = f"the posterior has {len(self.modes)} modes"
            notes = (f"{count}; the others lie {below} below the best in log density", *notes)
        return replace(self, notes=notes)


def pilot_fit(
    problem: Problem,
    rng: np.random.Generator,
    settings: PilotSettings = PilotSettings(),
    *,
    sample_noise: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Pilot:
    """Find the modes of the posterior, the noise and the curvature, and reduce the data.

    Parameters
    ----------
    problem : Problem
    rng : numpy Generator
        Source of the starting points.
    settings : PilotSettings
    sample_noise : bool
        Whether the noise of every map is a parameter of the posterior; otherwise it is fixed at the residuals' value.
    progress : callable
        Called with (stage, done, total).

    Raises
    ------
    ConvergenceError
        When the density is zero at all starting points.
    DataError
        When there are not more pairs of frames than parameters, or the values of a map do not scatter.
    """
    count = problem.maps.num_maps
    if problem.num_pairs <= problem.space.dim + 2 * count:
        raise DataError(
            f"{problem.num_pairs} pairs of frames for {problem.space.dim} parameters, and contrast and offset of "
            f"{count} map(s), leave nothing that tells the noise: expected more pairs; use longer records, or fix "
            "parameters"
        )
    thin = problem.posterior(problem.thinned(settings.thin_points), np.ones(count))
    starts, sigma = _screen(thin, problem, rng, settings, progress)
    progress("pilot fit: starts", 0, 1)
    ends = climb(thin.with_sigma(sigma), starts[: settings.num_starts], settings.max_iterations, _NEAR)
    if not len(ends.z):
        raise ConvergenceError(
            f"the posterior is zero at the best {settings.num_starts} of {settings.num_candidates} draws from the "
            "prior: the priors exclude these data; look at the maps with 'homodyne inspect' and check q, gap and priors"
        )
    sigma = noise_at(problem, thin, ends.z[0])
    thin = thin.with_sigma(sigma)
    climbs, found, num_starts = _searched(thin, partial(_sparse, problem, sigma), ends.z, starts, settings)
    modes = modes_from(thin, found.z[:_MOST_MODES], settings)
    space = _suited(problem.space, modes)
    points, last = (
        space.coordinates(problem.space.parameters_at(z)) for z in (np.array([mode.z for mode in modes]), climbs.z)
    )
    problem, thin = replace(problem, space=space), replace(thin, space=space)
    modes = modes_from(thin, points, settings)
    progress("pilot fit: starts", 1, 1)

    posterior, coarse, accuracies = thin, None, [settings.accuracy]
    if problem.num_pairs > _MANY * settings.thin_points:
        accuracies.insert(0, settings.accuracy._replace(tolerance=_COARSE * settings.accuracy.tolerance))
    for accuracy in accuracies:
        progress("reduction", 0, 1)
        trials = _trials(problem.space, modes, rng)
        grid = problem.grid(trials, accuracy, signal_of(problem, posterior, modes[0].z, sigma))
        nodes = problem.reduced(grid)
        progress("reduction", 1, 1)
        progress("pilot fit: all data", 0, 1)
        coarse = None if posterior is thin else posterior.nodes
        modes, sigma, posterior = _on_all_data(problem, nodes, modes, sigma, settings)
        progress("pilot fit: all data", 1, 1)
    notes = _misfit(problem, evaluate_many(modes[0].z[None], posterior), sigma)
    if sample_noise:
        posterior, modes = posterior.with_sigma(None), [_with_noise(mode, posterior) for mode in modes]
    if settings.num_starts == 1:
        notes = [*notes, _ONE_START]
    return Pilot(problem, posterior, grid, coarse, tuple(modes), sigma, num_starts, len(ends.z), tuple(notes), last)


def completed(pilot: Pilot, rng: np.random.Generator, settings: PilotSettings) -> Pilot:
    """Pilot fit with the modes of its posterior as it is, and the share of the mass in those that were not found.

    Climbs on thinned data go on to the ends that they have under all data and the calibrated noise, where modes weigh
    otherwise. While modes that were not found may matter there, draws of the prior are further starts.
    """
    if settings.num_starts == 1:  # as the user has asked
        return pilot
    posterior = pilot.posterior if pilot.posterior.sigma is not None else pilot.posterior.with_sigma(pilot.sigma)
    climbs = climb(posterior, pilot.ends, settings.max_iterations, _NEAR)
    found = basins(climbs, posterior)
    if found.share_of_rare(_OFTEN) < UNSEEN:
        return replace(pilot, unseen=found.unseen)
    candidates = pilot.space.draw_supported(rng, settings.num_candidates)
    sparse = replace(_sparse(pilot.problem, pilot.sigma), space=pilot.space)
    candidates = candidates[np.argsort(-log_densities(candidates, sparse))]
    climbs, found, more = _doubled(posterior, lambda: sparse, climbs, candidates, settings)
    known = np.array([mode.z[: pilot.space.dim] for mode in pilot.modes])
    modes = modes_from(posterior, np.concatenate([known, found.z[:_MOST_MODES]]), settings)
    if pilot.posterior.sigma is None:
        modes = [_with_noise(mode, posterior) for mode in modes]
    num_starts = pilot.num_starts + more
    return replace(pilot, modes=tuple(modes), ends=climbs.z, num_starts=num_starts, unseen=found.unseen)


def _searched(
    thin: Posterior, sparse: Callable[[], Posterior], ends: AnyArray, candidates: AnyArray, settings: PilotSettings
) -> tuple[Ends, Basins, int]:
    """Ends and modes of thinned data, from ends of climbs with another noise, and the number of starts.

    Further starts are local maxima of scans along every coordinate from the best end, and more of the candidates, the
    best first, while modes that were not found may matter.
    """
    climbs = climb(thin, ends, settings.max_iterations, _NEAR)
    if settings.num_starts == 1:  # as the user has asked
        return climbs, basins(climbs, thin), 1
    scanned = _scan(thin, climbs, candidates)
    climbs = climbs.joined(climb(thin, scanned, settings.max_iterations, _NEAR)) if len(scanned) else climbs
    num_starts = len(ends) + len(scanned)
    climbs, found, more = _doubled(thin, sparse, climbs, candidates[settings.num_starts :], settings)
    return climbs, found, num_starts + more


def _doubled(
    posterior: Posterior, sparse: Callable[[], Posterior], climbs: Ends, candidates: AnyArray, settings: PilotSettings
) -> tuple[Ends, Basins, int]:
    """Ends, modes and number of further starts, from more and more of the candidates while a mode may be missing.

    Modes that few starts have found are no sign that a better one, which is harder to find, would have been seen.
    Climbs begin on the posterior of few pairs, and go on where they are not far below the best there.
    """
    found, used = basins(climbs, posterior), 0
    if len(candidates) and found.share_of_rare(_OFTEN) >= UNSEEN:
        few = sparse()
        highest = log_densities(climbs.z[:_TRIED_MODES], few).max(initial=-np.inf)
        depth = max(settings.depth * few.nodes.num_points / max(posterior.nodes.num_points, 1), _FEW_DEPTH)
        for _ in range(_DOUBLINGS):
            more = candidates[used : 2 * used + settings.num_starts]
            if found.share_of_rare(_OFTEN) < UNSEEN or not len(more):
                break
            begun = climb(few, more, settings.max_iterations, _ROUGHLY)
            hopeful = begun.z[begun.value > max(begun.value.max(initial=-np.inf), highest) - depth][:_FOLLOWED]
            climbs = climbs.joined(climb(posterior, hopeful, settings.max_iterations, _NEAR))
            found, used = basins(climbs, posterior), used + len(more)
    alike = _alternatives(posterior.space, climbs.z[climbs.value > climbs.value[0] - DEAD][:_FOLLOWED])
    if len(alike):
        climbs = climbs.joined(climb(posterior, alike, settings.max_iterations, _NEAR))
        found = basins(climbs, posterior)
    return climbs, found, used + len(alike)


def _alternatives(space: ParameterSpace, points: AnyArray) -> AnyArray:
    """Coordinates (n, dim) of what the model says is nearly the same as some points (k, dim)."""
    table = space.parameters_at(points)
    listed = [{name: float(values[k]) for name, values in table.items()} for k in range(len(points))]
    found = [other for one in listed for other in space.model.alternatives(one, float(space.middle))]
    if not found:
        return np.empty((0, space.dim))
    z = space.at({name: np.array([one[name] for one in found]) for name in space.names})
    return np.asarray(z[np.isfinite(z).all(axis=1)])


def _sparse(problem: Problem, sigma: AnyArray) -> Posterior:
    """Posterior of few pairs, and of as few nodes."""
    nodes = problem.thinned(_SPARSE)
    return replace(problem.posterior(nodes, sigma), nodes=padded(nodes))


def _scan(thin: Posterior, climbs: Ends, candidates: AnyArray) -> AnyArray:
    """Local maxima (n, dim) of the density along every coordinate from the best end, beyond its own mode."""
    best, d = climbs.z[0], climbs.z.shape[1]
    sd = 1.0 / np.sqrt(np.maximum(np.diag(climbs.information[0]), 1e-300))
    low, high = candidates.min(axis=0), candidates.max(axis=0)
    points = np.repeat(best[None], d * _SCANNED, axis=0).reshape(d, _SCANNED, d)
    for k in range(d):
        points[k, :, k] = np.linspace(low[k], high[k], _SCANNED)
    heights = log_densities(points.reshape(-1, d), thin).reshape(d, _SCANNED)
    inner = (heights[:, 1:-1] > heights[:, :-2]) & (heights[:, 1:-1] >= heights[:, 2:])
    which, place = np.nonzero(inner & (heights[:, 1:-1] > climbs.value[0] - _PEAK_DEPTH))
    own = np.abs(points[which, place + 1, which] - best[which]) < 2 * sd[which]
    order = np.argsort(-heights[which, place + 1] + np.where(own, np.inf, 0.0))[: np.count_nonzero(~own)][:_PEAKS]
    return np.asarray(points[which[order], place[order] + 1])


def refined(
    pilot: Pilot, points: AnyArray, above: Sequence[AnyArray], settings: PilotSettings, progress: Progress
) -> Pilot:
    """Reduce the data again, more finely, and climb to its modes again.

    Cells are tried at the modes, at points (dim,) that seemed to be above these, from which climbs start too, and at
    draws (n, dim) of the posterior.
    """
    problem, d = pilot.problem, pilot.space.dim
    some = np.resize(
        np.array([*(m.z[:d] for m in pilot.modes[:_TRIED_MODES]), *(z[:d] for z in above), *points[:, :d]]),
        (_TRIED_MODES + _FAR_DRAWS, d),
    )
    progress("reduction", 0, 1)
    signal = signal_of(problem, pilot.posterior, pilot.mode.z, pilot.sigma)
    grid = problem.grid(pilot.space.parameters_at(some), settings.accuracy, signal)
    posterior = replace(pilot.posterior, nodes=problem.padded(problem.reduced(grid)))
    progress("reduction", 1, 1)
    if posterior.sigma is None:
        return replace(pilot, posterior=posterior, grid=grid)
    further = modes_from(posterior, np.array([*(mode.z for mode in pilot.modes), *above]), settings)
    return replace(pilot, posterior=posterior, grid=grid, modes=tuple(further))


def modes_from(posterior: Posterior, starts: AnyArray, settings: PilotSettings) -> list[Mode]:
    """Distinct modes reached from starts (n, dim), best first.

    Where a climb does not end at a maximum, the point where it ends stands for one, and says that it is at an edge.
    """
    ends = climb(posterior, starts, settings.max_iterations).separate(posterior.space, settings.depth)
    modes = [_mode(z, posterior, information) for z, information in zip(ends.z, ends.information, strict=True)]
    return sorted(modes, key=lambda mode: -mode.log_density)


def _mode(z: AnyArray, posterior: Posterior, information: AnyArray) -> Mode:
    """Curvature at z by differences of the exact gradient along the axes of the expected one."""
    root, turning = root_of_inverse(information), posterior.space.turning
    for width in (0.1, _STEP):
        steps = np.concatenate([width * root.T, -width * root.T, np.zeros((1, len(z)))])
        at = score_many(z + steps, posterior)
        d = len(z)
        table = (at.gradient[:d] - at.gradient[d : 2 * d]) @ root / (2 * width)
        curvature = -0.5 * (table + table.T)
        curvature += root[: len(turning)].T @ (turning[:, None] * root[: len(turning)])
        value, gradient = float(at.value[-1]), at.gradient[-1]
        if not np.isfinite(curvature).all() or np.linalg.eigvalsh(curvature)[0] < 1e-3:
            with np.errstate(over="ignore"):  # a gradient at an edge of the support may be of any size
                return Mode(z, value, root @ root.T, float(np.linalg.norm(root.T @ gradient)), True)
        root = root @ np.linalg.cholesky(np.linalg.inv(curvature))
    newton = float(np.linalg.norm(root.T @ gradient))
    return Mode(z, value, root @ root.T, newton, newton > _ARRIVED)


def _screen(
    thin: Posterior, problem: Problem, rng: np.random.Generator, settings: PilotSettings, progress: Progress
) -> tuple[AnyArray, AnyArray]:
    """Starting points in the order of their fit with free noise, and the noise at the best."""
    maps, space = problem.maps, problem.space
    drawn = space.draw_supported(rng, settings.num_candidates)
    visible = space.made_visible(drawn[::2], maps.t, maps.q, maps.gap, rng)
    candidates = np.concatenate([visible, drawn[1::2]])
    if problem.initial is not None:
        candidates = np.concatenate([problem.initial[None], candidates])
    at = evaluate_many(candidates, thin, lambda done: progress("pilot fit: screening", done, len(candidates)))
    count = np.maximum(np.asarray(thin.nodes.sums)[:, 0], 1)
    left = least_squares(at.moments)[0] / count
    usable = (left > 0).all(axis=1) & np.isfinite(at.log_density)
    cost = np.where(usable, 0.5 * (count * np.log(np.where(left > 0, left, 1.0))).sum(axis=1), np.inf)
    order = np.argsort(cost)
    order = order[np.isfinite(cost[order]) | (np.arange(len(order)) < settings.num_starts)]
    if problem.initial is not None:
        order = np.concatenate([[0], order[order != 0]])
    best = left[np.argmin(cost)]
    return candidates[order], np.sqrt(np.where(best > 0, best, 1.0))


def _trials(space: ParameterSpace, modes: Sequence[Mode], rng: np.random.Generator) -> dict[str, AnyArray]:
    """Points of the parameter space at which cells are tried: every mode, and draws about the best."""
    around = modes[0].z + _FAR * (modes[0].draw(8 * _FAR_DRAWS, rng) - modes[0].z)
    points = np.concatenate([[m.z for m in modes[:_TRIED_MODES]], around[space.supported_at(around)][:_FAR_DRAWS]])
    return space.parameters_at(np.resize(points, (_TRIED_MODES + _FAR_DRAWS, space.dim)))


def signal_of(problem: Problem, posterior: Posterior, z: AnyArray, sigma: AnyArray) -> float:
    """Root of the pairs of all maps times contrast over noise, at z (dim,)."""
    contrast = evaluate_many(z[None], posterior).scaling_mean[0, :, 1]
    return float(np.sqrt(problem.num_pairs * np.mean((contrast / sigma) ** 2)))


def _suited(space: ParameterSpace, modes: Sequence[Mode]) -> ParameterSpace:
    """Space whose coordinates suit the slopes that these data leave open, and the directions that they see."""
    sd = dict(zip(space.coordinate_names, np.sqrt(np.diag(modes[0].covariance)), strict=True))
    heavy = [mode.z[: space.dim] for mode in modes if mode.log_density > modes[0].log_density - _SEEN]
    rates = [law.law.rate for law in space.laws]
    return space.about(np.array(heavy), {rate: sd[f"slope_{rate}"] for rate in rates if f"slope_{rate}" in sd})


def _on_all_data(
    problem: Problem, nodes: Nodes, modes: list[Mode], sigma: AnyArray, settings: PilotSettings
) -> tuple[list[Mode], AnyArray, Posterior]:
    """Follow the modes of thinned data to those of all, and take the noise at the best."""
    still = _STILL / np.sqrt(np.maximum(np.asarray(nodes.sums)[:, 0], 1))
    posterior, starts = problem.posterior(nodes, sigma), np.array([mode.z for mode in modes])
    for _ in range(_ROUNDS):
        starts = climb(posterior, starts, settings.max_iterations).separate(problem.space, settings.depth).z
        before, sigma = sigma, noise_at(problem, posterior, starts[0])
        if np.all(np.abs(sigma / before - 1) < still):
            sigma = before
            break
        posterior = posterior.with_sigma(sigma)
    return modes_from(posterior, starts, settings), sigma, posterior


def noise_at(problem: Problem, posterior: Posterior, z: AnyArray) -> AnyArray:
    """Robust standard deviation of the residuals, times the roots of weights, of every map at z (dim,), (n_maps,).

    From the median absolute deviation, which outliers hardly move, of at most a million pairs over all maps. Where
    photons are so few that half of the pairs are without a coincidence, it says nothing, and the standard deviation is
    taken.

    Raises
    ------
    DataError
        When the values of a map do not scatter.
    """
    maps, space = problem.maps, problem.space
    i, j = sampled_pairs(maps, max(_RESIDUALS // maps.num_maps, 1000))
    tight = posterior.with_sigma(np.full(maps.num_maps, 1e-3))
    scaling = evaluate_many(z[None, : space.dim], tight).scaling_mean[0]
    params = {name: float(value[0]) for name, value in space.parameters_at(z[None]).items()}
    gap, found = maps.gap_or_nan, np.empty(maps.num_maps)
    values, center = problem.passes.pairs(i, j)
    weights = maps.weights_at(i, j)
    for k in range(maps.num_maps):
        g = np.asarray(_g(space.model, params, maps.t[i], maps.t[j], maps.q[k], maps.phi[k], gap))
        left = values[k] - scaling[k, 0] - scaling[k, 1] * g
        left = left if weights is None else left * np.sqrt(weights[k])
        finite = np.isfinite(left)
        left, empty = left[finite], values[k][finite] == np.nanmin(values[k])
        sparse = 2 * np.count_nonzero(empty) > empty.size
        found[k] = left.std() if sparse else _MAD_TO_SD * np.median(np.abs(left - np.median(left)))
        if not found[k] > _RESOLVED * abs(center[k]):
            raise DataError(
                f"data without noise cannot be given error bars: half of the pairs of frames at {_place(problem, k)} "
                f"do not scatter about the model by more than rounding ({found[k]:.1g}); expected measured values, "
                "which do; look at the map with 'homodyne inspect', and leave it out"
            )
    return found


_g = compiled(lambda model, *arguments: model.g(*arguments), static_argnums=(0,))


def _misfit(problem: Problem, at: Evaluation, sigma: AnyArray) -> list[str]:
    """Say so where the residuals have heavier tails than normal noise, or a contrast comes out at zero."""
    left, contrast = (x[0] for x in least_squares(at.moments))
    heavy = np.sqrt(np.maximum(left, 0) / np.maximum(np.asarray(at.moments.points)[0], 1)) / sigma
    notes = []
    if heavy.max() > _HEAVY:
        k = int(heavy.argmax())
        notes.append(
            f"residuals have heavy tails: their sd is {heavy[k]:.2f} times the robust one at "
            f"{_place(problem, int(k))}; look for outliers or misfit in the residual maps"
        )
    if np.any(contrast <= 0):
        listed = ", ".join(_place(problem, int(k)) for k in np.flatnonzero(contrast <= 0))
        notes.append(f"no positive contrast at {listed}: these maps show no decay that the model describes")
    return notes


def _place(problem: Problem, k: int) -> str:
    maps = problem.maps
    several = np.unique(maps.q).size > 1
    return (f"q = {maps.q[k]:.4g} 1/Å, " if several else "") + f"phi = {maps.phi[k]:g} deg"


def _with_noise(mode: Mode, posterior: Posterior) -> Mode:
    """Mode extended by the logarithm of the noise at its maximum, which is independent of the rest to first order."""
    m = evaluate_many(mode.z[None], posterior).moments
    count = np.maximum(m.points[0] - 2, 1)  # less offset and contrast
    sigma, d = np.sqrt(least_squares(m)[0][0] / count), len(mode.z)
    covariance = np.diag(np.concatenate([np.zeros(d), 1 / (2 * count)]))
    covariance[:d, :d] = mode.covariance
    return replace(mode, z=np.concatenate([mode.z, np.log(sigma)]), covariance=covariance)
