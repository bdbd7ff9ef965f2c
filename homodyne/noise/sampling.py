"""What the noise and the tests of a fit need of the data of a map, taken in one look at it: `sampled`.

None of it depends on a model or on parameters, so a map is looked at once, where it lies, however often the noise is
estimated anew: its values at some pairs of frames, its sums over tiles, and where pairs are missing.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from homodyne.arrays import AnyArray, Map
from homodyne.noise.tiles import MIN_FRAMES, make_tiling

_ROWS = 200  # frames whose pairs the correlation of residuals is taken from
_WINDOWS, _WIDTH = 4, 100  # runs of consecutive frames that these pairs lead to, and their length
_NEIGHBOURS = 100  # rows of a map, and pairs in each, whose neighbours are looked at


@dataclass(frozen=True, eq=False)
class MapSample:
    """A part of the data of one map with n usable frames; frames are counted among these.

    Attributes
    ----------
    crossed : (rows, columns) array
        c2 at the pairs of `crossed_frames`; NaN where there is none.
    neighbours : (2, k) array
        c2 at `neighbour_pairs` and at the pairs (i, j + 1); NaN where missing.
    tiles, counts : (m,) arrays
        Sums of c2, times the root of its weight, over the pairs of every tile of `homodyne.noise.tiles`, and how many
        pairs these are; empty for less than `MIN_FRAMES` frames.
    missing : (r, 2) int array
        First and last but one of every run of missing pairs, in the order of (0, 1), (0, 2), ..., (1, 2), ....
    shortest : int
        Frames of the shortest map whose tiles are compared with these, see `homodyne.noise.tiles.make_tiling`.
    """

    crossed: Float[AnyArray, "rows columns"]
    neighbours: Float[AnyArray, "2 pairs"]
    tiles: Float[AnyArray, "tiles"]
    counts: Real[AnyArray, "tiles"]
    missing: Int[AnyArray, "runs 2"]
    shortest: int

    def present(self, n: int) -> Bool[AnyArray, "frames frames"] | None:
        """Which pairs i < j were measured, (n, n); None for all."""
        if not self.missing.size:
            return None
        steps = np.zeros(n * (n - 1) // 2 + 1, np.int8)
        steps[self.missing[:, 0]] = 1
        steps[self.missing[:, 1]] -= 1
        found = np.zeros((n, n), dtype=bool)
        found[np.triu_indices(n, 1)] = np.cumsum(steps[:-1], dtype=np.int8) == 0
        return found

    def row(self) -> Float[AnyArray, "numbers"]:
        """All of it in one array of float64."""
        parts = (self.crossed, self.neighbours, self.tiles, self.counts, self.missing)
        sizes = [*self.crossed.shape, *self.neighbours.shape, self.tiles.size, len(self.missing), self.shortest]
        return np.concatenate([sizes, *(part.ravel() for part in parts)], dtype=np.float64)

    @classmethod
    def of_row(cls, row: Float[AnyArray, "numbers"]) -> "MapSample":
        """Rebuild what `row` returned."""
        *shapes, tiles, runs, shortest = row[:7].astype(int).tolist()
        (a, b), (c, d) = shapes[:2], shapes[2:]
        crossed, neighbours, sums, counts, missing = np.split(row[7:], np.cumsum([a * b, c * d, tiles, tiles]))
        ends = missing.astype(np.int64).reshape(runs, 2)
        return cls(crossed.reshape(a, b), neighbours.reshape(c, d), sums, counts, ends, shortest)


def sampled(values: Map, shortest: int | None = None, weights: Map | None = None) -> MapSample:
    """Sample of a map.

    Parameters
    ----------
    values : (n, n) array
        c2 at the usable frames; only pairs i < j are read, NaN is a missing one.
    shortest : int, optional
        See `MapSample`; this one by default.
    weights : (n, n) array, optional
        Weights of pairs; those of weight zero are missing.
    """
    if weights is not None:
        values = np.where(weights > 0, values, np.float32(np.nan))
    n, missing = len(values), _missing(values)
    rows, columns = crossed_frames(n)
    crossed = _pairs(values, np.minimum(rows[:, None], columns), np.maximum(rows[:, None], columns))
    i, j = neighbour_pairs(n)
    neighbours = np.stack([_pairs(values, i, j), _pairs(values, i, j + 1)])
    sample = MapSample(crossed, neighbours, np.empty(0), np.empty(0), missing, shortest or n)
    if n < MIN_FRAMES:
        return sample
    tiling, present = make_tiling(n, shortest), sample.present(n)
    counts = tiling.pairs if present is None else tiling.sums(np.broadcast_to(np.float32(1), (n, n)), present)
    rooted = values if weights is None else np.sqrt(weights) * values
    return replace(sample, tiles=tiling.sums(rooted, present), counts=counts)


def crossed_frames(n: int) -> tuple[Int[AnyArray, "rows"], Int[AnyArray, "columns"]]:
    """Some frames of n, and some runs of consecutive frames: pairs of one with the other share frames."""
    starts = np.linspace(0, max(n - _WIDTH, 0), _WINDOWS).astype(int)
    return np.arange(0, n, max(1, n // _ROWS)), np.unique(np.minimum(starts[:, None] + np.arange(_WIDTH), n - 1))


def neighbour_pairs(n: int) -> Int[AnyArray, "2 pairs"]:
    """Frames (i, j) of pairs (2, k) evenly spread over the map, i < j < n - 1."""
    step = max(1, n // _NEIGHBOURS)
    i, j = (x.ravel() for x in np.meshgrid(np.arange(0, n - 2, step), np.arange(0, n - 2, step), indexing="ij"))
    j = j + i % step + 1 if step > 1 else j + 1
    here = (j > i) & (j < n - 1)
    return np.stack([i[here], j[here]])


def _pairs(values: AnyArray, i: AnyArray, j: AnyArray) -> AnyArray:
    """Values at pairs i < j; NaN at others and where they are not finite."""
    found = np.asarray(values[i, j], dtype=np.float64)
    return np.where((i < j) & np.isfinite(found), found, np.nan)


def _missing(values: Map) -> Int[AnyArray, "runs 2"]:
    """Runs of missing pairs, see `MapSample`."""
    n, found, before = len(values), [np.empty((0, 2), np.int64)], 0
    for i in range(n - 1):
        absent = ~np.isfinite(values[i, i + 1 :])
        if absent.any():
            ends = np.flatnonzero(np.diff(absent, prepend=False, append=False))
            found.append(before + ends.reshape(-1, 2))
        before += n - 1 - i
    return np.concatenate(found)
