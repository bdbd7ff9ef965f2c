"""Measured map, fitted map and residual in units of the noise, for some wave vectors and angles.

:func:`map_figure` is the whole figure, :func:`map_panels` its numbers, :func:`draw_map` draws one panel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from homodyne.arrays import Array
from homodyne.data.twotime import TwoTimeData
from homodyne.result.curves import correlation_draws
from homodyne.result.record import MCMCResult
from homodyne.viz.labels import NORMAL, SMALL, add_caption, counted, map_texts, new_figure, shared_text, style_axes
from homodyne.viz.model import best_draw, chosen_maps, noise_sd

MAX_CELLS, MAX_MAPS, RESIDUAL_RANGE = 500, 6, 4.0
_MISSING = "0.72"


@dataclass(frozen=True)
class MapPanels:
    """Data, model and residual of one map, symmetric, NaN where nothing was measured.

    ``residual`` has standard deviation 1 where the model holds and the noise is independent; ``step`` frames
    are averaged in each direction; ``edges`` (s) are the limits of the cells.
    """

    edges: Array
    data: Array
    model: Array
    residual: Array
    step: int


def measured_pairs(data: TwoTimeData, angle: int) -> Array:
    """Map of one angle with NaN wherever there is no usable pair i < j."""
    return np.where(data.usable(angle), data.c2[angle], np.nan).astype(np.float64)


def block_mean(upper: Array, step: int) -> tuple[Array, Array]:
    """Mean over cells of step x step frames, and number of pairs in each; both symmetric.

    ``upper`` holds pairs i < j and NaN elsewhere; NaN does not count.
    """
    size = -(-upper.shape[0] // step)
    padded = np.full((size * step, size * step), np.nan)
    padded[: upper.shape[0], : upper.shape[0]] = upper
    cells = padded.reshape(size, step, size, step)
    count = np.isfinite(cells).sum(axis=(1, 3)).astype(np.float64)
    total = np.nansum(cells, axis=(1, 3))
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    below = np.tril_indices(size, -1)
    mean[below], count[below] = mean.T[below], count.T[below]
    return mean, count


def cell_edges(t: Array, step: int = 1) -> Array:
    """Limits of cells of ``step`` ascending places; half a distance is added at both ends, one to a single place."""
    if t.size == 1:
        return np.array([t[0] - 1.0, t[0] + 1.0])
    middle = (t[1:] + t[:-1]) / 2
    edges = np.concatenate([[2 * t[0] - middle[0]], middle, [2 * t[-1] - middle[-1]]])
    return np.append(edges[:-1:step], edges[-1])


def map_panels(result: MCMCResult, data: TwoTimeData, k: int, max_cells: int = MAX_CELLS) -> MapPanels:
    """Numbers of the panels of map k; the model is the draw of highest posterior density.

    The residual of a cell is divided by sigma/sqrt(number of pairs), its sd for independent noise; pairs with weights
    are multiplied by their roots before.
    """
    step = -(-data.num_frames // max_cells)
    measured = measured_pairs(data, k)
    i, j = np.nonzero(np.isfinite(measured))
    fitted = np.full_like(measured, np.nan)
    fitted[i, j] = correlation_draws(result, k, data.t[i], data.t[j], np.array([best_draw(result)]))[0]
    mean, count = block_mean(measured, step)
    model, _ = block_mean(fitted, step)
    weights, residual = data.relative_weights(), mean - model
    if weights is not None:
        residual, _ = block_mean((measured - fitted) * np.sqrt(weights[k]), step)
    residual = residual * np.sqrt(count) / noise_sd(result)[k]
    return MapPanels(cell_edges(data.t, step), mean, model, residual, step)


def draw_map(ax: Axes, edges: Array, values: Array, cmap: str, limits: tuple[float, float]) -> ScalarMappable:
    """One map over (t1, t2) in s; cells without data are gray."""
    colours = matplotlib.colormaps[cmap].with_extremes(bad=_MISSING)
    masked = np.ma.masked_invalid(values)
    image = ax.pcolorfast(edges, edges, masked, cmap=colours, vmin=limits[0], vmax=limits[1])
    ax.set_aspect("equal")
    return image


def colour_limits(maps: list[Array]) -> tuple[float, float]:
    """From the 1 % to the 99 % point of the cells off the diagonal of all maps."""
    cells = np.concatenate([cells[np.triu_indices(cells.shape[0], 1)] for cells in maps])
    cells = cells[np.isfinite(cells)]
    if cells.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(cells, (1, 99))
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)


def mark_bad_frames(ax: Axes, data: TwoTimeData, step: int) -> None:
    """Gray lines through frames that were left out, where averaging over cells would hide them."""
    for time in data.t[~data.good] if step > 1 else ():
        ax.axvline(time, color=_MISSING, linewidth=0.5)
        ax.axhline(time, color=_MISSING, linewidth=0.5)


def mark_left_out(ax: Axes, edges: Array, partly: NDArray[np.bool_]) -> None:
    """Gray veil over cells of which single pairs were left out, where averaging would hide them."""
    if not partly.any():
        return
    veil = np.ma.masked_where(~partly, np.zeros(partly.shape))
    ax.pcolorfast(edges, edges, veil, cmap=matplotlib.colors.ListedColormap([_MISSING]), alpha=0.6)


def explain_left_out(ax: Axes, data: TwoTimeData) -> None:
    """Entry of a legend that says what gray means, a line for each kind of what is no data."""
    text = "\n".join(["left out (gray):", *(line.split("; frames")[0] for line in data.left_out_lines())])
    ax.plot([], [], "s", color=_MISSING, label=text)


def block_text(step: int) -> str:
    """How cells came about; nothing when every pair has its own."""
    return f"block mean of {step} x {step} frames" if step > 1 else ""


def map_title(data: TwoTimeData, shown: int, step: int) -> str:
    """What of the data is shown: maps, frames, bad frames, averaging."""
    bad = data.bad_frames.size
    word = "angle" if data.wavevectors.size == 1 else "map"
    parts = [
        f"{shown} of {counted(data.num_maps, word)}" if shown < data.num_maps else counted(shown, word),
        f"{data.num_frames} frames",
        f"{counted(bad, 'bad frame')} (gray)" if bad else "",
        block_text(step),
    ]
    return ", ".join(part for part in parts if part)


def map_figure(
    result: MCMCResult,
    data: TwoTimeData,
    max_maps: int = MAX_MAPS,
    max_cells: int = MAX_CELLS,
    maps: Sequence[int] | None = None,
) -> Figure:
    """Data, model and residual of ``maps``, by default of at most ``max_maps`` spread over q and phi.

    More than ``max_cells`` frames are averaged in blocks.
    """
    shown = chosen_maps(data.q, data.phi, max_maps) if maps is None else list(maps)
    names = np.array(map_texts(data.q, data.phi))[shown].tolist()
    count = len(shown)
    flat = count <= 2  # few maps: one row each; more: one column each
    width, height = (8.2, 2.75 * count + 1.9) if flat else (1.8 * count + 1.4, 6.3)
    figure = new_figure(width, height, square=True)
    grid = figure.subplots(*((count, 3) if flat else (3, count)), sharex=True, sharey=True, squeeze=False)
    axes = grid.T if flat else grid
    panels = [map_panels(result, data, k, max_cells) for k in shown]
    limits = colour_limits([panel.data for panel in panels])
    scales = (("viridis", limits), ("viridis", limits), ("RdBu_r", (-RESIDUAL_RANGE, RESIDUAL_RANGE)))
    for column, panel in enumerate(panels):
        for ax, values, scale in zip(axes[:, column], (panel.data, panel.model, panel.residual), scales, strict=True):
            draw_map(ax, panel.edges, values, *scale)
            mark_bad_frames(ax, data, panel.step)
    _label_panels(axes, names, flat)
    blocks = block_text(panels[0].step)
    of_blocks = " of block means" if blocks else ""
    location = "bottom" if flat else "right"
    add_colour_bar(figure, list(axes[:2].ravel()), "$c_2$" + (f", {blocks}" if blocks else ""), location)
    add_colour_bar(figure, list(axes[2]), rf"(data $-$ model)/$\sigma${of_blocks}", location)
    title = [shared_text(data.q, data.phi), map_title(data, count, panels[0].step)]
    figure.suptitle(", ".join(filter(None, title)), fontsize=NORMAL)
    diagonal = "" if panels[0].step > 1 else "; diagonal (gray) not fitted"
    text = "model: draw of highest posterior density; residuals: σ of independent noise"
    add_caption(figure, result, text + diagonal)
    return figure


def add_colour_bar(figure: Figure, axes: list[Axes], label: str, location: str) -> None:
    """Scale that all maps on ``axes`` share, with arrows for what lies outside."""
    shared = axes[0].images[0]
    bar = figure.colorbar(shared, ax=axes, location=location, extend="both", shrink=0.9, aspect=30)
    bar.set_label(label, fontsize=SMALL + 0.5)
    bar.ax.tick_params(labelsize=SMALL)
    bar.locator = MaxNLocator(4, steps=[1, 2, 4, 5, 10])
    bar.update_ticks()


def _label_panels(axes: NDArray[np.object_], names: list[str], flat: bool) -> None:
    """What is shown and of which map, where rows and columns begin; times outside. ``axes`` is (kind, map)."""
    kinds = ["data", "model", "residual"]
    tops, lefts, grid = (kinds, names, axes.T) if flat else (names, kinds, axes)
    for (row, column), ax in np.ndenumerate(grid):
        xlabel = "$t_1$ (s)" if row == len(lefts) - 1 else ""
        ylabel = f"{lefts[row]}\n$t_2$ (s)" if column == 0 else ""
        style_axes(ax, xlabel, ylabel, tops[column] if row == 0 else "")
