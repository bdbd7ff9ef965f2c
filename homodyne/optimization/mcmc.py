"""Fitting: from a measurement to a posterior with a verdict.

`fit` takes a `TwoTimeData` and a configuration; `fit_mcmc_jax` takes flat arrays. Both run the pilot fit,
get draws by a method ("laplace": normal approximation at the mode, "nuts": No-U-turn sampling), and have
them certified against the exact posterior. With "auto", the cheapest method whose result can be used is
taken: laplace first, then nuts.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from homodyne.config.io import load_config
from homodyne.config.schema import Config
from homodyne.core.posterior import Posterior
from homodyne.data.flat import from_arrays
from homodyne.data.twotime import TwoTimeData
from homodyne.device.config import CMCDecision, detect_hardware, should_use_cmc
from homodyne.errors import ConvergenceError, InputError
from homodyne.optimization.assembly import Run, assemble, consensus_result
from homodyne.optimization.calibration import WIDEST, NoiseReport, calibrated, noise_report
from homodyne.optimization.cmc.certificate import CERTIFIED, CORRECTED, Certificate, Certified, certify
from homodyne.optimization.cmc.consensus import Consensus
from homodyne.optimization.cmc.result import MCMCResult
from homodyne.optimization.density import Progress
from homodyne.optimization.diagnostics import diagnose, not_converged
from homodyne.optimization.nlsq import DEAD, Pilot, PilotSettings, pilot_fit
from homodyne.optimization.nuts import NutsSettings, sample_posterior
from homodyne.optimization.target import build_target
from homodyne.optimization.xpcs import XpcsModel, fit_shards

Array = np.ndarray[Any, np.dtype[Any]]

_MOST_ROUNDS = 100  # attempts to draw inside the support
ENOUGH = 200  # effective draws from which "auto" is content with a corrected Laplace approximation


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of the coordinates, (chain, draw, dim), and what the sampler says of them."""

    z: Array
    stats: Mapping[str, Array]
    problems: tuple[str, ...] = ()
    facts: Mapping[str, Any] | None = None


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
    mode : "static" or "laminar_flow", optional
    method : "auto", "laplace", "nuts" or "cmc", optional
    uncertainty : "calibrated" or "independent", optional
        Whether points of the map that share frames share noise, or every point has its own.
    seed : int, optional
    config : Config, mapping or path of a YAML file, optional
        Everything else; the arguments above, where given, replace its values.
    progress : callable, optional
        Told (stage, done, total).

    Returns
    -------
    MCMCResult
        With verdict CERTIFIED, CORRECTED or REFUSED; a refused result must not be used.

    Raises
    ------
    InputError
        Data and configuration do not fit together.
    ConvergenceError
        The pilot fit found no mode, or the sampler no starting point.
    """
    given = {"analysis_mode": mode, "optimization.method": method, "uncertainty": uncertainty, "seed": seed}
    settings = load_config(config, [(key, value) for key, value in given.items() if value is not None])
    tell = progress or _silent
    clock = _Clock()
    target = build_target(data, settings)
    clock.mark("preparation")
    rng = np.random.default_rng([settings.seed, 0])
    nlsq, widened = settings.optimization.nlsq, settings.uncertainty == "calibrated"
    search = PilotSettings(nlsq.num_candidates, nlsq.num_starts, nlsq.max_iterations)
    pilot = pilot_fit(
        target.likelihood,
        target.thin,
        rng,
        between=target.between,
        settings=replace(search, depth=DEAD * WIDEST) if widened else search,
        sample_noise=settings.noise == "sampled",
        initial=target.initial,
        progress=tell,
    )
    clock.mark("pilot fit")
    report = noise_report(data, pilot, settings.speckle)
    if widened:
        pilot, report = calibrated(data, pilot, settings.speckle, report, search)
    pilot = pilot.noting(*report.notes)
    clock.mark("noise")
    trail: list[str] = []
    consensus = None
    names, reason = _names(target.likelihood.slot.block.num_points, settings)
    for place, name in enumerate(names):
        if reason and place == 1:
            trail.append(reason)
        try:
            if name == "cmc":
                consensus = _shards(data, pilot, report, settings, tell, trail)
                certificate = consensus.certificate
            else:
                consensus, drawn = None, METHODS[name](pilot, settings, tell)
                clock.mark(name)
                judged = _judge(name, drawn, pilot, settings, tell)
                certificate = judged.certificate
        except ConvergenceError:
            if name == names[-1]:
                raise
            trail.append(f"{name}: failed")
            continue
        clock.mark("certificate" if consensus is None else name)
        trail.append(f"{name}: {certificate.verdict}")
        if _content(certificate, name):
            break
    if consensus is not None:
        return consensus_result(_run(data, settings, pilot, report, trail, clock.seconds, None), consensus)
    z, drawn = _usable(drawn, judged, pilot, settings)
    samples, lp = pilot.posterior.physical_draws(z, np.random.default_rng([settings.seed, 1]), tell)
    clock.mark("contrast and offset")
    run = _run(data, settings, pilot, report, trail, clock.seconds, drawn)
    return assemble(run, name, judged.certificate, samples, {**drawn.stats, "lp": lp})


def _names(num_points: int, settings: Config) -> tuple[tuple[str, ...], str]:
    """Methods to try in turn, and why the second one was chosen."""
    chosen, cmc = settings.optimization.method, settings.optimization.cmc
    if chosen != "auto":
        return ("cmc", "nuts") if chosen == "cmc" and cmc.escalate else (chosen,), ""
    decision = decide(num_points, settings)
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
    if settings.noise == "sampled":
        raise InputError("noise: sampled is not possible with method cmc: use noise: fixed, or method nuts")
    modes = [(mode.z, mode.covariance) for mode in pilot.modes]
    likelihood = pilot.posterior.likelihood
    noise = {"inflation": report.inflation, "facts": report.facts, "checks": report.checks}
    found, how = fit_shards(
        data, likelihood, pilot.sigma, modes, settings, detect_hardware(gpus=True), tell, pilot.notes, noise
    )
    trail.append(how)
    return found


def fit_mcmc_jax(
    data: Any,
    t1: Any,
    t2: Any,
    phi: Any,
    q: float,
    L: float | None = None,
    analysis_mode: str = "laminar_flow",
    method: str = "auto",
    *,
    cmc_config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> MCMCResult:
    """Fit flat arrays of correlation values.

    Parameters
    ----------
    data, t1, t2, phi : arrays
        Values of c2 at times t1, t2 (s) and angles phi (degrees), in any order; (t1, t2) and (t2, t1) are
        counted once.
    q : float
        Wave vector, 1/Å.
    L : float, optional
        Distance of the plates in Å, for laminar flow.
    analysis_mode : "laminar_flow" or "static"
    method : "auto", "nuts", "cmc" or "laplace"
        "auto" takes nuts or cmc, as `should_use_cmc` decides.
    cmc_config : mapping, optional
        Configuration with the keys of the YAML file; a top-level ``mcmc`` or ``cmc`` is read as
        ``optimization.mcmc`` or ``optimization.cmc``.
    seed : int, optional
    progress : callable, optional

    Returns
    -------
    MCMCResult

    Raises
    ------
    InputError, ConvergenceError
        As in `fit`.
    """
    settings = dict(cmc_config or {})
    for section in ("mcmc", "cmc"):
        if section in settings:
            settings["optimization"] = {**settings.get("optimization", {}), section: settings.pop(section)}
    measured = from_arrays(data, t1, t2, phi, q, gap=L)
    if method == "auto":
        method = "cmc" if decide(measured.num_pairs, load_config(settings)) else "nuts"
    return fit(measured, mode=analysis_mode, method=method, seed=seed, config=settings, progress=progress)


def _laplace(pilot: Pilot, settings: Config, tell: Progress) -> Draws:
    """Independent draws of the normal distribution at the best mode; those outside the support are drawn again."""
    chains = settings.optimization.mcmc.num_chains
    per_chain = -(-settings.optimization.laplace.num_draws // chains)
    rng = np.random.default_rng([settings.seed, 2])
    mode, log_prior = pilot.mode, jax.jit(jax.vmap(pilot.posterior.log_prior))
    root = np.linalg.cholesky(mode.covariance).T
    z = mode.z + rng.standard_normal((chains * per_chain, len(mode.z))) @ root
    for _ in range(_MOST_ROUNDS):
        outside = ~np.isfinite(log_prior(z))
        if not outside.any():
            return Draws(z.reshape(chains, per_chain, -1), {})
        z[outside] = mode.z + rng.standard_normal((np.count_nonzero(outside), len(mode.z))) @ root
    raise ConvergenceError(
        f"{np.count_nonzero(outside)} of {len(z)} draws of the normal approximation lie outside the support in "
        f"each of {_MOST_ROUNDS} attempts: a prior or a bound cuts the mode off; use method nuts, or widen the priors"
    )


def _nuts(pilot: Pilot, settings: Config, tell: Progress) -> Draws:
    """No-U-turn sampling around the best mode."""
    mcmc, mode, posterior = settings.optimization.mcmc, pilot.mode, pilot.posterior
    nuts = NutsSettings(mcmc.num_warmup, mcmc.num_samples, mcmc.num_chains, mcmc.target_accept_prob)
    sampled = sample_posterior(
        posterior.log_density, mode.z, mode.covariance, nuts, jax.random.key(settings.seed), tell
    )
    space = posterior.likelihood.space
    z = space.canonical(sampled.draws, around=float(mode.z[space.dim - 1]))
    chains = diagnose(z, sampled.stats, posterior.names)
    facts = {
        "divergences": chains.divergences,
        "ebfmi": chains.ebfmi.tolist(),
        "num_gradients": sampled.num_gradients,
        "step_size": sampled.step_size.tolist(),
    }
    return Draws(z, sampled.stats, chains.problems, facts)


METHODS: Mapping[str, Callable[[Pilot, Config, Progress], Draws]] = {"laplace": _laplace, "nuts": _nuts}
"""Ways to draw from the posterior, by name."""


def _judge(name: str, drawn: Draws, pilot: Pilot, settings: Config, tell: Progress) -> Certified:
    """Certificate of the draws; chains that did not converge are never certified."""
    mode, posterior = pilot.mode, pilot.posterior
    laplace = name == "laplace"
    return certify(
        _batch(posterior, tell),
        drawn.z.reshape(-1, posterior.dim) if laplace else drawn.z,
        names=posterior.names,
        num_points=settings.certificate.num_points,
        seed=settings.seed + 1,
        modes=[(m.z, m.covariance) for m in pilot.modes],
        gaussian=(mode.z, mode.covariance) if laplace else None,
        draws_log_density=drawn.stats.get("lp"),
        unbelievable=not_converged(drawn.problems),
    )


def _batch(posterior: Posterior, tell: Progress) -> Callable[[Array], Array]:
    return lambda points: posterior.evaluate_many(points, lambda done: tell("certificate", done, len(points)))[0]


def _content(certificate: Certificate, name: str) -> bool:
    """Whether "auto" stops at this verdict."""
    enough = certificate.ess >= ENOUGH or name == "cmc"
    return certificate.verdict == CERTIFIED or (certificate.verdict == CORRECTED and enough)


def _usable(drawn: Draws, judged: Certified, pilot: Pilot, settings: Config) -> tuple[Array, Draws]:
    """Return the method's own draws, or resampled weighted points where the verdict is CORRECTED."""
    if judged.certificate.verdict != CORRECTED:
        return drawn.z, drawn
    chains = len(drawn.z)
    per_chain = -(-settings.optimization.laplace.num_draws // chains)
    space = pilot.posterior.likelihood.space
    z = judged.resample(chains * per_chain, settings.seed + 2).reshape(chains, per_chain, -1)
    return space.canonical(z, around=float(pilot.mode.z[space.dim - 1])), Draws(z, {}, drawn.problems, drawn.facts)


def _run(
    data: TwoTimeData,
    settings: Config,
    pilot: Pilot,
    report: NoiseReport,
    trail: list[str],
    timings: dict[str, float],
    drawn: Draws | None,
) -> Run:
    """What is known of the run beside its draws."""
    likelihood = pilot.posterior.likelihood
    facts = {
        **((drawn.facts if drawn else None) or {}),
        "methods": trail,
        "noise": dict(report.facts),
        "checks": dict(report.checks),
        "pilot": {
            "num_starts": pilot.num_starts,
            "num_converged": pilot.num_converged,
            "num_gradients": pilot.num_gradients,
            "num_modes": len(pilot.modes),
            "newton_step": pilot.mode.newton_step,
        },
    }
    return Run(
        model=XpcsModel.of(likelihood, pilot.sigma),
        config=settings,
        num_points=likelihood.slot.block.num_points,
        bad_frames=tuple(int(k) for k in data.bad_frames),
        facts=facts,
        warnings=(*pilot.notes, *(drawn.problems if drawn else ())),
        timings=timings,
        noise_inflation=report.inflation,
    )


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
