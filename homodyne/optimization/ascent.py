"""Climbs on a posterior from many starts at once: where they end, which ends are one mode, and what may be missing.

Ends belong to one mode where they lie together, or where the density between them does not fall. The share of the mass
in modes that one start alone has found is about that of modes that none has found (Good, Biometrika 40, 237, 1953).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from homodyne.arrays import AnyArray
from homodyne.likelihood.posterior import Posterior, Scoring, log_densities, score_many
from homodyne.physics.compiling import on_device
from homodyne.physics.space import ParameterSpace

_SAME = 0.5  # ends closer than this many posterior sd are one mode
_BARRIER = 2.0  # fall of the log density between two ends, below the lower one, from which they are two modes
_BETWEEN = np.arange(1, 8) / 8  # places on the way from one end to another at which it is evaluated
_GAIN, _IDLE = 1e-4, 10  # log density that a climb gains at least once in so many steps
_CLOSE = 10.0  # gain expected of a step, below which what a step has taught holds for the next
_ROUNDING = 1e-6  # share of the largest element of an information by which one of its diagonal may be below 0
_DEFINITE = 1e-4  # least eigenvalue of a curvature in units of the expected one
_ALONG_RIDGE, _ACROSS = 3, 12  # ends to which a bent way is tried, and steps that its points climb
_WEIGHTY = 1e-4  # share of the mass of a mode, below which it is not asked whether it is connected to another


class Ends(NamedTuple):
    """Where climbs ended, best first: coordinates (n, dim), log densities (n,), expected curvatures (n, dim, dim)."""

    z: AnyArray
    value: AnyArray
    information: AnyArray

    @property
    def mass(self) -> AnyArray:
        """Mass under the normal approximation at every end, (n,), the largest being 1."""
        roots = np.array([root_of_inverse(one) for one in self.information]).reshape(
            len(self.z), *2 * [self.z.shape[1]]
        )
        logs = self.value + np.linalg.slogdet(roots)[1]
        return np.asarray(np.exp(logs - logs.max(initial=-np.inf)))

    def joined(self, other: "Ends") -> "Ends":
        """These and others, best first."""
        z, value, information = (np.concatenate(x) for x in zip(self, other, strict=True))
        order = np.argsort(-value)
        return Ends(z[order], value[order], information[order])

    def separate(self, space: ParameterSpace, depth: float) -> "Ends":
        """Those that differ by more than half a standard deviation and are not more than `depth` below the best."""
        kept: list[int] = []
        for k in np.flatnonzero(self.value > self.value[0] - depth) if len(self.z) else ():
            gaps = [(j, np.asarray(space.difference(self.z[k], self.z[j]))) for j in kept]
            if all(gap @ self.information[j] @ gap > _SAME**2 for j, gap in gaps):
                kept.append(int(k))
        return Ends(self.z[kept], self.value[kept], self.information[kept])


@dataclass(frozen=True, eq=False)
class Basins:
    """Modes that climbs have found.

    Attributes
    ----------
    z : (k, dim) array
        The highest end of each, the heaviest mode first.
    shares : (k,) array
        Of the mass, by normal approximations.
    counts : (k,) array of int
        Starts that led to each.
    """

    z: AnyArray
    shares: AnyArray
    counts: AnyArray

    @property
    def unseen(self) -> float:
        """Estimate of the share of the mass in modes that were not found."""
        return self.share_of_rare(2)

    def share_of_rare(self, often: int) -> float:
        """Share of the mass in modes that were found by fewer than so many starts."""
        return float(self.shares[self.counts < often].sum())


def basins(ends: Ends, posterior: Posterior) -> Basins:
    """Modes to which ends of climbs belong."""
    space, mass = posterior.space, ends.mass
    first: list[int] = []  # an end of every mode
    owner = np.empty(len(ends.z), dtype=int)
    for k in np.argsort(-mass):
        gaps = np.array([space.difference(ends.z[k], ends.z[j]) for j in first]).reshape(len(first), ends.z.shape[1])
        near = [gap @ ends.information[j] @ gap < _SAME**2 for j, gap in zip(first, gaps, strict=True)]
        if not any(near) and first and mass[k] > _WEIGHTY * mass.max():
            near = _connected(ends, int(k), first, gaps, posterior)
        owner[k] = int(np.argmax(near)) if any(near) else len(first)
        if owner[k] == len(first):
            first.append(int(k))
    sums = np.array([mass[owner == number].max() for number in range(len(first))])
    return Basins(ends.z[first], sums / sums.sum(), np.bincount(owner, minlength=len(first)))


def _connected(ends: Ends, k: int, others: Sequence[int], gaps: AnyArray, posterior: Posterior) -> list[bool]:
    """Whether the density does not fall on a way from end k to each of the others.

    The way is straight at first. The nearest are tried along the ridge, too: points of the straight way climb across
    it (as in the string method: E, Ren and Vanden-Eijnden, J. Chem. Phys. 126, 164103, 2007), and straight ways between
    neighbours of these, from end to end, are looked at.
    """
    limits = np.minimum(ends.value[list(others)], ends.value[k]) - _BARRIER
    first = np.array(ends.z[list(others)])
    straight = first[:, None] + _BETWEEN[:, None] * gaps[:, None]
    heights = log_densities(straight.reshape(-1, first.shape[1]), posterior).reshape(len(others), -1)
    found = heights.min(axis=1) > limits
    if found.any():
        return [bool(one) for one in found]
    metric = ends.information[k] + ends.information[list(others)]
    lengths = np.einsum("ni,nij,nj->n", gaps, metric, gaps)
    for place in np.argsort(lengths)[:_ALONG_RIDGE]:
        bent = _along_ridge(straight[place], metric[place] @ gaps[place], posterior)
        way = np.concatenate([first[place][None], bent, first[place][None] + gaps[place]])
        between = 0.5 * (way[1:] + way[:-1])
        found[place] = log_densities(np.concatenate([bent, between]), posterior).min() > limits[place]
        if found[place]:
            break
    return [bool(one) for one in found]


def _along_ridge(points: AnyArray, normal: AnyArray, posterior: Posterior) -> AnyArray:
    """Points (n, dim) moved up within the planes through them that have the given normal (dim,)."""
    points, damping, posterior = points.copy(), np.full(len(points), 1e-2), on_device(posterior)
    at = [np.array(x) for x in score_many(points, posterior)]
    for _ in range(_ACROSS):
        steps = np.zeros_like(points)
        rows = np.flatnonzero(_usable(Scoring(*at)))
        _, gradient, information = (x[rows] for x in at)
        free = _damped(information, gradient, damping[rows])
        back = _damped(information, np.broadcast_to(normal, gradient.shape), damping[rows])
        steps[rows] = free - back * ((free @ normal) / (back @ normal))[:, None]
        there = score_many(points + steps, posterior)
        better = _usable(there) & (there.value > at[0])
        points[better] += steps[better]
        for own, new in zip(at, there, strict=True):
            own[better] = new[better]
        damping *= np.where(better, 0.2, 8.0)
    return points


def climb(posterior: Posterior, starts: AnyArray, max_iterations: int, near: float = 1e-6) -> Ends:
    """Go up from every start (n, dim) by Fisher scoring with a trust region.

    What the expected curvature misses of the true one is learnt from the gradients (Dennis, Gay and Welsch, ACM Trans.
    Math. Softw. 7, 348, 1981). A climb ends where a step is expected to gain less than `near` in log density, or where
    many steps have gained nothing, as at an edge of the support. Starts without density are left out.
    """
    z, posterior = posterior.space.canonical(starts), on_device(posterior)
    at = score_many(z, posterior)
    usable = _usable(at)
    z = z[usable]
    value, gradient, information = (np.array(x[usable]) for x in at)
    damping, active, idle = np.full(len(z), 1e-2), np.ones(len(z), dtype=bool), np.zeros(len(z), dtype=int)
    missed = np.zeros_like(information)
    for _ in range(max_iterations):
        which = np.flatnonzero(active)
        if not which.size:
            break
        step = _damped(_curvature(information[which], missed[which]), gradient[which], damping[which])
        there = score_many(z[which] + step, posterior)
        gain, expected = there.value - value[which], abs(np.einsum("ki,ki->k", gradient[which], step))
        better = _usable(there) & (gain > 0)
        idle[which] = np.where(better & (gain > max(near, _GAIN)), 0, idle[which] + 1)
        k, row = which[better], np.flatnonzero(better)
        learnt = _learnt(missed[k], there.information[row], step[row], gradient[k] - there.gradient[row])
        missed[k] = np.where((expected[row] < _CLOSE)[:, None, None], learnt, 0.0)
        z[k], value[k] = z[k] + step[row], there.value[row]
        gradient[k], information[k] = there.gradient[row], there.information[row]
        damping[which] *= np.where(better, np.where(gain > 0.25 * expected, 0.2, 1.0), 8.0)
        active[which] = (expected > near) & (damping[which] < 1e9) & (idle[which] < _IDLE)
    order = np.argsort(-value)
    return Ends(z[order], value[order], information[order])


def _usable(at: Scoring) -> AnyArray:
    """Whether a climb can go on from each of the points, (n,): not where only rounding is left of the information.

    It is positive semidefinite; an element of its diagonal far below 0 is a difference of larger ones, as where a phase
    has no digits after its point.
    """
    finite = [all(np.isfinite(x).all() for x in one) for one in zip(*at, strict=True)]
    diagonal = np.diagonal(np.nan_to_num(at.information), axis1=-2, axis2=-1)
    sound = np.all(diagonal >= -_ROUNDING * abs(diagonal).max(axis=-1, keepdims=True), axis=-1)
    return np.asarray(np.array(finite, dtype=bool) & sound)


def _curvature(information: AnyArray, missed: AnyArray) -> AnyArray:
    """The sums (k, dim, dim) of both where they are finite and positive definite, else the first."""
    whole = information + missed
    diagonal = np.einsum("kii->ki", information)
    scale = np.sqrt(np.maximum(diagonal, 1e-300))
    with np.errstate(over="ignore", invalid="ignore"):
        unit = whole / (scale[:, :, None] * scale[:, None, :])
    sound = np.isfinite(unit).all(axis=(1, 2))
    sound[sound] = np.linalg.eigvalsh(unit[sound])[:, 0] > _DEFINITE
    return np.where(sound[:, None, None], whole, information)


def _learnt(missed: AnyArray, information: AnyArray, step: AnyArray, change: AnyArray) -> AnyArray:
    """What informations (k, dim, dim) miss of the curvatures, after steps along which gradients fell by `change`."""

    def dot(a: AnyArray, b: AnyArray) -> AnyArray:
        return np.asarray(np.einsum("ki,ki->k", a, b))

    def times(matrix: AnyArray, vector: AnyArray) -> AnyArray:
        return np.asarray(np.einsum("kij,kj->ki", matrix, vector))

    along, own = dot(change, step), dot(step, times(missed, step))
    wanted = change - times(information, step)
    with np.errstate(all="ignore"):  # what is not finite is not learnt
        ratio = np.minimum(1.0, abs(dot(wanted, step)) / abs(own))
        shrunk = np.where(own == 0, 1.0, ratio)[:, None, None] * missed
        left = wanted - times(shrunk, step)
        both = left[:, :, None] * change[:, None, :] / along[:, None, None]
        twice = (dot(left, step) / along**2)[:, None, None] * (change[:, :, None] * change[:, None, :])
        found = shrunk + both + np.swapaxes(both, 1, 2) - twice
        usable = along > 1e-12 * np.linalg.norm(change, axis=1) * np.linalg.norm(step, axis=1)
    usable &= np.isfinite(found).all(axis=(1, 2))
    return np.where(usable[:, None, None], found, missed)


def _damped(information: AnyArray, gradient: AnyArray, damping: AnyArray) -> AnyArray:
    """Steps (k, dim) of Levenberg and Marquardt, scaled by the diagonals of the informations."""
    diagonal = np.einsum("kii->ki", information)
    least = np.maximum(1e-12 * diagonal.sum(axis=1), 1e-300)[:, None]
    scale = np.maximum(diagonal + least, least)  # less than 0 by rounding
    root = np.sqrt(scale)
    matrix = information / (root[:, :, None] * root[:, None, :])
    matrix += damping[:, None, None] * np.eye(matrix.shape[1])
    values, vectors = np.linalg.eigh(matrix)
    rounding = matrix.shape[1] * np.finfo(float).eps * abs(values).max(axis=1, keepdims=True)
    along = np.einsum("kij,ki->kj", vectors, gradient / root)
    solved = np.where(abs(values) > rounding, along / np.where(values == 0, 1.0, values), 0.0)
    return np.asarray(np.einsum("kij,kj->ki", vectors, solved) / root)


def root_of_inverse(information: AnyArray) -> AnyArray:
    """Root of the inverse of a positive semidefinite matrix; directions without information get a unit width."""
    scale = np.sqrt(np.maximum(np.diag(information), 1e-300))
    values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
    values = np.maximum(values, 1e-10)
    root = vectors / np.sqrt(values) / scale[:, None]
    return np.asarray(np.linalg.qr(root.T)[1].T)
