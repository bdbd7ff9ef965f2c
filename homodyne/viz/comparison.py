"""Parameters of several fits against the wave vector, or against the file where wave vectors do not differ."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from homodyne.arrays import Array
from homodyne.certificate.verdict import Verdict
from homodyne.result.comparison import ComparedFit, Comparison, Interval
from homodyne.viz.labels import SMALL, Notation, panels, style_axes, write_below
from homodyne.viz.posterior import scale_power

COLUMNS = 3
COLOURS = {
    Verdict.CERTIFIED: "#0072B2",
    Verdict.CORRECTED: "#009E73",
    Verdict.UNCERTIFIED: "0.4",
    Verdict.REFUSED: "#D55E00",
}
_STEP = 0.015  # of the axis between fits of one wave vector
_DECADES = 1.3  # of medians, above which an axis is logarithmic


def comparison_figure(comparison: Comparison) -> Figure:
    """One panel for each quantity: medians with 68 % (thick) and 95 % (thin), coloured by verdict, hollow if fixed."""
    place, spans = fit_places(comparison)
    notation = Notation(
        {one.name: one.symbol for one in comparison.quantities}, {one.name: one.unit for one in comparison.quantities}
    )
    axis = comparison.axis
    across = 0.9 + max(1.7, 0.28 * len(comparison.fits) if not axis else 0.0)
    below = 1.2 if axis else 1.2 + 0.055 * max(len(fit.label) for fit in comparison.fits)
    most = 2 if len(comparison.quantities) == 4 else COLUMNS
    figure, axes, columns = panels(len(comparison.quantities), most, (across, 1.9), (0.4, below), sharex=True)
    for k, (ax, one) in enumerate(zip(axes, comparison.quantities, strict=True)):
        values = [fit.values[one.name] for fit in comparison.fits]
        power = draw_intervals(ax, place, spans, values, comparison.fits)
        bottom = k + columns >= len(axes)
        style_axes(ax, axis if bottom else "", notation.label(one.name, power))
        if not axis:
            ax.set_xticks(place, [fit.label for fit in comparison.fits], rotation=90)
            ax.set_xlim(-0.6, len(place) - 0.4)
        ax.tick_params(labelbottom=bottom)
    verdicts = [verdict for verdict in COLOURS if any(fit.verdict == verdict for fit in comparison.fits)]
    handles = [Line2D([], [], color=COLOURS[one], marker="o", markersize=4, label=one) for one in verdicts]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=SMALL, frameon=False)
    kinds = sorted({fit.uncertainty for fit in comparison.fits})
    text = "points: medians; bars: 68 % (thick) and 95 % (thin) of the posterior"
    fixed = "hollow: fixed" if any(v.fixed for fit in comparison.fits for v in fit.values.values()) else ""
    refused = any(fit.verdict is Verdict.REFUSED for fit in comparison.fits)
    write_below(
        figure, [text, fixed, f"uncertainty: {', '.join(kinds)}", *comparison.notes], "red" if refused else "0.3"
    )
    return figure


def fit_places(comparison: Comparison) -> tuple[Array, Array]:
    """Place of each fit on its axis and what it covers, (n,) and (n, 2); without an axis in the order of the files."""
    if not comparison.axis:
        order = np.arange(len(comparison.fits), dtype=np.float64)
        return order, np.stack([order, order], axis=1)
    given = comparison.against
    spans = np.array([fit.q for fit in comparison.fits] if given is None else np.transpose([given[1]] * 2), dtype=float)
    middle = spans.mean(axis=1)
    before = np.array([np.isclose(middle[:k], middle[k], rtol=1e-3).sum() for k in range(middle.size)])
    return middle + before * _STEP * np.ptp(spans), spans


def draw_intervals(ax: Axes, place: Array, spans: Array, values: list[Interval], fits: tuple[ComparedFit, ...]) -> int:
    """Draw one quantity of all fits; returns the power of ten that is taken out of the axis."""
    table = np.array(values)
    medians = table[:, 0]
    logarithmic = bool(table.min() > 0 and np.log10(medians.max() / medians.min()) > _DECADES)
    power = 0 if logarithmic else scale_power(table)
    for x, span, row, value, fit in zip(place, spans, table / 10.0**power, values, fits, strict=True):
        colour = COLOURS[fit.verdict]
        ax.vlines(x, row[3], row[4], color=colour, linewidth=0.8)
        ax.vlines(x, row[1], row[2], color=colour, linewidth=2.4)
        ax.hlines(row[0], *span, color=colour, linewidth=0.8)
        ax.plot(x, row[0], "o", color=colour, markersize=4, markerfacecolor="white" if value.fixed else colour)
    if logarithmic:
        ax.set_yscale("log")
    ax.grid(True, axis="y", linewidth=0.3, alpha=0.5)
    return power
