"""Fitting: from a measurement to a posterior with a verdict.

`fit` takes a `TwoTimeData` and a configuration; `fit_mcmc_jax` takes flat arrays. Both run the pilot fit, which reduces
the data, get draws by a method ("laplace": normal approximation at the mode, "nuts": No-U-turn sampling, "cmc":
shards), and have them certified against the exact posterior. With "auto", methods are tried from the cheapest on until
one gives a result that can be used; the best answer that was seen is returned. The reduction is checked by direct sums
over all pairs.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homodyne.arguments import Faults
from homodyne.arrays import Array
from homodyne.certificate.certify import Certificate, Certified, certify
from homodyne.certificate.chains import not_converged
from homodyne.certificate.density import Progress
from homodyne.certificate.mode_search import UNSEEN
from homodyne.certificate.verdict import Verdict
from homodyne.config.io import load_config
from homodyne.config.schema import Config
from homodyne.data.flat import from_arrays
from homodyne.data.plausibility import implausible, unusual
from homodyne.data.twotime import TwoTimeData, require_data
from homodyne.device.config import CMCDecision, detect_hardware, should_use_cmc
from homodyne.errors import ConvergenceError
from homodyne.likelihood.direct import errors_against
from homodyne.likelihood.posterior import (
    Posterior,
    inside,
    log_densities,
    parameters_at_images,
    physical_draws,
)
from homodyne.likelihood.reduction import Accuracy
from homodyne.optimization.assembly import Run, assemble, consensus_result
from homodyne.optimization.calibration import WIDEST, NoiseReport, calibrated, noise_report
from homodyne.optimization.cmc.consensus import Consensus
from homodyne.optimization.exploration import Exploration, explored
from homodyne.optimization.model_checks import model_checks, prior_distance, prior_shares
from homodyne.optimization.pilot import DEAD, Pilot, PilotSettings, completed, pilot_fit, refined
from homodyne.optimization.problem import Problem, build_problem
from homodyne.optimization.samplers import Course, Draws
from homodyne.optimization.xpcs import XpcsModel, fit_shards, require_shards
from homodyne.registries import SAMPLERS
from homodyne.result.record import MCMCResult
from homodyne.threads import one_blas_thread

logger = logging.getLogger(__name__)

_REDUCTIONS = 3  # times that the data are reduced, finer and finer, until direct sums agree
_FINER = 0.1  # factor of the tolerance from one to the next
_AHEAD = 0.5  # of the limit, of the error before shards are sampled
ENOUGH = 200  # effective draws from which "auto" is content with a corrected Laplace approximation
_RANK = {Verdict.CERTIFIED: 3, Verdict.CORRECTED: 2, Verdict.REFUSED: 0}


@dataclass(frozen=True, eq=False)
class Attempt:
    """What one method made of a problem.

    Attributes
    ----------
    method : str
    certificate : Certificate
    z : (chain, draw, dim) array
        Draws to return: those of the method, or resampled weighted points where these replace them.
    drawn : Draws or None
        Those of the method, None of shards.
    consensus : Consensus or None
        Of shards.
    """

    method: str
    certificate: Certificate
    z: Array | None
    drawn: Draws | None = None
    consensus: Consensus | None = None

    @property
    def rank(self) -> tuple[int, float]:
        """Better answers have a higher one."""
        enough = self.certificate.ess >= ENOUGH or self.method == "cmc"
        return _RANK[self.certificate.verdict] - (self.certificate.verdict == Verdict.CORRECTED and not enough), float(
            np.nan_to_num(self.certificate.ess)
        )


@dataclass(eq=False)
class _Clock:
    """Seconds by stage, each logged when it is done."""

    last: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        logger.info("%s: %.1f s", stage, now - self.last)
        self.last = now


@one_blas_thread()
def fit(
    data: TwoTimeData,
    *,
    mode: str | None = None,
    method: str | None = None,
    uncertainty: str | None = None,
    seed: int | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    progress: Progress | None = None,
) -> MCMCResult:
    """Fit a two-time measurement.

    Parameters
    ----------
    data : TwoTimeData
        From `homodyne.load`, `homodyne.from_cube` or `homodyne.from_arrays`.
    mode : str, optional
        Correlation model: "static", "laminar_flow", any other registered one, or "module:Class".
    method : "auto", "laplace", "nuts" or "cmc", optional
    uncertainty : "calibrated" or "independent", optional
        Whether points of the map that share frames share noise, or every point has its own.
    seed : int, optional
    config : Config, mapping or path of a YAML file, optional
        Everything else; the arguments above, where given, replace its values.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    MCMCResult
        With verdict CERTIFIED, CORRECTED or REFUSED; a refused result must not be used.

    Raises
    ------
    InputError
        Data and configuration do not fit together.
    ConvergenceError
        The pilot fit found no point of finite density, or the sampler no starting point.
    """
    given = {"analysis_mode": mode, "optimization.method": method, "uncertainty": uncertainty, "seed": seed}
    clock = _Clock()
    with Faults() as faults:
        faults.of(require_data, data)
        faults.function("progress", progress)
        settings = faults.of(load_config, config, [(key, value) for key, value in given.items() if value is not None])
    tell = _silent if progress is None else progress
    with Faults() as faults:
        problem = faults.of(build_problem, data, settings)
        if "cmc" in _names(problem.num_pairs if problem else 0, settings)[0]:
            faults.of(require_shards, settings, problem and problem.maps)
    with problem.passes:
        return _fit(data, problem, settings, tell, clock)


def _fit(data: TwoTimeData, problem: Problem, settings: Config, tell: Progress, clock: _Clock) -> MCMCResult:
    """Fit a problem; the arguments of `fit`, worked out."""
    suspect = implausible(data, problem.maps.gap)
    for one in suspect:
        logger.warning(one)
    clock.mark("preparation")
    reduction = settings.reduction
    accuracy = Accuracy(reduction.order, reduction.tolerance)
    nlsq, widened = settings.optimization.nlsq, settings.uncertainty == "calibrated"
    search = PilotSettings(nlsq.num_candidates, nlsq.num_starts, nlsq.max_iterations, nlsq.thin_points, DEAD, accuracy)
    pilot = pilot_fit(
        problem,
        np.random.default_rng([settings.seed, 0]),
        replace(search, depth=DEAD * WIDEST) if widened else search,
        sample_noise=settings.noise == "sampled",
        progress=tell,
    )
    clock.mark("pilot fit")
    suspect += _strain(pilot, data)
    report = noise_report(data, pilot, settings.speckle)
    tested = model_checks(pilot, report.noise)
    rng = np.random.default_rng([settings.seed, 8])
    if widened:
        pilot, report = calibrated(data, pilot, settings.speckle, report, search, rng)
    else:
        pilot = completed(pilot, rng, search)
    report = replace(report, checks=tested, prior={**prior_distance(pilot), "shares": prior_shares(pilot)})
    conflict = [report.prior["alarm"]] if report.prior.get("alarm") else []
    pilot = replace(pilot, notes=(*conflict, *_of_model(pilot, data), *pilot.notes)).noting(*report.notes)
    clock.mark("noise")
    names, reason = _names(pilot.posterior.nodes.num_points, settings)
    for round_number in range(1, _REDUCTIONS + 1):
        last, error = round_number == _REDUCTIONS, np.inf
        above: tuple[Array, ...] = ()
        if "cmc" in names and not last:  # shards are costly and kept: their nodes are checked before they are sampled
            error, checks = _reduction_error(_around_mode(pilot, settings), pilot, settings, tell)
            clock.mark("direct sums")
        if "cmc" not in names or last or error <= _AHEAD * reduction.max_error:
            best, trail, tried, above = _best_attempt((names, reason), data, pilot, report, settings, tell, clock, last)
            error, checks = _reduction_error(best.z, pilot, settings, tell)
            clock.mark("direct sums")
            if (error <= reduction.max_error and not above) or last or best.consensus is not None:
                break
        accuracy = Accuracy(min(accuracy.order + 2, 24), _FINER * accuracy.tolerance)
        pilot = refined(pilot, checks, above, replace(search, accuracy=accuracy), tell)
        clock.mark("reduction")
    if error > reduction.max_error:
        reason = (
            f"The reduced data do not stand for all pairs: their log density is off by {error:.2g} at the draws, after "
            f"{round_number} reductions (limit {reduction.max_error:g}, reduction.max_error); lower its tolerance."
        )
        best = replace(best, certificate=replace(best.certificate, verdict=Verdict.REFUSED, reason=reason))
    elif pilot.unseen >= UNSEEN and best.certificate.verdict != Verdict.REFUSED:
        reason = (
            f"Not all modes of the posterior are known: {len(pilot.modes)} were found from {pilot.num_starts} starts, "
            f"and new ones, with about {pilot.unseen:.0%} of the mass, were still coming; narrow the priors, fix "
            "parameters, or raise optimization.nlsq.num_starts."
        )
        best = replace(best, certificate=replace(best.certificate, verdict=Verdict.REFUSED, reason=reason))
    facts: dict[str, Any] = {
        "implausible": suspect,
        "reduction": {
            "nodes": int(np.asarray(pilot.posterior.nodes.weight).any(axis=0).sum()),
            "pairs": pilot.posterior.nodes.num_points,
            "checks": len(checks),
            "error": error,
            "limit": reduction.max_error,
            "attempts": round_number,
        },
    }
    run = _run(data, settings, pilot, report, trail, clock.seconds, best.drawn, facts)
    return _result(best, tried, run, pilot, clock, tell)


def _strain(pilot: Pilot, data: TwoTimeData) -> list[str]:
    """Warn of a shear rate at the mode that no sample has, before hours are spent; the sentences."""
    rate = next((one for one in pilot.space.model.rates() if one.name == "gamma_dot"), None)
    if rate is None:
        return []
    params = parameters_at_images(pilot.mode.z[None], pilot.posterior)
    fastest = max(float(np.abs(np.asarray(rate.value(params, t))).max()) for t in data.t[[0, -1]])
    found = unusual("shear rate times record", fastest * float(np.ptp(data.t)))
    for one in found:
        logger.warning(one)
    return found


def _of_model(pilot: Pilot, data: TwoTimeData) -> Sequence[str]:
    """What the model says is wrong with the best mode."""
    gap = pilot.problem.maps.gap_or_nan
    return pilot.space.model.warnings(pilot.parameters_at(pilot.mode), data.t, data.q, data.phi, gap)


def _best_attempt(
    methods: tuple[tuple[str, ...], str],
    data: TwoTimeData,
    pilot: Pilot,
    report: NoiseReport,
    settings: Config,
    tell: Progress,
    clock: _Clock,
    last: bool,
) -> tuple[Attempt, list[str], list[Attempt], tuple[Array, ...]]:
    """Try methods in turn until one is good enough; the best attempt, what happened, and all attempts.

    Methods come with the reason for which the second was chosen. Unless it is the last time, methods are not tried
    further where points above the best mode were seen; these are returned.
    """
    names, reason = methods
    trail: list[str] = []
    tried: list[Attempt] = []

    @cache
    def course() -> Exploration:
        rng = np.random.default_rng([settings.seed, 6])
        return explored(pilot, rng, settings.certificate.num_points, tell)

    for place, name in enumerate(names):
        if reason and place == 1:
            trail.append(reason)
        try:
            if name == "cmc":
                consensus = _shards(data, pilot, report, settings, tell, trail)
                attempt = Attempt(name, consensus.certificate, consensus.z, None, consensus)
            else:
                drawn = SAMPLERS.find(name, importing=False)(pilot, course, settings, tell)
                clock.mark(name)
                judged = _judge(drawn, pilot, course, settings, tell)
                attempt = Attempt(name, judged.certificate, _usable(drawn, judged, pilot, settings), drawn)
        except ConvergenceError as error:
            if place + 1 == len(names) and not tried:
                raise
            trail.append(f"{name}: failed ({error})")
            continue
        clock.mark("certificate" if name != "cmc" else name)
        trail.append(f"{name}: {attempt.certificate.verdict}")
        tried.append(attempt)
        if attempt.rank[0] >= _RANK[Verdict.CORRECTED]:
            break
        if not last and course.cache_info().currsize and course().above:
            return attempt, trail, tried, course().above
    return max(tried, key=lambda one: one.rank), trail, tried, ()


def _around_mode(pilot: Pilot, settings: Config) -> Array:
    """Draws of the normal distribution at the best mode, (n, dim)."""
    z = pilot.mode.draw(settings.optimization.laplace.num_draws, np.random.default_rng([settings.seed, 5]))
    return np.asarray(z[inside(z, pilot.posterior)])


def _reduction_error(z: Array | None, pilot: Pilot, settings: Config, tell: Progress) -> tuple[float, Array]:
    """Spread of the error of the log density of the reduced data over draws, and the draws at which it was taken."""
    flat = np.unique(z.reshape(-1, z.shape[-1]), axis=0) if z is not None and z.size else pilot.mode.z[None]
    distances = np.linalg.norm(np.linalg.solve(pilot.mode.root, (flat - pilot.mode.z).T), axis=0)
    order = np.argsort(distances)
    count = min(settings.reduction.num_checks, len(flat))
    points = flat[order[np.unique(np.linspace(0, len(flat) - 1, count).round().astype(int))]]
    points = points[inside(points, pilot.posterior)]
    if len(points) < 2:
        return 0.0 if len(points) else np.inf, points
    params, model = parameters_at_images(points, pilot.posterior), pilot.space.model
    exact = pilot.problem.passes.direct(
        model, params, pilot.posterior.nodes, lambda done, total: tell("direct sums", done, total)
    )
    errors = errors_against(exact, points, pilot.posterior)
    return float(errors.std(ddof=1)) if np.isfinite(errors).all() else np.inf, points


def _result(best: Attempt, tried: list[Attempt], run: Run, pilot: Pilot, clock: _Clock, tell: Progress) -> MCMCResult:
    """Result of the best attempt; shards that were sampled on the way are kept in it."""
    shards = next((one.consensus for one in tried if one.consensus is not None), None)
    if best.consensus is not None:
        return consensus_result(run, replace(best.consensus, certificate=best.certificate))
    assert best.z is not None
    samples, lp = physical_draws(best.z, pilot.posterior, np.random.default_rng([run.config.seed, 1]), tell)
    clock.mark("contrast and offset")
    stats = best.drawn.stats if best.drawn is not None and not best.certificate.weighted else {}
    result = assemble(replace(run, timings=clock.seconds), best.method, best.certificate, samples, {**stats, "lp": lp})
    if shards is None:
        return result
    return replace(
        result,
        diagnostics={**result.diagnostics, "cmc": shards.diagnostics["cmc"]},
        num_shards=len(shards.per_shard),
        combination_method=shards.combination_method,
        per_shard_diagnostics=shards.per_shard,
    )


def _names(num_points: int, settings: Config) -> tuple[tuple[str, ...], str]:
    """Methods to try in turn, and why the second one was chosen."""
    chosen, cmc = settings.optimization.method, settings.optimization.cmc
    if chosen != "auto":
        return ("cmc", "nuts") if chosen == "cmc" and cmc.escalate else (chosen,), ""
    decision = decide(num_points, settings)
    if settings.noise == "sampled":
        return ("laplace", "nuts"), "noise: sampled is not possible with method cmc"
    if not decision:
        return ("laplace", "nuts"), decision.reason
    return ("laplace", "cmc", "nuts") if cmc.escalate else ("laplace", "cmc"), decision.reason


def decide(num_points: int, settings: Config) -> CMCDecision:
    """Choose between nuts and cmc; the configuration may force it."""
    cmc = settings.optimization.cmc
    if cmc.enable != "auto":
        return CMCDecision(cmc.enable, f"optimization.cmc.enable is {str(cmc.enable).lower()}")
    return should_use_cmc(num_points, detect_hardware(), min_points=cmc.min_points_for_cmc)


def _shards(
    data: TwoTimeData, pilot: Pilot, report: NoiseReport, settings: Config, tell: Progress, trail: list[str]
) -> Consensus:
    """Consensus Monte Carlo from the modes of the pilot fit."""
    noise = {"inflation": report.inflation, "facts": report.facts, "checks": report.checks, "prior": report.prior}
    found, how = fit_shards(data, pilot, settings, detect_hardware(gpus=True), tell, noise)
    trail.append(how)
    return found


def fit_mcmc_jax(  # noqa: PLR0913  # a door of long standing
    data: npt.ArrayLike,
    t1: npt.ArrayLike,
    t2: npt.ArrayLike,
    phi: npt.ArrayLike,
    q: npt.ArrayLike,
    L: float | None = None,
    analysis_mode: str | None = None,
    method: str | None = None,
    *,
    cmc_config: Config | Mapping[str, Any] | str | Path | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
    weights: npt.ArrayLike | None = None,
    frame_weights: npt.ArrayLike | None = None,
) -> MCMCResult:
    """Fit flat arrays of correlation values.

    Parameters
    ----------
    data, t1, t2, phi : arrays
        Values of c2 at times t1, t2 (s) and angles phi (degrees), in any order; (t1, t2) and (t2, t1) are
        counted once.
    q : float or array
        Wave vector, 1/Å, of all points or of each.
    L : float, optional
        Distance of the plates in Å, for laminar flow.
    analysis_mode : str, optional
        Correlation model, as `mode` of `fit`.
    method : "auto", "nuts", "cmc" or "laplace", optional
        "auto" takes nuts or cmc, as `should_use_cmc` decides.
    cmc_config : Config, mapping or path of a YAML file, optional
        Everything else, as `config` of `fit`; the arguments above, where given, replace its values.
    seed : int, optional
    progress : callable, optional
    weights, frame_weights : arrays, optional
        Of points and of frames, as in `homodyne.from_arrays`.

    Returns
    -------
    MCMCResult

    Raises
    ------
    InputError, ConvergenceError
        As in `fit`.
    """
    given = {"analysis_mode": analysis_mode, "optimization.method": method, "seed": seed}
    measured = partial(from_arrays, data, t1, t2, phi, q, L, weights=weights, frame_weights=frame_weights)
    return fit_flat(measured, L, cmc_config, given, {}, progress)


def fit_flat(
    read: Callable[[], TwoTimeData],
    gap: object,
    config: Config | Mapping[str, Any] | str | Path | None,
    given: Mapping[str, Any],
    spellings: Mapping[str, str],
    progress: Progress | None,
) -> MCMCResult:
    """Fit what `read` gives; `given` values, and the gap, replace those of the configuration where not None."""
    wanted = {**given, "experimental_data.gap": gap}
    changes = [(key, value) for key, value in wanted.items() if value is not None]
    with Faults() as faults:
        faults.function("progress", progress)
        settings = faults.of(load_config, config, changes, spellings=spellings)
        measured = faults.of(read)
    if settings.optimization.method == "auto":
        method = "cmc" if decide(measured.num_pairs, settings) else "nuts"
        settings = load_config(settings, [("optimization.method", method)])
    return fit(measured, config=settings, progress=progress)


def _judge(drawn: Draws, pilot: Pilot, course: Course, settings: Config, tell: Progress) -> Certified:
    """Certificate of the draws; chains that did not converge are never certified."""
    posterior, independent = pilot.posterior, drawn.normal is not None
    return certify(
        _batch(posterior, tell),
        drawn.z.reshape(-1, posterior.dim) if independent else drawn.z,
        names=posterior.names,
        num_points=settings.certificate.num_points,
        seed=settings.seed + 1,
        modes=[(m.z, m.covariance) for m in pilot.modes],
        gaussian=drawn.normal,
        approximate=settings.optimization.laplace.num_draws if independent else 0,
        draws_log_density=drawn.stats.get("lp"),
        unbelievable=not_converged(drawn.problems),
        fitted=lambda: course().proposal,
    )


def _batch(posterior: Posterior, tell: Progress) -> Callable[[Array], Array]:
    return lambda points: log_densities(points, posterior, lambda done: tell("certificate", done, len(points)))


def _usable(drawn: Draws, judged: Certified, pilot: Pilot, settings: Config) -> Array:
    """Return the method's own draws, or resampled weighted points where these replace them."""
    if not judged.certificate.weighted:
        return drawn.z
    return judged.chains(settings.optimization.laplace.num_draws, len(drawn.z), settings.seed + 2)


def _run(
    data: TwoTimeData,
    settings: Config,
    pilot: Pilot,
    report: NoiseReport,
    trail: list[str],
    timings: dict[str, float],
    drawn: Draws | None,
    facts: Mapping[str, Any],
) -> Run:
    """What is known of the run beside its draws."""
    found = {
        **((drawn.facts if drawn else None) or {}),
        **facts,
        "methods": trail,
        "left_out": data.left_out_lines(),
        "weights": data.weight_line(),
        "noise": dict(report.facts),
        "checks": dict(report.checks),
        "prior": dict(report.prior),
        "pilot": {
            "num_starts": pilot.num_starts,
            "num_converged": pilot.num_converged,
            "num_modes": len(pilot.modes),
            "unseen": pilot.unseen,
            "newton_step": pilot.mode.newton_step,
        },
    }
    return Run(
        model=XpcsModel.of(pilot),
        config=settings,
        num_points=pilot.posterior.nodes.num_points,
        bad_frames=tuple(int(k) for k in data.bad_frames),
        facts=found,
        warnings=(*facts["implausible"], *pilot.notes, *(drawn.problems if drawn else ())),
        timings=timings,
        noise_inflation=report.inflation,
    )


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
