"""Proposals that follow the shape of weighted points: a mixture of t distributions in coordinates that are unbent.

`fitted` takes polynomials off (`homodyne.certificate.bend`) and fits a mixture to what is left, which is rounder than
the points. Modes that lie far from each other have no bends in common: `in_parts` fits a shape to each (`Separation`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int
from scipy.special import logsumexp

from homodyne.arrays import Points, Values
from homodyne.certificate.bend import Bend, weighted_moments
from homodyne.certificate.proposal import DEFENSIVE, DEGREES, Density, Mixture, Normal

FITTED = 8000  # draws from weighted points to which a proposal is fitted
LARGEST = 20  # components
POINTS_EACH = 10  # effective points per dimension, at least, for each of them
ITERATIONS = 20  # of expectation maximisation
WIDER = 1.3  # scale of the defensive component around weighted points
SEPARATE = 6.0  # distance of modes from which each has a shape of its own, in sd of the wider one: three to each side


@dataclass(frozen=True)
class Shape:
    """A mixture in unbent coordinates; normalised, and drawn from, in those of the points."""

    bend: Bend
    mixture: Mixture

    def log_density(self, x: Points) -> Values:
        """Return the normalised log density at points (n, d), as (n,)."""
        return self.mixture.log_density(self.bend.unbent(x)) - self.bend.log_scale

    def draw(self, n: int, rng: np.random.Generator) -> Points:
        """Return n independent points (n, d)."""
        return self.bend.bent(self.mixture.draw(n, rng))

    def widened(self, factor: float) -> "Shape":
        """Return the shape with every component wider by a factor."""
        return replace(self, mixture=self.mixture.widened(factor))


@dataclass(frozen=True)
class Joined:
    """Several distributions with shares that sum to one."""

    parts: Sequence[Density]
    shares: Sequence[float]

    def log_density(self, x: Points) -> Values:
        """Return the normalised log density at points (n, d), as (n,)."""
        table = [np.log(share) + part.log_density(x) for part, share in zip(self.parts, self.shares, strict=True)]
        return np.asarray(logsumexp(table, axis=0))

    def draw(self, n: int, rng: np.random.Generator) -> Points:
        """Return n independent points (n, d), with shares as even as n allows."""
        ends = np.floor(n * np.cumsum(self.shares) + rng.random()).astype(int).clip(max=n)
        sizes = np.diff(ends, prepend=0)
        sizes[-1] += n - sizes.sum()
        drawn = [part.draw(size, rng) for part, size in zip(self.parts, sizes.tolist(), strict=True) if size]
        return rng.permutation(np.concatenate(drawn))


@dataclass(frozen=True)
class Separation:
    """Modes, and which of them are so far from all others that they have a shape of their own.

    Attributes
    ----------
    modes
        With the covariances there, as normal distributions.
    group
        Number of the group that each mode belongs to, from zero.
    """

    modes: tuple[Normal, ...]
    group: Int[np.ndarray, "modes"]

    @classmethod
    def of(cls, modes: Sequence[Normal]) -> "Separation":
        """Put modes into groups whose members are nearer to each other than `SEPARATE`."""
        group = np.arange(len(modes))
        for k, one in enumerate(modes):
            for j, other in enumerate(modes[:k]):
                near = min(_distances(one, other.mean[None])[0], _distances(other, one.mean[None])[0])
                if near < SEPARATE:
                    group[group == group[k]] = group[j]
        return cls(tuple(modes), np.unique(group, return_inverse=True)[1])

    @property
    def count(self) -> int:
        """Number of groups."""
        return int(self.group.max(initial=-1)) + 1

    def of_points(self, points: Points) -> Int[np.ndarray, "points"]:
        """Group of points (n, d): that of the nearest mode, in the standard deviations of each."""
        return np.asarray(self.group[np.argmin([_distances(one, points) for one in self.modes], axis=0)])

    def normals(self, group: int) -> Mixture:
        """A mixture of the modes of a group, with equal shares."""
        own = [one for one, its in zip(self.modes, self.group, strict=True) if its == group]
        factors = np.array([one.factor for one in own])
        return Mixture(np.full(len(own), 1.0 / len(own)), np.array([one.mean for one in own]), factors)


def _distances(normal: Normal, points: Points) -> Values:
    """Distance of points (n, d) from the mean of a normal distribution in its standard deviations, (n,)."""
    return np.asarray(np.linalg.norm(np.linalg.solve(normal.factor, (points - normal.mean).T), axis=0))


def in_parts(
    points: Points, weights: Values, separation: Separation, rng: np.random.Generator, wider: float = 1.0
) -> Density:
    """Fit the shape of points (n, d) with normalised weights (n,), one for each group of modes.

    Where too few points of a group are effective to have a covariance, its modes stay what they are. Components are
    `wider` by a factor.
    """
    if separation.count < 2:
        return fitted(points, weights, rng).widened(wider)
    groups = separation.of_points(points)
    parts, shares = list[Density](), list[float]()
    for group in range(separation.count):
        own = weights[groups == group]
        share = float(own.sum())
        if share > 0.0:
            enough = share**2 / np.square(own).sum() >= 2 * points.shape[1]
            part = fitted(points[groups == group], own / share, rng) if enough else separation.normals(group)
            parts.append(part.widened(wider))
            shares.append(share)
    return Joined(parts, [share / sum(shares) for share in shares])


def fitted(points: Points, weights: Values, rng: np.random.Generator) -> Shape:
    """Fit the shape of points (n, d) with normalised weights (n,); a tenth of it is a component of their moments.

    With few effective points it has one component and no bends.
    """
    ess = 1.0 / np.square(weights).sum()
    ticks = (np.arange(FITTED) + rng.random()) / FITTED * weights.sum()
    drawn = np.searchsorted(np.cumsum(weights), ticks).clip(max=len(weights) - 1)
    chosen, counts = np.unique(drawn, return_counts=True)
    points, weights = points[chosen], counts / FITTED
    widths = np.sqrt(weights @ np.square(points - weights @ points))
    order = np.argsort(-widths, kind="stable")
    bends = [Bend.of(points, weights, ess, one) for one in (order, order[::-1])]
    left = [bend.unbent(points) for bend in bends]
    narrow = [np.log(np.sqrt(weights @ np.square(u - weights @ u))).sum() for u in left]
    best = int(narrow[1] < narrow[0] - 0.05)
    mixture = _mixture(left[best], weights, ess, rng)
    wide = Normal.of(*weighted_moments(left[best], weights))
    whole = mixture.joined(Mixture(np.ones(1), wide.mean[None], WIDER * wide.factor[None]), DEFENSIVE)
    return Shape(bends[best], whole)


def _mixture(points: Points, weights: Values, ess: float, rng: np.random.Generator) -> Mixture:
    """Mixture of t distributions by expectation maximisation (Peel and McLachlan, Stat. Comput. 10, 339, 2000).

    It has as many components as the effective points can fix; covariances are drawn towards that of all points.
    """
    d = points.shape[1]
    main = Normal.of(*weighted_moments(points, weights))
    white = np.linalg.solve(main.factor, (points - main.mean).T).T
    count = int(np.clip(ess / (POINTS_EACH * d), 1, LARGEST))
    share, centres = np.full(count, 1.0 / count), white[rng.choice(len(white), count, p=weights)]
    factors = np.repeat(np.sqrt(0.5) * np.eye(d)[None], count, axis=0)
    rows, columns = np.triu_indices(d)
    twice = np.where(rows == columns, 1.0, 2.0)
    products = white[:, rows] * white[:, columns]
    for _ in range(ITERATIONS):
        precise = np.linalg.inv(factors @ np.swapaxes(factors, 1, 2))
        slopes = np.einsum("kij,kj->ki", precise, centres)
        squared = (twice * precise[:, rows, columns]) @ products.T - 2.0 * slopes @ white.T
        squared = np.maximum(squared + np.vecdot(slopes, centres)[:, None], 0.0)
        sizes = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        log_parts = (np.log(share) - sizes)[:, None] - 0.5 * (DEGREES + d) * np.log1p(squared / DEGREES)
        part = np.exp(log_parts - logsumexp(log_parts, axis=0)) * weights
        alive = part.sum(axis=1) > 1e-3
        part, squared = part[alive], squared[alive]
        own = part.sum(axis=1)
        pull = part * (DEGREES + d) / (DEGREES + squared)
        total = pull.sum(axis=1, keepdims=True)
        centres = pull @ white / total
        fixed = ess * np.square(own) / np.square(part / np.sqrt(weights)).sum(axis=1)  # effective points of each
        spread = np.empty((len(own), d, d))
        spread[:, rows, columns] = spread[:, columns, rows] = (
            pull @ products - total * centres[:, rows] * centres[:, columns]
        )
        spread *= (fixed / own)[:, None, None]
        factors = np.linalg.cholesky((spread + 0.3 * d * np.eye(d)) / (fixed + d)[:, None, None])
        share = own / own.sum()
    return Mixture(share, main.mean + centres @ main.factor.T, main.factor @ factors)
