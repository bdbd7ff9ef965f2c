"""Maps condensed to means over tiles, one after the other, and generalised least squares on them.

`tile_table` makes the tiles of a fit in one pass over the maps, with their derivatives and covariances. `remainder`
is what the parameters leave of their sum of squares; for a model that is right it has a chi-square distribution, and
so has its drop when further columns are allowed (Seber and Lee, Linear Regression Analysis, 2003, ch. 4). Because the
parameters take a step of their own, it does not matter how they were estimated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular
from scipy.special import chdtrc

from homodyne.arrays import Ages, AnyArray
from homodyne.noise.correlation import CorrelationGrid, make_grid
from homodyne.noise.map_view import MapView
from homodyne.noise.quadrature import Rule, make_rule
from homodyne.noise.sampling import neighbour_pairs
from homodyne.noise.speckle_noise import SpeckleNoise
from homodyne.noise.tiles import BLOCKS, MIN_FRAMES, Tiling, make_tiling
from homodyne.noise.traces import evaluated
from homodyne.threads import in_threads

Columns = Callable[["MapTiles", int], Float[AnyArray, "tiles columns"]]
"""Columns for the tiles of a map, given its position too."""

_NOISELESS = 1e-10  # share of the largest variance that counts as none
_RANK = 1e-6  # columns of length one count as combinations of others when no more than this is left of them
_EXACT = 0.1  # standard deviations of a mean by which that of the model may be off


@dataclass(frozen=True, eq=False)
class MapTiles:
    """Means over those tiles of one map of which half or more was measured, pairs counted by the root of their weight.

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
    scaling : (2, k) array
        As in `MapView`.
    """

    contrast: float
    family: Int[AnyArray, "tiles"]
    first: Int[AnyArray, "tiles"]
    second: Int[AnyArray, "tiles"]
    mean: Float[AnyArray, "tiles"]
    slopes: Float[AnyArray, "tiles coordinates"]
    g: Float[AnyArray, "tiles"]
    speckle: Float[AnyArray, "tiles tiles"]
    independent: Float[AnyArray, "tiles tiles"]
    neighbours: Float[AnyArray, "3"]
    scaling: Float[AnyArray, "2 determined"] = field(default_factory=lambda: np.eye(2))

    def whitening(self, noise: str) -> Float[AnyArray, "white tiles"]:
        """Matrix that makes one kind of noise of the means white."""
        return self._of_speckle if noise == "speckle" else self._of_independent

    @cached_property
    def _of_speckle(self) -> AnyArray:
        return _whitening(self.speckle)

    @cached_property
    def _of_independent(self) -> AnyArray:
        return _whitening(self.independent)

    def subset(self, keep: Int[AnyArray, "chosen"]) -> "MapTiles":
        """Some of the tiles."""
        two, rows = np.ix_(keep, keep), ("family", "first", "second", "mean", "slopes", "g")
        some = {name: getattr(self, name)[keep] for name in rows}
        return replace(self, speckle=self.speckle[two], independent=self.independent[two], **some)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What maps with the same ages share: tiles, and the pairs of frames at which their models are evaluated."""

    grid: CorrelationGrid
    rule: Rule

    @property
    def tiling(self) -> Tiling:
        return self.grid.tiling


def tile_table(views: Sequence[MapView], noise: SpeckleNoise) -> tuple[Float[AnyArray, "families"], list[MapTiles]]:
    """Lags of the families of tiles in s, and tiles of every map; maps of less than `MIN_FRAMES` frames have none."""
    long = [view for view in views if view.t.size >= MIN_FRAMES]
    if not long:
        return np.empty(0), [_none_of(view) for view in views]
    (shortest,) = {view.sample.shortest for view in long}  # otherwise tiles have different lags
    ages = [view.t for view in long]
    plans = {key: _plan(t, shortest) for key, t in {t.tobytes(): t for t in ages}.items()}

    def one(k: int) -> MapTiles:
        view, plan = views[k], plans.get(views[k].t.tobytes())
        if plan is None:
            return _none_of(view)
        return _map_tiles(view, plan, float(noise.share[k]), float(noise.variance[k]))

    step = (ages[0][-1] - ages[0][0]) / (ages[0].size - 1)
    return step * plans[ages[0].tobytes()].tiling.lags, in_threads(one, range(len(views)))


