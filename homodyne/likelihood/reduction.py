"""Reduction of maps to nodes: cells of the triangle of pairs in which g is smooth, and the data on their nodes.

`find_cells` splits the triangle, in rows (first frame) and lags, until g and g² are interpolated to a tolerance at
given parameters; `reduce_maps` makes the `Nodes` in one pass over the data. A cell with few rows or lags keeps these as
they are, so small maps are not compressed at all and every sum is exact there. All maps share the cells: what g needs
of two times is then evaluated once for all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from homodyne.arrays import Ages, AnyArray, PerMap, Values
from homodyne.likelihood.maps import Maps
from homodyne.likelihood.nodes import Nodes, pair_totals
from homodyne.physics.compiling import compiled
from homodyne.physics.model import CorrelationModel, Params
from homodyne.threads import in_threads

_SPREAD = 4.0  # factor between ends beyond which an interval is split at the geometric mean
_CELLS_AT_ONCE = 16
_SAME = 1e-9  # relative difference of times that is none
_REPRESENTATIVE = 4  # maps on which cells are tried
_ROWS_AT_ONCE = 256  # rows of a cell that are reduced together
_MOST_SPLITS = 40  # times that a cell is split, at most
_EQUAL_CELLS = 30  # of as many pairs, for each of which the tolerance is meant
_LOOSEST = 10.0  # factor of the tolerance of a cell with few pairs, at most


class Accuracy(NamedTuple):
    """Nodes along each side of a cell, and error of g and g² that is allowed in a cell of a thirtieth of all pairs.

    The variance that errors of g add to the log density grows with the pairs of a cell, so that its tolerance falls
    with the square root of their number.
    """

    order: int = 8
    tolerance: float = 1e-4


class Cell(NamedTuple):
    """Pairs (i, i + lag) with first_row <= i < end_row and first_lag <= lag < end_lag, where the record has them."""

    first_row: int
    end_row: int
    first_lag: int
    end_lag: int


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells with their nodes, for maps of one sequence of ages.

    Attributes
    ----------
    t : (n,) array
        Ages in s.
    cells : tuple of Cell
    order : int
        Most nodes along each side of a cell.
    uniform : bool
        Whether the steps of t are equal.
    """

    t: Ages
    cells: tuple[Cell, ...]
    order: int
    uniform: bool

    @cached_property
    def sides(self) -> tuple[tuple[AnyArray, AnyArray], ...]:
        """Nodes of every cell along t1, (a,), and along t2 - t1, (b,), or (a, b) where each has its own, in s."""
        return tuple(_sides(self.t, cell, self.order, self.uniform) for cell in self.cells)

    @cached_property
    def limits(self) -> Int[AnyArray, "limits"]:
        """First node of every cell, and the number of nodes."""
        return np.concatenate([[0], np.cumsum([a.size * b.shape[-1] for a, b in self.sides])]).astype(int)

    @property
    def times(self) -> tuple[Float[AnyArray, "nodes"], Float[AnyArray, "nodes"]]:
        """t1 and t2 of all nodes."""
        first = np.concatenate([np.repeat(a, b.shape[-1]) for a, b in self.sides])
        lag = np.concatenate([np.broadcast_to(b, (a.size, b.shape[-1])).ravel() for a, b in self.sides])
        return first, first + lag


def find_cells(model: CorrelationModel, params: dict[str, Values], maps: Maps, accuracy: Accuracy) -> Grid:
    """Cells on which g and g² are polynomials to the wanted accuracy.

    Parameters
    ----------
    model : CorrelationModel
    params : dict of (P,) arrays
        Points of the parameter space at which the accuracy is wanted.
    maps : Maps
    accuracy : Accuracy
    """
    n, p, t = maps.num_frames, accuracy.order, maps.t
    which = _representative(model, params, maps)
    q, phi = maps.q[which], maps.phi[which]
    gap = maps.gap_or_nan
    pending, done = [Cell(0, n - 1, 1, n)], []
    for _ in range(_MOST_SPLITS):
        whole = [cell for cell in map(partial(_clipped, n), pending) if cell is not None]
        large = [cell for cell in whole if not _few(cell, p, maps.uniform)]
        done += [cell for cell in whole if cell not in set(large)]
        if not large:
            break
        errors = _errors(model, params, t, large, q, phi, gap, p)
        pending = []
        for cell, (along_rows, along_lags) in zip(large, errors, strict=True):
            rows, lags = cell.end_row - cell.first_row, cell.end_lag - cell.first_lag
            if maps.uniform:  # sides with few frames keep them
                along_rows, along_lags = along_rows * (rows > p), along_lags * (lags > p)
            if not max(along_rows, along_lags) > accuracy.tolerance * _looseness(cell, n):
                done.append(cell)
            elif (along_rows >= along_lags and rows > 1) or lags == 1:
                middle = _middle(t, cell.first_row, cell.end_row)
                pending += [cell._replace(end_row=middle), cell._replace(first_row=middle)]
            else:
                middle = _geometric(cell.first_lag, cell.end_lag)
                pending += [cell._replace(end_lag=middle), cell._replace(first_lag=middle)]
    else:
        done += pending
    return Grid(t, tuple(sorted(done)), p, maps.uniform)


