"""A first look at measured maps, before any fit: :func:`inspect_figure`."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.typing import ColorType

from homodyne.arrays import Array
from homodyne.data.twotime import TwoTimeData
from homodyne.viz import maps
from homodyne.viz.labels import NORMAL, SMALL, angle_text, new_figure, style_axes
from homodyne.viz.model import chosen_maps

MAX_MAPS, MAX_BINS = 4, 200


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
    return [*ax.plot(np.add.reduceat(t, first) / np.diff([*first, t.size]), mean, color=colour, linewidth=0.9, **style)]


def inspect_figure(data: TwoTimeData, max_cells: int = maps.MAX_CELLS) -> Figure:
    """At most four maps spread over q and angle, the diagonal above its neighbours, the mean over each frame's pairs.

    More than ``max_cells`` frames are averaged in blocks.

    The distance between the diagonal and its neighbours is the shot noise. Gray is what is no data: pairs, and whole
    frames; the legend says how many and why.
    """
    shown = chosen_maps(data.q, data.phi, MAX_MAPS)
    names = [_name(data, k) for k in shown]
    uppers = [maps.measured_pairs(data, k) for k in shown]
    figure, top, above, left, right = _panels(len(shown), data.diagonal is not None)
    step = -(-data.num_frames // max_cells)
    _draw_maps(figure, top, data, shown, names, uppers, step)
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.8, len(shown)))
    for ax in (left, right) if above is None else (above, left, right):
        for time in data.t[~data.good]:
            ax.axvspan(time - data.dt / 2, time + data.dt / 2, color="0.8", linewidth=0.6)
    for k, name, values, colour in zip(shown, names, uppers, colours, strict=True):
        if above is not None and data.diagonal is not None:
            draw_frames(above, data.t, data.diagonal[k], colour)
        draw_frames(left, data.t[:-1], np.diagonal(values, offset=1), colour)
        draw_frames(right, data.t, frame_mean(values), colour, label=name)
    per_bin = -(-data.num_frames // MAX_BINS)
    binned = f", mean of {per_bin} frames" if per_bin > 1 else ""
    if above is not None:
        style_axes(above, "", "$c_2(t,t)$", f"diagonal and its neighbours{binned}")
        above.tick_params(labelbottom=False)
    style_axes(
        left, "age $t$ (s)", r"$c_2(t,t+\Delta t)$", "" if above is not None else f"neighbours of the diagonal{binned}"
    )
    style_axes(right, "age $t$ (s)", "$c_2$", f"mean over all pairs of a frame{binned}")
    if data.left_out:
        maps.explain_left_out(right, data)
    if len(shown) > 1 or data.left_out:
        figure.legend(loc="outside lower center", ncols=len(shown) + bool(data.left_out), fontsize=SMALL, frameon=False)
    low, high = data.q.min(), data.q.max()
    waves = f"q = {low:.4g} 1/Å" if low == high else f"{data.wavevectors.size} q, {low:.4g} to {high:.4g} 1/Å"
    figure.suptitle(f"{waves}, {maps.map_title(data, len(shown), step)}", fontsize=NORMAL)
    return figure


def _name(data: TwoTimeData, k: int) -> str:
    """Angle of a map, below its q where there are several."""
    angle = angle_text(data.phi[k])
    return angle if data.wavevectors.size == 1 else f"q = {data.q[k]:.4g} 1/Å\n{angle}"


def _panels(count: int, diagonal: bool) -> tuple[Figure, list[Axes], Axes | None, Axes, Axes]:
    """Figure with ``count`` panels for maps above two wide ones; a single map stands beside them.

    The first wide one is cut in two where there is a ``diagonal``, whose scale is its own.
    """
    if count == 1:
        figure = new_figure(11.5, 3.9)
        grid = GridSpec(1, 3, figure)
        places, wide = [grid[0, 0]], (grid[0, 1], grid[0, 2])
    else:
        figure = new_figure(2.4 * count + 1.2, 5.8)
        grid = GridSpec(2, 2 * count, figure, height_ratios=(1.1, 1))
        places, wide = [grid[0, 2 * k : 2 * k + 2] for k in range(count)], (grid[1, :count], grid[1, count:])
    top = [figure.add_subplot(place) for place in places]
    if not diagonal:
        return figure, top, None, figure.add_subplot(wide[0]), figure.add_subplot(wide[1])
    halves = wide[0].subgridspec(2, 1)
    above, left = (figure.add_subplot(halves[k, 0]) for k in range(2))
    above.sharex(left)
    return figure, top, above, left, figure.add_subplot(wide[1])


def _draw_maps(
    figure: Figure,
    axes: list[Axes],
    data: TwoTimeData,
    shown: list[int],
    names: list[str],
    uppers: list[Array],
    step: int,
) -> None:
    """Maps with one colour bar, ``step`` frames per cell."""
    cells, counts = zip(*(maps.block_mean(values, step) for values in uppers), strict=True)
    limits, edges = maps.colour_limits(list(cells)), maps.cell_edges(data.t, step)
    upper = np.triu(np.ones((data.num_frames, data.num_frames), dtype=bool), 1)
    for k, (ax, name, values, count) in enumerate(zip(axes, names, cells, counts, strict=True)):
        maps.draw_map(ax, edges, values, "viridis", limits)
        if step > 1:
            alive = data.alive[shown[k]]
            _, pairs = maps.block_mean(np.where(upper & alive & alive[:, None], 1.0, np.nan), step)
            maps.mark_left_out(ax, edges, (count > 0) & (count < pairs))
        maps.mark_bad_frames(ax, data, step)
        style_axes(ax, "$t_1$ (s)", "" if k else "$t_2$ (s)", name)
        ax.tick_params(labelleft=k == 0)
    maps.add_colour_bar(figure, axes, "$c_2$", "right")
