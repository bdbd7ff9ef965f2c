"""Where the model misses the data: tiles of age and lag, in standard deviations of their mean under speckle noise."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homodyne.arguments import Json
from homodyne.arrays import Array
from homodyne.errors import InputError
from homodyne.result.record import MCMCResult
from homodyne.viz.labels import NORMAL, add_caption, map_texts, panels, style_axes
from homodyne.viz.maps import MAX_MAPS, cell_edges
from homodyne.viz.model import chosen_maps

ALARM = 1e-3
"""Probability below which a misfit is called one."""

RANGE = 4.0
"""Standard deviations at the ends of the colour scale."""


def draw_tiles(ax: Axes, tiles: Mapping[str, Json], k: int, t: Array) -> None:
    """Tiles of map k over age (s, linear) and lag (s, logarithmic); what holds no tile stays gray."""
    family, age, sd = (np.asarray(tiles[name][k]) for name in ("family", "age", "sd"))
    lags = np.exp(cell_edges(np.log(np.asarray(tiles["lag"]))))
    columns = int(np.max([max(ages, default=0) for ages in tiles["age"]])) + 2
    for row in np.unique(family):
        here = family == row
        ages = t[0] + (t[-1] - t[0]) * np.clip((cell_edges(age[here].astype(float)) + 1) / columns, 0, 1)
        ax.pcolormesh(ages, lags[row : row + 2], sd[None, here], cmap="RdBu_r", vmin=-RANGE, vmax=RANGE)
    ax.set_yscale("log")
    ax.set_xlim(t[0], t[-1])
    ax.set_ylim(lags[0], lags[-1])
    ax.set_facecolor("0.8")


def misfit_figure(result: MCMCResult, max_maps: int = MAX_MAPS) -> Figure:
    """Tiles of at most ``max_maps`` maps spread over q and phi, and what the tests of the fit against its data say.

    Raises
    ------
    InputError
        The result holds no such tests.
    """
    checks = result.diagnostics.get("checks")
    if not checks or result.t is None or result.q is None or result.phi is None:
        raise InputError("this result holds no tests against its data: fit again, or give 16 frames or more")
    shown, names = chosen_maps(result.q, result.phi, max_maps), map_texts(result.q, result.phi)
    figure, axes, columns = panels(len(shown), 3, (2.5, 2.3), (2.2, 1.5), sharex=True, sharey=True)
    t = np.delete(result.t, list(result.bad_frames))
    for k, ax in enumerate(axes):
        draw_tiles(ax, checks["tiles"], shown[k], t)
        left, bottom = k % columns == 0, k + columns >= len(shown)
        style_axes(ax, "age (s)" if bottom else "", "lag (s)" if left else "", names[shown[k]])
        ax.tick_params(labelbottom=bottom)
    figure.colorbar(axes[0].collections[0], ax=axes, extend="both", aspect=30).set_label(
        "(data $-$ model) / standard deviation", fontsize=NORMAL
    )
    p = checks["misfit"]["p"]
    agree = f"no misfit beyond the noise (p = {p:.2g})"
    figure.suptitle("the model misses the data" if p < ALARM else agree, fontsize=NORMAL)
    tests = ", ".join(f"{kind} {test['p']:.2g}" for kind, test in checks["misfit"]["tests"].items())
    text = "; ".join([f"probability of a larger misfit: {tests}", *checks["alarms"]])
    add_caption(figure, result, f"tiles that share frames share noise; {text}")
    return figure