def reduce_pairs(maps: Maps, i: Int[AnyArray, "pairs"], j: Int[AnyArray, "pairs"]) -> Nodes:
    """Nodes that are the pairs (i, j) of frames, i < j, of all maps."""
    return nodes_of_pairs(maps, i, j, pair_values(maps, i, j), maps.center)


def pair_values(maps: Maps, i: Int[AnyArray, "pairs"], j: Int[AnyArray, "pairs"]) -> Float[AnyArray, "maps pairs"]:
    """Values at pairs (i, j) of frames, i < j, of all maps, (n_maps, pairs); NaN where they are not data."""
    values = np.empty((maps.num_maps, len(i)))
    for k in range(maps.num_maps):
        y = np.asarray(maps.whole(k)[i, j], dtype=np.float64)
        values[k] = np.where(np.isfinite(y) & maps.alive[k][i] & maps.alive[k][j], y, np.nan)
    if (weights := maps.weights_at(i, j)) is not None:
        values[weights == 0] = np.nan
    return values


def nodes_of_pairs(
    maps: Maps,
    i: Int[AnyArray, "pairs"],
    j: Int[AnyArray, "pairs"],
    values: Float[AnyArray, "maps pairs"],
    center: PerMap,
) -> Nodes:
    """Nodes that are the pairs (i, j), from the values there and the centre of every map."""
    weight = np.isfinite(values).astype(float)
    weight_y = np.where(weight > 0, values - center[:, None], 0.0)
    given = maps.weights_at(i, j)
    if given is None:
        sums = np.array([[w.sum(), w.sum(), y.sum(), (y**2).sum(), 0.0] for w, y in zip(weight, weight_y, strict=True)])
    else:
        weight *= given
        sums = np.array([pair_totals(int(np.count_nonzero(w)), y, w) for w, y in zip(weight, weight_y, strict=True)])
        weight_y *= weight
    gap = maps.gap_or_nan
    return Nodes(maps.t[i], maps.t[j], weight, weight_y, sums, center, maps.q, maps.phi, gap)


Progress = Callable[[int, int], None]
ShardOf = Callable[[int, AnyArray, AnyArray], AnyArray]
"""Numbers of the shards of pairs (i, j) of map k, or -1 for none."""


def reduce_maps(maps: Maps, grid: Grid, progress: Progress = lambda done, total: None, workers: int = 2) -> Nodes:
    """Nodes of whole maps on a grid: one pass over the data, map by map."""
    return reduce_shards(maps, grid, 1, None, progress, workers)[0]


def reduce_shards(
    maps: Maps,
    grid: Grid,
    num_shards: int,
    shard_of: ShardOf | None,
    progress: Progress = lambda done, total: None,
    workers: int = 2,
) -> list[Nodes]:
    """Nodes of every shard on one grid: one pass over the data, map by map.

    Parameters
    ----------
    maps, grid
        Data and cells.
    num_shards : int
    shard_of : callable or None
        ``shard_of(k, i, j)`` numbers the shards of pairs of map k; None puts everything into shard 0.
    progress : callable
        Called with (maps done, all maps).
    workers : int
        Threads.
    """
    size, count = int(grid.limits[-1]), maps.num_maps
    weight, weight_y = (np.zeros((num_shards, count, size)) for _ in range(2))
    sums = np.zeros((num_shards, count, 5))
    sides = [_weights(grid, number) for number in range(len(grid.cells))]
    maps.center  # noqa: B018  # made once, before threads

    def one(k: int) -> None:
        for number, cell in enumerate(grid.cells):
            place = slice(*grid.limits[number : number + 2])
            for rows in _strips(cell):
                below, above = sides[number](rows)
                values, present = maps.lagged(k, rows, slice(cell.first_lag, cell.end_lag))
                centred = np.subtract(
                    values, maps.center[k], dtype=np.float64, where=present, out=np.zeros(values.shape)
                )
                shards = None
                if shard_of is not None:
                    i = np.arange(rows.start, rows.stop)[:, None]
                    j = np.minimum(i + np.arange(cell.first_lag, cell.end_lag), maps.num_frames - 1)
                    shards = shard_of(k, i, j)
                given = maps.lagged_weights(k, rows, slice(cell.first_lag, cell.end_lag), present)
                for m, w, y, total in _by_shard(present, centred, given, shards, num_shards, above):
                    weight[m, k, place] += _contracted(below, w)
                    weight_y[m, k, place] += _contracted(below, y)
                    sums[m, k] += total

    in_threads(one, range(count), workers, lambda done: progress(done, count))
    t1, t2 = grid.times
    gap = maps.gap_or_nan
    return [
        Nodes(t1, t2, weight[m], weight_y[m], sums[m], maps.center, maps.q, maps.phi, gap) for m in range(num_shards)
    ]


