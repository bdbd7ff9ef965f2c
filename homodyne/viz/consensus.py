"""Do the shards agree? Figures of a validated consensus run.

Each takes the numbers that :func:`homodyne.optimization.cmc.diagnostics.validate_cmc_results` returns:
:func:`shard_forest_figure` shows every shard against the combined posterior, :func:`divergence_figure` every pair of
shards, :func:`agreement_figure` the p-values of the tests. Shards that the tests name are orange and carry their
number; shards without usable draws are listed below the figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import NDArray

from homodyne.arguments import Json
from homodyne.arrays import AnyArray, Array
from homodyne.errors import InputError
from homodyne.result.summary import format_number
from homodyne.viz.labels import NORMAL, SMALL, Notation, counted, new_figure, panels, style_axes, write_below
from homodyne.viz.posterior import scale_power

MAX_PARAMETERS = 8
FALSE_ALARM = 0.0025
"""Level of each family of tests, a quarter of that of the whole validation."""
REACH = 10.0  # the colours of divergences end at the limit times and divided by this
_GOOD, _BAD, _BAND, _LINE = "#0072B2", "#D55E00", "0.85", "0.35"
_FAINT = 1e-12
PLAIN = Notation()
"""Names as they are, without units."""


@dataclass(frozen=True, eq=False)
class ShardTable:
    """Moments of the compared shards, ready to be drawn.

    ``mean`` and ``sd`` are (M, d), ``center`` and ``width`` (d,) those of the combined posterior or, without one, of
    the normal product of the shards; ``bad`` marks the shards that a test names.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    mean: Array
    sd: Array
    center: Array
    width: Array
    source: str
    bad: NDArray[np.bool_]

    def power(self, k: int) -> int:
        """Power of ten that is taken out of the axis of parameter ``k``."""
        return scale_power(np.maximum(np.abs(self.center[k : k + 1]), self.width[k]))


def shard_table(diagnostics: Mapping[str, Json]) -> ShardTable:
    """Take out of the validation's numbers what the forest needs.

    Raises
    ------
    InputError
        Fewer than two shards could be compared.
    """
    between = _between(diagnostics)
    ids = tuple(diagnostics["shard_ids"])
    entries = {entry["shard_id"]: entry for entry in diagnostics["per_shard"]}
    combined = diagnostics["combined"]
    usable = combined is not None and combined["sd"] is not None
    reference = combined if usable else between["product"]
    named = _named(between)
    return ShardTable(
        ids,
        tuple(diagnostics["names"]),
        np.array([entries[k]["mean"] for k in ids], dtype=np.float64),
        np.array([entries[k]["sd"] for k in ids], dtype=np.float64),
        np.array(reference["mean"], dtype=np.float64),
        np.array(reference["sd"], dtype=np.float64),
        "combined posterior" if usable else "product of the shards",
        np.array([k in named for k in ids]),
    )


def draw_forest(ax: Axes, table: ShardTable, k: int) -> list[Artist]:
    """Mean and sd of parameter ``k`` for every shard, one line each, over the combined mean and sd.

    The lower axis has the parameter's own unit; lengths in standard deviations of a shard are on the upper axis.
    """
    unit = 10.0 ** table.power(k)
    center, width, typical = table.center[k], table.width[k], float(np.median(table.sd[:, k]))
    mean, sd = table.mean[:, k] / unit, table.sd[:, k] / unit
    rows = np.arange(len(table.ids))
    band = ax.axvspan((center - width) / unit, (center + width) / unit, color=_BAND, linewidth=0)
    artists: list[Artist] = [band, ax.axvline(center / unit, color=_LINE, linewidth=0.8)]
    size = float(np.clip(90.0 / len(rows), 1.6, 4.0))
    style: dict[str, Json] = {"fmt": "o", "markersize": size, "linewidth": 0.35 * size}
    for bad, colour in ((False, _GOOD), (True, _BAD)):
        chosen = table.bad == bad
        if chosen.any():
            bars = ax.errorbar(mean[chosen], rows[chosen], xerr=sd[chosen], color=colour, **style)
            artists.append(bars.lines[0])
    low, high = _forest_span(table, k, typical)
    ax.set_xlim(low / unit, high / unit)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    _mark_hidden(ax, table, k, (low, high), rows)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    upper = ax.secondary_xaxis(
        "top",
        functions=(
            lambda value: (np.asarray(value) * unit - center) / typical,
            lambda value: (np.asarray(value) * typical + center) / unit,
        ),
    )
    upper.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    upper.tick_params(labelsize=SMALL)
    return artists


