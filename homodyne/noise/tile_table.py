"""Maps condensed to means over tiles, one angle after the other, and generalised least squares on them.

`tile_table` makes the tiles of a fit in one pass over the maps, with their derivatives and covariances. `remainder`
is what the parameters leave of their sum of squares; for a model that is right it has a chi-square distribution, and
so has its drop when further columns are allowed (Seber and Lee, Linear Regression Analysis, 2003, ch. 4). Because the
parameters take a step of their own, it does not matter how they were estimated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from homodyne.core.likelihood import Likelihood
from homodyne.core.pair_maps import pair_maps
from homodyne.noise.speckle_noise import SpeckleNoise
from homodyne.core.tiles import BLOCKS, Tiling, make_tiling

Array = np.ndarray[Any, np.dtype[Any]]
Columns = Callable[["AngleTiles", int], Array]
"""Columns (m, k) for the tiles of an angle, given its position too."""

_NOISELESS = 1e-10  # share of the largest variance that counts as none
_RANK = 1e-6  # columns of length one count as combinations of others when no more than this is left of them


@dataclass(frozen=True, eq=False)
class AngleTiles:
    """Means over those tiles of one angle of which half or more was measured.

    Attributes
    ----------
    contrast : float
    family, first, second : (m,) int arrays
        As in `Tiling`.
    mean : (m,) array
        Data minus model.
    slopes : (m, dim) array
        Derivatives of the model along the coordinates.
    g : (m,) array
        Model correlation.
    speckle, independent : (m, m) arrays
        Covariance of the mean with either noise.
    neighbours : (3,) array
        Correlation of residuals next to each other in a row: measured, as speckle has it, error of the first; or NaN.
    """

    contrast: float
    family: Array
    first: Array
    second: Array
    mean: Array
    slopes: Array
    g: Array
    speckle: Array
    independent: Array
    neighbours: Array

    @cached_property
    def whitening(self) -> dict[str, Array]:
        """Matrices that make the noise of the means white, by kind of noise."""
        return {noise: _whitening(getattr(self, noise)) for noise in ("speckle", "independent")}

    def subset(self, keep: Array) -> "AngleTiles":
        """Some of the tiles."""
        two, rows = np.ix_(keep, keep), ("family", "first", "second", "mean", "slopes", "g")
        some = {name: getattr(self, name)[keep] for name in rows}
        return replace(self, speckle=self.speckle[two], independent=self.independent[two], **some)


def tile_table(
    likelihood: Likelihood, z: Array, scaling: Array, noise: SpeckleNoise
) -> tuple[Tiling, list[AngleTiles]]:
    """Tiles of every angle, at coordinates z (dim,) and offset and contrast `scaling` (n_phi, 2)."""
    frames = likelihood.slot.block.col_frames
    whole = frames.size == likelihood.slot.block.num_frames
    square, tiling = ... if whole else np.ix_(frames, frames), make_tiling(frames.size)
    table = []
    for k, maps in enumerate(pair_maps(likelihood, z, np.eye(likelihood.space.dim))):
        offset, contrast = (float(x) for x in scaling[k])
        g, weight = maps.g[square], (maps.weight[square] > 0).astype(float)
        residual = weight * (maps.values[square] - offset - contrast * g)
        present = tiling.sums(weight)
        use = np.flatnonzero(present >= tiling.pairs / 2)
        scaled = contrast * weight
        columns = (residual, weight * g, *(scaled * slope[square] for slope in maps.design()[:-2]))
        mean, g_mean, *slopes = (tiling.sums(column)[use] / present[use] for column in columns)
        share, two = float(noise.share[k]), np.ix_(use, use)
        speckle = tiling.speckle_covariance(g, share, max(contrast, 0.0))[two]
        place = (tiling.family[use], tiling.first[use], tiling.second[use])
        rows = _neighbours(residual, weight, g, share)
        both = (noise.variance[k] * speckle, noise.variance[k] * tiling.white[two])
        table.append(AngleTiles(contrast, *place, mean, np.stack(slopes, 1), g_mean, *both, rows))
    return tiling, table


def scaling_columns(one: AngleTiles) -> Array:
    """Derivatives with respect to offset and contrast."""
    return np.stack([np.ones_like(one.g), one.g], axis=1)


def _none(one: AngleTiles, k: int) -> Array:
    return np.empty((one.mean.size, 0))


def remainder(
    table: Sequence[AngleTiles], noise: str, shared: Columns = _none, local: Columns = _none
) -> tuple[float, int]:
    """Sum of squares that is left, and its degrees of freedom, after all parameters and the given columns took a step.

    Columns of `shared` have one coefficient for all angles, those of `local` one for each.
    """
    designs, targets, freedom = [], [], 0
    for k, one in enumerate(table):
        columns = (scaling_columns(one), local(one, k), one.slopes, shared(one, k))
        size = columns[0].shape[1] + columns[1].shape[1]
        white = one.whitening[noise] @ np.concatenate([one.mean[:, None], *columns], axis=1)
        basis = _basis(_unit(white[:, 1 : 1 + size]))
        freedom += white.shape[0] - basis.shape[1]
        targets.append(white[:, 0] - basis @ (basis.T @ white[:, 0]))
        designs.append((white[:, 1 + size :], basis))
    scale = np.sqrt(sum(np.sum(design**2, axis=0) for design, _ in designs))
    scale[scale == 0] = 1.0
    design = np.concatenate([(x - b @ (b.T @ x)) / scale for x, b in designs])
    y, basis = np.concatenate(targets), _basis(design)
    return float(y @ y - np.sum((basis.T @ y) ** 2)), freedom - basis.shape[1]


def drop_test(small: tuple[float, int], large: tuple[float, int]) -> dict[str, float]:
    """Drop of the sum of squares from few columns to more, with its degrees of freedom and its p-value."""
    from scipy.stats import chi2

    drop, freedom = small[0] - large[0], small[1] - large[1]
    return {"chi2": drop, "dof": freedom, "p": float(chi2.sf(drop, freedom)) if freedom > 0 else 1.0}


def _whitening(covariance: Array) -> Array:
    """Inverse root of a covariance; directions without noise, to rounding, are left out."""
    values, vectors = np.linalg.eigh(covariance)
    noisy = values > _NOISELESS * values.max(initial=0.0)
    return np.asarray((vectors[:, noisy] / np.sqrt(values[noisy])).T)


def _unit(columns: Array) -> Array:
    """Columns of length one; zero ones stay."""
    length = np.linalg.norm(columns, axis=0)
    return np.asarray(columns / np.where(length > 0, length, 1.0))


def _basis(columns: Array) -> Array:
    """Orthonormal basis of what the columns, of length about one, span."""
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, singular > _RANK])


def _neighbours(residual: Array, weight: Array, g: Array, share: float) -> Array:
    """Correlation of residuals next to each other in a row: measured, expected, standard error over blocks of rows.

    NaN where no two neighbours were measured.
    """
    upper = np.triu(weight, 1)
    left, right = upper[:, :-1] * residual[:, :-1], upper[:, 1:] * residual[:, 1:]
    next_g, both = share * np.diagonal(g, 1), upper[:, :-1] * upper[:, 1:]
    if not both.any():
        return np.full(3, np.nan)
    product = (left * right).sum(axis=1)
    square = 0.5 * ((left**2 + right**2) * both).sum(axis=1)
    expected = (both * (next_g + share**2 * g[:, :-1] * g[:, 1:])).sum() / (both * (1 + share**2 * g[:, 1:] ** 2)).sum()
    measured = product.sum() / square.sum()
    scatter = [part.sum() for part in np.array_split(product - measured * square, BLOCKS)]
    return np.array([measured, expected, np.linalg.norm(scatter) / square.sum()])
