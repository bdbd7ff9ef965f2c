"""Means of a two-time map over tiles of age and lag, and their covariance under speckle noise.

A tile collects the pairs (i, j) of frames whose row lies in one interval of the record and whose column lies in the
second or third interval after it. Intervals have all lengths from one frame to a quarter of the record, so that tiles
have all lags, a factor of about 1.4 apart, and are the wider in age the longer the lag. With K the covariance of the
intensities of one pixel at two frames and N pixels, noise of two pairs has the covariance (K13 K24 + K14 K23)/N;
because a tile is made of rectangles of the map, that of two tiles follows from sums of K over pairs of intervals, and
no matrix with one row per pair of frames is ever formed. Start with `make_tiling`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped
from scipy import sparse

from homodyne.arrays import AnyArray, Map
from homodyne.errors import InputError

Condensed: TypeAlias = Float[AnyArray, "condensed condensed"]
OfTiles: TypeAlias = Float[AnyArray, "tiles tiles"]
Sums = list[list[AnyArray]]
"""Sums of a symmetric matrix over the intervals of two levels, the first one not below the second."""

BLOCKS = 8
"""Blocks of consecutive frames that no tile straddles with its rows or with its columns."""

MIN_FRAMES = 2 * BLOCKS
_MOST = 96  # pairs of intervals of one lag that are looked at; of more, evenly spaced ones
_DISTANT = ((1, 2, 3), (2, 3))  # intervals between rows and columns of a tile: of single frames, of longer ones
_SMALLEST = 0.25  # pairs of a tile that is kept, over those of the largest one at this lag
_STRIP = 128  # rows of a map that are read at once


@dataclass(frozen=True, eq=False)
class _Layer:
    """Pairs of intervals of a level, those that `rows` and `columns` name; from `starts[m]` on they are tile m."""

    rows: Int[AnyArray, "pairs"]
    columns: Int[AnyArray, "pairs"]
    starts: Int[AnyArray, "tiles"]

    @property
    def tile(self) -> Int[AnyArray, "pairs"]:
        """Tile of every pair, from 0."""
        return np.searchsorted(self.starts, np.arange(self.rows.size), side="right") - 1


@dataclass(frozen=True, eq=False)
class Tiling:
    """Tiles of maps with a given number of frames; see the module for what they are.

    Attributes
    ----------
    num_frames : int
    limits : tuple of arrays
        First frames of the intervals of every level, from single frames, some of them in long records, to quarters of
        the record.
    layers : tuple
        Tiles of every level.
    kept : (n,) bool array
        Which of all tiles are used; the others hold few pairs.
    family, first, second : (n_tiles,) int arrays
        Which lag the tile has, in ascending order, and blocks (of `BLOCKS`) of its rows and of its columns.
    """

    num_frames: int
    limits: tuple[Int[AnyArray, "_"], ...]
    layers: tuple[_Layer, ...]
    kept: Bool[AnyArray, "candidates"]
    family: Int[AnyArray, "tiles"]
    first: Int[AnyArray, "tiles"]
    second: Int[AnyArray, "tiles"]

    def sums(
        self, values: Real[AnyArray, "frames frames"], present: Shaped[AnyArray, "frames frames"] | None = None
    ) -> Float[AnyArray, "tiles"]:
        """Sum over the pairs of every tile that are present, (n_tiles,); only elements i < j of (n, n) arrays count."""
        maps = [self._reduced(values, present)]
        while len(maps) < len(self.limits) - 1:
            fine = maps[-1][::2] + maps[-1][1::2]
            maps.append(fine[:, ::2] + fine[:, 1::2])
        i, j = self.limits[0][self.layers[0].rows], self.limits[0][self.layers[0].columns]
        found = [values[i, j] if present is None else np.where(present[i, j], values[i, j], 0)]
        found += [one[layer.rows, layer.columns] for one, layer in zip(maps, self.layers[1:], strict=True)]
        return self._of_tiles(found)

    def _of_tiles(self, values: list[AnyArray]) -> AnyArray:
        """Sums over the tiles of values of all pairs of intervals, layer by layer."""
        parts = (np.add.reduceat(x, layer.starts, dtype=float) for x, layer in zip(values, self.layers, strict=True))
        return np.concatenate(list(parts))[self.kept]

    def _reduced(self, values: AnyArray, present: AnyArray | None) -> AnyArray:
        """Sums over pairs of the intervals of level 1, right above the diagonal."""
        limits = self.limits[1]
        bands = np.zeros((limits.size, self.num_frames))
        width = max(1, _STRIP * limits.size // self.num_frames)
        for k in range(0, limits.size, width):
            here = limits[k : k + width]
            begin, end = int(here[0]), int(limits[k + width]) if k + width < limits.size else self.num_frames
            part = values[begin:end, begin:]
            if present is not None:
                part = np.where(present[begin:end, begin:], part, 0)
            bands[k : k + width, begin:] = np.add.reduceat(part, here - begin, axis=0)
        return np.asarray(np.add.reduceat(bands, limits, axis=1))

    @cached_property
    def cells(self) -> Int[AnyArray, "rectangles 5"]:
        """Tile, first and last but one row, first and last but one column of every rectangle of the tiles, (n, 5)."""
        number, found, before = np.cumsum(self.kept) - 1, [], 0
        for layer, begin, end in zip(self.layers, self.limits, self._ends, strict=True):
            edges = (begin[layer.rows], end[layer.rows], begin[layer.columns], end[layer.columns])
            tile = before + layer.tile
            found.append(np.column_stack([number[tile], *edges])[self.kept[tile]])
            before += layer.starts.size
        return np.concatenate(found)

    @property
    def _ends(self) -> list[AnyArray]:
        """Frames after the last ones of the intervals."""
        ends = (np.append(begin[1:], self.num_frames) for begin in self.limits[1:])
        return [self.limits[0] + 1, *ends]

    @cached_property
    def pairs(self) -> Float[AnyArray, "tiles"]:
        """Number of pairs of every tile, (n_tiles,)."""
        tile, r0, r1, c0, c1 = self.cells.T
        return np.bincount(tile, (r1 - r0) * (c1 - c0), self.family.size)

    @cached_property
    def lags(self) -> Float[AnyArray, "families"]:
        """Mean lag of each family in frames, ascending."""
        tile, r0, r1, c0, c1 = self.cells.T
        pairs, count, family = (r1 - r0) * (c1 - c0), 1 + self.family.max(), self.family[tile]
        lag = 0.5 * (c0 + c1 - r0 - r1)
        return np.asarray(np.bincount(family, pairs * lag, count) / np.bincount(family, pairs, count))

    def covariance(self, kernel: Map) -> OfTiles:
        """Covariance of the means over all pairs of the tiles, times the number of pixels: (n_tiles, n_tiles).

        Parameters
        ----------
        kernel : (n, n) array
            Covariance of the intensities of a pixel at two frames; a multiple of the unit matrix makes all pairs
            of frames independent.
        """
        return self.covariance_of(self.condensed(kernel))

    def covariance_of(self, condensed: Condensed) -> OfTiles:
        """Covariance as of `covariance`, of a kernel that is `condensed`."""
        return self._of_sums(self._sums_of(condensed))

    def speckle_covariance(self, g: Condensed, field: Condensed, share: float, contrast: float) -> OfTiles:
        """Covariance of the means under speckle and counting noise, in units of the variance of a distant pair.

        That of normal variables with K = share g + (1 - share) δ, plus what the cumulants of the intensities add for
        lags below the correlation time, where bright spots have more counting noise: third and fourth cumulants of
        the sum of 1/contrast equal speckle modes (Goodman, Speckle Phenomena in Optics, 2007, ch. 3) seen through
        Poisson counts, less what dividing each frame by its mean takes away (to first order in 1/pixels). Factors
        that vary little within a tile stand before sums over it.

        Parameters
        ----------
        g, field : `condensed` arrays
            Correlation of the intensities, 1 on the diagonal, and its root.
        share, contrast : float
            As in `homodyne.noise.speckle_noise.SpeckleNoise`, >= 0.
        """
        shot, of_g, of_field = 1.0 - share, self._sums_of(g), self._sums_of(field)
        near = np.sqrt(np.clip(self._mean_of(of_g), 0.0, None))
        fields = self._of_sums(of_field)
        # pairs that share a frame
        cross = self.covariance_of(field + self._unit) - self.white - fields
        both, lean = np.outer(near, near), 2 * near / (1 + near**2)
        tilt = both**2 - both * (np.outer(near, lean) + np.outer(lean, near))
        cumulants = both * (2 * share**2 * fields + 2 * share * shot * cross + shot**2 * self.white)
        cumulants += 0.5 * share**2 * fields**2
        frames = share**2 * tilt * self._links(of_g) - share * shot * both**2 * self._linked
        normal = self.covariance_of(share * g + shot * self._unit)
        return np.asarray(normal + contrast * (cumulants + frames))

    @cached_property
    def white(self) -> OfTiles:
        """Covariance where all pairs are independent and have variance one."""
        return self.covariance_of(self._unit)

    @cached_property
    def _unit(self) -> AnyArray:
        return self.condensed(np.eye(self.num_frames))

    @cached_property
    def _linked(self) -> AnyArray:
        return self._links(self._sums_of(self._unit))

    def condensed(self, kernel: Map) -> Condensed:
        """A symmetric kernel (n, n) at the frames of level 0 and summed over the intervals of level 1: (k, k)."""
        return self.condensed_rows(self.condensed_rows(kernel).T).T

    def condensed_rows(self, values: Float[AnyArray, "frames ..."]) -> Float[AnyArray, "condensed ..."]:
        """Rows (n, ...) at the frames of level 0, followed by sums over the intervals of level 1."""
        return np.concatenate([values[self.limits[0]], np.add.reduceat(values, self.limits[1], axis=0)])

    def _sums_of(self, condensed: AnyArray) -> Sums:
        """Sums of a kernel over the intervals of every two levels."""
        rows = self._levels(condensed)
        return [[part.T for part in self._levels(one.T)[: a + 1]] for a, one in enumerate(rows)]

    def _levels(self, condensed: AnyArray) -> list[AnyArray]:
        """Sums over the rows of the intervals of every level."""
        found = list(np.split(condensed, [self.limits[0].size]))
        while len(found) < len(self.limits):
            found.append(found[-1][::2] + found[-1][1::2])
        return found

    def _of_sums(self, sums: Sums) -> AnyArray:
        """Covariance of the means, from sums over intervals."""

        def block(a: int, b: int) -> AnyArray:
            return _of_pairs(sums[a][b], self.layers[a], self.layers[b])

        return self._assembled(block)

    def _links(self, sums: Sums) -> AnyArray:
        """Mean of K13 + K14 + K23 + K24 over the pairs of two tiles."""
        return self._assembled(lambda a, b: (self._frames[b] @ (self._frames[a] @ sums[a][b]).T).T)

    @cached_property
    def _frames(self) -> list[sparse.csr_array]:
        """How many pairs of each tile have a given frame of an interval: (tiles, intervals) for every layer."""
        found = []
        for layer, begin, end in zip(self.layers, self.limits, self._ends, strict=True):
            size = end - begin
            places = np.tile(layer.tile, 2), np.concatenate([layer.rows, layer.columns])
            counts = np.concatenate([size[layer.columns], size[layer.rows]])
            found.append(sparse.csr_array((counts, places), shape=(layer.starts.size, size.size)))
        return found

    def _mean_of(self, sums: Sums) -> Float[AnyArray, "tiles"]:
        """Means over the tiles."""
        parts = [sums[a][a][layer.rows, layer.columns] for a, layer in enumerate(self.layers)]
        return np.asarray(self._of_tiles(parts) / self.pairs)

    def _assembled(self, block: Callable[[int, int], AnyArray]) -> AnyArray:
        """Symmetric matrix over the tiles, from sums over the pairs of two layers, divided by the numbers of pairs."""
        parts: list[list[AnyArray]] = [[] for _ in self.layers]
        for a in range(len(self.layers)):
            for b in range(a + 1):
                part = block(a, b)
                parts[a].append(part)
                if a != b:
                    parts[b].append(part.T)
        full = np.block(parts)[np.ix_(self.kept, self.kept)]
        return np.asarray(full / np.outer(self.pairs, self.pairs))


def make_tiling(num_frames: int, shortest: int | None = None) -> Tiling:
    """Cut a map of `num_frames` frames, at least `MIN_FRAMES`, into tiles.

    Parameters
    ----------
    num_frames : int
    shortest : int, optional
        Frames of the shortest map whose tiles are compared with these: both have the same families.

    Raises
    ------
    InputError
        Fewer frames.
    """
    shortest = num_frames if shortest is None else shortest
    if min(num_frames, shortest) < MIN_FRAMES:
        raise InputError(f"{min(num_frames, shortest)} frames are too few for tiles: expected at least {MIN_FRAMES}")
    count = 2 ** int(np.log2(shortest / 2))
    finest = np.round(np.linspace(0, num_frames, count + 1)).astype(np.int64)[:-1]
    single = np.arange(num_frames)
    used = single[single % -(-num_frames // _MOST) <= _DISTANT[0][-1]]
    limits = [used]
    while finest.size >= BLOCKS // 2:
        limits.append(finest)
        finest = finest[::2]
    edges = limits[1][:: count // BLOCKS]
    layers: list[_Layer] = []
    keys, kept, families = [], [], 0
    for level, begin in enumerate(limits):
        block = np.searchsorted(edges, begin, side="right") - 1
        parts: list[tuple[AnyArray, AnyArray, AnyArray]] = []
        for distance in _DISTANT[min(level, 1)]:
            total = begin.size if level else num_frames
            rows = np.arange(0, total - distance, -(-total // _MOST))
            rows, columns = (rows, rows + distance) if level else np.searchsorted(used, [rows, rows + distance])
            pair = block[rows] * BLOCKS + block[columns]
            first = np.flatnonzero(np.diff(pair, prepend=-1))
            size = np.diff(first, append=pair.size)
            kept.append(size >= _SMALLEST * size.max())
            keys.append(np.stack([np.full(first.size, families), *divmod(pair[first], BLOCKS)]))
            parts.append((rows, columns, first + sum(one[0].size for one in parts)))
            families += 1
        layers.append(_Layer(*(np.concatenate(x) for x in zip(*parts, strict=True))))
    keep = np.concatenate(kept)
    return Tiling(num_frames, tuple(limits), tuple(layers), keep, *np.concatenate(keys, axis=1)[:, keep])


def _of_pairs(kernel: AnyArray, one: _Layer, other: _Layer) -> AnyArray:
    """K13 K24 + K14 K23 summed over the pairs of frames in the tiles of two families."""
    first, second = kernel[one.rows], kernel[one.columns]
    products = first.take(other.rows, 1) * second.take(other.columns, 1)
    products += first.take(other.columns, 1) * second.take(other.rows, 1)
    return np.asarray(np.add.reduceat(np.add.reduceat(products, one.starts, axis=0), other.starts, axis=1))
