"""Draws of all shards, ready to be combined: checked, with normal approximations, in whitened coordinates.

`collect` reads the shards' results; `Subposteriors.of` whitens them by the product of their normal approximations,
the one scale that a shard which does not identify some direction cannot spoil. Nothing is added to a covariance.

Precisions are carried as square roots (Bierman, Factorization Methods for Discrete Sequential Estimation, 1977): the
triangular factor of a shard's centred draws is inverted; the roots of all shards are stacked and triangulated again,
which gives the Cholesky factor of the summed precision without forming a covariance or a precision. Scales that
differ by many powers of ten and near-collinear parameters cost no digits.

Where groups of parameters are known to be independent of each other given the rest, only what is not zero is estimated:
a covariance of the rest, and for each group its regression on the rest. A few hundred draws are then enough for any
number of groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import index
from typing import NamedTuple

import numpy as np

from homodyne.arguments import as_names, shown
from homodyne.arrays import Array, real_array
from homodyne.errors import InputError
from homodyne.optimization.cmc.shard_records import get, number_of

ROUNDING = 4.0 * float(np.finfo(np.float64).eps)


class Merged(NamedTuple):
    """What a combination method returns: draws (n, d), mean (d,), covariance (d, d), in the user's coordinates."""

    samples: Array
    mean: Array
    cov: Array
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Shard:
    """Draws (S, d) of one shard and their normal approximation.

    ``root.T @ root`` is its precision; where the draws have none, the root is NaN and ``problem`` says why. ``ess``
    is the effective number of draws of the ``free`` parameters, those that are in no group; ``label`` what to call the
    shard in messages.
    """

    label: str
    samples: Array = field(repr=False)
    ess: float
    mean: Array = field(repr=False)
    root: Array = field(repr=False)
    problem: str
    free: int


@dataclass(frozen=True, eq=False)
class Subposteriors:
    """Shards in coordinates y = factor (x - center), in which the product of their normal approximations is N(0, 1).

    Attributes
    ----------
    raw : tuple of (S_m, d) arrays
        The draws, in the user's coordinates x.
    center, factor : (d,) and upper triangular (d, d) arrays
        Mean, and Cholesky factor of the precision, of the product.
    means, roots : (M, d) and (M, d, d) arrays
        Mean and square root of the precision of every shard, in y: ``roots[m].T @ roots[m]`` is the precision, and the
        sum of all precisions is the unit matrix. Everything but `raw` is NaN where a shard has no precision.
    ess : (M,) array
        Effective numbers of draws.
    inflation : (M,) array
        Width that belongs to the precision over width of the draws: 1 or a little more, because the inverse of a
        covariance estimated from few draws is too large on average.
    """

    raw: tuple[Array, ...]
    center: Array
    factor: Array
    means: Array
    roots: Array
    ess: Array
    inflation: Array

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> "Subposteriors":
        """Whiten shards."""
        free = shards[0].free
        raw, ess = tuple(shard.samples for shard in shards), np.array([shard.ess for shard in shards], dtype=np.float64)
        means, roots = np.array([shard.mean for shard in shards]), np.array([shard.root for shard in shards])
        d = means.shape[1]
        if not np.isfinite(roots).all():
            nothing = np.full_like(means[0], np.nan), np.full_like(roots[0], np.nan)
            return cls(raw, *nothing, np.full_like(means, np.nan), roots, ess, np.full_like(ess, np.nan))
        near = np.median(means, axis=0)
        triangle = triangulated(equations(means - near, roots))
        factor = triangle[:, :d]
        center = near + np.linalg.solve(factor, triangle[:, d])
        white = (means - center) @ factor.T
        inflation = np.sqrt((ess - 1.0) / (ess - free - 2.0))
        return cls(raw, center, factor, white, roots @ np.linalg.inv(factor), ess, inflation)

    def draws(self, m: int) -> Array:
        """Return the draws (S_m, d) of shard m in y; their covariance is the inverse of the precision."""
        y = (self.raw[m] - self.center) @ self.factor.T
        return np.asarray(self.means[m] + self.inflation[m] * (y - self.means[m]))

    def standard(self, m: int) -> Array:
        """Return the draws (S_m, d) of shard m, moved and stretched to zero mean and unit covariance."""
        return np.asarray((self.draws(m) - self.means[m]) @ self.roots[m].T)

    def merged(self, samples: Array, mean: Array, cov: Array, notes: tuple[str, ...] = ()) -> Merged:
        """Take samples (n, d), mean (d,) and covariance (d, d) from y back to x."""
        inverse = np.linalg.inv(self.factor)
        root = inverse @ np.linalg.cholesky(cov)
        return Merged(self.center + samples @ inverse.T, self.center + inverse @ mean, root @ root.T, notes)


