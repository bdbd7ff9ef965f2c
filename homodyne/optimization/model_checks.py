"""Prior, model and data of a fit, each judged by itself: `model_checks` and `prior_distance`.

The model is tested on the residuals at the mode. Of these only what the data alone determine is projected out: a
direction that the prior holds is where a wrong prior, or a model that cannot follow, shows. Prior and data are compared
by the distance between what they say of the parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import eigh
from scipy.special import chdtrc, ndtri

from homodyne.arrays import Array, Leaf
from homodyne.errors import ConvergenceError
from homodyne.likelihood.nodes import Moments
from homodyne.likelihood.posterior import Evaluation, Posterior, adjusted, evaluate_many, score_many
from homodyne.likelihood.scaling import effective_noise, least_squares, scaling_estimate
from homodyne.noise.crosscheck import cross_check
from homodyne.noise.speckle_noise import SpeckleNoise
from homodyne.optimization.calibration import local, map_views
from homodyne.optimization.pilot import Pilot
from homodyne.physics.compiling import compiled
from homodyne.physics.space import ParameterSpace

CONFLICT = 4.0
"""Distance between prior and data, in joint standard deviations, from which on it is called a conflict."""

_HELD = 0.5  # share of the prior in the information on a direction from which on it is the prior that holds it
_STEP = 0.1  # of differences, in posterior sd
_LEAST = 1e-9  # share that counts as none


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions of the coordinates in which prior and data say independent things.

    Attributes
    ----------
    vectors : (d, d) array
        In its columns, of length one in the metric of the posterior.
    share : (d,) array
        Of the prior in the information on each, from 0 to 1.
    """

    vectors: Array
    share: Array

    @property
    def determined(self) -> Array:
        """Those that the data determine rather than the prior, (d, k)."""
        return self.vectors[:, self.share < _HELD]

    @property
    def likelihood_covariance(self) -> Array:
        """Covariance (d, d) of the coordinates by the data alone; very large where these say nothing."""
        return np.asarray((self.vectors / np.maximum(1.0 - self.share, _LEAST)) @ self.vectors.T)


def directions(prior: Array, covariance: Array) -> Directions:
    """Directions from the information (d, d) of the prior and the covariance (d, d) of the posterior."""
    root = np.linalg.cholesky(covariance)
    share, vectors = eigh(root.T @ prior @ root)
    return Directions(root @ vectors, np.clip(share, 0.0, 1.0))


def model_checks(pilot: Pilot, noise: SpeckleNoise) -> dict[str, Any]:
    """Tests of the model, see `homodyne.noise.crosscheck`, at the best mode for independent pairs.

    These overrule a prior the most that the data can, so what the prior holds against them, it holds in any case.
    """
    maps, found = pilot.problem.maps, _directions(pilot)
    views = map_views(pilot, pilot.mode.z[: pilot.space.dim], found.determined)
    at = evaluate_many(pilot.mode.z[None], pilot.posterior)
    held = np.asarray(pilot.posterior.scaling.precision_at(at.scaling_mean[0]))
    for k, own in enumerate(np.asarray(at.scaling_covariance)[0]):
        views[k] = replace(views[k], scaling=directions(np.diag(held[k]), own).determined)
    return cross_check(views, noise, maps.q, maps.phi, maps.t)


def _directions(pilot: Pilot) -> Directions:
    """Those at the best mode, by the expected information; a `ConvergenceError` where that is no information matrix."""
    z = pilot.mode.z[: pilot.space.dim]
    expected = np.asarray(score_many(z[None], pilot.posterior.with_sigma(pilot.sigma)).information[0])
    if not np.isfinite(expected).all() or np.linalg.eigvalsh(expected)[0] <= 0.0:
        at = ", ".join(f"{name} {value:.4g}" for name, (value,) in pilot.space.parameters_at(z[None]).items())
        raise ConvergenceError(
            f"the information of data and prior on the parameters has no inverse at the mode ({at}): slopes of the "
            "model are too large there, or zero under a flat prior; narrow the priors, or fix a parameter"
        )
    return directions(local(z, pilot.space).information, np.linalg.inv(expected))


def prior_distance(pilot: Pilot) -> dict[str, Any]:
    """Distance between what the prior and what the data say, to first order about a mode.

    For every parameter with a normal prior, by itself or by its logarithm or share, (prior mean - estimate of the
    likelihood)² / (variance of the prior + variance of the likelihood), where the likelihood is the posterior without
    the prior (Evans and Moshonov, Bayesian Analysis 1, 893, 2006, for the normal case).

    Parameters
    ----------
    pilot : Pilot

    Returns
    -------
    dict
        ``parameters``: distances in joint standard deviations by name, the largest of all maps for contrast and
        offset; ``together``: that of a normal variable as improbable as those of all others; ``alarm``: a sentence
        above `CONFLICT`, else empty. Empty where the mode is at an edge.
    """
    if pilot.mode.at_edge:
        return {}
    found = _directions(pilot)
    space, z = pilot.space, pilot.mode.z[: pilot.space.dim]
    value, slopes = (np.asarray(x) for x in _scales(z, space))
    mean, precision = np.array([np.asarray(space.priors[name].numbers)[:2] for name in space.free_names]).T
    normal = precision > 0
    names = [name for name, keep in zip(space.free_names, normal, strict=True) if keep]
    value, slopes, mean, precision = value[normal], slopes[normal], mean[normal], precision[normal]
    covariance, points = found.likelihood_covariance, _around(pilot, found)
    at = evaluate_many(points, pilot.posterior)
    pull = _pull(pilot, at) / np.maximum(1.0 - found.share, _LEAST)  # from the mode to the maximum of the likelihood
    if not np.isfinite(pull).all():
        return {}
    gap = mean - (value + slopes @ found.vectors @ pull)
    joint = np.diag(1.0 / precision) + slopes @ covariance @ slopes.T
    distance = np.abs(gap) / np.sqrt(np.diag(joint))
    square = float(gap @ np.linalg.solve(joint, gap))
    improbable = chdtrc(max(len(gap), 1), square)
    together = float(-ndtri(improbable / 2)) if improbable > 0 else square**0.5
    distances = dict(zip(names, distance.tolist(), strict=True)) | _scaling_distances(pilot, found, points, at, pull)
    return {"parameters": distances, "together": together, "alarm": _alarm(distances, together)}


