"""Correlation of the intensities between all frames of a record, from few evaluations of the model.

It is evaluated between some of the frames, and near the diagonal at every lag, and interpolated to the others. The
interpolation errs by less than a per cent of the contrast: enough for the size of the noise, not for the model itself.
Start with `make_grid`.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from homodyne.arrays import AnyArray
from homodyne.noise.tiles import Tiling

_NODES = 180  # steps between the frames where the correlation is evaluated, about
_NEAR = 3  # steps up to which every lag is evaluated
_WIDENING = 5  # frames from the beginning of the record, where ages vary fastest, for which a step grows by one


@dataclass(frozen=True, eq=False)
class CorrelationGrid:
    """Where the correlation is evaluated, and how that of all frames follows; see the module.

    Attributes
    ----------
    tiling : Tiling
    nodes : (c,) int array
        Frames, from the first to the last.
    reach : int
        Every lag up to this one is evaluated at the ages of the nodes; 0 where the nodes are all frames.
    """

    tiling: Tiling
    nodes: Int[AnyArray, "nodes"]
    reach: int

    @cached_property
    def pairs(self) -> tuple[Int[AnyArray, "pairs"], Int[AnyArray, "pairs"]]:
        """First and second frame of the pairs that are evaluated: of nodes, then those near the diagonal."""
        i, j = np.triu_indices(self.nodes.size, 1)
        lags = np.arange(1, self.reach + 1)
        first = np.minimum(self.nodes[:, None], self.tiling.num_frames - 1 - lags)
        ends = (np.concatenate(x) for x in ((self.nodes[i], first.ravel()), (self.nodes[j], (first + lags).ravel())))
        return next(ends), next(ends)

    def condensed(self, values: Float[AnyArray, "pairs"]) -> Float[AnyArray, "condensed condensed"]:
        """Symmetric matrix that is one on the diagonal, `values` at `pairs`, and as `Tiling.condensed` returns it."""
        c = self.nodes.size
        coarse, (i, j) = np.eye(c), np.triu_indices(c, 1)
        coarse[i, j] = coarse[j, i] = values[: i.size]
        found = self._condensed_nodes @ (self._condensed_nodes @ coarse).T
        if self.reach:
            first, share = self._place
            near = np.column_stack([np.ones(c), values[i.size :].reshape(c, -1)])
            exact = (1 - share[:, None]) * near[first] + share[:, None] * near[first + 1]
            places, elements = self._band
            more = (exact - self._interpolated_band(coarse)).ravel()[elements]
            found += np.bincount(places, more, found.size).reshape(found.shape)
        return np.asarray(found)

    @cached_property
    def _place(self) -> tuple[Int[AnyArray, "frames"], Float[AnyArray, "frames"]]:
        """For every frame the node before, and how far it is on the way to the next one."""
        frames = np.arange(self.tiling.num_frames)
        first = np.clip(np.searchsorted(self.nodes, frames, side="right") - 1, 0, self.nodes.size - 2)
        return first, (frames - self.nodes[first]) / np.diff(self.nodes)[first]

    @cached_property
    def _condensed_nodes(self) -> sparse.csr_array:
        """What each node contributes to the rows of a condensed matrix."""
        first, share = self._place
        weights, frames = np.zeros((share.size, self.nodes.size)), np.arange(share.size)
        weights[frames, first] = 1 - share
        weights[frames, first + 1] += share
        return sparse.csr_array(self.tiling.condensed_rows(weights))

    def _interpolated_band(self, coarse: Float[AnyArray, "nodes nodes"]) -> Float[AnyArray, "frames lags"]:
        """What nodes alone say of the elements (frame, frame + lag), lag from 0 to `reach`; the last ones repeat."""
        first, share = self._place
        i = np.arange(share.size)[:, None]
        j = np.minimum(i + np.arange(self.reach + 1), share.size - 1)
        a, b, u, v = first[i], first[j], share[i], share[j]
        low = (1 - v) * coarse[a, b] + v * coarse[a, b + 1]
        return np.asarray((1 - u) * low + u * ((1 - v) * coarse[a + 1, b] + v * coarse[a + 1, b + 1]))

    @cached_property
    def _band(self) -> tuple[AnyArray, AnyArray]:
        """Elements of a flat condensed matrix, and those of a flat band, (frame, lag), that belong to them."""
        n, single = self.tiling.num_frames, self.tiling.limits[0]
        own = np.full(n, -1)
        own[single] = np.arange(single.size)
        interval = single.size + np.searchsorted(self.tiling.limits[1], np.arange(n), side="right") - 1
        i, lag = (x.ravel() for x in np.indices((n, self.reach + 1)))
        j, size, found = i + lag, single.size + self.tiling.limits[1].size, []
        for first, second in ((own, own), (own, interval), (interval, own), (interval, interval)):
            for rows, columns, here in ((i, j, j < n), (j, i, (j < n) & (lag > 0))):
                element = np.flatnonzero(here)
                p, q = first[rows[element]], second[columns[element]]
                both = (p >= 0) & (q >= 0)
                found.append(np.stack([p * size + q, element])[:, both])
        places, elements = np.concatenate(found, axis=1)
        return places, elements


def make_grid(tiling: Tiling) -> CorrelationGrid:
    """Nodes a hundred and eightieth of the record apart, closer to each other at its beginning."""
    n = tiling.num_frames
    step = -(-n // _NODES)
    if step == 1:
        return CorrelationGrid(tiling, np.arange(n), 0)
    nodes = [0]
    while nodes[-1] < n - 1:
        nodes.append(min(nodes[-1] + min(step, 1 + nodes[-1] // _WIDENING), n - 1))
    return CorrelationGrid(tiling, np.array(nodes), _NEAR * step)