def collect(shard_results: Sequence[object], groups: Sequence[Sequence[int]] = ()) -> list[Shard]:
    """Read mappings or records with ``samples`` (S, d) or (chain, draw, d).

    `groups` are parameters that are independent of the other groups given those in no group, which come first. Optional
    are ``ess`` (or ``ess_bulk``, whose least counts; S by default and at most), ``shard_id`` and ``names``.

    Raises
    ------
    InputError
        When there are no shards, or one, named in the message, does not fit the others, is not finite, or has fewer
        than d + 3 draws.
    """
    if not len(shard_results):
        raise InputError("there are no shards to combine")
    shards: list[Shard] = []
    first: tuple[str, ...] | None = None
    for position, record in enumerate(shard_results):
        label = f"shard {number_of(record, position)}"
        x = _draws(get(record, "samples"), label)
        if shards and x.shape[1] != shards[0].samples.shape[1]:
            raise InputError(f"{label} has {x.shape[1]} parameters, {shards[0].label} {shards[0].samples.shape[1]}")
        names = get(record, "names")
        names = None if names is None else as_names(f"names of {label}", names, x.shape[1])
        if names is not None and first is not None and names != first:
            raise InputError(f"{label} has the parameters {', '.join(names)}, {shards[0].label} {', '.join(first)}")
        first = names if not shards else first
        if not shards:
            groups = _groups(groups, x.shape[1])
        given = get(record, "ess")
        given = get(record, "ess_bulk") if given is None else given
        free = x.shape[1] - sum(len(group) for group in groups)
        ess = float(len(x)) if given is None else min(_least(given, free, label), float(len(x)))
        root, problem = _root(x[:, :free], ess, label)
        if groups and not problem:
            root, problem = _with_groups(x, root, groups, label)
        if problem:
            root = np.full((x.shape[1], x.shape[1]), np.nan)
        shards.append(Shard(label, x, ess, x.mean(axis=0), root, problem, free))
    return shards


def equations(means: Array, roots: Array) -> Array:
    """Return every shard as d equations root x = root mean, (M, d, d + 1)."""
    return np.concatenate([roots, roots @ means[:, :, None]], axis=2)


def triangulated(rows: Array) -> Array:
    """Return equations (M, d, d + 1) in triangular form (d, d + 1), positive diagonal: the product of the shards."""
    d = rows.shape[1]
    triangle = np.linalg.qr(rows.reshape(-1, d + 1), mode="r")[:d]
    return np.asarray(triangle * np.sign(np.diag(triangle))[:, None])


def _groups(given: object, d: int) -> list[list[int]]:
    """Lists of coordinates, the last of d and each in one list; an InputError for anything else."""
    try:
        groups = [[index(k) for k in group] for group in given]  # type: ignore[attr-defined]
    except TypeError:
        groups = [[]]
    grouped = sorted(k for group in groups for k in group)
    if not all(groups) or not len(grouped) < d or grouped != list(range(d - len(grouped), d)):
        raise InputError(
            f"groups is {shown(given)}; expected lists of coordinates, counted from 0, that together are the last of "
            f"{d}, each once, and leave one at least"
        )
    return groups