def _forest_span(table: ShardTable, k: int, typical: float) -> tuple[float, float]:
    """Limits that show all shards of usual width; those far wider, or far off, are cut, and arrows say so."""
    usual = table.sd[:, k] <= 4.0 * typical
    low = np.min(table.mean[usual, k] - table.sd[usual, k])
    high = np.max(table.mean[usual, k] + table.sd[usual, k])
    reach = 12.0 * typical
    low, high = max(low, table.center[k] - reach), min(high, table.center[k] + reach)
    low, high = min(low, table.center[k] - typical), max(high, table.center[k] + typical)
    margin = 0.06 * (high - low)
    return float(low - margin), float(high + margin)


def _mark_hidden(ax: Axes, table: ShardTable, k: int, span: tuple[float, float], rows: AnyArray) -> None:
    """Arrow heads at the edge for shards whose mean lies outside."""
    transform = ax.get_yaxis_transform()
    for side, marker, place in ((0, "<", 0.02), (1, ">", 0.98)):
        outside = table.mean[:, k] < span[0] if side == 0 else table.mean[:, k] > span[1]
        for bad, colour in ((False, _GOOD), (True, _BAD)):
            chosen = rows[outside & (table.bad == bad)]
            ax.plot(np.full(chosen.size, place), chosen, marker, color=colour, markersize=4, transform=transform)


def shard_forest_figure(diagnostics: Mapping[str, object], notation: Notation = PLAIN) -> Figure:
    """One panel per parameter (the first eight): every shard's mean and sd against the combined posterior."""
    table = shard_table(diagnostics)
    shown = min(len(table.names), MAX_PARAMETERS)
    height = float(np.clip(0.085 * len(table.ids), 1.5, 5.5))
    figure, axes, columns = panels(shown, 4, (2.1, height + 0.95), (1.0, 0.7))
    for k, ax in enumerate(axes):
        draw_forest(ax, table, k)
        center, width = float(table.center[k]), float(table.width[k])
        text = " ± ".join(format_number(value, width, max(abs(center), width)) for value in (center, width))
        title = f"{notation.symbol(table.names[k])} = {text}".replace("-", "−")
        style_axes(ax, notation.label(table.names[k], table.power(k)), "", title)
        _shard_ticks(ax.yaxis, table.ids, table.bad)
        ax.tick_params(axis="y", labelleft=k % columns == 0)
        if k % columns == 0:
            ax.set_ylabel("shard", fontsize=NORMAL)
    more = f"; {len(table.names) - shown} further parameters not shown" if shown < len(table.names) else ""
    text = (
        f"points: mean and sd of each shard; grey: mean and sd of the {table.source}; "
        f"upper axis: distance from its mean in sd of a shard (median){more}"
    )
    _caption(figure, diagnostics, text)
    return figure


