"""The measured maps as the reduction reads them: pairs of frames (i, i + lag), in rectangles of rows and lags."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.lib.stride_tricks import as_strided

from homodyne.arrays import Ages, AnyArray, Map, PerMap
from homodyne.errors import DataError
from homodyne.mapping import intact

_SAMPLE = 200  # rows from which the centre of a map is taken
_UNIFORM = 1e-6  # relative deviation of the steps between frames that is none


@dataclass(frozen=True, eq=False)
class Maps:
    """Two-time maps with what belongs to them; nothing of it is copied.

    Attributes
    ----------
    values : n_maps arrays (n, n) float32
        c2; only pairs of frames i < j are read, NaN is a missing one. May be a memory map. Empty where the maps are
        elsewhere.
    alive : (n_maps, n) bool
        Frames that carry data.
    t : (n,) array
        Ages in s.
    q, phi : (n_maps,) arrays
    gap : float or None
    weights : n_maps arrays (n, n) float32, or None
        Weights of pairs i < j, about one, 0 where a pair is no data; None where all count alike.
    """

    values: Float[AnyArray, "maps frames frames"] | tuple[Map, ...]
    alive: Bool[AnyArray, "maps frames"]
    t: Ages
    q: PerMap
    phi: PerMap
    gap: float | None
    weights: tuple[Map, ...] | None = None

    @property
    def gap_or_nan(self) -> float:
        """Gap in Å, NaN where it is unknown, as models take it."""
        return np.nan if self.gap is None else self.gap

    @property
    def num_maps(self) -> int:
        """Number of maps."""
        return len(self.q)

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.t)

    @property
    def num_pairs(self) -> int:
        """Pairs of frames that carry data, of all maps."""
        good = np.count_nonzero(self.alive, axis=1)
        return int(np.sum(good * (good - 1) // 2))

    @cached_property
    def uniform(self) -> bool:
        """Whether frames follow each other in equal steps."""
        steps = np.diff(self.t)
        return bool(np.ptp(steps) <= _UNIFORM * steps.mean())

    @cached_property
    def center(self) -> PerMap:
        """Mean of some rows of every map, (n_maps,)."""
        found = np.empty(self.num_maps)
        for k in range(self.num_maps):
            alive = self.alive[k]
            frames = np.flatnonzero(alive)[:-1]
            rows = frames[:: max(1, len(frames) // _SAMPLE)]
            total = count = 0.0
            for i in rows:
                row = np.asarray(self.whole(k)[i, i + 1 :], dtype=np.float64)
                there = alive[i + 1 :] & np.isfinite(row)
                if self.weights is not None:
                    there &= self.weights[k][i, i + 1 :] > 0
                row = row[there]
                total, count = total + float(row.sum()), count + row.size
            if not count:
                raise DataError(f"the map at q = {self.q[k]:g}, phi = {self.phi[k]:g} degrees has no pair of frames")
            found[k] = total / count
        return found

    def whole(self, k: int) -> Map:
        """Map k, for reading at once: its file may be cut later."""
        return intact(self.values[k])

    def subset(self, which: Iterable[int], values: Iterable[AnyArray]) -> "Maps":
        """Some of the maps, with their values."""
        chosen = list(which)
        weights = None if self.weights is None else tuple(self.weights[k] for k in chosen)
        return Maps(tuple(values), self.alive[chosen], self.t, self.q[chosen], self.phi[chosen], self.gap, weights)

    def weights_at(self, i: Int[AnyArray, "pairs"], j: Int[AnyArray, "pairs"]) -> Float[AnyArray, "maps pairs"] | None:
        """Weights of pairs (i, j) of frames, i < j, of all maps, (n_maps, pairs); None where there are none."""
        if self.weights is None:
            return None
        return np.array([one[i, j] for one in self.weights], dtype=np.float64)

    def weights_among(self, k: int) -> Float[AnyArray, "alive alive"] | None:
        """Weights of map k between the frames that carry data, (m, m); None where there are none."""
        frames = np.flatnonzero(self.alive[k])
        if self.weights is None or frames.size == self.num_frames:
            return None if self.weights is None else self.weights[k]
        return np.asarray(self.weights[k][np.ix_(frames, frames)])

    def lagged(
        self, k: int, rows: slice, lags: slice
    ) -> tuple[Float[AnyArray, "rows lags"], Bool[AnyArray, "rows lags"]]:
        """Values of map k at frames (i, i + lag) and which of them are data, (rows, lags); 0 where they are not."""
        count, width, n = rows.stop - rows.start, lags.stop - lags.start, self.num_frames
        last = rows.stop - 1 + lags.stop - 1
        view = _by_lag(self.whole(k), rows, lags)
        here = as_strided(
            np.concatenate([self.alive[k], np.zeros(max(0, last + 1 - n), bool)])[rows.start + lags.start :],
            (count, width), (1, 1),
        )  # fmt: skip
        present = here & self.alive[k][rows, None]
        present &= np.isfinite(view)
        if self.weights is not None:
            present &= _by_lag(self.weights[k], rows, lags) > 0
        return np.where(present, view, 0.0), present

    def lagged_weights(
        self, k: int, rows: slice, lags: slice, present: Bool[AnyArray, "rows lags"]
    ) -> Float[AnyArray, "rows lags"] | None:
        """Weights of the pairs that `lagged` says are data, 0 elsewhere, (rows, lags); None where there are none."""
        if self.weights is None:
            return None
        return np.where(present, _by_lag(self.weights[k], rows, lags), np.float64(0.0))

    def rectangles(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        """Rectangles of rows and lags that together hold every pair of frames once."""
        n = self.num_frames
        for first in range(0, n - 1, height):
            for lag in range(1, n - first, width):
                yield slice(first, min(first + height, n - 1)), slice(lag, min(lag + width, n - first))


def _by_lag(one: Map, rows: slice, lags: slice) -> Float[AnyArray, "rows lags"]:
    """Elements (i, i + lag) of a map (n, n), (rows, lags); any number behind the last frame."""
    count, width, n = rows.stop - rows.start, lags.stop - lags.start, len(one)
    last_row, last = rows.stop - 1, rows.stop - 1 + lags.stop - 1
    down, across = one.strides
    if last < n or (abs(down) > across and last_row * n + last < n * n):  # behind a row the next one follows
        return as_strided(one[rows.start :, rows.start + lags.start :], (count, width), (down + across, across))
    i = np.arange(rows.start, rows.stop)[:, None]
    return np.asarray(one[i, np.minimum(i + np.arange(lags.start, lags.stop), n - 1)])