def _draws(samples: object, label: str) -> Array:
    x = real_array(f"samples of {label}", np.nan if samples is None else samples)
    if x.ndim not in (2, 3) or not x.shape[-1]:
        raise InputError(f"samples of {label} have shape {x.shape}, expected (S, d) or (chain, draw, d)")
    x = x.reshape(-1, x.shape[-1])
    if len(x) < x.shape[1] + 3:
        raise InputError(f"{label} has {len(x)} draws of {x.shape[1]} parameters, needs {x.shape[1] + 3} at least")
    if not np.isfinite(x).all():
        raise InputError(f"{(~np.isfinite(x)).sum()} values of the draws of {label} are not finite; sample it again")
    return x


def _least(ess: object, free: int, label: str) -> float:
    values = np.atleast_1d(real_array(f"effective numbers of {label}", ess))[:free]
    if not values.size:
        raise InputError(f"effective numbers of {label} are {shown(ess)}, expected one, or one for each parameter")
    return float(values.min())


def _root(x: Array, ess: float, label: str) -> tuple[Array, str]:
    """Root of the precision, from draws (S, d), and what is wrong with them.

    The inverse of a sample covariance is too large by (S - 1) / (S - d - 2) on average (Kaufman 1967; Hartlap, Simon
    and Schneider, A&A 464, 399, 2007), which is taken out, with the effective number of draws for S.
    """
    count, d = x.shape
    moved = x - x[0]  # exactly zero where nothing varies
    centred = moved - moved.mean(axis=0)
    scale, noise = np.sqrt(np.square(centred).mean(axis=0)), ROUNDING * np.abs(x).max(axis=0)
    unknown = np.full((d, d), np.nan)
    if (scale <= noise).any():
        stuck = ", ".join(str(k) for k in np.flatnonzero(scale <= noise))
        return unknown, f"the covariance of {label} is singular: its draws do not vary in parameter {stuck}"
    triangle = np.linalg.qr(centred / scale, mode="r")
    if np.linalg.svd(triangle, compute_uv=False)[-1] <= np.sqrt(count * d) * (noise / scale).max():
        return unknown, f"the covariance of {label} is singular: its draws lie in a plane"
    if not ess > d + 2:
        return unknown, f"{label} has {ess:.1f} effective draws, more than {d + 2} are needed for {d} parameters"
    debiased = (ess - d - 2.0) / (ess - 1.0) * (count - 1.0)
    return np.sqrt(debiased) * np.linalg.inv(triangle).T / scale, ""


def _with_groups(x: Array, root: Array, groups: Sequence[Sequence[int]], label: str) -> tuple[Array, str]:
    """Root of the precision of all parameters from that of the free ones, and what is wrong with the draws (S, d).

    With A the precision of the free parameters, B_k the regression of group k on them and R_k its residual covariance,
    the precision is A + sum_k B_k' R_k^-1 B_k, - B_k' R_k^-1 and R_k^-1. Each part is made free of bias: R_k has
    S - free - 1 degrees of freedom, and the noise of B_k adds its size times the inverse scatter to the first one.
    """
    count, d = x.shape
    free = len(root)
    white = (x[:, :free] - x[:, :free].mean(axis=0)) @ root.T
    less = np.eye(free) - (d - free) * np.linalg.inv(white.T @ white)
    if not np.linalg.eigvalsh(less)[0] > 0.0:
        return root, f"{label} has {count} draws, too few for {d} parameters"
    whole = np.zeros((d, d))
    whole[:free, :free] = np.linalg.cholesky(less).T @ root
    for group in groups:
        columns, size = list(group), len(group)
        own = x[:, columns] - x[:, columns].mean(axis=0)
        slope, *_ = np.linalg.lstsq(white, own, rcond=None)
        inner, problem = _root(own - white @ slope, float(count), f"{label}, given the other parameters,")
        if problem:
            return root, problem
        inner *= np.sqrt((count - free - size - 2.0) / (count - size - 2.0))
        whole[np.ix_(columns, columns)] = inner
        whole[np.ix_(columns, range(free))] = -inner @ slope.T @ root
    return whole, ""