def _plan(t: Ages, shortest: int) -> _Plan:
    tiling = make_tiling(t.size, shortest)
    return _Plan(make_grid(tiling), make_rule(t, tiling.cells))


def _none_of(view: MapView) -> MapTiles:
    """No tiles, of a map with too few frames."""
    dim = len(view.design(view.t[:1], view.t[:1])) - 2
    none, places, square = np.empty(0), np.empty(0, dtype=int), np.empty((0, 0))
    slopes, unknown = np.empty((0, dim)), np.full(3, np.nan)
    return MapTiles(view.contrast, places, places, places, none, slopes, none, square, square, unknown)


def _map_tiles(view: MapView, plan: _Plan, share: float, variance: float) -> MapTiles:
    """Tiles of one map."""
    tiling, t = plan.tiling, view.t
    present = view.roots
    rule = plan.rule if present is None else make_rule(t, tiling.cells, present)
    rows = neighbour_pairs(t.size)
    places = (plan.grid.pairs, (rule.first, rule.second), (rows[0], rows[1]), (rows[0], rows[1] + 1))
    parts = [np.concatenate(x) for x in zip(*places, strict=True)]
    design = evaluated(view.design, t[parts[0]], t[parts[1]])
    correlated, at_nodes, left, right = np.split(design, np.cumsum([x[0].size for x in places])[:-1], axis=1)
    g, intensities = view.resting + (1.0 - view.resting) * correlated[-1], view.as_intensities()
    correlations = plan.grid.condensed(g), plan.grid.condensed(np.sqrt(np.abs(g)))
    speckle = tiling.speckle_covariance(*correlations, share, max(intensities.contrast, 0.0))
    beside = [view.resting + (1.0 - view.resting) * x[-1] for x in (left, right)]
    counts = view.sample.counts
    use = np.flatnonzero(counts >= tiling.pairs / 2)
    exact = _EXACT * np.sqrt(variance * np.diag(speckle)) / max(abs(view.contrast), 1e-300)
    sums = _model_sums(view, rule, present, at_nodes, exact * np.maximum(counts, 1))
    level = np.ones(use.size) if view.weights is None else sums[-2, use] / counts[use]
    means = np.concatenate([view.sample.tiles[None], sums])[:, use] / (counts[use] * level)
    two, levels = np.ix_(use, use), np.outer(level, level)
    return MapTiles(
        contrast=view.contrast,
        family=tiling.family[use],
        first=tiling.first[use],
        second=tiling.second[use],
        mean=means[0] - view.offset - view.contrast * means[-1],
        slopes=view.contrast * means[1:-2].T,
        g=means[-1],
        speckle=variance * speckle[two] / levels,
        independent=variance * tiling.white[two] / levels,
        neighbours=_neighbours(intensities, rows, beside[0], beside[1], share),
        scaling=view.scaling,
    )


def _model_sums(view: MapView, rule: Rule, present: AnyArray | None, values: AnyArray, exact: AnyArray) -> AnyArray:
    """Sums (D, tiles) of the design, from its values at the nodes; those of g are right to `exact` (tiles,)."""
    count = exact.size
    sums = rule.sums(values, count)
    rough = rule.errors(values[-1], count) > exact
    while rough.any():
        rule = make_rule(view.t, rule.refined(rough), present)
        values = evaluated(view.design, view.t[rule.first], view.t[rule.second])
        sums[:, rough] = rule.sums(values, count)[:, rough]
        rough = rule.errors(values[-1], count) > exact
    return sums


