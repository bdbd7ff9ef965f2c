"""Sources of shot noise and pixels against each other: what is possible, what agrees, which is used.

The correlated share of the noise (`homodyne.noise.speckle_noise`), and with it the mean counts, is known from the user,
the raw diagonal, the file, the residuals of pairs that share a frame, and those next to each other; its variance, and
with it the number of pixels, from the residuals far from the diagonal, neighbours, the scatter between angles, and the
pixels of user and file. `judged_counts` and `judged_variance` compare estimates with their errors. What is impossible
is left out. Where what is left contradicts the first of them, the one that leaves wider error bars is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Real

from homodyne.arrays import AnyArray, PerMap
from homodyne.noise.map_view import MapView
from homodyne.noise.sampling import crossed_frames, neighbour_pairs
from homodyne.noise.speckle_noise import CountingFacts
from homodyne.noise.traces import evaluated
from homodyne.registries import NOISE

GIVEN, DIAGONAL, FILE, RESIDUALS = "given", "raw diagonal", "file", "residuals"
NEIGHBOURS, ANGLES = "neighbours", "scatter between angles"
"""Names of the sources."""

_LIMIT = 4.0  # joint standard errors from which on two sources contradict each other, or an estimate its limit
_RATIO = 1.5  # factor between two sources that is none, in the share of speckle, in that of shot noise, in the pixels
_DIM = 3.0  # standard errors by which shot noise is seen in residuals
_SCATTER = 1.5  # factor between the variance of a diagonal and what counting says that is none
_PARTS = 8  # blocks of frames whose scatter gives standard errors
_TWICE = 2.0  # a pair of frames stands in two rows: leaving one out takes away half of what a frame says
_MEDIAN = 1.25  # standard error of a median over that of a mean


@dataclass(frozen=True, eq=False)
class Estimate:
    """What one source says.

    Attributes
    ----------
    values : (n_maps,) array
        Share of speckle, or number of pixels.
    error : float
        Standard error: of the share, and of the logarithm of the pixels.
    """

    values: Real[AnyArray, "maps"]
    error: float = 0.0

    @property
    def middle(self) -> float:
        """Median over the maps."""
        return float(np.median(self.values))


class Judgement(NamedTuple):
    """The source that is used, all that are possible, sentences on the others, and whether any contradict the first."""

    used: str
    found: dict[str, Estimate]
    notes: tuple[str, ...]
    contradicted: bool = False

    @property
    def values(self) -> Real[AnyArray, "maps"]:
        """Those of the source that is used, (n_maps,)."""
        return self.found[self.used].values


class _Sums(NamedTuple):
    """Sums over pairs of residuals that share a frame, (_PARTS,) each, and what noise of variance one has in them.

    ``product`` and ``square`` of residuals; E[product] = share first + share² second, E[square] = pairs + share² own.
    """

    product: Float[AnyArray, "blocks"]
    square: Float[AnyArray, "blocks"]
    first: Float[AnyArray, "blocks"]
    second: Float[AnyArray, "blocks"]
    pairs: Float[AnyArray, "blocks"]
    own: Float[AnyArray, "blocks"]

    @property
    def mean_square(self) -> Float[AnyArray, "blocks"]:
        """Of the residuals in every block, NaN where there are none."""
        return np.asarray(self.square / np.where(self.pairs > 0, self.pairs, np.nan))

    def share(self, keep: slice | AnyArray = slice(None)) -> float:
        """Share of speckle, NaN where no two pairs share a frame."""
        product, square, first, second, pairs, own = (float(x[keep].sum()) for x in self)
        if not (first > 0 and square > 0):
            return float("nan")
        target = product / square
        a, b, c = second - target * own, first, -target * pairs
        root = b * b - 4.0 * a * c
        return float(np.clip(-2.0 * c / (b + np.sqrt(root)), 0.0, 1.0)) if root >= 0 else 1.0

    def variance(self, share: float) -> float:
        """Variance from differences of neighbours, in which a misfit hardly is; NaN where it is not known."""
        square, product = self.pairs.sum() + share**2 * self.own.sum(), share * self.first.sum()
        left = float(square - product - share**2 * self.second.sum())
        return float(self.square.sum() - self.product.sum()) / left if left > 0 else float("nan")

    def without_each(self) -> Float[AnyArray, "blocks"]:
        """Share without one of the blocks, for each of them."""
        return np.array([self.share(np.arange(_PARTS) != k) for k in range(_PARTS)])


@dataclass(frozen=True, eq=False)
class MapEvidence:
    """What the residuals and the diagonal of one map say of its noise.

    Attributes
    ----------
    crossed, beside : _Sums
        Of pairs that share a frame, and of those next to each other in a row.
    residual : (rows, columns) array
        Data less model at some pairs, times the root of their weights, NaN where there is none.
    shared : bool
        Whether any two of these share a frame.
    next_g, near : float
        Mean model correlation of successive frames, and mean residual of pairs of these.
    """

    crossed: _Sums
    beside: _Sums
    residual: Float[AnyArray, "rows columns"]
    shared: bool
    next_g: float
    near: float


def evidence(view: MapView) -> MapEvidence:
    """`MapEvidence` of a map with the model at the fit."""
    n, t = len(view.t), view.t
    rows, columns = crossed_frames(n)

    def correlation(one: AnyArray, other: AnyArray) -> AnyArray:
        i, j = np.minimum(one[:, None], other), np.maximum(one[:, None], other)
        return np.asarray(evaluated(view.correlation, t[i], t[j]))

    g_rows = correlation(rows, columns)
    residual = view.sample.crossed - view.offset - view.contrast * g_rows
    residual = view.whitened(residual, np.minimum(rows[:, None], columns), np.maximum(rows[:, None], columns))
    crossed = _crossed_sums(correlation(columns, columns), g_rows, residual)
    i, j = neighbour_pairs(n)
    next_g = np.asarray(evaluated(view.correlation, t[:-1], t[1:]))
    left, right = (np.asarray(evaluated(view.correlation, t[i], t[k])) for k in (j, j + 1))
    one, other = view.sample.neighbours - view.offset - view.contrast * np.stack([left, right])
    first = (j == i + 1) & np.isfinite(one)
    near = float(one[first].mean()) if first.any() else 0.0
    one, other = view.whitened(one, i, j), view.whitened(other, i, j + 1)
    known = np.isfinite(one) & np.isfinite(other)
    columns_of = (one * other, 0.5 * (one**2 + other**2), next_g[j], left * right, np.ones(len(i)), right**2)
    block = i[known] * _PARTS // n
    beside = _Sums(*(np.bincount(block, x[known], _PARTS) for x in columns_of))
    shared = bool((np.isfinite(residual).sum(axis=1) > 1).any())
    return MapEvidence(crossed, beside, residual, shared, float(next_g.mean()), near)


def _crossed_sums(g: AnyArray, g_rows: AnyArray, residual: Float[AnyArray, "rows columns"]) -> _Sums:
    """Sums over rows i and all columns j, k with weight g_jk: E[r_ij r_ik] = variance (share g_jk + share² g_ij g_ik).

    `g` (m, m) is the model correlation between the columns, `g_rows` and `residual` (rows, m) are those of the pairs.
    """
    off = g.astype(np.float32)
    np.fill_diagonal(off, 0.0)
    present = np.isfinite(residual)
    found, r = present.astype(np.float32), np.where(present, residual, 0.0).astype(np.float32)
    near = found * g_rows.astype(np.float32)
    sums = [np.sum((x @ y) * x, axis=1, dtype=float) for x, y in ((r, off), (found, off**2), (near, off))]
    more = [np.sum(x, axis=1, dtype=float) for x in (r**2, found, near**2)]
    block = np.arange(len(r)) * _PARTS // len(r)
    product, first, second, square, pairs, own = (np.bincount(block, x, _PARTS) for x in (*sums, *more))
    return _Sums(product, square, first, second, pairs, own)


def judged_counts(
    contrast: PerMap,
    offset: PerMap,
    white: PerMap,
    facts: CountingFacts,
    seen: Sequence[MapEvidence],
    known: Bool[AnyArray, "maps"],
) -> Judgement | None:
    """Share of speckle in the noise by the source that is believed; None where there is no source.

    Parameters
    ----------
    contrast, offset : (n_maps,) arrays
        Of the fit.
    known : (n_maps,) bool array
        Whether the contrast is known to 30 %. Where it is not, as where the decay is slow and the fit takes up noise,
        only what needs no contrast is asked of a source.
    white : (n_maps,) array
        Mean square of the residuals far from the diagonal.
    facts : CountingFacts
    seen : sequence of MapEvidence
        Of every map.
    """
    found: dict[str, Estimate] = {}
    notes: list[str] = []
    if facts.given_counts is not None:
        found[GIVEN] = Estimate(share_of(contrast, np.full(len(contrast), 1.0 / facts.given_counts)))
    sums = {RESIDUALS: [one.crossed for one in seen], NEIGHBOURS: [one.beside for one in seen]}
    measured = {name: one for name, x in sums.items() if (one := _from_sums(x, contrast)) is not None}
    if facts.diagonal is not None and np.isfinite(facts.diagonal).any(axis=1).all():
        shot = [1 - one.middle > _DIM * one.error for one in measured.values()]
        dim = bool(known.any()) and all(shot or [False])
        estimate, why = _from_diagonal(facts.diagonal, contrast, offset, white, seen, known, dim)
        found |= {} if why else {DIAGONAL: estimate}
        notes += [f"speckle noise: the diagonal is left out: {why}"] if why else []
    if facts.mean_counts is not None and np.all(facts.mean_counts > 0):
        found[FILE] = Estimate(share_of(contrast, 1.0 / facts.mean_counts))
    stated, whose = _stated(facts)
    for name in (DIAGONAL, FILE):
        if stated is not None and name in found and known.any():
            needed = np.median((_pixels(found[name].values, contrast, white) / stated)[known])
            if needed > _RATIO:
                notes.append(
                    f"speckle noise: {name} is left out: with {_counts(contrast, found.pop(name))} counts per pixel "
                    f"and frame the map would scatter by as little as it does only with {needed:.2g} times the "
                    f"{np.median(stated):.4g} pixels ({whose}) that there are"
                )
    found |= measured | _others("share", contrast, white, facts)
    if not found and not any(one.shared for one in seen):
        return None
    if not found:  # no correlation to be seen: noise is white
        found[RESIDUALS] = Estimate(np.zeros(len(contrast)), float("inf"))
    if GIVEN not in found and DIAGONAL not in found and FILE not in found:
        name = next(iter(found))
        notes.append(
            f"speckle noise: no raw diagonal; {_counts(contrast, found[name])} counts per pixel and frame follow from "
            "the correlation of residuals that share a frame"
        )
    order = (GIVEN, DIAGONAL, FILE, RESIDUALS, NEIGHBOURS, *NOISE)
    used, further = _compared(found, order, _shares_differ, max, bool(known.any()))
    notes += [
        f"speckle noise: {one} gives {_counts(contrast, found[one])} counts per pixel and frame, {other} "
        f"{_counts(contrast, found[other])}: they contradict each other; {_chosen(used)}"
        for one, other in further
    ]
    return Judgement(used, found, tuple(notes), bool(further))


def judged_variance(
    share: PerMap,
    contrast: PerMap,
    variance: PerMap,
    facts: CountingFacts,
    seen: Sequence[MapEvidence],
    known: Bool[AnyArray, "maps"],
) -> Judgement:
    """Independent pixels by the source that is believed.

    Parameters
    ----------
    share, contrast : (n_maps,) arrays
    variance : (n_maps,) array
        Of the residuals far from the diagonal.
    facts, seen, known
        As in `judged_counts`.
    """
    pixels = _pixels(share, contrast, variance)
    found = {RESIDUALS: Estimate(pixels, _spread([one.crossed.mean_square for one in seen]))}
    if facts.given_pixels is not None:
        found[GIVEN] = Estimate(np.full(len(share), facts.given_pixels))
    if facts.pixels is not None and np.all(facts.pixels > 0):
        found[FILE] = Estimate(facts.pixels)
    found |= {} if (beside := _from_neighbours(share, contrast, seen)) is None else {NEIGHBOURS: beside}
    found |= {} if (scatter := _from_angles(pixels, seen)) is None else {ANGLES: scatter}
    found |= _others("pixels", contrast, variance, facts)
    order = (GIVEN, RESIDUALS, NEIGHBOURS, ANGLES, FILE, *NOISE)
    used, further = _compared(found, order, _pixels_differ, min, bool(known.any()))
    notes = tuple(
        f"speckle noise: {one} gives {found[one].middle:.4g} independent pixels, {other} {found[other].middle:.4g}: "
        f"they contradict each other; {_chosen(used)}"
        for one, other in further
    )
    return Judgement(used, found, notes, bool(further))


def share_of(contrast: PerMap, shot: PerMap) -> PerMap:
    """Share of speckle from the shot noise 1/n̄, which by rounding may be a little below 0; 0 without contrast."""
    positive = np.maximum(contrast, 0.0)
    return np.where(positive > 0, positive / np.where(positive > 0, positive + np.maximum(shot, 0.0), 1.0), 0.0)


def diagonal_variance(contrast: PerMap, shot: PerMap, g: PerMap) -> PerMap:
    """Variance of the raw diagonal, halved mean square of the difference of successive frames, times the pixels.

    For counts k of Poisson statistics in the intensity of 1/contrast equal modes (a gamma distribution; Goodman,
    Speckle Phenomena in Optics, 2007, ch. 4) whose correlation from frame to frame is g: the diagonal is
    mean(k²)/mean(k)², to first order in 1/pixels the mean of k² - 2 R k with R = <k²>/<k>. What of it follows the
    intensity is expanded in Laguerre polynomials of it, which correlate by g and g².

    Parameters
    ----------
    contrast, shot, g : (n_maps,) arrays
        shot is 1/n̄.
    """
    second = 1 + contrast
    third = second * (1 + 2 * contrast)
    fourth = third * (1 + 3 * contrast)
    ratio = shot + second
    squares = shot**3 + 7 * shot**2 * second + 6 * shot * third + fourth - ratio**2
    across = shot**2 + 3 * shot * second + third - ratio
    total = squares - 4 * ratio * across + 4 * ratio**2 * (shot + contrast)
    linear = shot - 2 * ratio
    followed = linear**2 * contrast + 4 * linear * contrast * second + fourth - second**2
    straight = (linear + 2 * second) ** 2 * contrast
    return np.asarray(total - straight * g - (followed - straight) * g**2)


def _from_diagonal(
    diagonal: Float[AnyArray, "maps frames"],
    contrast: PerMap,
    offset: PerMap,
    white: PerMap,
    seen: Sequence[MapEvidence],
    known: Bool[AnyArray, "maps"],
    dim: bool,
) -> tuple[Estimate, str]:
    """Share from the level of the diagonal, and why it cannot be raw; empty if it can.

    A raw one stands above its neighbours by 1/n̄, and scatters as counting with n̄ says. `dim` says that the residuals
    have shot noise.
    """
    level = np.nanmean(diagonal, axis=1)
    shot, step = level - offset - contrast, 0.5 * np.diff(diagonal, axis=1) ** 2
    parts = np.array_split(diagonal, _PARTS, axis=1)
    blocks = np.array([[np.nanmean(x) if np.isfinite(x).any() else np.nan for x in part] for part in parts]).T
    each = np.nanstd(blocks, axis=1, ddof=1) / np.sqrt(np.maximum(np.isfinite(blocks).sum(axis=1), 1))
    error = float(np.sqrt(np.mean(np.nan_to_num(each, nan=np.inf) ** 2) / len(each)))
    share = share_of(contrast, shot)
    near, g = (np.array(x) for x in zip(*((one.near, one.next_g) for one in seen), strict=True))
    beside = shot - near  # a misfit next to the diagonal is no shot noise
    above = float(np.mean(np.where(known, np.minimum(shot, beside), beside + contrast * (1 - g))))
    if above < (_LIMIT if dim else -_LIMIT) * error:
        return Estimate(share), (
            f"its mean, {level.mean():.4g}, is not above that of pairs of frames next to it by more than it scatters "
            f"({above:.2g}, {error:.2g}), as counting raises a raw one; it shows no shot noise or was replaced"
        )
    if known.any() and np.isfinite(step).any(axis=1).all():
        calm = [one.beside.variance(s) for one, s in zip(seen, share, strict=True)]  # in which no misfit is
        pixels = _pixels(share, contrast, np.fmin(white, calm))
        expected = diagonal_variance(contrast, np.maximum(shot, 0.0), np.clip(g, 0.0, 1.0)) / pixels
        ratios = step[known] / expected[known, None]
        ratio, spread = float(np.nanmean(ratios)), float(np.nanstd(ratios) * np.sqrt(1.5 / np.isfinite(ratios).sum()))
        low, high = ratio < 1 / _SCATTER, ratio > _SCATTER
        if (low and ratio + _LIMIT * spread < 1) or (high and ratio - 1 > _LIMIT * spread / ratio):
            return Estimate(share), (
                f"its variance is {ratio:.2g} times that of a raw one with its mean, {level.mean():.4g}, from "
                f"counting; it was {'smoothed or made' if low else 'changed, or the beam fluctuates'}"
            )
    return Estimate(share, float(np.median(share * (1 - share) / np.maximum(shot, 1e-300))) * error), ""


def _from_sums(sums: Sequence[_Sums], contrast: PerMap) -> Estimate | None:
    """Share from residuals that share a frame.

    A slow decay is partly taken up by the fit, with its noise, so the median of 1/n̄ over the maps is used.
    """
    measured = np.array([one.share() for one in sums])
    use = np.isfinite(measured) & (contrast > 0)
    if not use.any():
        return None
    with np.errstate(divide="ignore"):
        shot = np.median(contrast[use] * (1.0 / measured[use] - 1.0))
    own = np.array([one.without_each() for one, keep in zip(sums, use, strict=True) if keep])
    deviations = own - own.mean(axis=1, keepdims=True)
    error = _TWICE * np.sqrt((_PARTS - 1) / _PARTS * np.nansum(deviations**2, axis=1).mean())
    between = np.std(measured[use], ddof=1) if use.sum() > 1 else 0.0
    wide = _MEDIAN if use.sum() > 2 else 1.0
    error = float(wide * max(error, between) / np.sqrt(use.sum()))
    return Estimate(share_of(contrast, np.full(len(contrast), shot)), error)


def _from_neighbours(share: AnyArray, contrast: AnyArray, seen: Sequence[MapEvidence]) -> Estimate | None:
    """Pixels from differences of residuals next to each other."""
    sums = [one.beside for one in seen]
    variance = np.array([one.variance(s) for one, s in zip(sums, share, strict=True)])
    if not (np.all(variance > 0) and all(one.pairs.all() for one in sums)):
        return None
    return Estimate(_pixels(share, contrast, variance), _spread([(x.square - x.product) / x.pairs for x in sums]))


def _from_angles(pixels: AnyArray, seen: Sequence[MapEvidence]) -> Estimate | None:
    """Pixels from the scatter of residuals between maps, in which what all maps miss is not."""
    if len(seen) < 2 or len({one.residual.shape for one in seen}) > 1:
        return None
    units = np.stack([one.residual / np.sqrt(np.nanmean(one.residual**2)) for one in seen])
    scatter = units.var(axis=0, ddof=1)
    ratio = np.array([np.nanmean(x) if np.isfinite(x).any() else np.nan for x in np.array_split(scatter, _PARTS)])
    if not np.nanmean(ratio) > 0:
        return None
    return Estimate(pixels / np.nanmean(ratio), _spread([ratio]))


def _spread(blocks: Sequence[AnyArray]) -> float:
    """Standard error of the logarithm of a mean square from its values in blocks of frames, over all maps."""
    each = [np.nanvar(x, ddof=1) / np.isfinite(x).sum() / np.nanmean(x) ** 2 for x in blocks if np.nanmean(x) > 0]
    return float(_TWICE * np.sqrt(np.mean(each) / len(each))) if each else float("inf")


def _pixels(share: AnyArray, contrast: AnyArray, variance: AnyArray) -> AnyArray:
    """Number of independent pixels; infinite where the noise is white."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(share > 0, (contrast / share) ** 2 / variance, np.inf))


