"""c2 along the two directions of the map: against lag at fixed age, and against age at fixed lag.

Points are means of the data over bins with the standard error of independent noise; line and band are the
median and 90 % interval, over posterior draws, of the model averaged over pairs of the same bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from homodyne.arrays import Array
from homodyne.data.twotime import TwoTimeData
from homodyne.mapping import intact
from homodyne.result.curves import correlation_draws
from homodyne.result.record import MCMCResult
from homodyne.viz.labels import SMALL, add_caption, map_texts, new_figure, shared_text, style_axes
from homodyne.viz.maps import measured_pairs
from homodyne.viz.model import Indices, best_draw, chosen_maps, noise_sd, thinned

MAX_MAPS, NUM_CURVES, NUM_BINS, PAIRS_PER_BIN = 4, 3, 24, 24
_AGES = (0.02, 0.3, 0.7)
_LINEAR = ("contrast", "offset")


@dataclass(frozen=True)
class Cut:
    """One curve: position of the bins (s), mean and standard error of the data, 5, 50, 95 % of the model."""

    x: Array
    mean: Array
    error: Array
    low: Array
    median: Array
    high: Array
    label: str


def cut_at_age(result: MCMCResult, data: TwoTimeData, k: int, frame: int) -> Cut:
    """c2 against lag for pairs whose first frame is near ``frame`` (0-based), in bins even in log lag."""
    half = min(data.num_frames // 200, 4)
    near = np.abs(np.arange(data.num_frames) - frame) <= half
    measured = np.where(near[:, None], measured_pairs(data, k), np.nan)
    i, j = np.nonzero(np.isfinite(measured))
    limits = np.unique(np.geomspace(1, data.num_frames, NUM_BINS + 1).round())
    of_pair = np.searchsorted(limits, j - i, side="right")
    return _cut(result, data, k, (i, j), of_pair, data.t[j] - data.t[i], f"$t_1$ = {data.t[frame]:.3g} s")


def cut_at_lag(result: MCMCResult, data: TwoTimeData, k: int, lag: int) -> Cut:
    """c2 against the age t1 for pairs about ``lag`` frames apart (5 % either way), in even bins."""
    i, j = np.nonzero(np.isfinite(measured_pairs(data, k)))
    keep = np.abs(j - i - lag) <= 0.05 * lag
    i, j = i[keep], j[keep]
    delay = data.t[min(lag, data.num_frames - 1)] - data.t[0]
    return _cut(result, data, k, (i, j), i * NUM_BINS // data.num_frames, data.t[i], f"lag {delay:.3g} s")


def _cut(
    result: MCMCResult,
    data: TwoTimeData,
    k: int,
    pairs: tuple[Indices, Indices],
    of_pair: Indices,
    x: Array,
    label: str,
) -> Cut:
    """Average data, position ``x`` and, over a few pairs (it is smooth), the model in each bin."""
    if of_pair.size == 0:  # no pair was measured there
        empty = np.empty(0)
        return Cut(empty, empty, empty, empty, empty, empty, label)
    order = np.argsort(of_pair, kind="stable")
    i, j, x = pairs[0][order], pairs[1][order], x[order]
    _, first, count = np.unique(of_pair[order], return_index=True, return_counts=True)
    size = np.minimum(count, PAIRS_PER_BIN)
    some = np.concatenate(
        [start + (np.arange(m) * 2 + 1) * n // (2 * m) for start, n, m in zip(first, count, size, strict=True)]
    )
    draws = correlation_draws(result, k, data.t[i[some]], data.t[j[some]], thinned(result))
    model = np.add.reduceat(draws, np.cumsum(size) - size, axis=1) / size
    low, median, high = np.quantile(model, (0.05, 0.5, 0.95), axis=0)
    measured = intact(data.c2[k])[i, j].astype(float)
    position, mean = (np.add.reduceat(values, first) / count for values in (x, measured))
    weights, error = data.relative_weights(), noise_sd(result)[k] / np.sqrt(count)
    if weights is not None:
        error *= np.sqrt(np.add.reduceat(1.0 / weights[k][i, j].astype(float), first) / count)
    return Cut(position, mean, error, low, median, high, label)


def longest_lag(result: MCMCResult, data: TwoTimeData, maps: list[int]) -> int:
    """Frames after which a tenth of the contrast is left in the slowest of some maps, a third into the record."""
    frame = data.num_frames // 3
    lags = np.unique(np.geomspace(1, data.num_frames - 1 - frame, 60).round().astype(int))
    start, later = np.full(lags.size, data.t[frame]), data.t[frame + lags]
    best = np.array([best_draw(result)])
    longest = 1
    for k in maps:
        c2 = correlation_draws(result, k, start, later, best)[0]
        contrast, offset = (result.samples[name].reshape(-1, data.phi.size)[best, k] for name in _LINEAR)
        longest = max(longest, *lags[np.abs(c2 - offset) > 0.1 * np.abs(contrast)].tolist(), 1)
    return longest


def draw_cut(ax: Axes, cut: Cut, colour: ColorType) -> list[Artist]:
    """Median line, 90 % band and points with error bars of one curve."""
    band = ax.fill_between(cut.x, cut.low, cut.high, color=colour, alpha=0.35, linewidth=0)
    (line,) = ax.plot(cut.x, cut.median, color=colour, linewidth=1.2)
    style: dict[str, Any] = {"markersize": 2.5, "linewidth": 0.7, "alpha": 0.85}
    points = ax.errorbar(cut.x, cut.mean, cut.error, fmt="o", color=colour, label=cut.label, **style)
    return [band, line, points.lines[0]]


def cut_figure(
    result: MCMCResult, data: TwoTimeData, max_maps: int = MAX_MAPS, maps: Sequence[int] | None = None
) -> Figure:
    """Cuts at three ages (upper row) and three lags (lower row) of ``maps``, by default of at most ``max_maps``."""
    shown = chosen_maps(data.q, data.phi, max_maps) if maps is None else list(maps)
    names = map_texts(data.q, data.phi)
    figure = new_figure(2.4 * len(shown) + 2.2, 5.6)
    axes = figure.subplots(2, len(shown), squeeze=False, sharex="row", sharey="row")
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.8, NUM_CURVES))
    good = np.flatnonzero(data.good)
    frames = np.unique([good[int(part * (good.size - 1))] for part in _AGES])
    lags = np.unique(np.geomspace(1, longest_lag(result, data, shown), NUM_CURVES).round().astype(int))
    for (upper, lower), k in zip(axes.T, shown, strict=True):
        for colour, frame in zip(colours, frames, strict=False):
            draw_cut(upper, cut_at_age(result, data, k, int(frame)), colour)
        for colour, lag in zip(colours, lags, strict=False):
            draw_cut(lower, cut_at_lag(result, data, k, int(lag)), colour)
        upper.set_xscale("log")
        c2 = "$c_2$" if upper is axes[0, 0] else ""
        style_axes(upper, r"lag $t_2-t_1$ (s)", c2, names[k])
        style_axes(lower, r"age $t_1$ (s)", c2)
    for ax in axes[:, -1]:
        ax.legend(fontsize=SMALL, frameon=False, handletextpad=0.2, loc="center left", bbox_to_anchor=(1, 0.5))
    some = f"{len(shown)} of {data.phi.size} maps" if len(shown) < data.phi.size else ""
    text = "line and band: median and 90 % of the posterior; bars: standard error, independent noise"
    add_caption(figure, result, "; ".join(filter(None, [shared_text(data.q, data.phi), some, text])))
    return figure
