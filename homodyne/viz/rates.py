"""Transport coefficient J(t) and shear rate over the time of the measurement, with the posterior band."""

from collections.abc import Mapping

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from homodyne.core.parameters import LAMINAR_NAMES, STATIC_NAMES
from homodyne.core.transport import rate
from homodyne.errors import InputError
from homodyne.optimization.cmc.result import MCMCResult
from homodyne.viz.labels import CHAIN_COLOURS, SMALL, add_caption, new_figure, style_axes
from homodyne.viz.model import rate_draws, thinned

Array = NDArray[np.float64]

TRANSPORT, SHEAR = STATIC_NAMES, LAMINAR_NAMES[3:6]
_LABELS = {TRANSPORT: r"$J(t)$ (Å$^2$/s)", SHEAR: r"$\dot\gamma(t)$ (1/s)"}
_COLOURS = {TRANSPORT: CHAIN_COLOURS[0], SHEAR: CHAIN_COLOURS[1]}


def rate_band(result: MCMCResult, t: Array, names: tuple[str, ...]) -> Array:
    """5, 50 and 95 % points (3, n) of the rate at times ``t`` (s); ``names`` is TRANSPORT or SHEAR."""
    return np.asarray(np.quantile(rate_draws(result, t, names, thinned(result)), (0.05, 0.5, 0.95), axis=0))


def draw_rate(ax: Axes, t: Array, band: Array, colour: str, truth: Array | None = None) -> list[Artist]:
    """Median line, 90 % band and, where given, the true curve; logarithmic where all values are positive."""
    low, median, high = band
    area = ax.fill_between(t, low, high, color=colour, alpha=0.3, linewidth=0, label="90 % band")
    artists: list[Artist] = [area, *ax.plot(t, median, color=colour, linewidth=1.4, label="median")]
    if truth is not None:
        artists += ax.plot(t, truth, color="black", linestyle="--", linewidth=1.0, label="true")
    ax.set_xscale("log")
    if np.all(low > 0) and (truth is None or np.all(truth > 0)):
        ax.set_yscale("log")
    return artists


def rate_figure(result: MCMCResult, truth: Mapping[str, float] | None = None) -> Figure:
    """J(t) and, for laminar flow, the shear rate, from the first frame to the last.

    ``truth`` holds known physical parameters, whose curves are drawn too.
    """
    if result.t is None:
        raise InputError("this result does not come from two-time maps; it has no times to draw rates over")
    known = {*result.samples, *result.fixed}
    kinds = [names for names in (TRANSPORT, SHEAR) if known.issuperset(names)]
    t = np.geomspace(result.t[0], result.t[-1], 200)
    figure = new_figure(max(4.2 * len(kinds), 4.8), 3.6)
    for ax, names in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        true_curve = None
        if truth is not None and set(names) <= set(truth):
            true_curve = np.asarray(rate(t, *(truth[name] for name in names)))
        draw_rate(ax, t, rate_band(result, t, names), _COLOURS[names], true_curve)
        style_axes(ax, "age $t$ (s)", _LABELS[names])
        ax.grid(True, which="major", linewidth=0.3, alpha=0.5)
        ax.legend(fontsize=SMALL, frameon=False)
    add_caption(figure, result, "line and band: median and 90 % of the posterior")
    return figure