def _by_shard(
    present: Bool[AnyArray, "rows lags"],
    centred: Float[AnyArray, "rows lags"],
    weight: Float[AnyArray, "rows lags"] | None,
    shards: Int[AnyArray, "rows lags"] | None,
    num_shards: int,
    above: AnyArray,
) -> Iterator[tuple[int, AnyArray, AnyArray, AnyArray]]:
    """Weights and centred values of some rows, contracted along the lags, and sums over the data, by shard."""
    if shards is None:
        w, y = (present.astype(np.float64), centred) if weight is None else (weight, weight * centred)
        yield 0, _along(w, above), _along(y, above), pair_totals(int(np.count_nonzero(present)), centred, weight)
        return
    row, lag = np.nonzero(present & (shards >= 0))
    which, y = shards[row, lag], centred[row, lag]
    height, width = present.shape
    place = which.astype(np.int64) * height + row
    own, weighted = (np.ones(row.size), y) if weight is None else (weight[row, lag], weight[row, lag] * y)
    ones = csr_array((own, (place, lag)), shape=(num_shards * height, width))
    held = csr_array((weighted, (place, lag)), shape=ones.shape)
    counts, sums, squares = (np.bincount(which, x, num_shards) for x in (None, weighted, weighted * y))
    weights: AnyArray = counts
    logs: AnyArray = np.zeros(num_shards)
    if weight is not None:
        weights, logs = (np.bincount(which, x, num_shards) for x in (own, np.log(own)))
    if above.ndim == 3:  # the lag in s differs from row to row
        above = np.tile(above, (num_shards, 1, 1))
    w, wy = (
        _along(x, above).reshape(num_shards, height, -1)
        if above.ndim == 2
        else _along(x.toarray(), above).reshape(num_shards, height, -1)
        for x in (ones, held)
    )
    for m in np.flatnonzero(counts):
        yield int(m), w[m], wy[m], np.array([counts[m], weights[m], sums[m], squares[m], logs[m]])


def _along(values: AnyArray | csr_array, above: AnyArray) -> AnyArray:
    """Contraction of (rows, lags) with polynomials of the lag, (lags, b) or (rows, lags, b)."""
    return np.asarray(values @ above if above.ndim == 2 else np.einsum("rl,rlb->rb", values, above))


def _contracted(below: AnyArray, values: AnyArray) -> AnyArray:
    return (below.T @ values).ravel()


def _strips(cell: Cell) -> Iterator[slice]:
    for begin in range(cell.first_row, cell.end_row, _ROWS_AT_ONCE):
        yield slice(begin, min(begin + _ROWS_AT_ONCE, cell.end_row))


def _weights(grid: Grid, number: int) -> Callable[[slice], tuple[AnyArray, AnyArray]]:
    """Polynomials of t1 for some rows, (rows, a), and of the lag, (lags, b), or (rows, lags, b) where steps differ."""
    cell, t, (first, lag) = grid.cells[number], grid.t, grid.sides[number]
    lags = np.arange(cell.first_lag, cell.end_lag)
    shared = lagrange(lag, t[lags] - t[0]) if grid.uniform else None

    def of(rows: slice) -> tuple[AnyArray, AnyArray]:
        if lag.ndim == 2:  # every pair is a node
            return np.eye(first.size)[rows.start - cell.first_row : rows.stop - cell.first_row], np.eye(lags.size)
        below = lagrange(first, t[rows])
        if shared is not None:
            return below, shared
        later = np.minimum(np.arange(rows.start, rows.stop)[:, None] + lags, len(t) - 1)
        return below, lagrange(lag, t[later] - t[rows, None])

    return of


