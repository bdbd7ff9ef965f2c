"""A first look at measured maps, before any fit: :func:`inspect_figure`."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.typing import ColorType
from numpy.typing import NDArray

from homodyne.data.twotime import TwoTimeData
from homodyne.viz import maps
from homodyne.viz.labels import NORMAL, SMALL, angle_text, new_figure, style_axes
from homodyne.viz.model import spread_over

Array = NDArray[np.float64]

MAX_ANGLES, MAX_BINS = 4, 200


def frame_mean(upper: Array) -> Array:
    """Mean of c2 over all pairs that each frame is part of, NaN without any: (n,).

    A jump of the beam shows in it. ``upper`` holds pairs i < j and NaN elsewhere.
    """
    total = np.nansum(upper, axis=0) + np.nansum(upper, axis=1)
    count = np.isfinite(upper).sum(axis=0) + np.isfinite(upper).sum(axis=1)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def draw_frames(ax: Axes, t: Array, values: Array, colour: ColorType, **style: Any) -> list[Artist]:
    """A quantity per frame against the age (s), averaged over as many frames as leave 200 points."""
    step = -(-values.size // MAX_BINS)
    missing = np.isnan(values)
    first = np.arange(0, values.size, step)
    count = np.add.reduceat(~missing, first, dtype=float)
    count[count == 0] = np.nan
    mean = np.add.reduceat(np.where(missing, 0.0, values), first) / count
    return [
        *ax.plot(
            np.add.reduceat(t, first) / np.diff([*first, t.size]), mean, color=colour, linewidth=0.9, **style
        )
    ]


def inspect_figure(data: TwoTimeData) -> Figure:
    """Maps of at most four angles, the diagonal beside its neighbours, the mean over each frame's pairs.

    The distance between the diagonal and its neighbours is the shot noise; bad frames are gray.
    """
    angles = spread_over(data.phi, MAX_ANGLES)
    uppers = [maps.measured_pairs(data, angle) for angle in angles]
    figure = new_figure(max(2.3 * len(angles) + 1.4, 7.4), 6.0, square=True)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.1, 1))[:, 0]
    step = _draw_maps(upper, data, angles, uppers)
    left, right = lower.subplots(1, 2)
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.8, len(angles)))
    for ax in (left, right):
        for time in data.t[~data.good]:
            ax.axvspan(time - data.dt / 2, time + data.dt / 2, color="0.8", linewidth=0.6)
    for angle, values, colour in zip(angles, uppers, colours, strict=True):
        if data.diagonal is not None:
            draw_frames(left, data.t, data.diagonal[angle], colour, linestyle=":")
        draw_frames(left, data.t[:-1], np.diagonal(values, offset=1), colour)
        draw_frames(right, data.t, frame_mean(values), colour, label=angle_text(data.phi[angle]))
    per_bin = -(-data.num_frames // MAX_BINS)
    binned = f", mean of {per_bin} frames" if per_bin > 1 else ""
    dotted = "dotted: $c_2(t,t)$; line: " if data.diagonal is not None else ""
    style_axes(left, "age $t$ (s)", "$c_2$", rf"{dotted}$c_2(t,t+\Delta t)${binned}")
    style_axes(right, "age $t$ (s)", "$c_2$", f"mean over all pairs of a frame{binned}")
    right.legend(fontsize=SMALL, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(f"q = {data.q:.4g} 1/Å, {maps.map_title(data, len(angles), step)}", fontsize=NORMAL)
    return figure


def _draw_maps(figure: FigureBase, data: TwoTimeData, angles: list[int], uppers: list[Array]) -> int:
    """Row of maps with one colour bar; returns the number of frames per cell."""
    step = -(-data.num_frames // maps.MAX_CELLS)
    cells = [maps.block_mean(values, step)[0] for values in uppers]
    limits = maps.colour_limits(cells)
    axes = figure.subplots(1, len(angles), squeeze=False, sharey=True)
    for ax, angle, values in zip(axes[0], angles, cells, strict=True):
        maps.draw_map(ax, maps.cell_edges(data.t, step), values, "viridis", limits)
        maps.mark_bad_frames(ax, data, step)
        style_axes(ax, "$t_1$ (s)", "$t_2$ (s)" if ax is axes[0, 0] else "", angle_text(data.phi[angle]))
    maps.add_colour_bar(figure, axes, "$c_2$", "right")
    return step