def _shard_ticks(axis: Axis, ids: Sequence[int], bad: NDArray[np.bool_], most: int = 16) -> None:
    """Numbers of every bad shard, neighbours in one label, and of about ``most`` others that leave them room."""
    step = -(-len(ids) // most)
    groups: list[list[int]] = []
    for row in np.flatnonzero(bad).tolist():
        if groups and row - groups[-1][-1] < step:
            groups[-1].append(row)
        else:
            groups.append([row])
    regular = [
        row
        for row in range(0, len(ids), step)
        if all(abs(row - sum(group) / len(group)) >= step and row not in group for group in groups)
    ]
    ticks = [([row], False) for row in regular] + [(group, True) for group in groups]
    labels = [", ".join(str(ids[row]) for row in group) for group, _ in ticks]
    axis.set_ticks([sum(group) / len(group) for group, _ in ticks], labels)
    for tick, (_, flag) in zip(axis.get_major_ticks(), ticks, strict=True):
        tick.label1.set_color(_BAD if flag else "black")
        tick.label1.set_fontweight("bold" if flag else "normal")


def draw_divergence(ax: Axes, matrix: Array, ids: Sequence[int], limit: float) -> ScalarMappable:
    """Symmetric divergence of every pair: blue below the limit for healthy shards of one size, red above it."""
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="0.8")
    masked = np.ma.masked_array(matrix, np.eye(len(matrix), dtype=bool))
    norm = matplotlib.colors.LogNorm(limit / REACH, limit * REACH)
    return ax.imshow(masked, cmap=colours, norm=norm, interpolation="nearest", origin="upper")


def divergence_figure(diagnostics: Mapping[str, Json]) -> Figure:
    """Matrix of symmetric divergences beside their distribution over pairs.

    Raises
    ------
    InputError
        Fewer than two shards could be compared, or too many for the matrix to be kept.
    """
    between = _between(diagnostics)
    kl = between["kl"]
    if kl["matrix"] is None:
        raise InputError(f"{len(diagnostics['shard_ids'])} shards are too many for a matrix of divergences")
    ids = diagnostics["shard_ids"]
    matrix = np.array(kl["matrix"], dtype=np.float64)
    bad = np.array([k in _named(between) for k in ids])
    figure = new_figure(7.6, 3.7)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    image = draw_divergence(left, matrix, ids, kl["limit"])
    bar = figure.colorbar(image, ax=left, shrink=0.9, extend="both")
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label("symmetric divergence (nats)", fontsize=NORMAL)
    style_axes(left, "shard", "shard", f"white: limit for healthy shards, {kl['limit']:.3g}")
    _shard_ticks(left.yaxis, ids, bad)
    _shard_ticks(left.xaxis, ids, bad)
    left.tick_params(axis="x", labelrotation=90 if len(ids) > 9 else 0)
    draw_pairs(right, matrix, bad, kl["expected"], kl["limit"])
    _caption(figure, diagnostics, "one size of shards assumed: shards that are wider by right stand out as well")
    return figure


def draw_pairs(ax: Axes, matrix: Array, bad: NDArray[np.bool_], expected: float, limit: float) -> list[Artist]:
    """Histogram of the divergences of all pairs, those with a bad shard apart, with expectation and limit."""
    first, second = np.triu_indices(len(matrix), 1)
    values, suspect = matrix[first, second], bad[first] | bad[second]
    low = max(min(values.min() / 1.5, expected / 20.0), 1e-4)
    edges = np.geomspace(low, max(1.5 * values.max(), 4.0 * limit), 31)
    values = np.maximum(values, edges[0])
    data = [values[~suspect], values[suspect]]
    counts = [np.histogram(part, edges)[0] for part in data]
    artists: list[Artist] = [
        ax.stairs(counts[k] + k * counts[0], edges, baseline=k * counts[0], fill=True, color=colour, label=label)
        for k, (colour, label) in enumerate(((_GOOD, "pairs of shards"), (_BAD, "pairs with a named shard")))
        if data[k].size
    ]
    ax.axvline(expected, color="black", linewidth=0.9, label=f"expected mean {expected:.3g}")
    ax.axvline(limit, color="black", linewidth=0.9, linestyle="--", label=f"limit {limit:.3g}")
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(0, 1.6 * float(np.sum(counts, axis=0).max()))
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    style_axes(ax, "symmetric divergence (nats)", "pairs")
    ax.legend(fontsize=SMALL, framealpha=1.0, edgecolor="none", loc="upper left")
    return artists


