"""Joint posterior of the physical parameters (corner plot); how the chains sampled it (traces, ranks)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from scipy.ndimage import gaussian_filter, map_coordinates

from homodyne.arrays import Array
from homodyne.result.record import MCMCResult
from homodyne.result.summary import SummaryRow, format_number
from homodyne.viz.labels import CHAIN_COLOURS, SMALL, add_caption, counted, new_figure, notation_of, style_axes

Span = tuple[float, float]

MAX_PARAMETERS, NUM_CELLS, RANK_BINS, SMOOTHING = 8, 36, 20, 1.4
SHARES = (0.9, 0.5)
_BLUE, _LIGHT, _TRUE = "#0072B2", "#9ecae9", "#D55E00"


@dataclass(frozen=True)
class Column:
    """Draws (chain, draw) of one parameter in the unit of its axis: ``10**power`` times its own."""

    name: str
    draws: Array
    power: int
    label: str
    title: str


def parameter_columns(result: MCMCResult) -> list[Column]:
    """One column per free physical parameter that is a single number, in order."""
    columns, notation = [], notation_of(result.model, result.units)
    for name in result.free_names:
        draws = result.samples[name]
        if draws.ndim == 2:
            power = scale_power(draws)
            scaled = draws / 10.0**power
            low, middle, high = np.quantile(scaled, (0.05, 0.5, 0.95))
            shown = (format_number(value, (high - low) / 3.29) for value in (middle, low, high))
            label = notation.label(name, power)
            title = "\n".join([label, "{} [{}, {}]".format(*shown).replace("-", "−")])
            columns.append(Column(name, scaled, power, label, title))
    return columns


def scale_power(draws: Array) -> int:
    """Power of ten to take out of an axis: 0 for sizes from 0.01 to 10 000."""
    size = float(np.quantile(np.abs(draws), 0.9))
    power = int(np.floor(np.log10(size))) if size > 0 else 0
    return 0 if -2 <= power < 4 else power


def span_of(draws: Array) -> Span:
    """Axis limits: the central 95 % of the draws and a third of that on each side, never of zero width."""
    low, high = np.quantile(draws, (0.025, 0.975))
    margin = 0.35 * (high - low) or max(abs(high), 1.0) * 1e-3
    return float(low - margin), float(high + margin)


def draw_pair(ax: Axes, x: Array, y: Array, x_span: Span, y_span: Span) -> Artist:
    """Regions that hold 50 and 90 % of the draws, bounded by contours of a smoothed histogram."""
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=NUM_CELLS, range=(x_span, y_span))
    density = gaussian_filter(counts, SMOOTHING)
    centres = [(edges[1:] + edges[:-1]) / 2 for edges in (x_edges, y_edges)]
    places = [(draws - centre[0]) / (centre[1] - centre[0]) for draws, centre in zip((x, y), centres, strict=True)]
    at_draws = map_coordinates(density, places, order=1)  # 0 for draws out of view
    most, half = np.quantile(at_draws, 1 - np.array(SHARES))
    levels = [most, max(half, 1.0001 * most), 1.001 * density.max() + 1e-12]
    return ax.contourf(*centres, density.T, levels=levels, colors=[_LIGHT, _BLUE])


def corner_figure(
    result: MCMCResult,
    truth: Mapping[str, float] | None = None,
    max_parameters: int = MAX_PARAMETERS,
    titles: bool = True,
) -> Figure:
    """Every pair of the first free physical parameters with marginals; ``truth`` where known.

    Medians and intervals stand above the marginals, or, without ``titles``, in the caption.
    """
    known = parameter_columns(result)
    columns = known[:max_parameters]
    size = len(columns)
    figure = new_figure(max(1.32 * size + 0.6, 4.2), max(1.32 * size + 0.8, 4.2), gap=0.0)
    grid = GridSpec(size, size, figure)
    spans = [span_of(column.draws) for column in columns]
    for row, column in ((i, j) for i in range(size) for j in range(i + 1)):
        ax = figure.add_subplot(grid[row, column])
        x, y = columns[column], columns[row]
        if row == column:
            ax.hist(x.draws.ravel(), bins=NUM_CELLS, range=spans[row], color=_LIGHT)
        else:
            draw_pair(ax, x.draws.ravel(), y.draws.ravel(), spans[column], spans[row])
            ax.set_ylim(spans[row])
        ax.set_xlim(spans[column])
        _mark_truth(ax, x, y, truth or {})
        across, up = (one.label if titles else one.label.replace(" (", "\n(", 1) for one in (x, y))
        style_axes(ax, across if row == size - 1 else "", up if column == 0 < row else "")
        if not titles and row == column == size - 1:  # a wide unit would leave the page
            ax.set_xlabel(ax.get_xlabel(), loc="right")
        _corner_ticks(ax, bottom=row == size - 1, left=column == 0, height=row != column)
        if row == column and titles:
            ax.set_title(x.title, fontsize=SMALL).set_in_layout(row == 0)  # the others have free space above
    figure.align_labels()
    numbers = "titles:" if titles else ", ".join(column.title.replace("\n", " ") for column in columns) + ":"
    text = f"contours: 50 and 90 %; {numbers} median and 90 % interval"
    lines = "; orange: true values" if truth else ""
    more = f"; {len(known) - size} further parameters not shown" if len(known) > size else ""
    add_caption(figure, result, text + lines + more)
    return figure


def _mark_truth(ax: Axes, x: Column, y: Column, truth: Mapping[str, float]) -> None:
    if x.name in truth:
        ax.axvline(truth[x.name] / 10.0**x.power, color=_TRUE, linewidth=0.9)
    if y.name in truth and y is not x:
        ax.axhline(truth[y.name] / 10.0**y.power, color=_TRUE, linewidth=0.9)


def _corner_ticks(ax: Axes, *, bottom: bool, left: bool, height: bool) -> None:
    """Few slanted ticks without offsets, written on the outer panels; a marginal has no ticks of height."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(3, prune="both"))
        axis.set_major_formatter(ScalarFormatter(useOffset=False))
    ax.tick_params(labelsize=SMALL - 1, labelrotation=45, labelbottom=bottom, labelleft=left)
    if not height:
        ax.set_yticks([])