def prior_shares(pilot: Pilot) -> dict[str, float]:
    """Share of the variance of every free parameter that lies in directions which the prior holds, to first order.

    Near 1 the data do not determine the parameter: its posterior is as wide as the prior leaves it, given what the data
    say of others.
    """
    found = _directions(pilot)
    slopes = np.asarray(_slopes(pilot.mode.z[: pilot.space.dim], pilot.space)) @ found.vectors
    variance = np.square(slopes)
    total = variance.sum(axis=1)
    shares = variance[:, found.share >= _HELD].sum(axis=1) / np.where(total > 0.0, total, 1.0)
    return dict(zip(pilot.space.free_names, shares.tolist(), strict=True))


@compiled
def _slopes(z: jax.Array, space: ParameterSpace) -> Leaf:
    """Derivatives of the free parameters by the coordinates, (parameters, d)."""
    return jax.jacfwd(lambda z: jnp.stack([space.physical(z)[name] for name in space.free_names]))(z)


def _around(pilot: Pilot, found: Directions) -> Array:
    """Steps along the directions, the same back, and the mode, (2d + 1, dim)."""
    d = pilot.space.dim
    steps = np.zeros((2 * d + 1, len(pilot.mode.z)))
    steps[:d, :d], steps[d : 2 * d, :d] = _STEP * found.vectors.T, -_STEP * found.vectors.T
    return np.asarray(pilot.mode.z + steps)


def _pull(pilot: Pilot, at: Evaluation) -> Array:
    """Slope (d,) along the directions of the log likelihood with offset and contrast at their best.

    That of the likelihood integrated over them has no zero where the data say nothing.
    """
    noise = np.asarray(effective_noise(pilot.sigma, pilot.posterior.calibration))
    half = 0.5 * np.sum(least_squares(at.moments)[0] / noise**2, axis=-1)
    d = pilot.space.dim
    return np.asarray((half[d : 2 * d] - half[:d]) / (2 * _STEP))


@compiled
def _data_alone(points: jax.Array, m: Moments, sigma: jax.Array, posterior: Posterior) -> tuple[jax.Array, jax.Array]:
    """Estimate and information of (offset, contrast) without their prior at points (n, dim) with moments."""

    def one(z: jax.Array, m: Moments) -> tuple[jax.Array, jax.Array]:
        return scaling_estimate(m, sigma, posterior.scaling, *adjusted(z[: posterior.space.dim], posterior))

    return jax.vmap(one)(points, m)


def _scaling_distances(pilot: Pilot, found: Directions, points: Array, at: Evaluation, pull: Array) -> dict[str, float]:
    """Distances of contrast and offset; what the data say of them moves with z.

    Where the prior is made of several normal distributions, that to the nearest.
    """
    d, prior = pilot.space.dim, pilot.posterior.scaling
    estimate, known = (np.asarray(x) for x in _data_alone(points, at.moments, pilot.sigma, pilot.posterior))
    slope = (estimate[:d] - estimate[d : 2 * d]) / (2 * _STEP)
    spread = 1.0 / np.maximum(1.0 - found.share, _LEAST)
    moved = estimate[-1] + np.einsum("ski,s->ki", slope, pull)
    variance = np.diagonal(np.linalg.inv(known[-1]), axis1=1, axis2=2) + np.einsum("ski,s->ki", slope**2, spread)
    wide = np.sqrt(variance + 1.0 / np.asarray(prior.precision)[:, None])
    distance = np.max(np.min(np.abs(moved - np.asarray(prior.mean)[:, None]) / wide, axis=0), axis=0)
    return {"contrast": float(distance[1]), "offset": float(distance[0])}


@compiled
def _scales(z: jax.Array, space: ParameterSpace) -> tuple[jax.Array, ...]:
    """Values in which priors are normal, and their slopes."""
    return space.prior_scales(z), jax.jacfwd(space.prior_scales)(z)


def _alarm(distances: Mapping[str, float], together: float) -> str:
    """Say so where prior and data contradict each other."""
    far = sorted((name for name in distances if distances[name] > CONFLICT), key=lambda name: -distances[name])
    if not far and not together > CONFLICT:
        return ""
    named = ", ".join(f"{name} by {distances[name]:.1f}" for name in far or [max(distances, key=distances.__getitem__)])
    return (
        f"prior and data contradict each other: they differ in {named} joint standard deviations, in all parameters "
        f"together by {together:.1f}; change the prior if you know less than it says, or the model"
    )
