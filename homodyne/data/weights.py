"""Weights of pairs of frames, as users give them: :func:`checked` and :func:`of_pairs`."""

import numpy as np
from numpy.typing import ArrayLike

from homodyne.arrays import AnyArray, as_array
from homodyne.data.checks import DUPLICATE_TOLERANCE, MapArray, require_memory
from homodyne.errors import DataError


def checked(name: str, values: ArrayLike) -> AnyArray:
    """Return weights after making sure that each is zero or a positive number of single precision.

    Raises
    ------
    DataError
        Masked, no real numbers, negative, NaN, infinite, or beyond single precision.
    """
    array = as_array(name, values)
    if array.dtype.kind not in "fiub":
        raise DataError(f"{name} has dtype {array.dtype}; expected real numbers, zero or positive.")
    with np.errstate(over="ignore", under="ignore"):
        kept = array.astype(np.float32)
    wrong = ~(array >= 0) | ~np.isfinite(kept) | ((kept == 0) & (array != 0))
    if wrong.any():
        raise DataError(
            f"{name} holds {array[wrong].flat[0]} ({np.count_nonzero(wrong)} such values); expected finite numbers, "
            "zero or positive, between 1e-38 and 1e38: a weight multiplies the precision of a pair, and zero leaves it "
            "out."
        )
    return array


def of_pairs(weights: ArrayLike | None, frame_weights: ArrayLike | None, num_maps: int, n: int) -> MapArray | None:
    """Weights of the pairs i < j of every map, (num_maps, n, n) float32; None where no weights are given.

    Parameters are those of `TwoTimeData.weighted`; weights of one map may be (1, n, n), too.

    Raises
    ------
    DataError
        As of `checked`; another shape; triangles that contradict each other.
    """
    if weights is None and frame_weights is None:
        return None
    given = np.ones((1, 1, 1), np.float32) if weights is None else checked("weights", weights)
    if weights is not None and given.shape not in ((n, n), (1, n, n), (num_maps, n, n)):
        raise DataError(
            f"weights has shape {given.shape}; expected {(num_maps, n, n)}, one for every pair of frames, or {(n, n)} "
            "for all maps alike."
        )
    of_frames = np.ones(n) if frame_weights is None else checked("frame_weights", frame_weights)
    if of_frames.shape != (n,):
        raise DataError(f"frame_weights has shape {of_frames.shape}; expected {(n,)}, one for every frame.")
    maps = given[None] if given.ndim == 2 else given
    require_memory(4 * len(maps) * n * n, "The weights of the pairs", "Give the weights of one map, or of frames.")
    product = of_frames[:, None] * of_frames.astype(np.float64)
    found = np.empty((len(maps), n, n), np.float32)
    for k, one in enumerate(maps):
        found[k] = checked("weights times frame_weights", _upper(one) * product)
    return np.broadcast_to(found, (num_maps, n, n))


def _upper(one: AnyArray) -> AnyArray:
    """Weights of one map with those of pairs i < j above the diagonal."""
    if not np.tril(one, -1).any() or np.allclose(one, one.T, rtol=DUPLICATE_TOLERANCE, atol=0):
        return one
    if not np.triu(one, 1).any():
        return one.T
    i, j = np.argwhere(~np.isclose(one, one.T, rtol=DUPLICATE_TOLERANCE, atol=0))[0]
    raise DataError(
        f"weights[{i}, {j}] = {one[i, j]} but weights[{j}, {i}] = {one[j, i]}; expected equal weights, because c2(t1, "
        "t2) and c2(t2, t1) are one measurement, or zeros in the whole of one triangle."
    )
