"""Sums and traces over all pairs of frames of one map, of which the sandwich covariance is made: `pair_sums`.

The traces are of products of four matrices with one row per frame. Products of whole matrices cost n³, so long
records are worked on in several grids of frames: near the diagonal every frame is used, far from it every third,
ninth, ... frame stands for its neighbours. With F = N + R, N the matrix times a smooth taper that ends a few frames
off the diagonal, all products with a factor R are right in a coarse grid, because R is smooth there, so

    traces of F = traces of F in the coarse grid - traces of N in the coarse grid + traces of N in the fine grid,

where N is sampled in the coarse grid, with a diagonal that gives its rows the sums that they have in the fine one. N is
banded, so that its traces cost as much as there are frames. Near the ends of the record every frame is kept: the
youngest ages vary fastest, and sums over correlated neighbours are cut off there.

Standard deviations from a sandwich are right to 1 % and mostly 0.1 %, for decays within a frame as for those much
longer than the record. What oscillates all over the record without decay needs a period of more than twice the frames
that one of the coarsest grid stands for, which is 6 frames in records of up to 2000. Weights that differ wildly from
frame to frame cost more in long records: 5 % where every other frame has a tenth of the weight.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from numpy.lib.stride_tricks import as_strided

from homodyne.arrays import Ages, AnyArray, Map
from homodyne.physics.compiling import Numbers

Design: TypeAlias = Callable[[AnyArray, AnyArray], Numbers]
"""Derivatives (D, *shape) of c2 at a contrast of one, at ages t1 < t2 of any shape; the last are 1 (offset) and g."""

LARGEST = 750
"""Frames of a grid whose matrices are multiplied as a whole; shorter records are computed exactly."""

_TAPER = 16  # frames of a grid up to which the taper is one; at twice as many it is zero
_STEP = 3  # frames for which one of the next grid stands
_KEPT = 5  # frames of the next grid at both ends of the record of which those of this one are kept
_BATCH = 1 << 16  # pairs that are evaluated at once: one shape, and so one program, for all grids and maps
_STRIP = 1 << 15  # elements of a sum in the precision of the matrices
_BLOCKS = 64  # parts of the record in which missing pairs are counted
_OPEN = 1e-10  # information, over that of offset or contrast, that says nothing


class PairSums(NamedTuple):
    """Sums over the pairs of frames of a map, for the D derivatives of its design.

    Attributes
    ----------
    information : (D, D) array
        Sum over pairs i < j of weight times the product of two derivatives.
    elimination : (2, D - 2) array
        Change of (offset, contrast) with the other coordinates z that keeps their score at zero.
    powers : (3, D, D) array
        Traces of (G_a G_b, G_a g G_b, G_a g G_b g) for symmetric matrices G of root of weight times derivative, 0 on
        the diagonal; by offset and contrast, and by z while offset and contrast follow the elimination. A slow decay
        looks much like a change of these two: the small difference keeps its digits.
    pairs : (3,) array
        Sums over pairs that are not missing, whatever their weight, of 1, g and g².
    """

    information: Float[AnyArray, "derivatives derivatives"]
    elimination: Float[AnyArray, "2 coordinates"]
    powers: Float[AnyArray, "3 derivatives derivatives"]
    pairs: Float[AnyArray, "3"]


def pair_sums(
    t: Ages, design: Design, roots: Map | None = None, resting: float = 0.0, largest: int = LARGEST
) -> PairSums:
    """Information of independent pairs, and the traces by which correlated noise changes it.

    Parameters
    ----------
    t : (n,) array
        Ages of the frames, ascending; frames without data are left out.
    design : callable
    roots : (n, n) array, optional
        Roots of the weights of pairs i < j, 0 where one is missing; other elements are not read. Of long records only
        their mean and mean square matter, by lag near the diagonal and by blocks of the map elsewhere.
    resting : float
        Share r of the correlation of the noise that does not decay: r + (1 - r) g stands for g in the traces.
    largest : int
        See `LARGEST`.
    """
    grids = _grids(len(t), largest)
    density = None if roots is None else _density(np.asarray(roots), exact=len(grids) == 1)
    parts = [_part(grids, level, t, design, density, resting) for level in range(len(grids))]
    information, plain, excess, excess_gg = np.sum([part.sums for part in parts], axis=0)
    elimination = _elimination(information)
    eliminated = np.eye(len(information))
    eliminated[:-2, -2:] = elimination.T
    axes = _axes(eliminated @ information @ eliminated.T)
    combinations = axes @ eliminated
    traces: AnyArray = np.zeros((2, *information.shape))
    diagonal: AnyArray = np.zeros((len(axes) + 1, len(t)))
    for part, grid, following in zip(parts, grids, grids[1:], strict=False):
        band = np.concatenate([diagonal[..., None], part.fields(combinations)], axis=2, dtype=np.float32)
        traces += _banded_traces(band, grid.counts)
        band = _sampled(band, grid, following)
        traces -= _banded_traces(band, following.counts)
        diagonal = band[..., 0]
    traces += _whole_traces(parts[-1].fields(combinations), diagonal, grids[-1].counts)
    once, twice = axes.T @ traces @ axes
    # where pairs are missing at random, each has more weight with itself than the mean weights say
    own, extra, extra_gg = (eliminated @ x @ eliminated.T for x in (information, excess, excess_gg))
    powers = 2.0 * np.stack([own, 0.5 * once + extra, 0.5 * twice + extra + extra_gg])
    return PairSums(information, elimination, powers, plain[[-2, -2, -1], [-2, -1, -1]])


def definite(scaling: Float[AnyArray, "2 2"]) -> Float[AnyArray, "2 2"]:
    """Information (2, 2) of (offset, contrast) with a little where the data say nothing."""
    return scaling + _OPEN * np.diag(np.maximum(np.diag(scaling), 1.0))


def _elimination(information: Float[AnyArray, "derivatives derivatives"]) -> Float[AnyArray, "2 coordinates"]:
    """Change of (offset, contrast) with z that keeps their score at zero."""
    return np.asarray(-np.linalg.solve(definite(information[-2:, -2:]), information[-2:, :-2]))


def _axes(information: Float[AnyArray, "derivatives derivatives"]) -> Float[AnyArray, "derivatives derivatives"]:
    """Directions (rows) in which the information of z, and that of (offset, contrast), is diagonal."""
    axes = np.zeros_like(information)
    for own in (slice(None, -2), slice(-2, None)):
        axes[own, own] = np.linalg.eigh(information[own, own])[1].T
    return axes


def evaluated(function: Design, t1: Float[AnyArray, "*pairs"], t2: Float[AnyArray, "*pairs"]) -> Float[AnyArray, "..."]:
    """Values (*shape), or (D, *shape), of a function at ages t1 <= t2 of one shape, in batches of few sizes."""
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

    frames: Int[AnyArray, "frames"]
    counts: Int[AnyArray, "frames"]
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


def _reach(frames: AnyArray, scale: int) -> int:
    """Frames of a grid within the taper, at most."""
    return int(np.max(np.searchsorted(frames, frames + 2 * _TAPER * scale) - np.arange(frames.size)))


def _taper(lag: AnyArray) -> AnyArray:
    """One up to `_TAPER`, zero from twice as much on, with two continuous derivatives."""
    x = np.clip(lag / _TAPER - 1.0, 0.0, 1.0)
    return np.asarray(1.0 - x**3 * (10.0 - 15.0 * x + 6.0 * x**2))


class _Part(NamedTuple):
    """What one grid contributes.

    Derivatives times mean root of the weight, and g, both tapered, at its pairs; and sums over its share of the pairs:
    of the products of derivatives with the mean weight, with the share of pairs that are not missing, with the variance
    of the root, with this times g².
    """

    values: AnyArray
    g: AnyArray
    sums: AnyArray

    def fields(self, combinations: AnyArray) -> AnyArray:
        """Combinations (rows) of the weighted derivatives, and g in the end, (D + 1, *pairs)."""
        return np.concatenate([np.tensordot(combinations, self.values, 1), self.g[None]], dtype=np.float32)


def _part(
    grids: list[_Grid], level: int, t: AnyArray, design: Design, density: "_Density | None", resting: float
) -> _Part:
    """Evaluate the design at the pairs of a grid."""
    grid, m = grids[level], grids[level].frames.size
    if grid.reach is None:
        i, j = np.triu_indices(m, 1)
    else:
        i, lags = np.broadcast_arrays(np.arange(m)[:, None], np.arange(1, grid.reach + 1))
        j = i + lags
    inside, i, j = j < m, np.minimum(i, m - 2), np.minimum(j, m - 1)
    first, second = grid.frames[i], grid.frames[j]
    values = evaluated(design, t[first], t[second])
    taper = np.where(inside, 1.0 if grid.reach is None else _taper((second - first) / grid.scale), 0.0)
    before = _taper((second - first) * (_STEP / grid.scale)) if level else 0.0
    pairs = np.where(inside, (taper - before) * grid.counts[i] * grid.counts[j], 0.0)
    g, columns = resting + (1.0 - resting) * values[-1], values.reshape(len(values), -1)
    if density is None:
        information = _inner(columns * pairs.ravel(), columns)
        return _Part(values * taper, g * taper, np.stack([information, information, 0 * information, 0 * information]))
    mean, square, *present = density.at(first, second)
    spread = pairs * (square - mean**2)
    weights = (pairs * square, pairs * (present[0] if present else square), spread, spread * g**2)
    sums = np.stack([_inner(columns * x.ravel(), columns) for x in weights])
    return _Part(values * (mean * taper), g * taper, sums)


class _Density(NamedTuple):
    """Mean and mean square of the roots of weights and, unless all are 0 or 1, the share of pairs that have one.

    Tables of these, (2 or 3, blocks, lags), at small lags, and (2 or 3, blocks, blocks) beyond.
    """

    block: AnyArray
    near: AnyArray
    far: AnyArray

    def at(self, i: AnyArray, j: AnyArray) -> AnyArray:
        """What the tables say about the pairs (i, j), (2 or 3, *shape)."""
        lag = j - i
        near = self.near[:, self.block[i], np.minimum(lag, self.near.shape[2] - 1)]
        return np.where(lag < self.near.shape[2], near, self.far[:, self.block[i], self.block[j]])


def _density(roots: AnyArray, exact: bool) -> _Density:
    """Roots of weights by blocks of the record, or of every pair where they have to be exact."""
    n, kinds = len(roots), [roots, np.square(roots)]
    if not np.array_equal(kinds[0], kinds[1]):
        kinds.append(roots > 0)
    if exact:
        return _Density(np.arange(n), np.zeros((len(kinds), n, 1)), np.stack(kinds).astype(float))
    limits = np.unique(np.linspace(0, n, _BLOCKS, endpoint=False).astype(int))
    block = np.searchsorted(limits, np.arange(n), side="right") - 1
    reach = 2 * _TAPER
    far = np.triu(np.ones((n, n), np.float32), reach + 1)
    number, *sums = (
        np.add.reduceat(np.add.reduceat(x, limits, 0, dtype=float), limits, 1) for x in (far, *(far * x for x in kinds))
    )
    near = np.ones((len(kinds), limits.size, reach + 1))
    for lag in range(1, reach + 1):
        own = block[: n - lag]
        count = np.maximum(np.bincount(own, minlength=limits.size), 1)
        for table, x in zip(near, kinds, strict=True):
            table[:, lag] = np.bincount(own, np.diagonal(x, lag), limits.size) / count
    return _Density(block, near, np.stack(sums) / np.maximum(number, 1.0))


def _sampled(band: Float[AnyArray, "matrices frames lags"], grid: _Grid, following: _Grid) -> AnyArray:
    """Banded matrices in the next grid: sampled, and with a diagonal that gives their rows the sums that they had.

    Element [..., i, l] of a band belongs to frames i and i + l of the grid, [..., i, 0] to the diagonal.
    """
    at, m = np.searchsorted(grid.frames, following.frames), following.frames.size
    lags = np.arange(_reach(following.frames, grid.scale) + 1)
    ends = np.arange(m)[:, None] + lags
    ahead = at[np.minimum(ends, m - 1)] - at[:, None]
    seen = (ends < m) & (ahead < band.shape[2]) & (lags > 0)
    found = np.where(seen, band[:, at[:, None], np.minimum(ahead, band.shape[2] - 1)], 0.0)
    found[..., 0] = (_row_sums(band, grid.counts)[:, at] - _row_sums(found, following.counts)) / following.counts
    return found


def _row_sums(band: AnyArray, counts: AnyArray) -> AnyArray:
    """Sums of the symmetric matrices of a band over the frames that those of the grid stand for, (D, m)."""
    m = counts.size
    sums = band[..., 0] * counts
    for lag in range(1, min(band.shape[2], m)):
        values = band[:, : m - lag, lag]
        sums[:, : m - lag] += values * counts[lag:]
        sums[:, lag:] += values * counts[: m - lag]
    return sums


def _banded_traces(band: AnyArray, counts: AnyArray) -> AnyArray:
    """Traces of (G_a g G_b, G_a g G_b g), (2, D, D), of banded matrices, the last of which is g less the unit."""
    reach = band.shape[2] - 1
    size = max(2 * reach, 1)  # of blocks that make products of two block tridiagonal
    diagonal, above = _blocks(band, counts, size)
    g, g_above = diagonal[-1] + np.eye(size, dtype=band.dtype), above[-1]
    diagonal, above = diagonal[:-1], above[:-1]
    own = diagonal @ g
    own[:, :-1] += above @ g_above.swapaxes(1, 2)
    own[:, 1:] += above.swapaxes(2, 3) @ g_above
    up = diagonal[:, :-1] @ g_above + above @ g[1:]
    down = g_above @ diagonal[:, 1:] + g[:-1] @ above  # transposed
    crossed = _inner(up, down)
    return np.stack(
        [
            _inner(own, diagonal) + _inner(up, above) + _inner(down, above),
            _inner(own, own.swapaxes(2, 3)) + crossed + crossed.T,
        ]
    )


def _blocks(band: AnyArray, counts: AnyArray, size: int) -> tuple[AnyArray, AnyArray]:
    """Square blocks on the diagonal, (D, blocks, size, size), and to their right of matrices whose rows have counts."""
    number, m, width = band.shape
    blocks = -(-m // size)
    rows = np.zeros((number, blocks * size, 3 * size), band.dtype)  # the elements of a row begin where its block does
    matrix, row, element = rows.strides
    sheared = as_strided(rows, (number, blocks, size, width), (matrix, size * row, row + element, element))
    root = np.zeros(blocks * size + width, band.dtype)
    root[:m] = np.sqrt(counts)
    scaled = band * (root[:m, None] * as_strided(root, (m, width), (element, element)))
    whole, last = m // size, m % size
    sheared[:, :whole] = scaled[:, : whole * size].reshape(number, whole, size, width)
    if last:
        sheared[:, whole, :last] = scaled[:, whole * size :]
    blocked = rows.reshape(number, blocks, size, 3 * size)
    upper = blocked[..., :size]
    full = upper + upper.swapaxes(2, 3)
    index = np.arange(size)
    full[..., index, index] = upper[..., index, index]
    return full, blocked[:, :-1, :, size : 2 * size]


def _whole_traces(fields: AnyArray, diagonal: AnyArray, counts: AnyArray) -> AnyArray:
    """Traces as of `_banded_traces`, of matrices given by all their pairs i < j and their diagonals."""
    m, root = counts.size, np.sqrt(counts)
    i, j = np.triu_indices(m, 1)
    scale, flat = root[i] * root[j], i * m + j
    flattened = np.zeros((len(fields), m * m), fields.dtype)
    for matrix, values, ends in zip(flattened, fields, diagonal, strict=True):
        matrix[flat] = values * scale
        square = matrix.reshape(m, m)
        square += square.T
        matrix[:: m + 1] = ends * counts
    whole = flattened.reshape(-1, m, m)
    passed = whole[:-1] @ (whole[-1] + np.eye(m, dtype=fields.dtype))
    return np.stack([_inner(passed, whole[:-1]), _inner(passed, passed.swapaxes(1, 2))])


def _inner(one: AnyArray, other: AnyArray) -> AnyArray:
    """Sums of the products of all elements, for all pairs of matrices, (D, D); in double precision over strips."""
    total = np.zeros((len(one), len(other)))
    rows = max(1, one.shape[1] * _STRIP // max(one[0].size, 1))
    for begin in range(0, one.shape[1], rows):
        parts = (x[:, begin : begin + rows].reshape(len(x), -1) for x in (one, other))
        total += np.matmul(next(parts), next(parts).T)
    return total