def _others(what: str, contrast: AnyArray, variance: AnyArray, facts: CountingFacts) -> dict[str, Estimate]:
    """Estimates of the sources that are registered beside those of the package."""
    asked = {name: getattr(source, what) for name, source in NOISE.items()}
    given = {name: ask(contrast, variance, facts) for name, ask in asked.items() if ask is not None}
    return {name: estimate for name, estimate in given.items() if estimate is not None}


def _stated(facts: CountingFacts) -> tuple[AnyArray | None, str]:
    """Pixels that there are, and who says so."""
    if facts.given_pixels is not None:
        return np.array([facts.given_pixels]), GIVEN
    return (facts.pixels, FILE) if facts.pixels is not None and np.all(facts.pixels > 0) else (None, "")


def _compared(
    found: Mapping[str, Estimate], order: Sequence[str], differ: Any, widest: Any, compare: bool
) -> tuple[str, list[tuple[str, str]]]:
    """Name of the source that is used, and pairs (first, other) that contradict each other.

    It is the first, or among it and those that contradict it the one that leaves the widest error bars; what the user
    gives overrules all. Where the fit takes up noise, they cannot be compared.
    """
    first, *others = (name for name in order if name in found)
    against = [name for name in others if compare and differ(found[first], found[name])]
    used = first if first == GIVEN else widest((first, *against), key=lambda name: found[name].middle)
    return used, [(first, name) for name in against]


