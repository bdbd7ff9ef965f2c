"""From the posterior for independent points to the calibrated one, whose width is that under correlated noise."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from homodyne.config.schema import SpeckleConfig
from homodyne.core.adjustment import Adjustment
from homodyne.core.calibration import adjusted_covariance, adjustment_to
from homodyne.core.likelihood import Likelihood
from homodyne.core.posterior import Posterior
from homodyne.core.sandwich import Sandwich, sandwich
from homodyne.noise.speckle_noise import CountingFacts, SpeckleNoise
from homodyne.data.twotime import TwoTimeData
from homodyne.errors import ConvergenceError
from homodyne.optimization.crosscheck import cross_check
from homodyne.optimization.nlsq import Mode, Pilot, PilotSettings, settled

Array = np.ndarray[Any, np.dtype[Any]]

WIDEST = 200.0
"""Variance under correlated noise over that of independent points, at most: what is dead for these may live for it."""

_ROUNDS = 8  # times that the sandwich is made, at most
_SHRINKS = 0.7  # times the step before that a step is long, at most, if steps go on without being cut in half
_NEAR = 0.3  # standard deviations between the point where it was made and the mode


@dataclass(frozen=True, eq=False)
class NoiseReport:
    """What correlated noise does to the uncertainty.

    Attributes
    ----------
    adjustment : Adjustment
        Of the likelihood.
    covariance : (d, d) array
        Of the calibrated posterior, to first order.
    inflation : dict
        Factor between the standard deviations with correlated and with independent noise, by physical parameter;
        of contrast and offset one for every angle.
    facts : dict
        Counts, pixels, and where they come from.
    notes : tuple of str
        What a user should know.
    checks : dict
        Tests of the fit against its data, see `homodyne.optimization.crosscheck`.
    """

    adjustment: Adjustment
    covariance: Array
    inflation: Mapping[str, Any]
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    checks: Mapping[str, Any]


def noise_report(data: TwoTimeData, pilot: Pilot, known: SpeckleConfig) -> NoiseReport:
    """Estimate the noise at the best mode of a pilot fit, what it does to the uncertainty, and whether the fit is good.

    Raises
    ------
    InputError
        When neither the data nor the user say how many counts there are.
    """
    report, noise = _report_at(pilot.mode, data, pilot, known)
    likelihood, z = pilot.posterior.likelihood, pilot.mode.z[: pilot.posterior.likelihood.space.dim]
    scaling = np.asarray(likelihood.evaluate(z, pilot.sigma).scaling_mean)
    return replace(report, checks=cross_check(likelihood, z, scaling, noise))


def calibrated(
    data: TwoTimeData, pilot: Pilot, known: SpeckleConfig, report: NoiseReport, settings: PilotSettings
) -> tuple[Pilot, NoiseReport]:
    """Pilot fit of the calibrated posterior, from that for independent points and the report on its noise.

    The sandwich is right near the point where it is made. Where the calibrated mode turns out to be elsewhere, because
    priors weigh more against correlated noise, it is made anew there, or half-way once steps do not become shorter. The
    report that is returned is that of the shortest step.

    Raises
    ------
    ConvergenceError
        When the calibrated posterior has no mode.
    """
    space, where, previous, share = pilot.posterior.likelihood.space, pilot.mode, np.inf, 1.0
    best: tuple[float, Posterior, tuple[Mode, ...], NoiseReport] | None = None
    for left in reversed(range(_ROUNDS)):
        posterior = Posterior(pilot.posterior.likelihood.through(report.adjustment), pilot.sigma)
        widening = report.adjustment.widening**2
        starts = [replace(where, covariance=report.covariance)]
        starts += [replace(mode, covariance=widening * mode.covariance) for mode in pilot.modes[1:]]
        try:
            modes = settled(posterior, starts, settings)
        except ConvergenceError:
            if best is None:
                raise
            share /= 2
        else:
            place, gap = where.z, np.asarray(space.apart(jnp.asarray(modes[0].z), where.z))
            moved = float(np.linalg.norm(np.linalg.solve(np.linalg.cholesky(report.covariance), gap)))
            if best is None or moved < best[0]:
                best = moved, posterior, modes, report
            if moved < _NEAR:
                break
            share = 0.5 if share < 1 or moved > _SHRINKS * previous else 1.0
            previous = moved
        if not left:
            break
        between = place + share * gap
        usable = share < 1 and np.isfinite(space.log_prior(jnp.asarray(between[: space.dim])))
        where = replace(modes[0], z=between if usable else modes[0].z)
        report = replace(_report_at(where, data, pilot, known)[0], checks=report.checks)
    assert best is not None
    moved, posterior, modes, report = best
    if moved >= _NEAR:
        far = (
            f"speckle noise: what it does to the uncertainty depends on the parameters, and is known only {moved:.1f} "
            "standard deviations off the mode: take the widths as rough"
        )
        report = replace(report, notes=(*report.notes, far))
    return replace(pilot, posterior=posterior, modes=modes), report


def _report_at(mode: Mode, data: TwoTimeData, pilot: Pilot, known: SpeckleConfig) -> tuple[NoiseReport, SpeckleNoise]:
    """Noise and sandwich at a point, without tests of the fit."""
    likelihood = pilot.posterior.likelihood
    d, pair_prior = likelihood.space.dim, likelihood.scaling.table[1]
    z, root = mode.z[:d], np.linalg.cholesky(mode.covariance[:d, :d])
    at, prior = likelihood.evaluate(z, pilot.sigma), _prior(likelihood, z, root)
    facts = CountingFacts(data.diagonal, data.pixels, data.mean_counts, known.pixels, known.mean_counts)
    found = sandwich(likelihood, z, np.asarray(at.scaling_mean), pilot.sigma, facts, root, prior)
    covariance = np.linalg.inv(found.information + found.told + prior)
    (_, slope), _ = likelihood.gradients(z, pilot.sigma, likelihood.scaling.table)
    adjustment = adjustment_to(found, z + covariance @ slope, covariance)
    wide = adjusted_covariance(adjustment, found, prior, pair_prior)
    inflation = _inflation(likelihood, z, covariance, wide)
    inflation |= _pair_inflation(found, at.scaling_cov, covariance, wide, pair_prior)
    noise = found.noise
    told = {
        "mean_counts": _plain(noise.mean_counts),
        "pixels": _plain(noise.pixels),
        "counts_source": noise.counts_source,
        "pixels_source": noise.pixels_source,
        "widening": adjustment.widening,
    }
    return NoiseReport(adjustment, wide, inflation, told, noise.notes, {}), noise


def _prior(likelihood: Likelihood, z: Array, root: Array) -> Array:
    """Precision of the prior without directions in which it is convex; `root` is that of a covariance."""
    curvature, back = np.asarray(likelihood.linearised(z).prior_curvature), np.linalg.inv(root)
    values, vectors = np.linalg.eigh(-root.T @ curvature @ root)
    return np.asarray(back.T @ (vectors * np.maximum(values, 0.0)) @ vectors.T @ back)


def _inflation(likelihood: Likelihood, z: Array, narrow: Array, wide: Array) -> dict[str, Any]:
    """Ratio of standard deviations of the physical parameters, to first order."""
    slopes = likelihood.linearised(z).physical
    found = {}
    for name in likelihood.space.free_names:
        slope = np.asarray(slopes[name])
        found[name] = float(np.sqrt(slope @ wide @ slope / (slope @ narrow @ slope)))
    return found


def _pair_inflation(found: Sandwich, conditional: Any, narrow: Array, wide: Array, prior: Array) -> dict[str, Any]:
    """Ratio of standard deviations of contrast and offset of every angle; `prior` (2,) is their precision."""
    root = np.linalg.cholesky(found.pair_information)
    turn = np.swapaxes(root, 1, 2)

    def variance(own: Array, slope: Array, covariance: Array) -> Array:
        slope = own @ root @ slope
        return np.asarray(np.einsum("kii->ki", own) + np.einsum("kia,ab,kib->ki", slope, covariance, slope))

    before = variance(np.asarray(conditional), found.elimination, narrow)
    narrowed = np.linalg.inv(found.pair_spread)
    own = np.linalg.inv(root @ narrowed @ turn + np.diag(prior))
    ratio = np.sqrt(variance(own, narrowed @ found.pair_slope, wide) / before)
    return {"contrast": ratio[:, 1].tolist(), "offset": ratio[:, 0].tolist()}


def _plain(values: Array) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
