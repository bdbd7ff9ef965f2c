"""Sums of a smooth function over rectangles of a map, from few pairs of frames in each: `make_rule`.

Rows and columns of a rectangle have a few frames as nodes, near those of Gauss and Legendre, and weights with which the
sum of every polynomial through the nodes is exact, also where pairs are missing. A rectangle with few rows or columns
keeps them all. How much a polynomial of lower degree leaves at the nodes says whether they are enough.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.polynomial.legendre import leggauss, legvander

from homodyne.arrays import Ages, AnyArray

_NODES = 6  # rows or columns of a rectangle at which the function is evaluated
_LOWER = 4  # coefficients of the polynomial whose remainder is looked at
_PLACES = 0.5 + 0.5 * leggauss(_NODES)[0]


class Rule(NamedTuple):
    """Nodes of rectangles of a map: p rows and p columns of each.

    Attributes
    ----------
    cells : (c, 5) array
        Tile, first and last but one row, first and last but one column, as of `Tiling.cells`.
    used : (c, p, p) bool array
        Which nodes there are.
    first, second : (k,) arrays
        Frames of those.
    weights : (c, p, p) array
    left, right : (c, p, p) arrays
        What values along the rows, or columns, have beyond a polynomial of lower degree; zero where all are nodes.
    """

    cells: Int[AnyArray, "rectangles 5"]
    used: Bool[AnyArray, "rectangles places places"]
    first: Int[AnyArray, "nodes"]
    second: Int[AnyArray, "nodes"]
    weights: Float[AnyArray, "rectangles places places"]
    left: Float[AnyArray, "rectangles places places"]
    right: Float[AnyArray, "rectangles places places"]

    def sums(self, values: Float[AnyArray, "*functions nodes"], count: int) -> Float[AnyArray, "*functions tiles"]:
        """Sums (..., count) over the tiles of values (..., k) at the nodes."""
        owner = np.repeat(np.arange(len(self.cells)), self.used.sum(axis=(1, 2)))
        tile, weights = self.cells[owner, 0], self.weights[self.used]
        flat = values.reshape(-1, values.shape[-1])
        found = np.stack([np.bincount(tile, weights * x, count) for x in flat])
        return found.reshape((*values.shape[:-1], count))

    def errors(self, values: Float[AnyArray, "nodes"], count: int) -> Float[AnyArray, "tiles"]:
        """About how far the sums of values (k,) are off, (count,); in rare tiles it is up to six times as much."""
        full = np.zeros(self.used.shape)
        full[self.used] = values
        rest = self.left @ full
        rest += (full - rest) @ self.right
        return np.bincount(self.cells[:, 0], np.linalg.norm(self.weights * rest, axis=(1, 2)), count)

    def refined(self, tiles: Bool[AnyArray, "tiles"]) -> Int[AnyArray, "rectangles 5"]:
        """Rectangles of some tiles, each cut in four, or in two where rows or columns are all nodes."""
        halves = self.cells[tiles[self.cells[:, 0]]]
        for begin in (1, 3):
            low, high = halves[:, begin], halves[:, begin + 1]
            long, middle = high - low > _NODES, (low + high) // 2
            upper = halves[long].copy()
            upper[:, begin] = middle[long]
            halves[long, begin + 1] = middle[long]
            halves = np.concatenate([halves, upper])
        return halves


def make_rule(
    t: Ages, cells: Int[AnyArray, "rectangles 5"], present: Shaped[AnyArray, "frames frames"] | None = None
) -> Rule:
    """Nodes and weights of some rectangles, for frames of ages t and the pairs that are present.

    `present` (n, n) may also be numbers: sums are over them times the function.
    """
    limits, place = np.unique(cells[:, 1:].reshape(-1, 2), axis=0, return_inverse=True)
    rows, columns = place.reshape(-1, 2).T
    known = [_nodes(t[begin:end]) for begin, end in limits.tolist()]
    frames = limits[:, :1] + np.array([one.nodes for one in known])
    sums, rest = np.array([one.lagrange.sum(axis=0) for one in known]), np.array([one.rest for one in known])
    real = np.arange(_NODES) < (limits[:, 1] - limits[:, 0])[:, None]
    used = real[rows, :, None] & real[columns, None, :]
    first, second = (np.broadcast_to(x, used.shape)[used] for x in (frames[rows, :, None], frames[columns, None, :]))
    weights = sums[rows, :, None] * sums[columns, None, :]
    if present is not None:
        for k, (r0, r1, c0, c1) in enumerate(cells[:, 1:].tolist()):
            here = present[r0:r1, c0:c1]
            if not np.all(here == 1):
                weights[k] = known[rows[k]].lagrange.T @ here @ known[columns[k]].lagrange
    return Rule(cells, used, first, second, weights, rest[rows], rest[columns])


class _Nodes(NamedTuple):
    """Nodes of an interval of frames.

    Attributes
    ----------
    nodes : (p,) int array
        Counted from the first frame; of a short interval the last one is repeated.
    lagrange : (frames, p) array
        Polynomials that are one at a node and zero at the others.
    rest : (p, p) array
        What values at the nodes have beyond a polynomial of lower degree.
    """

    nodes: Int[AnyArray, "places"]
    lagrange: Float[AnyArray, "frames places"]
    rest: Float[AnyArray, "places places"]


def _nodes(t: Ages) -> _Nodes:
    if t.size <= _NODES:
        return _Nodes(np.minimum(np.arange(_NODES), t.size - 1), np.eye(t.size, _NODES), np.zeros((_NODES, _NODES)))
    nodes = (_PLACES * t.size).astype(int)
    powers = legvander((2 * t - t[0] - t[-1]) / (t[-1] - t[0]), _NODES - 1)
    basis, _ = np.linalg.qr(powers[nodes, :_LOWER])
    return _Nodes(nodes, np.linalg.solve(powers[nodes].T, powers.T).T, np.eye(_NODES) - basis @ basis.T)
