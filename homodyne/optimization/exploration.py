"""Where the posterior is: coordinates in which it is round, and a density of few nodes that is nearly it there."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from homodyne.arrays import Array
from homodyne.certificate.adaptation import Until, adapt
from homodyne.certificate.density import Progress
from homodyne.certificate.importance import effective, smoothed
from homodyne.certificate.proposal import Mixture, Normal, around
from homodyne.certificate.shape import Joined, Shape, fitted
from homodyne.certificate.stage import MIN_INSIDE
from homodyne.likelihood import condensed
from homodyne.likelihood.condensed import Condensation, Condensed, condensation
from homodyne.likelihood.nodes import Nodes
from homodyne.likelihood.posterior import Posterior, log_densities
from homodyne.optimization.jumps import frame_of
from homodyne.optimization.nuts import Frame
from homodyne.optimization.pilot import Pilot, signal_of

POINTS = 400  # at which the density of few nodes is made, and as many at which it is tried
CLOSE = 0.5  # standard deviation of its log density about the exact one, at most
PRIOR_DRAWS, PRIOR_SHARE = 1000, 0.2  # from which a part is made, and that part in the first proposal
WORTH = 1000  # nodes, from which few are made
ROUGH = Until(rounds=24, even=0.1)  # before there are few nodes
FINAL, MANY = 2, 32  # times as many points to which it is fitted on few nodes, and where so small a share of these is
SHARE = 0.1  # effective: many parameters, tails or edges
ABOVE, KEPT = 2.0, 4  # log density above the best mode, from which a point is remembered, and number of these
ERROR = 2e-3  # of few nodes, relative to that of the log density, which is the signal times as large


@dataclass(frozen=True, eq=False)
class Exploration:
    """What is known of a posterior before it is sampled.

    Attributes
    ----------
    frame : Frame
        Coordinates in which it is round, and jumps to the part of the proposal that follows its shape, for chains.
    proposal : Joined or None
        Distribution that was fitted to the posterior; None where it could not be followed.
    approximation : Condensed or None
        The posterior on few nodes; None where the data have few, or where they cannot stand for all.
    above : tuple of (d,) arrays
        The highest points that were seen above the best mode: of another one, or where the reduced data are wrong.
    """

    frame: Frame
    proposal: Joined | None = None
    approximation: Condensed | None = None
    above: tuple[Array, ...] = ()


def explored(pilot: Pilot, rng: np.random.Generator, num_points: int, progress: Progress) -> Exploration:
    """Fit a proposal to the posterior around its modes, and take bend, moments and few nodes from weighted points.

    The proposal is fitted roughly, and then again: to many more points where there is a density of few nodes.
    Where the posterior cannot be followed, the coordinates are those of the best mode.
    """
    seen = Seen(pilot, progress)
    return replace(_explored(pilot, rng, num_points, seen), above=tuple(seen.highest))


class Seen:
    """Log density of points (n, d), which remembers those above the best mode."""

    def __init__(self, pilot: Pilot, progress: Progress) -> None:
        self.pilot, self.progress = pilot, progress
        self.highest, self.values = np.zeros((0, pilot.posterior.dim)), np.zeros(0)

    def exact(self, points: Array) -> Array:
        """That of the posterior."""
        pilot = self.pilot
        values = log_densities(points, pilot.posterior, lambda done: self.progress("exploration", done, len(points)))
        which = values > pilot.mode.log_density + ABOVE
        highest, heights = np.concatenate([self.highest, points[which]]), np.concatenate([self.values, values[which]])
        order = np.argsort(-heights)[:KEPT]
        self.highest, self.values = highest[order], heights[order]
        return values

    def of(self, approximate: Callable[[Array], Array]) -> Callable[[Array], Array]:
        """That of an approximation, and of the posterior where that is above the best mode."""
        top = float(approximate(self.pilot.mode.z[None])[0])

        def values_at(points: Array) -> Array:
            values = approximate(points)
            if (which := values > top + ABOVE).any():
                values = values.copy()
                values[which] = self.exact(points[which]) + top - self.pilot.mode.log_density
            return values

        return values_at


def _explored(pilot: Pilot, rng: np.random.Generator, num_points: int, seen: Seen) -> Exploration:
    mode, exact, rough = pilot.mode, seen.exact, pilot.rough
    plain = Exploration(Frame(mode.z, mode.covariance))
    near = exact if rough is None else seen.of(lambda points: log_densities(points, rough))
    centres = [Normal.of(one.z, one.covariance) for one in pilot.modes]
    wide = _with_prior(around(centres[0], centres, near), pilot, rng)
    points = wide.draw(num_points, rng)
    values = near(points)
    if np.isfinite(values).sum() < MIN_INSIDE:
        return plain
    proposal = adapt(near, wide, wide, (points, values), num_points, rng, ROUGH, centres)
    points = proposal.draw(2 * POINTS, rng)
    values = exact(points)
    weights = _weights(points, values, proposal)
    if weights is None:
        return plain
    few = _approximation(pilot, points, values, weights, rng)
    cheap: Callable[[Array], Array] = exact
    counts = [num_points]
    if few is not None:
        cheap, counts = seen.of(_evaluated(few)), [FINAL * num_points, MANY * num_points]
        values = cheap(points)
    for count in counts:
        proposal = adapt(cheap, proposal, wide, (points, values), count, rng, modes=centres)
        points = proposal.draw(count, rng)
        values = cheap(points)
        weights = _weights(points, values, proposal)
        if weights is not None and effective(weights)[0] >= SHARE * count:
            break
    if weights is None:
        return plain
    shape = proposal.parts[0]
    if not isinstance(shape, Shape):  # several, for modes far from each other
        shape = fitted(points, weights, rng)
    return Exploration(frame_of(shape, points, weights), proposal, few)


def _with_prior(wide: Mixture, pilot: Pilot, rng: np.random.Generator) -> Mixture:
    """Add a part that has mean and covariance of the prior, which data of little signal leave as it is."""
    space = pilot.space
    if pilot.posterior.sigma is None:
        return wide
    drawn = space.draw_supported(rng, PRIOR_DRAWS)
    prior = Normal.of(drawn.mean(axis=0), np.atleast_2d(np.cov(drawn, rowvar=False)))
    return wide.joined(Mixture(np.ones(1), prior.mean[None], prior.factor[None]), PRIOR_SHARE)


def _weights(points: Array, values: Array, proposal: Joined) -> Array | None:
    """Weights of points of a proposal; None where too few are inside or effective to have a covariance."""
    if np.isfinite(values).sum() < MIN_INSIDE:
        return None
    found = smoothed(values - proposal.log_density(points))
    return np.exp(found.log_weights) if found.ess > points.shape[1] else None


def _evaluated(few: Condensed) -> Callable[[Array], Array]:
    return lambda points: np.asarray(condensed.log_densities(points, few))


def _approximation(
    pilot: Pilot, points: Array, values: Array, weights: Array, rng: np.random.Generator
) -> Condensed | None:
    """The posterior on few nodes, made at the first points and tried at the others."""
    if pilot.posterior.sigma is None:
        return None
    signal = signal_of(pilot.problem, pilot.posterior, pilot.mode.z, pilot.sigma)
    few = condense(pilot.posterior.nodes, pilot.posterior, points, values, weights, ERROR / signal, rng)
    if few is None:
        return None
    return Condensed(replace(pilot.posterior, nodes=few.few(pilot.posterior.nodes)), few.trial)


def condense(
    grid: Nodes,
    posterior: Posterior,
    points: Array,
    values: Array,
    weights: Array,
    tolerance: float,
    rng: np.random.Generator,
) -> Condensation | None:
    """Few nodes with which the log density of a posterior errs by less than `CLOSE` sd; None where there are none.

    Parameters
    ----------
    grid : Nodes
        Among which they are chosen: the posterior's own, or those of all data of which it has a part.
    posterior : Posterior
    points, values, weights : (2 POINTS, d), (2 POINTS,) and (2 POINTS,) arrays
        Points, the log density there, and the weights that make them draws of the posterior. Nodes are made at the
        first half of them and tried at the other.
    tolerance : float
        As of `condensation`.
    rng : numpy Generator
    """
    if len(grid.t1) < WORTH:
        return None
    space, made, tried = posterior.space, points[:POINTS][np.isfinite(values[:POINTS])], points[POINTS:]
    few = condensation(grid, space.model, space.parameters_at(made), tolerance, rng)
    there = condensed.log_densities(tried, Condensed(replace(posterior, nodes=few.few(posterior.nodes)), few.trial))
    inside, finite = np.isfinite(values[POINTS:]), np.isfinite(there)
    if not inside.any() or weights[POINTS:][inside & ~finite].any():
        return None
    own = weights[POINTS:][inside & finite] / weights[POINTS:].sum()
    error = there[inside & finite] - values[POINTS:][inside & finite]
    return few if np.sqrt(own @ np.square(error - own @ error)) < CLOSE else None
