"""From the posterior for independent pairs to the calibrated one, whose width is that under correlated noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from homodyne.arrays import AnyArray, Leaf
from homodyne.certificate.mode_search import UNSEEN
from homodyne.config.schema import SpeckleConfig
from homodyne.data.twotime import TwoTimeData
from homodyne.device.config import detect_hardware
from homodyne.errors import ConvergenceError
from homodyne.likelihood.posterior import Evaluation, Posterior, evaluate_many, log_densities, score_many
from homodyne.noise.adjustment import Adjustment, Calibration, adjusted_covariance, adjustment_to, uncalibrated
from homodyne.noise.map_view import MapView
from homodyne.noise.sandwich import Sandwich, sandwich
from homodyne.noise.speckle_noise import CountingFacts, SpeckleNoise
from homodyne.optimization.pilot import DEAD, Mode, Pilot, PilotSettings, completed, modes_from
from homodyne.physics.compiling import compiled
from homodyne.physics.coordinates import level_columns
from homodyne.physics.space import ParameterSpace

WIDEST = 200.0
"""Variance under correlated noise over that of independent pairs, at most: what is dead for these may live for it."""

_ROUNDS = 8  # times that the sandwich is made, at most
_SHRINKS = 0.7  # times the step before that a step is long, at most, if steps go on without being cut in half
_LIGHTEST = 0.3  # mean square of residuals over that of their robust sd, at least
_TRIED, _STARTS = 1000, 4  # draws among which starts are looked for, and starts
_LEFT_OPEN = 2.0  # in log density below the best, that the answer under narrower noise may lie: two standard deviations
_SLOWER = (1.5, 3.0, 4.5)  # logarithms of factors by which a decay is slower, from where climbs start
_COMPARABLE = 8.0  # log density by which it may lie below the mode
_BETTER = 0.5  # log density by which a mode that was found late is the best, and the noise is taken there
_SEARCHES = 4  # for modes, at most
_OTHER = 4.0  # standard deviations from where noise was estimated, from which on it is estimated anew
_NEAR = 0.3  # standard deviations between the point where it was made and the mode


@dataclass(frozen=True, eq=False)
class NoiseReport:
    """What correlated noise does to the uncertainty.

    Attributes
    ----------
    z : (d,) array
        Where it was estimated.
    adjustment : Adjustment
        Of the likelihood.
    covariance : (d, d) array
        Of the calibrated posterior, to first order.
    inflation : dict
        Factor between the standard deviations with correlated and with independent noise, by physical parameter;
        of contrast and offset one for every map.
    facts : dict
        Counts, pixels, and where they come from.
    notes : tuple of str
        What a user should know.
    noise : SpeckleNoise
        At z.
    checks : dict
        Tests of the fit against its data, see `homodyne.noise.crosscheck`; empty until these have run.
    prior : dict
        Distance between prior and data, as of `homodyne.optimization.model_checks.prior_distance`; likewise.
    """

    z: AnyArray
    adjustment: Adjustment
    covariance: AnyArray
    inflation: Mapping[str, Any]
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    noise: SpeckleNoise
    checks: Mapping[str, Any] = field(default_factory=dict)
    prior: Mapping[str, Any] = field(default_factory=dict)


def noise_report(data: TwoTimeData, pilot: Pilot, known: SpeckleConfig) -> NoiseReport:
    """Estimate the noise at the best mode of a pilot fit, and what it does to the uncertainty.

    Raises
    ------
    InputError
        When neither the data nor the user say how many counts there are.
    """
    return _report_at(pilot.mode, data, pilot, known)


def calibrated(
    data: TwoTimeData,
    pilot: Pilot,
    known: SpeckleConfig,
    report: NoiseReport,
    settings: PilotSettings,
    rng: np.random.Generator,
) -> tuple[Pilot, NoiseReport]:
    """Pilot fit of the calibrated posterior, from that for independent pairs and the report on its noise.

    Every mode that may matter gets an adjustment of its own, the best first, whose widening is that of all. Since modes
    weigh otherwise under correlated noise, they are looked for again, until no more are found. The report that is
    returned is that of the best.
    """
    first, posterior, modes = _at_best(data, pilot, known, report, settings)
    reports, followed = [first], list[Mode]()
    found = replace(pilot, posterior=posterior, modes=modes)
    for attempt in range(_SEARCHES):
        weighty, share = _without_report(pilot, (*pilot.modes, *found.modes), reports, followed, settings)
        if attempt and not weighty:
            break
        for mode in weighty:
            at = _consistent(mode, (), data, pilot, known, None, settings, reports[0].adjustment.widening)
            if at is not None and _distance(at.report.z, reports, pilot.space)[1] > _OTHER:
                reports.append(at.report)
        followed += weighty
        if weighty:
            posterior = _calibrated_about(reports, pilot)
            starts = np.array([*(one.z for one in reports), *(mode.z for mode in pilot.modes)])
            found = replace(found, posterior=posterior, modes=tuple(modes_from(posterior, starts, settings)))
        before, found = found.mode.log_density, completed(found, rng, replace(settings, depth=DEAD))
        if found.mode.log_density > before + _BETTER:
            better = replace(pilot, modes=(found.mode, *pilot.modes))
            first, posterior, modes = _at_best(data, better, known, noise_report(data, better, known), settings)
            reports, followed, found = [first], [], replace(found, posterior=posterior, modes=modes)
    else:
        found = replace(found, unseen=max(found.unseen, share))
    return found, reports[_distance(found.mode.z, reports, pilot.space)[0]]


class _Consistent(NamedTuple):
    """A report on the noise that is made where the posterior that it calibrates has a mode.

    Standard deviations between the two, the posterior, its modes, and the report.
    """

    moved: float
    posterior: Posterior
    modes: tuple[Mode, ...]
    report: NoiseReport


def _at_best(
    data: TwoTimeData, pilot: Pilot, known: SpeckleConfig, report: NoiseReport, settings: PilotSettings
) -> tuple[NoiseReport, Posterior, tuple[Mode, ...]]:
    """Report at the best mode of the posterior that it calibrates, this posterior and its modes."""
    at = _consistent(pilot.mode, pilot.modes[1:], data, pilot, known, report, settings, None)
    if at is None:
        raise ConvergenceError(
            "with correlated noise the posterior is zero at the modes for independent pairs: a prior or a bound cuts "
            "them off; widen it"
        )
    slow = _with_slower_decay(data, pilot, known, at.report, settings, at.posterior, at.modes)
    posterior, modes, report = slow or (at.posterior, at.modes, at.report)
    if at.moved >= _NEAR:
        far = (
            f"speckle noise: what it does to the uncertainty depends on the parameters, and is known only "
            f"{at.moved:.1f} standard deviations off the mode: take the widths as rough"
        )
        report = replace(report, notes=(*report.notes, far))
    return report, posterior, modes


def _consistent(
    where: Mode,
    others: Sequence[Mode],
    data: TwoTimeData,
    pilot: Pilot,
    known: SpeckleConfig,
    report: NoiseReport | None,
    settings: PilotSettings,
    widening: float | None,
) -> _Consistent | None:
    """Find a report that is made at a mode of the posterior that it calibrates; None where this is zero.

    The sandwich is right near the point where it is made. Where the best calibrated mode that is reached from there and
    from others turns out to be elsewhere, because priors weigh more against correlated noise, it is made anew there, or
    half-way once steps do not become shorter. The report that is returned is that of the shortest step.
    """
    space, previous, share = pilot.space, np.inf, 1.0
    report = _report_at(where, data, pilot, known, widening) if report is None else report
    best: _Consistent | None = None
    for left in reversed(range(_ROUNDS)):
        posterior = _calibrated_about([report], pilot)
        modes = tuple(modes_from(posterior, np.array([where.z, *(mode.z for mode in others)]), settings))
        if not modes:
            modes = tuple(modes_from(posterior, _inside(where, posterior, report), settings))
        if not modes:
            if best is None:
                return None
            share /= 2
        else:
            place, top = where.z, modes[0]
            gap = np.asarray(space.difference(top.z, place))
            moved = float(np.linalg.norm(np.linalg.solve(np.linalg.cholesky(report.covariance), gap)))
            if best is None or moved < best.moved:
                best = _Consistent(moved, posterior, modes, report)
            if moved < _NEAR:
                break
            share = 0.5 if share < 1 or moved > _SHRINKS * previous else 1.0
            previous = moved
        if not left:
            break
        between = place + share * gap
        usable = share < 1 and bool(np.isfinite(space.log_prior(jnp.asarray(between[: space.dim]))))
        where = replace(top, z=between if usable else top.z)
        report = _report_at(where, data, pilot, known, widening)
    return best


def _without_report(
    pilot: Pilot,
    modes: Sequence[Mode],
    reports: Sequence[NoiseReport],
    followed: Sequence[Mode],
    settings: PilotSettings,
) -> tuple[list[Mode], float]:
    """Modes that matter under the wider noise, have no report and were not followed to one; their share of the mass.

    Their weights are those of independent pairs with that noise, since a calibration says nothing far from its mode.
    """
    space = pilot.space
    if all(_distance(mode.z, reports, space)[1] <= _OTHER for mode in modes):
        return [], 0.0
    widened = _without_calibration(pilot).with_sigma(pilot.sigma * reports[0].adjustment.widening)
    starts = np.array([*(one.z for one in reports), *(mode.z for mode in modes)])
    reached = modes_from(widened, starts, settings)
    masses = np.array([mode.log_density + 0.5 * np.linalg.slogdet(mode.covariance)[1] for mode in reached])
    masses[~np.isfinite(masses)] = -np.inf  # of a place without density, or without curvature
    shares = np.exp(masses - np.logaddexp.reduce(masses))
    other = [_distance(mode.z, reports, space)[1] > _OTHER for mode in reached]
    new = [all(_distance(mode.z, [one], space)[1] > 1.0 for one in followed) for mode in reached]
    chosen = np.flatnonzero((shares >= UNSEEN) & other & new)
    return [reached[k] for k in chosen], float(shares[chosen].sum())


def _distance(z: AnyArray, places: Sequence[NoiseReport | Mode], space: ParameterSpace) -> tuple[int, float]:
    """Number of the nearest of some modes or reports, and how many of its standard deviations away z (d,) is."""
    gaps = [np.asarray(space.difference(z, one.z)) for one in places]
    squares = [gap @ np.linalg.solve(one.covariance, gap) for gap, one in zip(gaps, places, strict=True)]
    return int(np.argmin(squares)), float(np.sqrt(min(squares)))


def _calibrated_about(reports: Sequence[NoiseReport], pilot: Pilot) -> Posterior:
    """Posterior that is calibrated where these reports were made."""
    parts = [(one.z, one.covariance, one.adjustment) for one in reports]
    return replace(pilot.posterior, calibration=Calibration.of(parts))


def _with_slower_decay(
    data: TwoTimeData,
    pilot: Pilot,
    known: SpeckleConfig,
    report: NoiseReport,
    settings: PilotSettings,
    posterior: Posterior,
    modes: tuple[Mode, ...],
) -> tuple[Posterior, tuple[Mode, ...], NoiseReport] | None:
    """Posterior, modes and report with the noise of a slower decay, where one explains the data nearly as well.

    What decays within few records looks like a baseline with speckle on it, which a faster decay of less contrast
    describes; the noise that goes with that is less correlated. Of the two the one that leaves more open is taken,
    where it takes nothing away: the best answer under the other noise has to stay a good one. None where there is
    no such one.
    """
    names, top = pilot.space.coordinate_names, modes[0]
    columns = [k for law in pilot.space.model.coordinates() for k in level_columns(names, law)]
    if not columns:
        return None
    drawn, starts = pilot.space.draw_supported(np.random.default_rng(0), _TRIED), []
    for slower in _SLOWER:
        drawn[:, columns] = top.z[columns] - slower
        starts.append(drawn[np.argmax(log_densities(drawn, posterior))])
    for mode in modes_from(posterior, np.array(starts), settings):
        gap = np.asarray(pilot.space.difference(mode.z, top.z))
        separate = gap @ np.linalg.solve(top.covariance, gap) > 1.0
        if not separate or mode.log_density < top.log_density - _COMPARABLE:
            continue
        if not np.isfinite(mode.covariance).all():  # nothing tells where it is: no noise can be said of it
            continue
        other = _report_at(mode, data, pilot, known)
        if np.linalg.slogdet(other.covariance)[1] <= np.linalg.slogdet(report.covariance)[1]:
            continue
        wider = _calibrated_about([other], pilot)
        found = tuple(modes_from(wider, np.array([mode.z, *(one.z for one in modes)]), settings))
        if found and log_densities(top.z[None], wider)[0] > found[0].log_density - _LEFT_OPEN:
            said = "speckle noise: a slower decay explains the data nearly as well; its noise, which is wider, is used"
            return wider, found, replace(other, notes=(*other.notes, said))
    return None


def _inside(where: Mode, posterior: Posterior, report: NoiseReport) -> AnyArray:
    """Starts (n, dim) at which the calibrated posterior is not zero, though it is at a mode for independent pairs.

    One is the point whose likelihood is that of the mode; the others are the best draws about it.
    """
    adjustment = report.adjustment
    same = adjustment.center + np.linalg.solve(adjustment.matrix, where.z - adjustment.center)
    points = np.concatenate([same[None], where.draw(_TRIED, np.random.default_rng(0))])
    values = log_densities(points, posterior)
    return np.asarray(points[np.argsort(-values)[: min(_STARTS, np.count_nonzero(np.isfinite(values)))]])


def map_views(pilot: Pilot, z: AnyArray, directions: AnyArray) -> list[MapView]:
    """All maps with the model at z (d,) and its derivatives along the columns of `directions` (d, k)."""
    passes, space = pilot.problem.passes, pilot.space
    maps, at = passes.maps, _independent(pilot, z)
    gap, views = maps.gap_or_nan, []
    for k, sample in enumerate(passes.samples):
        place = _Place(z, directions, space, maps.q[k], maps.phi[k], gap)
        functions = partial(_design, place), partial(_correlation, place)
        offset, contrast = at.scaling_mean[0, k].tolist()
        t, weights = maps.t[maps.alive[k]], maps.weights_among(k)
        views.append(MapView(t, sample, *functions, offset, contrast, weights=weights))
    return views


class _Place(NamedTuple):
    """Where a model is evaluated: a point, directions from there, and a map."""

    z: Leaf
    directions: Leaf
    space: ParameterSpace
    q: Leaf
    phi: Leaf
    gap: Leaf

    def g(self, w: jax.Array, t1: jax.Array, t2: jax.Array) -> jax.Array:
        """Correlation at w (k,) along the directions."""
        params = self.space.physical(self.z + self.directions @ w)
        return jnp.broadcast_to(self.space.model.g(params, t1, t2, self.q, self.phi, self.gap), jnp.shape(t1))


@compiled
def _design(place: _Place, t1: jax.Array, t2: jax.Array) -> jax.Array:
    """Derivatives of g along directions at z, then 1, then g; see `MapView`."""
    none = jnp.zeros(place.directions.shape[1])
    correlation = place.g(none, t1, t2)
    slopes = jnp.moveaxis(jax.jacfwd(place.g)(none, t1, t2), -1, 0)
    return jnp.concatenate([slopes, jnp.ones_like(correlation)[None], correlation[None]])


@compiled
def _correlation(place: _Place, t1: jax.Array, t2: jax.Array) -> jax.Array:
    return place.g(jnp.zeros(place.directions.shape[1]), t1, t2)


class Local(NamedTuple):
    """What follows from a point without data: slopes of the parameters, gradient and information of the prior."""

    slopes: dict[str, AnyArray]
    gradient: Leaf
    information: Leaf


def local(z: AnyArray, space: ParameterSpace) -> Local:
    """`Local` at coordinates z (d,)."""
    return jax.tree.map(np.asarray, _local(z, space))  # type: ignore[no-any-return]


@compiled
def _local(z: jax.Array, space: ParameterSpace) -> Local:
    information = jnp.asarray(space.prior_information(z))
    return Local(jax.jacfwd(space.physical)(z), jax.grad(space.log_prior)(z), information)


def _independent(pilot: Pilot, z: AnyArray) -> Evaluation:
    """Evaluation at z (d,) for independent pairs with the noise of the pilot fit."""
    return evaluate_many(z[None], _without_calibration(pilot))


def _without_calibration(pilot: Pilot) -> Posterior:
    none = uncalibrated(pilot.space.dim, pilot.problem.maps.num_maps)
    return replace(pilot.posterior, sigma=pilot.sigma, calibration=none)


def _squares(at: Evaluation, sigma: AnyArray) -> AnyArray:
    """Sums over pairs of weighted squared residuals at the conditional means of offset and contrast, (n_maps,).

    A signal a million times the noise leaves no digits for them; then those of the robust `sigma` (n_maps,) stand.
    """
    m, (offset, contrast) = at.moments, at.scaling_mean[0].T
    gap = m.mean[0] - offset
    cross = m.yg[0] + gap * m.g[0]
    squares = m.scatter[0] + m.weight[0] * gap**2 - 2 * contrast * cross + contrast**2 * m.gg[0]
    return np.asarray(np.where(squares > _LIGHTEST * m.points[0] * sigma**2, squares, m.points[0] * sigma**2))


def _report_at(
    mode: Mode, data: TwoTimeData, pilot: Pilot, known: SpeckleConfig, widening: float | None = None
) -> NoiseReport:
    """Noise and sandwich at a point; `widening` is that of `adjustment_to`."""
    space = pilot.space
    d = space.dim
    z, root = mode.z[:d], np.linalg.cholesky(mode.covariance[:d, :d])
    at, here = _independent(pilot, z), local(z, space)
    facts = CountingFacts(data.diagonal, data.pixels, data.mean_counts, known.pixels, known.mean_counts)
    scaling_prior = np.asarray(pilot.posterior.scaling.precision_at(at.scaling_mean[0]))
    views = map_views(pilot, z, root)
    squares, cores = _squares(at, pilot.sigma), detect_hardware().cores
    found = sandwich(views, pilot.sigma, facts, root, scaling_prior, squares, here.information, cores)
    covariance = np.linalg.inv(found.information + found.prior_information + here.information)
    slope = score_many(z[None], _without_calibration(pilot)).gradient[0] - here.gradient
    adjustment = adjustment_to(found, z + covariance @ slope, covariance, at.scaling_mean[0, :, 1], widening)
    wide = adjusted_covariance(adjustment, found, here.information, scaling_prior)
    inflation = _inflation(space, here, covariance, wide)
    inflation |= _scaling_inflation(found, at.scaling_covariance[0], covariance, wide, scaling_prior)
    noise = found.noise
    numbers = {
        "mean_counts": _plain(noise.mean_counts),
        "pixels": _plain(noise.pixels),
        "counts_source": noise.counts_source,
        "pixels_source": noise.pixels_source,
        "sources": noise.sources,
        "contradicted": list(noise.contradicted),
        "widening": adjustment.widening,
    }
    return NoiseReport(z, adjustment, wide, inflation, numbers, noise.notes, noise)


def _inflation(space: ParameterSpace, here: Local, narrow: AnyArray, wide: AnyArray) -> dict[str, Any]:
    """Ratio of standard deviations of the physical parameters, to first order."""
    rows = {name: here.slopes[name] for name in space.free_names}
    return {name: float(np.sqrt(row @ wide @ row / (row @ narrow @ row))) for name, row in rows.items()}


def _scaling_inflation(
    found: Sandwich, conditional: object, narrow: AnyArray, wide: AnyArray, prior: AnyArray
) -> dict[str, Any]:
    """Ratio of standard deviations of contrast and offset of every map; `prior` (n_maps, 2) is their precision."""
    root = np.linalg.cholesky(found.scaling_information)
    upper = np.swapaxes(root, 1, 2)

    def variance(own: AnyArray, slope: AnyArray, covariance: AnyArray) -> AnyArray:
        slope = own @ root @ slope
        return np.asarray(np.einsum("kii->ki", own) + np.einsum("kia,ab,kib->ki", slope, covariance, slope))

    before = variance(np.asarray(conditional), found.elimination, narrow)
    narrowed = np.linalg.inv(found.scaling_spread)
    own = np.linalg.inv(root @ narrowed @ upper + prior[:, :, None] * np.eye(2))
    ratio = np.sqrt(variance(own, narrowed @ found.scaling_slope, wide) / before)
    return {"contrast": ratio[:, 1].tolist(), "offset": ratio[:, 0].tolist()}


def _plain(values: AnyArray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
