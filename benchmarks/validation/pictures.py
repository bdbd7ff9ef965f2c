"""Figures of the validation, as PNG in memory."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.validation.bands import band, grid
from benchmarks.validation.records import Record

Array = np.ndarray[Any, np.dtype[Any]]

_COLORS = {"independent": "tab:red", "calibrated": "tab:blue"}


def coverage_figure(cases: Mapping[str, list[Record]]) -> bytes:
    """Coverage of 90 % intervals by regime, a dot per parameter, with Monte Carlo errors."""
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    ax = figure.subplots()
    ax.axhline(0.9, color="0.5", linewidth=1)
    for k, records in enumerate(cases.values()):
        _dots(ax, k, records)
    ax.set_xticks(range(len(cases)), [case.replace("_flow", "").replace(", ", "\n") for case in cases])
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("coverage of 90 % intervals")
    handles = [ax.plot([], [], "o", color=color, label=name)[0] for name, color in _COLORS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return _png(figure)


def _dots(ax: Any, k: int, records: list[Record]) -> None:
    """Coverage of every parameter with its Monte Carlo error, independent left and calibrated right of the tick."""
    for side, posterior in ((-0.18, "independent"), (0.18, "calibrated")):
        told = [r[posterior]["ranks"] for r in records if r.get(posterior, {}).get("ranks")]
        names = [name for name in (told[0] if told else ()) if "likelihood" not in name]
        for i, name in enumerate(names):
            inside = np.abs(np.array([one[name] for one in told]) - 0.5) <= 0.45
            share = inside.mean()
            error = np.sqrt(max(share * (1 - share), 0.5 / len(told)) / len(told))
            x = k + side + 0.24 * ((i + 0.5) / len(names) - 0.5)
            ax.errorbar(x, share, error, fmt="o", markersize=3, linewidth=0.8, color=_COLORS[posterior])


def calibration_figure(cases: Mapping[str, Mapping[str, Array]]) -> bytes:
    """Distribution function of the ranks less the diagonal, with the simultaneous 95 % band of one quantity."""
    columns = min(4, len(cases))
    rows = -(-len(cases) // columns)
    figure = Figure(figsize=(max(5.2, 2.6 * columns), 2.6 * rows + 0.8), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    labelled: dict[str, Any] = {}
    for ax, (case, ranks) in zip(panels, cases.items(), strict=False):
        for x in ranks.values():
            z = grid(len(x))
            low, high = band(len(x))
            ax.fill_between(z, low - z, high - z, color="0.9", linewidth=0)
            break
        for name, x in ranks.items():
            color = labelled[name].get_color() if name in labelled else f"C{len(labelled) % 10}"
            for column in x.T:
                function = np.mean(column[:, None] <= z, axis=0) - z
                (labelled[name],) = ax.plot(z, function, linewidth=1, color=color)
        ax.set_title(f"{case.replace('_', ' ')} ({len(x)} sets)", fontsize=8)
    for ax in panels[len(cases) :]:
        ax.set_axis_off()
    figure.supxlabel("rank of the truth", fontsize=9)
    figure.supylabel("distribution function - diagonal", fontsize=9)
    figure.legend(
        labelled.values(), labelled, loc="outside upper center", ncols=max(3, 2 * columns), frameon=False, fontsize=8
    )
    return _png(figure)


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=120)
    return sink.getvalue()
