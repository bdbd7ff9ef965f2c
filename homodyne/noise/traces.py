"""Sums and traces over all pairs of frames of one map, of which the sandwich covariance is made: `pair_sums`.

The traces are of products of four matrices with one row per frame. Products of whole matrices cost n³, so long records
are worked on in several grids of frames: near the diagonal every frame is used, far from it every third, ninth, ...
frame stands for its neighbours. With F = N + R, N the matrix times a smooth taper that ends a few frames off the
diagonal, all products with a factor R are right in a coarse grid, because R is smooth there, so

    traces of F = traces of F in the coarse grid - traces of N in the coarse grid + traces of N in the fine grid,

where N is sampled in the coarse grid, with a diagonal that gives its rows the sums that they have in the fine one. N is
banded, so that its traces cost as much as there are frames. Near the ends of the record every frame is kept: the
youngest ages vary fastest, and sums over correlated neighbours are cut off there.

Standard deviations from a sandwich are right to 1 % and mostly 0.1 %, for decays within a frame as for those much
longer than the record. What oscillates all over the record without decay needs a period of more than twice the frames
that one of the coarsest grid stands for, which is 6 frames in records of up to 2000.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

Array = np.ndarray[Any, np.dtype[Any]]
Design = Callable[[Any, Any], Any]
"""Derivatives (D, *shape) of c2 at ages t1 <= t2 of one shape, at contrast 1; the last are 1 (offset), g (contrast)."""

LARGEST = 750
"""Frames of a grid whose matrices are multiplied as a whole; shorter records are computed exactly."""

_TAPER = 16  # frames of a grid up to which the taper is one; at twice as many it is zero
_STEP = 3  # frames for which one of the next grid stands
_KEPT = 5  # frames of the next grid at both ends of the record of which those of this one are kept
_BATCH = 1 << 16  # pairs that are evaluated at once: one shape, and so one program, for all grids and maps
_BLOCKS = 64  # parts of the record in which missing pairs are counted
_OPEN = 1e-10  # information, over that of offset or contrast, that says nothing


class PairSums(NamedTuple):
    """Sums over the pairs of frames of a map; the D derivatives are those of the design.

    Attributes
    ----------
    information : (D, D) array
        Sum over pairs i < j of weight times the product of two derivatives. The last two elements of its diagonal are
        the sums of w and of w g².
    powers : (3, D, D) array
        Traces of (G_a G_b, G_a g G_b, G_a g G_b g) for symmetric matrices G of weight times derivative, 0 on the
        diagonal.
    """

    information: Array
    powers: Array


def pair_sums(t: Array, design: Design, weight: Array | None = None, largest: int = LARGEST) -> PairSums:
    """Information of independent pairs, and the traces by which correlated noise changes it.

    Parameters
    ----------
    t : (n,) array
        Ages of the frames, ascending; frames without data are left out.
    design : callable
    weight : (n, n) array, optional
        Weights of pairs i < j, 0 where one is missing; other elements are not read. Of long records only their mean and
        mean square matter, by lag near the diagonal and by blocks of the map elsewhere.
    largest : int
        See `LARGEST`.
    """
    grids = _grids(len(t), largest)
    density = None if weight is None else _density(np.asarray(weight), exact=len(grids) == 1)
    parts = [_part(grids, level, t, design, density) for level in range(len(grids))]
    information, squares, excess, excess_gg = np.sum([part.sums for part in parts], axis=0)
    apart = uncorrelated(information)
    traces = np.zeros((2, *information.shape))
    diagonal = np.zeros((len(apart) + 1, len(t)))
    for part, grid, following in zip(parts, grids, grids[1:], strict=False):
        band = np.concatenate([diagonal[..., None], part.fields(apart)], axis=2)
        traces += _banded_traces(band, grid.counts)
        band = _sampled(band, grid, following)
        traces -= _banded_traces(band, following.counts)
        diagonal = band[..., 0]
    traces += _whole_traces(parts[-1].fields(apart), diagonal, grids[-1].counts)
    back = np.linalg.inv(apart)
    once, twice = back @ traces @ back.T
    # where pairs are missing at random, each has more weight with itself than the mean weights say
    return PairSums(information, 2.0 * np.stack([squares, 0.5 * once + excess, 0.5 * twice + excess + excess_gg]))


def uncorrelated(information: Array) -> Array:
    """Combinations (rows) of the derivatives that do not correlate, those of z once offset and contrast are eliminated.

    A slow decay looks much like a change of offset and contrast; the small difference keeps its digits.
    """
    d = len(information) - 2
    scaling, across = definite(information[d:, d:]), information[:d, d:]
    eliminated = np.eye(d + 2)
    eliminated[:d, d:] = -np.linalg.solve(scaling, across.T).T
    rest = information[:d, :d] + across @ eliminated[:d, d:].T
    axes = np.zeros_like(information)
    axes[:d, :d], axes[d:, d:] = np.linalg.eigh(rest)[1].T, np.linalg.eigh(scaling)[1].T
    return np.asarray(axes @ eliminated)


def definite(scaling: Array) -> Array:
    """Information (2, 2) of (offset, contrast) with a little where the data say nothing."""
    return scaling + _OPEN * np.diag(np.maximum(np.diag(scaling), 1.0))


def evaluated(function: Design, t1: Array, t2: Array) -> Array:
    """Values (D, *shape) of a function at ages t1 <= t2 of one shape, in batches of few sizes."""
    first, second = t1.ravel(), t2.ravel()
    size = min(_BATCH, 1 << max(first.size - 1, 0).bit_length())
    found = []
    for begin in range(0, first.size, size):
        ends = [x[begin : begin + size] for x in (first, second)]
        count = ends[0].size
        values = function(*(np.pad(x, (0, size - count), mode="edge") for x in ends))
        found.append(np.asarray(values)[..., :count])
    values = np.concatenate(found, axis=-1)
    return values.reshape((*values.shape[:-1], *t1.shape))


class _Grid(NamedTuple):
    """Frames of the record, for how many each stands (at most `scale`); its pairs are i < j <= i + `reach` or all."""

    frames: Array
    counts: Array
    scale: int
    reach: int | None


def _grids(n: int, largest: int) -> list[_Grid]:
    """All frames first, then fewer and fewer, down to `largest`."""
    grids = [_Grid(np.arange(n), np.ones(n, dtype=int), 1, None)]
    while grids[-1].frames.size > largest:
        frames, counts, scale, _ = grids[-1]
        size, ends = _STEP * scale, np.cumsum(counts)
        begin = int(np.searchsorted(ends - counts, _KEPT * size))
        groups = (int(np.searchsorted(ends, n - _KEPT * size, side="right")) - begin) // _STEP
        if groups < 1:
            break
        grids[-1] = _Grid(frames, counts, scale, _reach(frames, scale))
        end = begin + _STEP * groups
        frames = np.concatenate([frames[:begin], frames[begin + _STEP // 2 : end : _STEP], frames[end:]])
        grouped = counts[begin:end].reshape(groups, _STEP).sum(axis=1)
        grids.append(_Grid(frames, np.concatenate([counts[:begin], grouped, counts[end:]]), size, None))
    return grids


def _reach(frames: Array, scale: int) -> int:
    """Frames of a grid within the taper, at most."""
    return int(np.max(np.searchsorted(frames, frames + 2 * _TAPER * scale) - np.arange(frames.size)))


def _taper(lag: Array) -> Array:
    """One up to `_TAPER`, zero from twice as much on, with two continuous derivatives."""
    x = np.clip(lag / _TAPER - 1.0, 0.0, 1.0)
    return np.asarray(1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x**2))


class _Part(NamedTuple):
    """What one grid contributes.

    Derivatives times weight, and g, both tapered, at its pairs; and sums over its share of the pairs: of the products
    of derivatives with the mean weight, with its mean square, with the variance, with the variance times g².
    """

    values: Array
    g: Array
    sums: Array

    def fields(self, apart: Array) -> Array:
        """Combinations of the weighted derivatives, and g in the end, (D + 1, *pairs)."""
        return np.concatenate([np.tensordot(apart, self.values, 1), self.g[None]])


def _part(grids: list[_Grid], level: int, t: Array, design: Design, density: "_Density | None") -> _Part:
    """Evaluate the design at the pairs of a grid."""
    grid, m = grids[level], grids[level].frames.size
    if grid.reach is None:
        i, j = np.triu_indices(m, 1)
        inside = np.ones(i.shape, dtype=bool)
    else:
        i, lags = np.broadcast_arrays(np.arange(m)[:, None], np.arange(1, grid.reach + 1))
        inside, j = i + lags < m, np.minimum(i + lags, m - 1)
    first, second = grid.frames[i], grid.frames[j]
    values = np.where(inside, evaluated(design, t[first], t[second]), 0.0)
    taper = np.ones(i.shape) if grid.reach is None else _taper((second - first) / grid.scale)
    before = _taper((second - first) * (_STEP / grid.scale)) if level else 0.0
    pairs = (taper - before) * grid.counts[i] * grid.counts[j]
    mean, square = (np.ones(i.shape),) * 2 if density is None else density.at(first, second)
    spread = pairs * (square - mean**2)
    columns = values.reshape(len(values), -1)
    weights = (pairs * mean, pairs * square, spread, spread * values[-1] ** 2)
    sums = np.stack([(columns * x.ravel()) @ columns.T for x in weights])
    return _Part(values * (mean * taper), values[-1] * taper, sums)


class _Density(NamedTuple):
    """Mean and mean square of the weights: (2, blocks, lags) at small lags, (2, blocks, blocks) beyond."""

    block: Array
    near: Array
    far: Array

    def at(self, i: Array, j: Array) -> Array:
        """Mean and mean square, (2, *shape), about the pairs (i, j)."""
        lag = j - i
        near = self.near[:, self.block[i], np.minimum(lag, self.near.shape[2] - 1)]
        return np.where(lag < self.near.shape[2], near, self.far[:, self.block[i], self.block[j]])


def _density(weight: Array, exact: bool) -> _Density:
    """Weights by blocks of the record, or of every pair where they have to be exact."""
    n = len(weight)
    if exact:
        return _Density(np.arange(n), np.zeros((2, n, 1)), np.stack([weight, np.square(weight)]).astype(float))
    limits = np.unique(np.linspace(0, n, _BLOCKS, endpoint=False).astype(int))
    block = np.searchsorted(limits, np.arange(n), side="right") - 1
    reach = 2 * _TAPER
    far = np.triu(np.ones((n, n), np.float32), reach + 1)
    number, *sums = (
        np.add.reduceat(np.add.reduceat(x, limits, 0, dtype=float), limits, 1)
        for x in (far, far * weight, far * np.square(weight))
    )
    near = np.ones((2, limits.size, reach + 1))
    for lag in range(1, reach + 1):
        own, values = block[: n - lag], np.diagonal(weight, lag).astype(float)
        count = np.maximum(np.bincount(own, minlength=limits.size), 1)
        for table, x in zip(near, (values, values**2), strict=True):
            table[:, lag] = np.bincount(own, x, limits.size) / count
    return _Density(block, near, np.stack(sums) / np.maximum(number, 1.0))


def _sampled(band: Array, grid: _Grid, following: _Grid) -> Array:
    """Banded matrices in the next grid: sampled, and with a diagonal that gives their rows the sums that they had.

    Element [..., i, l] of a band belongs to frames i and i + l of the grid, [..., i, 0] to the diagonal.
    """
    at, m = np.searchsorted(grid.frames, following.frames), following.frames.size
    lags = np.arange(_reach(following.frames, grid.scale) + 1)
    ends = np.arange(m)[:, None] + lags
    apart = at[np.minimum(ends, m - 1)] - at[:, None]
    seen = (ends < m) & (apart < band.shape[2]) & (lags > 0)
    found = np.where(seen, band[:, at[:, None], np.minimum(apart, band.shape[2] - 1)], 0.0)
    found[..., 0] = (_row_sums(band, grid.counts)[:, at] - _row_sums(found, following.counts)) / following.counts
    return found


def _row_sums(band: Array, counts: Array) -> Array:
    """Sums of the symmetric matrices of a band over the frames that those of the grid stand for, (D, m)."""
    m = counts.size
    sums = band[..., 0] * counts
    for lag in range(1, min(band.shape[2], m)):
        values = band[:, : m - lag, lag]
        sums[:, : m - lag] += values * counts[lag:]
        sums[:, lag:] += values * counts[: m - lag]
    return sums


def _banded_traces(band: Array, counts: Array) -> Array:
    """Traces of (G_a g G_b, G_a g G_b g), (2, D, D), of banded matrices; the last of the band is g less the unit."""
    reach = band.shape[2] - 1
    size = max(2 * reach, 1)  # of blocks that make products of two block tridiagonal
    diagonal, above = _blocks(band, counts, size)
    below = above.swapaxes(2, 3)
    g, g_above, g_below = diagonal[-1] + np.eye(size), above[-1], below[-1]
    diagonal, above, below = diagonal[:-1], above[:-1], below[:-1]
    own = diagonal @ g
    own[:, :-1] += above @ g_below
    own[:, 1:] += below @ g_above
    up = diagonal[:, :-1] @ g_above + above @ g[1:]
    down = diagonal[:, 1:] @ g_below + below @ g[:-1]
    crossed = _inner(up, down.swapaxes(2, 3))
    return np.stack(
        [
            _inner(own, diagonal) + _inner(up, above) + _inner(down, below),
            _inner(own, own.swapaxes(2, 3)) + crossed + crossed.T,
        ]
    )


def _blocks(band: Array, counts: Array, size: int) -> tuple[Array, Array]:
    """Square blocks on the diagonal, (D, blocks, size, size), and to their right of matrices whose rows have counts."""
    number, m, width = band.shape
    blocks = -(-m // size)
    rows = np.zeros((number, blocks * size, 3 * size))  # the elements of a row begin where its block does
    shape, (matrix, row, element) = (number, blocks, size, width), rows.strides
    sheared = as_strided(rows, shape, (matrix, size * row, row + element, element))
    padded = np.pad(band, ((0, 0), (0, blocks * size - m), (0, 0)))
    sheared[...] = padded.reshape(shape)
    root = np.zeros((blocks + 2) * size)
    root[:m] = np.sqrt(counts)
    columns = as_strided(root, (blocks, 3 * size), (size * element, element))
    whole = rows.reshape(number, blocks, size, 3 * size)
    whole *= root[: blocks * size].reshape(blocks, size, 1) * columns[:, None]
    upper, above = whole[..., :size], whole[:, :-1, :, size : 2 * size]
    unit = np.eye(size)
    return upper + upper.swapaxes(2, 3) * (1.0 - unit), above


def _whole_traces(fields: Array, diagonal: Array, counts: Array) -> Array:
    """Traces as of `_banded_traces`, of matrices given by all their pairs i < j and their diagonals."""
    m, root = counts.size, np.sqrt(counts)
    i, j = np.triu_indices(m, 1)
    whole = np.empty((len(fields), m, m))
    whole[:, i, j] = whole[:, j, i] = fields * (root[i] * root[j])
    whole[:, np.arange(m), np.arange(m)] = diagonal * counts
    passed = whole[:-1] @ (whole[-1] + np.eye(m))
    return np.stack([_inner(passed, whole[:-1]), _inner(passed, passed.swapaxes(1, 2))])


def _inner(one: Array, other: Array) -> Array:
    """Sums of the products of all elements, for all pairs of matrices, (D, D)."""
    return np.asarray(one.reshape(len(one), -1) @ other.reshape(len(other), -1).T)
