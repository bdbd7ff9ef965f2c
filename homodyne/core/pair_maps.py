"""The model of a block as whole maps, one angle at a time: correlation, derivatives, weights, residuals.

What the likelihood needs are sums over pairs, which it forms without a map. The covariance of the noise couples pairs
that share frames and needs products of maps; they are made here, from the curves and their derivatives per frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from homodyne.core.likelihood import Likelihood

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class PairMaps:
    """Symmetric maps (n, n) of one angle.

    Attributes
    ----------
    g : (n, n) array
        Model correlation, 1 on the diagonal.
    slopes : (d, n, n) array
        Derivatives of g along the directions that were asked for.
    weight : (n, n) array
        Weight of every pair of the block; 0 on the diagonal and where a pair is missing.
    values : (n, n) array
        c2; 0 where the weight is 0.
    """

    g: Array
    slopes: Array
    weight: Array
    values: Array


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
        phase = height[k] * strain
        d_phase = d_height[k] * strain[:, None] + height[k] * d_strain
        g, slopes = _correlation(decay, d_decay.T, phase, d_phase.T, likelihood.order)
        yield PairMaps(g, slopes, *_data(likelihood, k))


def _correlation(decay: Array, d_decay: Array, phase: Array, d_phase: Array, order: int) -> tuple[Array, Array]:
    """exp(-F) sinc(x)^(2 order) and its derivatives, from exponent and phase (n,) and theirs (d, n)."""
    apart = decay[None, :] - decay[:, None]
    x = phase[None, :] - phase[:, None]
    sinc = np.sinc(x / np.pi)
    damped = np.exp(-np.abs(apart)) * sinc ** (2 * order - 1)
    near = np.abs(x) < 1e-3
    slope = np.where(near, -x / 3, (np.cos(x) - sinc) / np.where(near, 1.0, x))
    g, turn = damped * sinc, 2 * order * damped * slope
    fall = -g * np.sign(np.subtract.outer(np.arange(len(decay)), np.arange(len(decay)))).T
    slopes = np.empty((len(d_decay), *g.shape))
    for out, u, v in zip(slopes, d_decay, d_phase, strict=True):
        np.multiply(fall, u[None, :] - u[:, None], out=out)
        if v.any():
            out += turn * (v[None, :] - v[:, None])
    return g, slopes


def _data(likelihood: Likelihood, angle: int) -> tuple[Array, Array]:
    """Weights and values of one angle as symmetric maps."""
    block = likelihood.slot.block
    here = block.angle_slice(angle)
    _, i, j = block.point_frames(np.arange(here.start, here.stop))
    weight = np.zeros((block.num_frames, block.num_frames))
    values = np.zeros_like(weight)
    weight[i, j] = weight[j, i] = 1.0 if block.weights is None else block.weights[here]
    values[i, j] = values[j, i] = block.values[here]
    return weight, values