def _shares_differ(one: Estimate, other: Estimate) -> bool:
    a, b = sorted((one.middle, other.middle))
    differ = b > _RATIO * a or 1 - a > _RATIO * (1 - b)
    return differ and b - a > _LIMIT * float(np.hypot(one.error, other.error))


def _pixels_differ(one: Estimate, other: Estimate) -> bool:
    if not (0 < one.middle < np.inf and 0 < other.middle < np.inf):
        return False
    difference = abs(np.log(one.middle / other.middle))
    return bool(difference > max(np.log(_RATIO), _LIMIT * np.hypot(one.error, other.error)))


def _chosen(used: str) -> str:
    return "the first is used, because it was given" if used == GIVEN else f"{used} used, for wider error bars"


def _counts(contrast: AnyArray, estimate: Estimate) -> str:
    value, error = counts_of(contrast, estimate)
    return "no limit on the" if value is None else f"{value:.3g} ± {error:.1g}" if error else f"{value:.3g}"


def counts_of(contrast: AnyArray, estimate: Estimate) -> tuple[float | None, float | None]:
    """Median counts per pixel and frame of an estimate of the share, and their standard error; None for no limit."""
    share, level = estimate.middle, float(np.median(contrast))
    if not (level > 0 and share < 1):
        return None, None
    return share / (level * (1 - share)), estimate.error / (level * (1 - share) ** 2)
