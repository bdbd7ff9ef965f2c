"""Precision of planned measurements against what is varied between them."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from homodyne.physics.model import CorrelationModel
from homodyne.viz.labels import CHAIN_COLOURS, SMALL, notation_of, panels, style_axes

_AXES = {"frames": "frames", "angles": "angles", "pixels": "pixels", "counts": "counts per pixel and frame"}


def plan_figure(
    name: str, varied: Sequence[float], found: Sequence[Any], params: Mapping[str, float], model: CorrelationModel
) -> Figure:
    """One panel for each free parameter.

    Parameters
    ----------
    name : {"frames", "angles", "pixels", "counts"}
        What is varied.
    varied : sequence of float
        Its values.
    found : sequence of Precision
        As `homodyne.optimization.plan.expected_precision` gives them.
    params : mapping
        True values: standard deviations are drawn in per cent of them, those of exponents and directions as they are.
    model : CorrelationModel
        What `params` belong to.
    """
    notation, relatives = notation_of(model), relative_names(model, params)
    free = list(found[0].true)
    figure, axes, columns = panels(len(free), 4, (2.4, 2.3), (0.4, 0.7 if len(free) > 2 else 1.1), sharex=True)
    styles: dict[str, dict[str, Any]] = {
        "true": {"color": CHAIN_COLOURS[0], "marker": "o", "label": "true (speckle shares frames)"},
        "independent": {"color": CHAIN_COLOURS[1], "linestyle": "--", "label": "if noise were independent"},
        "simulated": {"color": "black", "linestyle": "", "marker": "x", "label": "simulated measurements"},
    }
    for k, (ax, parameter) in enumerate(zip(axes, free, strict=True)):
        relative = parameter in relatives
        scale = 100 / abs(params[parameter]) if relative else 1.0
        for kind, style in styles.items():
            if getattr(found[0], kind):
                ax.plot(varied, [scale * getattr(one, kind)[parameter] for one in found], markersize=4, **style)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(list(varied), [f"{value:g}" for value in varied])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.grid(True, linewidth=0.3, alpha=0.5)
        label = f"sd of {notation.symbol(parameter)} (%)" if relative else f"sd of {notation.label(parameter)}"
        style_axes(ax, _AXES[name] if k + columns >= len(free) else "", label)
        ax.tick_params(labelbottom=k + columns >= len(free), which="both", labelsize=SMALL - 1)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=1 if columns < 3 else 3, fontsize=SMALL, frameon=False
    )
    return figure


def relative_names(model: CorrelationModel, params: Mapping[str, float]) -> set[str]:
    """Parameters whose standard deviation is given in per cent: not exponents, directions, and what is zero."""
    return {one.name for one in model.parameters if one.unit and one.period is None and params[one.name] != 0}
