"""Means of a two-time map over tiles of age and lag, and their exact covariance under speckle noise.

A tile collects the pairs (i, j) of frames whose row lies in one interval of the record and whose column lies in the
second or third interval after it. Intervals have all lengths from one frame to a quarter of the record, so that tiles
have all lags, a factor of about 1.4 apart, and are the wider in age the longer the lag. With K the covariance of the
intensities of one pixel at two frames and N pixels, noise of two pairs has the covariance (K13 K24 + K14 K23)/N;
because a tile is a rectangle of the map, that of two tiles follows from sums of K over pairs of intervals, and no
matrix with one row per pair of frames is ever formed. Start with `make_tiling`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from homodyne.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

BLOCKS = 8
"""Blocks of consecutive frames that no tile straddles with its rows or with its columns."""

MIN_FRAMES = 2 * BLOCKS
_MOST = 256  # pairs of intervals of one lag that are looked at; of more, evenly spaced ones
_SMALLEST = 0.25  # pairs of a tile that is kept, over those of the largest one at this lag


@dataclass(frozen=True, eq=False)
class _Family:
    """Every `stride`-th pair (k, k + distance) of intervals of one level; those from `starts[m]` on are tile m."""

    level: int
    distance: int
    stride: int
    starts: Array

    def rows(self, values: Array) -> Array:
        """Entries of the first intervals of the pairs."""
        return values[: -self.distance : self.stride]

    def columns(self, values: Array) -> Array:
        """Entries of the second intervals of the pairs."""
        return values[self.distance :: self.stride]


@dataclass(frozen=True, eq=False)
class Tiling:
    """Tiles of maps with a given number of frames; see the module for what they are.

    Attributes
    ----------
    num_frames : int
    limits : tuple of arrays
        First frames of the intervals of every level, from single frames to quarters of the record.
    families : tuple
        Tiles of one level and distance, in ascending order of the lag.
    kept : (n,) bool array
        Which of all tiles are used; the others hold few pairs.
    family, first, second : (n_tiles,) int arrays
        Position of the tile's family, and blocks (of `BLOCKS`) of its rows and of its columns.
    """

    num_frames: int
    limits: tuple[Array, ...]
    families: tuple[_Family, ...]
    kept: Array
    family: Array
    first: Array
    second: Array

    def sums(self, values: Array) -> Array:
        """Sum over the pairs of every tile, (n_tiles,); only elements above the diagonal of `values` (n, n) count."""
        maps = [values, np.add.reduceat(np.add.reduceat(values, self.limits[1], 0), self.limits[1], 1)]
        while len(maps) < len(self.limits):
            fine = maps[-1][::2] + maps[-1][1::2]
            maps.append(fine[:, ::2] + fine[:, 1::2])
        parts = [np.add.reduceat(np.diagonal(maps[f.level], f.distance)[:: f.stride], f.starts) for f in self.families]
        return np.asarray(np.concatenate(parts)[self.kept])

    @cached_property
    def pairs(self) -> Array:
        """Number of pairs of every tile, (n_tiles,)."""
        return self.sums(np.ones((self.num_frames, self.num_frames)))

    @cached_property
    def lags(self) -> Array:
        """Mean lag of each family in frames, ascending."""
        frames = np.arange(self.num_frames, dtype=float)
        lag = self.sums(frames - frames[:, None])
        count = len(self.families)
        return np.asarray(np.bincount(self.family, lag, count) / np.bincount(self.family, self.pairs, count))

    def covariance(self, kernel: Array) -> Array:
        """Covariance of the means over all pairs of the tiles, times the number of pixels: (n_tiles, n_tiles).

        Parameters
        ----------
        kernel : (n, n) array
            Covariance of the intensities of a pixel at two frames; a multiple of the unit matrix makes all pairs
            of frames independent.
        """
        sums = [self._levels(rows.T) for rows in self._levels(kernel)]
        parts: list[list[Array]] = [[] for _ in self.families]
        for a, one in enumerate(self.families):
            for b, other in enumerate(self.families[: a + 1]):
                block = _of_pairs(sums[one.level][other.level].T, one, other)
                parts[a].append(block)
                if a != b:
                    parts[b].append(block.T)
        full = np.block(parts)[np.ix_(self.kept, self.kept)]
        return np.asarray(full / np.outer(self.pairs, self.pairs))

    def speckle_covariance(self, g: Array, share: float, contrast: float) -> Array:
        """Covariance of the means under speckle and counting noise, in units of the variance of a distant pair.

        That of normal variables with K = share g + (1 - share) δ, plus what the cumulants of the intensities add for
        lags below the correlation time, where bright spots have more counting noise: third and fourth cumulants of
        the sum of 1/contrast equal speckle modes (Goodman, Speckle Phenomena in Optics, 2007, ch. 3) seen through
        Poisson counts, less what dividing each frame by its mean takes away (to first order in 1/pixels). Factors
        that vary little within a tile stand before sums over it.

        Parameters
        ----------
        g : (n, n) array
            Correlation of the intensities, 1 on the diagonal.
        share, contrast : float
            As in `homodyne.noise.speckle_noise.SpeckleNoise`, >= 0.
        """
        shot, one, field = 1.0 - share, np.eye(self.num_frames), np.sqrt(np.abs(g))
        fields = self.covariance(field)
        cross = self.covariance(field + one) - self.white - fields  # pairs that share a frame
        near = np.sqrt(np.clip(self.sums(g) / self.pairs, 0.0, None))
        both, lean = np.outer(near, near), 2 * near / (1 + near**2)
        tilt = both**2 - both * (np.outer(near, lean) + np.outer(lean, near))
        cumulants = both * (2 * share**2 * fields + 2 * share * shot * cross + shot**2 * self.white)
        cumulants += 0.5 * share**2 * fields**2
        frames = share**2 * tilt * self._links(g) - share * shot * both**2 * self._linked
        return np.asarray(self.covariance(share * g + shot * one) + contrast * (cumulants + frames))

    @cached_property
    def white(self) -> Array:
        """Covariance where all pairs are independent and have variance one."""
        return self.covariance(np.eye(self.num_frames))

    @cached_property
    def _linked(self) -> Array:
        return self._links(np.eye(self.num_frames))

    def _links(self, kernel: Array) -> Array:
        """Mean of K13 + K14 + K23 + K24 over the pairs of two tiles."""
        return self.covariance(kernel + 1.0) - self.covariance(kernel) - 2.0

    def _levels(self, values: Array) -> list[Array]:
        """Sums over the rows of the intervals of every level."""
        found = [values, np.add.reduceat(values, self.limits[1], axis=0)]
        while len(found) < len(self.limits):
            found.append(found[-1][::2] + found[-1][1::2])
        return found


def make_tiling(num_frames: int) -> Tiling:
    """Cut a map of `num_frames` frames, at least `MIN_FRAMES`, into tiles.

    Raises
    ------
    InputError
        Fewer frames.
    """
    if num_frames < MIN_FRAMES:
        raise InputError(f"{num_frames} frames are too few for tiles: expected at least {MIN_FRAMES}")
    count = 2 ** int(np.log2(num_frames / 2))
    finest = np.round(np.linspace(0, num_frames, count + 1)).astype(np.int64)[:-1]
    limits = [np.arange(num_frames)]
    while finest.size >= BLOCKS // 2:
        limits.append(finest)
        finest = finest[::2]
    edges = limits[1][:: count // BLOCKS]
    families: list[_Family] = []
    keys, kept = [], []
    for level, starts in enumerate(limits):
        block = np.searchsorted(edges, starts, side="right") - 1
        for distance in (1, 2, 3) if level == 0 else (2, 3):
            stride = -(-starts.size // _MOST)
            pair = block[:-distance:stride] * BLOCKS + block[distance::stride]
            first = np.flatnonzero(np.diff(pair, prepend=-1))
            size = np.diff(first, append=pair.size)
            kept.append(size >= _SMALLEST * size.max())
            keys.append(np.stack([np.full(first.size, len(families)), *divmod(pair[first], BLOCKS)]))
            families.append(_Family(level, distance, stride, first))
    used = np.concatenate(kept)
    return Tiling(num_frames, tuple(limits), tuple(families), used, *np.concatenate(keys, axis=1)[:, used])


def _of_pairs(kernel: Array, one: _Family, other: _Family) -> Array:
    """K13 K24 + K14 K23 summed over the pairs of frames in the tiles of two families."""
    first, second = one.rows(kernel), one.columns(kernel)
    products = other.rows(first.T) * other.columns(second.T)
    products += other.columns(first.T) * other.rows(second.T)
    return np.asarray(np.add.reduceat(np.add.reduceat(products.T, one.starts, axis=0), other.starts, axis=1))