def draw_p_values(ax: Axes, p: Array, bad: NDArray[np.bool_], limit: float) -> list[Artist]:
    """Stems of -log10 p, and the limit below which a test fails; values below 1e-12 are drawn there."""
    height = -np.log10(np.maximum(p, _FAINT))
    places = np.arange(len(p))
    stems: list[Artist] = [
        ax.vlines(places, 0.0, height, colors=[_BAD if flag else _GOOD for flag in bad], linewidth=1)
    ]
    for flag, colour in ((False, _GOOD), (True, _BAD)):
        stems += ax.plot(places[bad == flag], height[bad == flag], "o", color=colour, markersize=3.5)
    stems.append(ax.axhline(-np.log10(limit), color="black", linewidth=0.9, linestyle="--"))
    ax.set_xlim(-0.7, len(p) - 0.3)
    ax.set_ylim(0.0, 1.18 * max(float(height.max()), -np.log10(limit)))
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return stems


def agreement_figure(diagnostics: Mapping[str, Json], notation: Notation = PLAIN) -> Figure:
    """Tests of agreement: Cochran's Q per parameter, and each shard against the others."""
    between = _between(diagnostics)
    ids = diagnostics["shard_ids"]
    entries = {entry["shard_id"]: entry for entry in diagnostics["per_shard"]}
    p_shard = np.array([entries[k]["leave_one_out"]["p"] for k in ids])
    p_name = np.array([row["p_holm"] for row in between["parameters"]])
    bad = np.array([k in between["outliers"] for k in ids])
    width = float(np.clip(0.09 * len(ids), 2.6, 6.0))
    figure = new_figure(width + max(0.32 * len(p_name), 1.4) + 1.2, 3.1)
    left, right = figure.subplots(1, 2, width_ratios=(max(0.32 * len(p_name), 1.4), width))
    draw_p_values(left, p_name, p_name < FALSE_ALARM, FALSE_ALARM)
    left.set_xticks(range(len(p_name)), [notation.symbol(row["name"]) for row in between["parameters"]], rotation=90)
    style_axes(left, "", r"$-\log_{10} p$", "per parameter (Holm)")
    draw_p_values(right, p_shard, bad, FALSE_ALARM / len(ids))
    _shard_ticks(right.xaxis, ids, bad, 20)
    right.tick_params(axis="x", labelrotation=90 if len(ids) > 20 else 0)
    style_axes(right, "shard", "", "each shard against the others")
    q = between["q"]
    text = f"all shards and parameters: Q = {q['q']:.4g}, expected {q['expected']:.4g}, p = {q['p']:.2g}"
    figure.suptitle(text, fontsize=NORMAL)
    _caption(figure, diagnostics, f"dashed: level {FALSE_ALARM:g} divided by the number of shards (right)")
    return figure


def _between(diagnostics: Mapping[str, Json]) -> Json:
    if diagnostics["between"] is None:
        raise InputError(
            f"{counted(len(diagnostics['shard_ids']), 'shard')} could be compared; the figure needs two or more"
        )
    return diagnostics["between"]


def _named(between: Mapping[str, Json]) -> set[int]:
    return {*between["outliers"], *(shard for pair in between["identical"] for shard in pair)}


def _caption(figure: Figure, diagnostics: Mapping[str, Json], text: str) -> None:
    """Number of shards, those that could not be compared, and ``text``."""
    compared = set(diagnostics["shard_ids"])
    missing = [str(entry["shard_id"]) for entry in diagnostics["per_shard"] if entry["shard_id"] not in compared]
    shown = ", ".join(missing[:12]) + (", ..." if len(missing) > 12 else "")
    parts = [
        counted(len(compared), "shard"),
        f"not compared: {shown}" if missing else "",
        "" if diagnostics["valid"] else f"NOT VALID: {counted(len(diagnostics['problems']), 'problem')}",
        text,
    ]
    write_below(figure, parts, "0.3" if diagnostics["valid"] else _BAD)