def lagrange(nodes: Float[AnyArray, "nodes"], x: Float[AnyArray, "*points"]) -> Float[AnyArray, "*points nodes"]:
    """Interpolation polynomials of some nodes at points x (...), (..., nodes), by the barycentric formula.

    (Berrut and Trefethen, SIAM Rev. 46, 501, 2004.)
    """
    if nodes.size == 1:
        return np.ones((*x.shape, 1))
    scaled = (nodes - nodes.mean()) / np.ptp(nodes)
    gap = scaled[:, None] - scaled
    np.fill_diagonal(gap, 1.0)
    barycentric = 1.0 / gap.prod(axis=1)
    away = (x[..., None] - nodes) / np.ptp(nodes)
    hit = np.abs(away) < 1e-12
    terms = barycentric / np.where(hit, 1.0, away)
    at_node = hit.any(axis=-1, keepdims=True)
    found = terms / np.where(at_node, 1.0, terms.sum(axis=-1, keepdims=True))
    return np.asarray(np.where(at_node, hit.astype(float), found))


def chebyshev(low: float, high: float, count: int) -> Float[AnyArray, "nodes"]:
    """Chebyshev points of the first kind between two ends, ascending."""
    angle = (2 * np.arange(count) + 1) * np.pi / (2 * count)
    return 0.5 * (low + high) - 0.5 * (high - low) * np.cos(angle)


def _few(cell: Cell, order: int, uniform: bool) -> bool:
    """Whether a cell is not interpolated: its rows and lags are nodes or, where steps differ, its pairs."""
    rows, lags = cell.end_row - cell.first_row, cell.end_lag - cell.first_lag
    return max(rows, lags) <= order if uniform else rows * lags <= order**2


def _sides(t: AnyArray, cell: Cell, order: int, uniform: bool) -> tuple[AnyArray, AnyArray]:
    """Nodes along t1 and along t2 - t1; frames themselves where there are few."""
    rows, lags = np.arange(cell.first_row, cell.end_row), np.arange(cell.first_lag, cell.end_lag)
    if uniform:
        first = t[rows] if rows.size <= order else chebyshev(t[rows[0]], t[rows[-1]], order)
        after = t[lags] - t[0]
        return first, after if lags.size <= order else chebyshev(after[0], after[-1], order)
    if _few(cell, order, uniform):
        later = np.minimum(rows[:, None] + lags, len(t) - 1)
        return t[rows], t[later] - t[rows, None]
    first = chebyshev(t[rows[0]], t[rows[-1]], order) if rows.size > 1 else t[rows]
    low, high = _lag_ends(t, cell)  # one lag of equal steps, in a record that has others too, needs one node
    return first, chebyshev(low, high, order) if high - low > _SAME * high else np.array([low])


def _looseness(cell: Cell, n: int) -> float:
    """Factor of the tolerance of a cell of a record of n frames."""
    ends = np.minimum(cell.end_lag, n - np.arange(cell.first_row, cell.end_row))
    share = np.maximum(ends - cell.first_lag, 0).sum() / (n * (n - 1) / 2)
    return min(float(1.0 / np.sqrt(_EQUAL_CELLS * max(share, 1e-12))), _LOOSEST)


def _lag_ends(t: AnyArray, cell: Cell) -> tuple[float, float]:
    """Shortest and longest time between frames of the pairs of a cell."""
    rows, last = np.arange(cell.first_row, cell.end_row), len(t) - 1
    shortest = t[np.minimum(rows + cell.first_lag, last)] - t[rows]
    longest = t[np.minimum(rows + cell.end_lag - 1, last)] - t[rows]
    return float(shortest[rows + cell.first_lag <= last].min()), float(longest.max())


def _clipped(n: int, cell: Cell) -> Cell | None:
    """Cut off rows and lags that the record does not have; None where nothing is left."""
    end_lag, end_row = min(cell.end_lag, n - cell.first_row), min(cell.end_row, n - cell.first_lag)
    if end_lag <= cell.first_lag or end_row <= cell.first_row:
        return None
    return Cell(cell.first_row, end_row, cell.first_lag, end_lag)


def _middle(t: AnyArray, first: int, end: int) -> int:
    """Row that halves an interval, by the geometric mean of the ages where these span a large factor."""
    if t[end - 1] < _SPREAD * t[first]:
        return (first + end) // 2
    return int(np.clip(np.searchsorted(t, np.sqrt(t[first] * t[end - 1])), first + 1, end - 1))


def _geometric(first: int, end: int) -> int:
    if end - 1 < _SPREAD * first:
        return (first + end) // 2
    return int(np.clip(round(np.sqrt(first * (end - 1.0))), first + 1, end - 1))


