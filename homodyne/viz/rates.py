"""Rates of the model, such as a transport coefficient J(t), against age, with the band of the posterior."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homodyne.arrays import Array
from homodyne.errors import InputError
from homodyne.result.curves import RateDraws, rate_draws
from homodyne.result.record import MCMCResult
from homodyne.viz.labels import CHAIN_COLOURS, SMALL, add_caption, panels, style_axes, unit_text
from homodyne.viz.model import thinned

COLUMNS = 3
_SPREAD = 3.0  # factor between lowest and highest value, above which an axis is logarithmic


def rate_band(draws: RateDraws) -> Array:
    """5, 50 and 95 % points over draws, (3, n)."""
    return np.asarray(np.quantile(draws.value, (0.05, 0.5, 0.95), axis=0))


def draw_rate(ax: Axes, t: Array, band: Array, colour: str, truth: Array | None = None) -> list[Artist]:
    """Median line, 90 % band and, where given, the true curve; logarithmic where values are positive and spread."""
    low, median, high = band
    area = ax.fill_between(t, low, high, color=colour, alpha=0.3, linewidth=0, label="90 % band")
    artists: list[Artist] = [area, *ax.plot(t, median, color=colour, linewidth=1.4, label="median")]
    if truth is not None:
        artists += ax.plot(t, truth, color="black", linestyle="--", linewidth=1.0, label="true")
    ax.set_xscale("log")
    lowest = low.min() if truth is None else min(low.min(), truth.min())
    if lowest > 0 and high.max() > _SPREAD * lowest:
        ax.set_yscale("log")
    return artists


def rate_figure(result: MCMCResult, truth: Mapping[str, float] | None = None) -> Figure:
    """Every rate of the model from the first frame to the last, and the true curve where all parameters are known.

    Raises
    ------
    InputError
        The model of the result is not known, or has no rates.
    """
    model = result.require_model()
    if result.t is None or not model.rates():
        raise InputError(f"the model {model.name} has no rates to draw: give it a method rates()")
    t = np.geomspace(result.t[0], result.t[-1], 200)
    curves = rate_draws(result, t, thinned(result))
    known = truth is not None and set(model.parameter_names) <= set(truth)
    figure, axes, columns = panels(len(curves), COLUMNS, (3.9, 3.1), (0.9, 0.5))
    for k, (ax, curve) in enumerate(zip(axes, curves, strict=True)):
        true_curve = np.broadcast_to(curve.rate.value(truth, jnp.asarray(t)), t.shape) if known and truth else None
        draw_rate(ax, t, rate_band(curve), CHAIN_COLOURS[k % len(CHAIN_COLOURS)], true_curve)
        unit = unit_text(curve.rate.unit)
        label = f"${curve.rate.symbol}$ ({unit})" if unit else f"${curve.rate.symbol}$"
        style_axes(ax, "age $t$ (s)" if k + columns >= len(axes) else "", label)
        ax.grid(True, which="major", linewidth=0.3, alpha=0.5)
        ax.legend(fontsize=SMALL, frameon=False)
    add_caption(figure, result, "line and band: median and 90 % of the posterior")
    return figure
