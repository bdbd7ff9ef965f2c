"""Blocks: which pairs of frames of which maps, stored the way the likelihood walks over them.

A `Block` is a list of *row segments*. A segment belongs to one angle and one row frame ``i`` and holds the
values at its column frames ``j > i`` in ascending order. Either the columns are a run of `col_frames` (a
rectangular sub-grid of the map: the whole data set, an interleaved shard, consecutive frames), or every
point carries its own column (any index set at all).

`block_from_maps` cuts a sub-grid out of maps, `block_from_points` takes any set of points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from homodyne.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]

_CHUNKS = 64  # units of work for the threads; fixed, so that sums do not depend on the number of threads


@dataclass(frozen=True, eq=False)
class Block:
    """Values of two-time maps at a set of pairs ``i < j``, row by row.

    Attributes
    ----------
    num_frames, num_angles : int
        Size of the frame axis and of the angle axis that the indices refer to.
    col_frames : (n_col,) int64, ascending
        Frames that occur as columns.
    angle, row : (n_seg,) int64
        Angle and row frame of each segment; segments are sorted by angle.
    start : (n_seg + 1,) int64
        Segment ``s`` owns the points ``start[s]:start[s + 1]``.
    first_col : (n_seg,) int64
        Position in `col_frames` of the first column of each segment; used when `columns` is None.
    columns : (n_points,) int32 or None
        Position in `col_frames` of each point, ascending inside a segment.
    values : (n_points,) float32
        c2 at the points; 0 where the weight is 0.
    weights : (n_points,) float32 or None
        Relative weights, Var = sigma^2 / w; 0 marks a missing pixel.  None stands for ones.
    chunks : (n_chunk + 1,) int64
        Limits of groups of segments with about equal numbers of points; without `columns`, of rows shared
        by all angles.
    """

    num_frames: int
    num_angles: int
    col_frames: Array
    angle: Array
    row: Array
    start: Array
    first_col: Array
    columns: Array | None
    values: Array
    weights: Array | None
    chunks: Array

    @property
    def points_per_angle(self) -> Array:
        """Number of points with weight, (num_angles,) int64."""
        return np.asarray(self.sums[:, 0].astype(np.int64))

    @property
    def num_points(self) -> int:
        """Number of points with weight over all angles."""
        return int(self.points_per_angle.sum())

    def angle_slice(self, angle: int) -> slice:
        """Points of one angle."""
        first, last = np.searchsorted(self.angle, [angle, angle + 1])
        return slice(int(self.start[first]), int(self.start[last]))

    @cached_property
    def sums(self) -> Array:
        """Sums over the data of every angle.

        Number of points, sum of weights, weighted mean, weighted sum of squares about it, sum of log weights.

        Returns
        -------
        (num_angles, 5) float64
        """
        table = np.zeros((self.num_angles, 5))
        for k in range(self.num_angles):
            here = self.angle_slice(k)
            y = self.values[here].astype(np.float64)
            if self.weights is not None:
                w = self.weights[here].astype(np.float64)
                y, w = y[w > 0], w[w > 0]
            else:
                w = np.ones(1)
            if y.size:
                total = float(np.sum(np.broadcast_to(w, y.shape)))
                mean = float(np.sum(w * y)) / total
                logs = float(np.sum(np.log(np.broadcast_to(w, y.shape)))) if w.size > 1 else 0.0
                table[k] = y.size, total, mean, float(np.sum(w * (y - mean) ** 2)), logs
        return table

    def point_frames(self, points: Array | None = None) -> tuple[Array, Array, Array]:
        """Angle, row frame and column frame of the points at ascending positions, of all by default: int64 arrays."""
        points = np.arange(self.values.size) if points is None else points
        segment = np.searchsorted(self.start, points, side="right") - 1
        column = (
            self.first_col[segment] + points - self.start[segment] if self.columns is None else self.columns[points]
        )
        return self.angle[segment], self.row[segment], self.col_frames[column]


def random_points(block: Block, count: int, rng: np.random.Generator) -> Block:
    """Draw about `count` points of a block without replacement, equally many of every angle."""
    share = -(-count // block.num_angles)
    chosen = []
    for here in map(block.angle_slice, range(block.num_angles)):
        size = here.stop - here.start
        chosen.append(here.start + np.sort(rng.choice(size, min(size, share), replace=False)))
    points = np.concatenate(chosen)
    weights = None if block.weights is None else block.weights[points]
    return block_from_points(
        block.num_frames, block.num_angles, *block.point_frames(points), block.values[points], weights
    )


def block_from_maps(
    c2: Array,
    *,
    rows: Sequence[int] | Array | None = None,
    columns: Sequence[int] | Array | None = None,
    weights: Array | None = None,
) -> Block:
    """Cut the pairs ``i < j`` with ``i`` in `rows` and ``j`` in `columns` out of maps.

    Parameters
    ----------
    c2 : (n_phi, n, n) float
        Two-time maps; only ``c2[:, i, j]`` with ``i < j`` is read.  NaN marks a missing pixel.
    rows, columns : ascending frame indices, optional
        All frames by default.  Bad frames are left out here.
    weights : (n_phi, n, n) float, optional
        Relative weights of the pixels, finite and not negative.

    Raises
    ------
    DataError
        When no pair is left, or a weight is negative or not finite.
    """
    n_phi, n, _ = c2.shape
    row_frames = np.arange(n) if rows is None else np.asarray(rows, dtype=np.int64)
    col_frames = np.arange(n) if columns is None else np.asarray(columns, dtype=np.int64)
    used = row_frames[:, None] < col_frames[None, :]
    per_angle = int(used.sum())
    if per_angle == 0:
        raise DataError("no pair of frames i < j is left: give at least two usable frames")
    per_row = used.sum(axis=1)
    keep = per_row > 0
    values = np.empty(n_phi * per_angle, dtype=np.float32)
    kept: list[Array] = []
    whole = rows is None and columns is None
    for k in range(n_phi):
        sub = c2[k] if whole else c2[k][np.ix_(row_frames, col_frames)]
        here = values[k * per_angle : (k + 1) * per_angle]
        here[:] = sub[used]
        found = np.isfinite(here)
        here[~found] = 0.0
        w = found.astype(np.float32)
        if weights is not None:
            given = weights[k] if whole else weights[k][np.ix_(row_frames, col_frames)]
            w *= given[used].astype(np.float32)
            if not (np.isfinite(w).all() and (w >= 0).all()):
                raise DataError(f"weights of angle {k} must be finite and not negative")
            here[w == 0] = 0.0
        kept.append(w if not np.all(w == 1) else np.empty(0, np.float32))
    all_weights = None
    if any(w.size for w in kept):
        all_weights = np.concatenate([w if w.size else np.ones(per_angle, np.float32) for w in kept])
    counts = np.tile(per_row[keep], n_phi)
    return _build(
        num_frames=n,
        num_angles=n_phi,
        col_frames=col_frames,
        angle=np.repeat(np.arange(n_phi), int(keep.sum())),
        row=np.tile(row_frames[keep], n_phi),
        counts=counts,
        first_col=np.tile(np.searchsorted(col_frames, row_frames[keep], side="right"), n_phi),
        columns=None,
        values=values,
        weights=all_weights,
    )


def block_from_points(
    num_frames: int, num_angles: int, angle: Array, i: Array, j: Array, values: Array, weights: Array | None = None
) -> Block:
    """Collect any set of points, each given by angle index, row frame ``i`` and column frame ``j > i``.

    Parameters
    ----------
    angle, i, j, values : (n_points,) arrays
        Order is free; it does not change the block.

    Raises
    ------
    DataError
        When a pair has ``i >= j``, lies outside the frame or angle axis, or is given twice.
    """
    if i.size == 0:
        raise DataError("no points: a block needs at least one pair of frames")
    if np.any(i >= j) or i.min() < 0 or j.max() >= num_frames or angle.min() < 0 or angle.max() >= num_angles:
        raise DataError(f"points must be pairs i < j of frames 0..{num_frames - 1} and angles 0..{num_angles - 1}")
    key = (angle.astype(np.int64) * num_frames + i) * num_frames + j
    order = np.argsort(key, kind="stable")
    key = key[order]
    if np.any(key[1:] == key[:-1]):
        raise DataError("the same pair of frames is given twice")
    segment_key = key // num_frames
    head = np.flatnonzero(np.concatenate([[True], segment_key[1:] != segment_key[:-1]]))
    sorted_values = values[order].astype(np.float32)
    sorted_weights = None if weights is None else weights[order].astype(np.float32)
    return _build(
        num_frames=num_frames,
        num_angles=num_angles,
        col_frames=np.arange(num_frames),
        angle=segment_key[head] // num_frames,
        row=segment_key[head] % num_frames,
        counts=np.diff(np.concatenate([head, [key.size]])),
        first_col=np.zeros(head.size, dtype=np.int64),
        columns=(key % num_frames).astype(np.int32),
        values=sorted_values,
        weights=sorted_weights,
    )


def _build(*, counts: Array, columns: Array | None, num_angles: int, **fields: Any) -> Block:
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    shared = start if columns is not None else start[: counts.size // num_angles + 1]
    even = np.searchsorted(shared, np.linspace(0, shared[-1], _CHUNKS + 1)[1:-1])
    chunks = np.unique(np.concatenate([[0], even, [shared.size - 1]])).astype(np.int64)
    return Block(start=start, columns=columns, num_angles=num_angles, chunks=chunks, **fields)