def _representative(model: CorrelationModel, params: dict[str, Values], maps: Maps) -> Int[AnyArray, "chosen"]:
    """Maps from the fastest to the slowest decay."""
    if maps.num_maps <= _REPRESENTATIVE:
        return np.resize(np.arange(maps.num_maps), _REPRESENTATIVE)
    n = maps.num_frames
    lags = np.unique(np.geomspace(1, n - 1, 12).astype(int))
    rows = np.linspace(0, n - 1 - lags, 5).astype(int)
    t1, t2 = maps.t[rows].ravel(), maps.t[rows + lags].ravel()
    gap = maps.gap_or_nan
    point = {name: float(np.ravel(value)[0]) for name, value in params.items()}
    g = np.asarray(_correlation(model, point, t1, t2, maps.q[:, None], maps.phi[:, None], gap))
    order = np.argsort(np.broadcast_to(g, (maps.num_maps, t1.size)).mean(axis=1))
    return np.asarray(order[np.linspace(0, maps.num_maps - 1, _REPRESENTATIVE).round().astype(int)])


@partial(compiled, static_argnums=(0,))
def _correlation(model: CorrelationModel, params: Params, *where: jax.Array) -> jax.Array:
    return model.g(params, *where)


def _errors(
    model: CorrelationModel,
    params: dict[str, Values],
    t: Ages,
    cells: Sequence[Cell],
    q: PerMap,
    phi: PerMap,
    gap: float,
    order: int,
) -> Float[AnyArray, "cells 2"]:
    """Largest errors of g and g² along rows and along lags, (cells, 2)."""
    corners = np.array([[t[c.first_row], t[c.end_row - 1], *_lag_ends(t, c)] for c in cells])
    more = -len(corners) % _CELLS_AT_ONCE
    corners = np.concatenate([corners, np.repeat(corners[-1:], more, axis=0)])
    found = [
        np.asarray(_cell_errors(model, order, params, corners[k : k + _CELLS_AT_ONCE], t[-1], (q, phi, gap)))
        for k in range(0, len(corners), _CELLS_AT_ONCE)
    ]
    return np.concatenate(found)[: len(cells)]


@partial(compiled, static_argnums=(0, 1))
def _cell_errors(
    model: CorrelationModel, order: int, params: Params, corners: jax.Array, last: jax.Array, waves: Sequence[jax.Array]
) -> Float[jax.Array, "cells 2"]:
    """As `_errors`, for a fixed number of cells given by the ends of t1 and of the lag in s."""
    (q, phi, gap), nodes = waves, chebyshev(-1.0, 1.0, order)
    between = np.concatenate([[-1.0], 0.5 * (nodes[1:] + nodes[:-1]), [1.0]])
    matrix = jnp.asarray(lagrange(nodes, between))

    def at(x: AnyArray, y: AnyArray) -> tuple[jax.Array, jax.Array]:
        """Correlation g on a grid of every cell, (P, maps, cells, x, y), and whether its points lie in the record."""
        low, high, short, long = (corners[:, k, None, None] for k in range(4))
        t1 = 0.5 * (low + high) + 0.5 * (high - low) * jnp.asarray(x)[:, None]
        t2 = t1 + 0.5 * (short + long) + 0.5 * (long - short) * jnp.asarray(y)[None, :]
        wide = q[:, None, None, None], phi[:, None, None, None]
        shape = jnp.broadcast_shapes(t2.shape, wide[0].shape)
        g = jax.vmap(lambda one: jnp.broadcast_to(model.g(one, t1, t2, *wide, gap), shape))(params)
        return g, t2 <= last * (1 + 1e-9)

    on_nodes, _ = at(nodes, nodes)
    rows, rows_inside = at(between, nodes)
    lags, lags_inside = at(nodes, between)

    def largest(exact: jax.Array, interpolated: jax.Array, inside: jax.Array) -> jax.Array:
        wrong = jnp.abs(exact - interpolated)
        wrong = jnp.where(jnp.isfinite(wrong), wrong, jnp.inf)
        return jnp.where(inside, wrong, 0.0).max(axis=(0, 1, 3, 4))

    errors = []
    for axis, exact, inside in ((3, rows, rows_inside), (4, lags, lags_inside)):
        found = [
            largest(exact**power, jnp.moveaxis(jnp.tensordot(matrix, on_nodes**power, (1, axis)), 0, axis), inside)
            for power in (1, 2)
        ]
        errors.append(jnp.maximum(*found))
    return jnp.stack(errors, axis=1)