def _neighbours(view: MapView, rows: AnyArray, left: AnyArray, right: AnyArray, share: float) -> AnyArray:
    """Correlation of residuals next to each other in a row: measured, expected, standard error over blocks of rows.

    NaN where no two neighbours were measured. `left` and `right` are the model correlation at the pairs and at their
    neighbours.
    """
    both = np.isfinite(view.sample.neighbours).all(axis=0)
    if not both.any():
        return np.full(3, np.nan)
    (i, j), left, right = rows[:, both], left[both], right[both]
    one, other = view.sample.neighbours[:, both] - view.offset - view.contrast * np.stack([left, right])
    one, other = view.whitened(one, i, j), view.whitened(other, i, j + 1)
    next_g = evaluated(view.correlation, view.t[np.unique(j)], view.t[np.unique(j) + 1])
    next_g = share * next_g[np.searchsorted(np.unique(j), j)]
    expected = np.sum(next_g + share**2 * left * right) / np.sum(1 + share**2 * right**2)
    product, square = one * other, 0.5 * (one**2 + other**2)
    measured = product.sum() / square.sum()
    scatter = np.bincount(i * BLOCKS // view.t.size, product - measured * square)
    return np.array([measured, expected, np.linalg.norm(scatter) / square.sum()])


def scaling_columns(one: MapTiles) -> Float[AnyArray, "tiles determined"]:
    """Derivatives with respect to what the data determine of offset and contrast."""
    return np.asarray(np.stack([np.ones_like(one.g), one.g], axis=1) @ one.scaling)


def _none(one: MapTiles, k: int) -> AnyArray:
    return np.empty((one.mean.size, 0))


@dataclass(frozen=True, eq=False)
class Reduced:
    """Least squares of one map once the columns with coefficients of its own took a step.

    Attributes
    ----------
    triangle : (k, 1 + c) array
        Has the same sums of squares and products as the whitened mean and shared columns, after that step.
    squares : (c,) array
        Sums of squares of the shared columns before it.
    freedom : int
        Rows that are left.
    """

    triangle: Float[AnyArray, "rows columns"]
    squares: Float[AnyArray, "shared"]
    freedom: int


def reduced(table: Sequence[MapTiles], noise: str, shared: Columns = _none, local: Columns = _none) -> list[Reduced]:
    """Every map by itself; its shared columns are the slopes, followed by those given."""

    def one(k: int) -> Reduced:
        tiles = table[k]
        columns = (scaling_columns(tiles), local(tiles, k), tiles.slopes, shared(tiles, k))
        own = columns[0].shape[1] + columns[1].shape[1]
        white = tiles.whitening(noise) @ np.concatenate([tiles.mean[:, None], *columns], axis=1)
        basis = _basis(_unit(white[:, 1 : 1 + own]))
        rest = np.delete(white, slice(1, 1 + own), axis=1)
        squares = np.sum(rest[:, 1:] ** 2, axis=0)
        rest -= basis @ (basis.T @ rest)
        return Reduced(np.asarray(np.linalg.qr(rest, mode="r")), squares, white.shape[0] - basis.shape[1])

    return in_threads(one, range(len(table)))


def remainder(maps: Sequence[Reduced]) -> tuple[float, int]:
    """Sum of squares that is left, and its degrees of freedom, after coefficients common to the maps took a step."""
    rows = np.concatenate([one.triangle for one in maps])
    scale = np.sqrt(np.sum([one.squares for one in maps], axis=0))
    y, basis = rows[:, 0], _basis(rows[:, 1:] / np.where(scale > 0, scale, 1.0))
    return float(y @ y - np.sum((basis.T @ y) ** 2)), sum(one.freedom for one in maps) - basis.shape[1]


def drop_test(small: tuple[float, int], large: tuple[float, int]) -> dict[str, float]:
    """Drop of the sum of squares from few columns to more, with its degrees of freedom and its p-value."""
    drop, freedom = small[0] - large[0], small[1] - large[1]
    return {"chi2": drop, "dof": freedom, "p": float(chdtrc(freedom, drop)) if freedom > 0 else 1.0}


def _whitening(covariance: Float[AnyArray, "tiles tiles"]) -> Float[AnyArray, "white tiles"]:
    """Inverse root of a covariance; directions without noise, to rounding, are left out."""
    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        root = np.zeros_like(covariance)
    if np.all(np.diag(root) ** 2 > _NOISELESS * np.max(np.diag(covariance), initial=0.0)):
        return np.asarray(solve_triangular(root, np.eye(len(root)), lower=True))
    values, vectors = np.linalg.eigh(covariance)
    noisy = values > _NOISELESS * values.max(initial=0.0)
    return np.asarray((vectors[:, noisy] / np.sqrt(values[noisy])).T)


def _unit(columns: Float[AnyArray, "rows columns"]) -> Float[AnyArray, "rows columns"]:
    """Columns of length one; zero ones stay."""
    length = np.linalg.norm(columns, axis=0)
    return np.asarray(columns / np.where(length > 0, length, 1.0))


def _basis(columns: Float[AnyArray, "rows columns"]) -> Float[AnyArray, "rows spanned"]:
    """Orthonormal basis of what the columns, of length about one, span."""
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, singular > _RANK])
