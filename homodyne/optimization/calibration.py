"""From the posterior for independent points to the calibrated one, whose width is that under correlated noise."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from homodyne.config.schema import SpeckleConfig
from homodyne.core.adjustment import Adjustment
from homodyne.core.calibration import adjusted_covariance, adjustment_to
from homodyne.core.likelihood import Likelihood
from homodyne.core.posterior import Posterior
from homodyne.core.sandwich import Sandwich, sandwich
from homodyne.core.speckle_noise import CountingFacts
from homodyne.data.twotime import TwoTimeData
from homodyne.optimization.crosscheck import cross_check
from homodyne.optimization.nlsq import Pilot, PilotSettings, settled

Array = np.ndarray[Any, np.dtype[Any]]


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
    """Estimate the noise at the best mode of a pilot fit, and what it does to the uncertainty.

    Raises
    ------
    InputError
        When neither the data nor the user say how many counts there are.
    """
    likelihood = pilot.posterior.likelihood
    d = likelihood.space.dim
    mode, covariance = pilot.mode.z[:d], pilot.mode.covariance[:d, :d]
    at = likelihood.evaluate(mode, pilot.sigma)
    slope, prior = _prior(likelihood, mode, covariance)
    found = sandwich(
        likelihood,
        mode,
        np.asarray(at.scaling_mean),
        pilot.sigma,
        CountingFacts(data.diagonal, data.pixels, data.mean_counts, known.pixels, known.mean_counts),
        np.linalg.cholesky(covariance),
        prior,
    )
    adjustment = adjustment_to(found, mode, covariance, slope, prior, likelihood.scaling.table[1])
    wide = adjusted_covariance(adjustment, covariance, prior)
    noise = found.noise
    checks = cross_check(likelihood, mode, np.asarray(at.scaling_mean), noise)
    facts = {
        "mean_counts": _plain(noise.mean_counts),
        "pixels": _plain(noise.pixels),
        "counts_source": noise.counts_source,
        "pixels_source": noise.pixels_source,
        "widening": adjustment.widening,
    }
    inflation = _inflation(likelihood, mode, covariance, wide)
    inflation |= _pair_inflation(found, at.scaling_cov, covariance, wide, likelihood.scaling.table[1])
    return NoiseReport(adjustment, wide, inflation, facts, noise.notes, checks)


def calibrated(pilot: Pilot, report: NoiseReport, settings: PilotSettings) -> Pilot:
    """Pilot fit of the calibrated posterior, from that for independent points.

    Raises
    ------
    ConvergenceError
        When the calibrated posterior has no mode.
    """
    posterior = Posterior(pilot.posterior.likelihood.through(report.adjustment), pilot.sigma)
    widening = report.adjustment.widening**2
    starts = [replace(pilot.mode, covariance=report.covariance)]
    starts += [replace(mode, covariance=widening * mode.covariance) for mode in pilot.modes[1:]]
    return replace(pilot, posterior=posterior, modes=settled(posterior, starts, settings))


def _prior(likelihood: Likelihood, z: Array, covariance: Array) -> tuple[Array, Array]:
    """Gradient of the log prior, and its precision without directions in which it is convex."""
    root = np.linalg.cholesky(covariance)
    at = likelihood.linearised(z)
    slope, curvature = np.asarray(at.prior_slope), np.asarray(at.prior_curvature)
    values, vectors = np.linalg.eigh(-root.T @ curvature @ root)
    back = np.linalg.inv(root)
    return slope, back.T @ (vectors * np.maximum(values, 0.0)) @ vectors.T @ back


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

    def variance(own: Array, slope: Array, covariance: Array) -> Array:
        return np.asarray(np.einsum("kii->ki", own) + np.einsum("kia,ab,kib->ki", slope, covariance, slope))

    information = np.linalg.inv(found.pair_covariance)
    own = np.linalg.inv(information + np.diag(prior))
    before = variance(np.asarray(conditional), found.elimination, narrow)
    ratio = np.sqrt(variance(own, own @ information @ found.pair_slope, wide) / before)
    return {"contrast": ratio[:, 1].tolist(), "offset": ratio[:, 0].tolist()}


def _plain(values: Array) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
