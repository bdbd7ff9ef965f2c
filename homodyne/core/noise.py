"""The noise of a two-time map, as its residuals show it."""

from typing import Any

import numpy as np

from homodyne.core.blocks import Block

Array = np.ndarray[Any, np.dtype[Any]]

_MAD_TO_SD = 1.4826022185056018  # 1 / quantile(normal, 3/4)
_MOST = 100_000  # points per angle that the residuals are taken from


def robust_sigma(residual: Array) -> float:
    """Standard deviation of normal noise from the median absolute deviation; outliers hardly move it.

    Parameters
    ----------
    residual : (n_points,) array
        Data minus model.
    """
    return float(_MAD_TO_SD * np.median(np.abs(residual - np.median(residual))))


def residuals(
    block: Block, decay_exponent: Array, shear: tuple[Array, Array] | None, scaling: Array, order: int = 1
) -> list[Array]:
    """Data minus model of every angle, times the square root of the weight.

    At most a hundred thousand points per angle are taken, spread evenly over the block.

    Parameters
    ----------
    block : Block
    decay_exponent, shear : arrays
        Curves as in `homodyne.core.moments.moment_function`.
    scaling : (n_phi, 2) array
        Offset and contrast of every angle.
    order : 1 or 2
        Power of the shear factor.
    """
    parts = []
    for k in range(block.num_angles):
        here = block.angle_slice(k)
        stride = max(1, -(-(here.stop - here.start) // _MOST))
        points = np.arange(here.start, here.stop, stride)
        _, i, j = block.point_frames(points)
        g = np.exp(decay_exponent[i] - decay_exponent[j])
        if shear is not None:
            g *= np.sinc(shear[0][k] * (shear[1][j] - shear[1][i]) / np.pi) ** (2 * order)
        left = block.values[points] - scaling[k, 0] - scaling[k, 1] * g
        if block.weights is not None:
            weight = block.weights[points]
            left = (left * np.sqrt(weight))[weight > 0]
        parts.append(left)
    return parts
