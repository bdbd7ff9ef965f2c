"""Small subsets of a measurement that keep what decides a fit: every age, every lag scale, every angle."""

from typing import Any

import numpy as np

from homodyne.core.blocks import Block, block_from_maps

Array = np.ndarray[Any, np.dtype[Any]]


def thin_block(c2: Array, good: Array, points: int) -> Block:
    """Cut a block of about `points` pairs with rows spread over all ages and columns at all lags.

    Rows lie evenly over the usable frames; columns are the rows and, behind each, frames at lags that grow
    by half, so that a fast decay is seen as well as a slow one.

    Parameters
    ----------
    c2 : (n_phi, n, n) array
        Two-time maps.
    good : (n,) bool array
        Usable frames.
    points : int
        Number of pairs aimed at, over all angles; everything is taken when there are fewer.
    """
    frames = np.flatnonzero(good)
    n = frames.size
    if n * (n - 1) // 2 * len(c2) <= points:
        return block_from_maps(c2, rows=frames, columns=frames)
    lags = np.unique(np.round(1.5 ** np.arange(np.log(n) / np.log(1.5))).astype(np.int64))
    num_rows = 12
    while True:
        rows = np.unique(np.linspace(0, n - 2, num_rows).astype(np.int64))
        columns = np.unique(np.concatenate([rows, (rows[:, None] + lags[None, :]).ravel(), [n - 1]]))
        columns = columns[columns < n]
        if rows.size * columns.size * len(c2) >= 2 * points or num_rows >= n:
            return block_from_maps(c2, rows=frames[rows], columns=frames[columns])
        num_rows = num_rows * 5 // 4 + 1


def row_sample(c2: Array, good: Array, points: int) -> Block | None:
    """Cut a block of about `points` pairs: evenly spaced rows with all their columns.

    It tells of every parameter in the same proportion as all data do, so that its posterior is theirs, only wider.

    Parameters
    ----------
    c2, good : arrays
        As in `thin_block`.
    points : int
        Number of pairs aimed at, over all angles; None is returned when there are fewer than four times as many.
    """
    frames = np.flatnonzero(good)
    stride = frames.size * (frames.size - 1) // 2 * len(c2) // points
    return None if stride < 4 else block_from_maps(c2, rows=frames[stride // 2 :: stride], columns=frames)
