"""The model of a block as whole maps, one angle at a time: correlation, derivatives, weights, residuals.

What the likelihood needs are sums over pairs, which it forms without a map. The covariance of the noise couples pairs
that share frames and needs products of maps; they are made here, from the curves and their derivatives per frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from homodyne.core.likelihood import Likelihood
from homodyne.core.moments_numba import correlation_maps

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class PairMaps:
    """Symmetric maps (n, n) of one angle.

    Attributes
    ----------
    g : (n, n) array
        Model correlation, 1 on the diagonal.
    turn : (n, n) array
        Derivative of g by the phase difference; antisymmetric.
    weight : (n, n) array
        Weight of every pair of the block; 0 on the diagonal and where a pair is missing.
    values : (n, n) array
        c2; 0 where the weight is 0.
    decay : (n,) array
        Decay exponent of every frame.
    d_decay, d_phase : (d, n) arrays
        Derivatives of decay exponent and phase of every frame along the directions that were asked for.
    """

    g: Array
    turn: Array
    weight: Array
    values: Array
    decay: Array
    d_decay: Array
    d_phase: Array

    def design(self, rows: slice = slice(None)) -> Array:
        """Derivatives of c2 in some rows, (d + 2, rows, n): along the directions at contrast 1, offset, contrast."""
        first, last, _ = rows.indices(len(self.g))
        found = np.empty((len(self.d_decay) + 2, last - first, len(self.g)))
        _slopes(first, self.g, self.turn, self.d_decay, self.d_phase, found[:-2])
        found[-2], found[-1] = 1.0, self.g[rows]
        return found


@njit(fastmath=True, cache=True, nogil=True)
def _slopes(first, g, turn, d_decay, d_phase, out):  # type: ignore[no-untyped-def]
    """Set the derivatives (d, rows, n) of the rows from the first on."""
    for a in range(out.shape[0]):
        u, v = d_decay[a], d_phase[a]
        for i in range(first, first + out.shape[1]):
            row = out[a, i - first]
            for j in range(i):
                row[j] = g[i, j] * (u[j] - u[i]) + turn[i, j] * (v[j] - v[i])
            for j in range(i, row.size):
                row[j] = g[i, j] * (u[i] - u[j]) + turn[i, j] * (v[j] - v[i])


def strips(count: int, width: int = 32) -> Iterator[slice]:
    """Cut rows into strips; the maps of 32 rows stay in the cache."""
    return (slice(begin, min(begin + width, count)) for begin in range(0, count, width))


def pair_maps(likelihood: Likelihood, z: Array, directions: Array) -> Iterator[PairMaps]:
    """Maps of every angle of the block in the slot, under the curves of z.

    Parameters
    ----------
    likelihood : Likelihood
    z : (dim,) array
        Coordinates, inside the support.
    directions : (dim, d) array
        Columns along which g is differentiated.
    """
    at = likelihood.linearised(z)
    decay, height, strain = (np.asarray(curve) for curve in at.curves)
    d_decay, d_height, d_strain = (np.asarray(slope) @ directions for slope in at.slopes)
    for k in range(len(likelihood.phi)):
        d_phase = d_height[k] * strain[:, None] + height[k] * d_strain
        g, turn = correlation_maps(decay, (height[k : k + 1], strain), likelihood.order)
        curves = (np.ascontiguousarray(x.T) for x in (d_decay, d_phase))
        yield PairMaps(g, turn, *_data(likelihood, k), decay, *curves)


def _data(likelihood: Likelihood, angle: int) -> tuple[Array, Array]:
    """Weights and values of one angle as symmetric maps."""
    block = likelihood.slot.block
    here = block.angle_slice(angle)
    _, i, j = block.point_frames(np.arange(here.start, here.stop))
    found = []
    for points in (np.ones(1, np.float32) if block.weights is None else block.weights[here], block.values[here]):
        full = np.zeros((block.num_frames, block.num_frames), points.dtype)
        full[i, j] = full[j, i] = points
        found.append(full)
    return found[0], found[1]