def draw_trace(ax: Axes, draws: Array) -> list[Artist]:
    """Draws (chain, draw) in order, one line per chain; a few far ones may lie outside, and are counted."""
    low, high = span_of(draws)
    low, high = max(low - (high - low) / 4, draws.min()), min(high + (high - low) / 4, draws.max())
    if outside := int(np.count_nonzero((draws < low) | (draws > high))):
        ax.text(0.99, 0.04, f"{outside} outside", transform=ax.transAxes, ha="right", fontsize=SMALL - 1)
    margin = 0.05 * (high - low) or 1e-3
    ax.set_ylim(low - margin, high + margin)
    return [
        ax.plot(chain, color=CHAIN_COLOURS[k % len(CHAIN_COLOURS)], linewidth=0.4, alpha=0.8)[0]
        for k, chain in enumerate(draws)
    ]


def rank_counts(draws: Array) -> tuple[Array, Array]:
    """How often each chain's ranks among all draws fall in each bin (chain, bin), and the limits of the bins.

    Flat when the chains agree (Vehtari et al., Bayesian Analysis 16, 667 (2021)).
    """
    ranks = np.argsort(np.argsort(draws.ravel(), kind="stable")).reshape(draws.shape)
    limits = np.linspace(0, draws.size, RANK_BINS + 1)
    return np.stack([np.histogram(chain, limits)[0] for chain in ranks]).astype(np.float64), limits


def draw_ranks(ax: Axes, draws: Array) -> list[Artist]:
    """Rank histograms around the level of chains that agree; of a single chain the histogram of its draws."""
    if draws.shape[0] == 1:
        counts, limits = np.histogram(draws[0], NUM_CELLS, range=span_of(draws))
        ax.set_ylim(0, 1.4 * counts.max())
        ax.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
        return [ax.stairs(counts, limits, color=CHAIN_COLOURS[0], fill=True, alpha=0.5)]
    ranks, limits = rank_counts(draws)
    level = draws.shape[1] / RANK_BINS
    ax.axhline(level, color="0.4", linewidth=0.8, linestyle="--")
    ax.set_ylim(0, 1.6 * max(float(ranks.max()), level))
    return [
        ax.stairs(row, limits, color=CHAIN_COLOURS[k % len(CHAIN_COLOURS)], linewidth=0.9, baseline=None)
        for k, row in enumerate(ranks)
    ]


def trace_figure(result: MCMCResult, max_parameters: int | None = None, row: float = 1.15) -> Figure:
    """Traces and rank histograms of the first free physical parameters with R-hat and effective sample size.

    ``row`` (inches) is the height of each; all parameters are shown by default.
    """
    known = parameter_columns(result)
    columns = known[:max_parameters]
    rows = {row.name: row for row in result.summary().rows}
    single = result.num_chains == 1
    figure = new_figure(7.5, row * len(columns) + 1.1)
    axes = figure.subplots(len(columns), 2, squeeze=False, width_ratios=(1.7, 1))
    for (left, right), column in zip(axes, columns, strict=True):
        last = column is columns[-1]
        draw_trace(left, column.draws)
        draw_ranks(right, column.draws)
        left.set_xlim(0, max(result.num_draws - 1, 1))
        left.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        style_axes(left, "draw" if last else "", column.label.replace(" (", "\n(", 1))
        style_axes(right, "rank of the draw" if last and not single else "", "draws")
        for ax in (left, right):
            ax.yaxis.set_major_locator(MaxNLocator(3))
        left.tick_params(labelbottom=last)
        right.tick_params(labelbottom=last or single)
        place = {"transform": right.transAxes, "ha": "right", "va": "top"}
        right.text(0.98, 0.94, _quality(rows[column.name]), fontsize=SMALL, **place)
    axes[0, 0].set_title(f"trace, {counted(result.num_chains, 'chain')}", fontsize=SMALL + 1)
    title = "distribution" if single else "ranks per chain"
    axes[0, 1].set_title(title, fontsize=SMALL + 1)
    figure.align_ylabels(list(axes[:, 0]))
    dashed = "" if single else "dashed: level of ranks where chains agree"
    more = f"{len(known) - len(columns)} further parameters not shown" if len(known) > len(columns) else ""
    add_caption(figure, result, "; ".join(filter(None, [dashed, more])))
    return figure


def _quality(row: SummaryRow) -> str:
    """R-hat and effective sample size, as far as they are known."""
    parts = [f"R-hat {row.rhat:.3f}"] if row.rhat is not None else []
    return "\n".join(parts + ([f"ESS {row.ess:.0f}"] if row.ess is not None else []))
