"""Names, units and captions as figures show them.

Every figure starts with :func:`new_figure` and ends with :func:`add_caption`, which states the verdict and
which uncertainty is drawn.
"""

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from homodyne.certificate.verdict import Verdict
from homodyne.physics.model import CorrelationModel
from homodyne.result.record import MCMCResult
from homodyne.result.summary import map_labels, shared_label

SMALL, NORMAL = 7.5, 9.0
"""Font sizes in points: ticks, captions and legends; labels and titles."""

CHAIN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
"""Okabe and Ito's colours, told apart by colour-blind readers."""

_NOISE = {"independent": "independent noise", "calibrated": "calibrated (correlated noise)"}


_PLAIN = {r"\alpha": "α", r"\beta": "β", r"\dot\gamma": "γ̇", r"\mu": "μ", r"\tau": "τ", r"\varphi": "φ", r"\sigma": "σ",
          r"\Gamma": "Γ", r"\mathrm": "", "$": "", "{": "", "}": ""}  # fmt: skip


class _Shown(Figure):
    """A figure that notebooks show; they know those of pyplot only."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()


def new_figure(width: float, height: float, *, gap: float = 0.02, square: bool = False) -> Figure:
    """Empty figure (inches) on an Agg canvas, apart from pyplot.

    ``gap`` is the distance of panels in units of their size; ``square`` panels stand close together.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04, wspace=gap, hspace=gap, compress=square)
    figure = _Shown(figsize=(width, height), layout=layout, dpi=150)
    FigureCanvasAgg(figure)
    return figure


@dataclass(frozen=True)
class Notation:
    """How parameters are written: ``symbols`` (mathtext without dollar signs) and ``units`` by name, where known."""

    symbols: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)

    def symbol(self, name: str) -> str:
        """Name of a parameter in mathematical type; names without a symbol as they are."""
        return f"${self.symbols[name]}$" if self.symbols.get(name) else name

    def unit(self, name: str) -> str:
        """Unit of a parameter with superscripts."""
        return unit_text(self.units.get(name, ""), self.symbols)

    def label(self, name: str, power: int = 0) -> str:
        """Axis label: symbol and, in brackets, ``10**power`` times the unit."""
        scale = f"$10^{{{power}}}$" if power else ""
        inside = " ".join(part for part in (scale, self.unit(name)) if part)
        return f"{self.symbol(name)} ({inside})" if inside else self.symbol(name)


def notation_of(model: CorrelationModel | None, units: Mapping[str, str] | None = None) -> Notation:
    """Symbols of a model, where it is known, and units: by default those of the model."""
    if model is None:
        return Notation(units=units or {})
    return Notation({one.name: one.symbol for one in model.parameters}, model.units if units is None else units)


def unit_text(unit: str, symbols: Mapping[str, str] | None = None) -> str:
    r"""Unit with superscripts, names of parameters in them by their symbols.

    ``"Å^2/s^(1+alpha)"`` becomes ``Å$^{2}$/s$^{1+\alpha}$``.
    """

    def superscript(match: re.Match[str]) -> str:
        power = match[1] or match[2]
        return "$^{" + re.sub(r"[^\W\d]\w*", lambda word: (symbols or {}).get(word[0], word[0]), power) + "}$"

    return re.sub(r"(?:\^|\*\*)(?:\(([^)]*)\)|(-?\d+))", superscript, unit)


def plain_text(text: str) -> str:
    r"""Text without mathematical type: ``$D_{0}$ ($10^{4}$ Å/s$^{1+\alpha}$)`` becomes ``D_0 (10^4 Å/s^(1+α))``."""
    text = re.sub(r"\^\{([^{}]{2,})\}", r"^(\1)", text)
    for typed, plain in _PLAIN.items():
        text = text.replace(typed, plain)
    return text


def counted(number: int, word: str) -> str:
    """``1 angle``, ``3 angles``."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def angle_text(phi: float) -> str:
    """Name of one angle (degrees)."""
    return rf"$\varphi$ = {phi:.4g}°".replace("-", "−")


def map_texts(q: NDArray[np.float64], phi: NDArray[np.float64]) -> list[str]:
    """Names of maps in lines of their own: wave vector and angle, as far as maps differ in them."""
    return [_typeset(label).replace(", ", "\n") for label in map_labels(q, phi)]


def shared_text(q: NDArray[np.float64], phi: NDArray[np.float64]) -> str:
    """What several maps have in common of wave vector and angle."""
    return _typeset(shared_label(q, phi))


def _typeset(label: str) -> str:
    return label.replace("φ", r"$\varphi$").replace("-", "−")


def style_axes(ax: Axes, xlabel: str = "", ylabel: str = "", title: str = "") -> None:
    """Labels and font sizes of one panel."""
    ax.tick_params(labelsize=SMALL, which="both")
    ax.set_xlabel(xlabel, fontsize=NORMAL)
    ax.set_ylabel(ylabel, fontsize=NORMAL)
    ax.set_title(title, fontsize=NORMAL)


def add_caption(figure: Figure, result: MCMCResult, text: str = "") -> None:
    """Verdict in words, method, kind of uncertainty and ``text`` below the figure; the word crosses a refused one."""
    refused = result.verdict is Verdict.REFUSED
    noise = _NOISE.get(result.uncertainty, result.uncertainty)
    width = figure.get_figwidth()
    if refused:
        style: dict[str, Any] = {"color": "red", "alpha": 0.16, "rotation": 30, "weight": "bold", "zorder": 10}
        figure.text(0.5, 0.5, Verdict.REFUSED, fontsize=12 * width**0.9, ha="center", va="center", **style)
    parts = [text, f"{result.verdict}: {result.words.trust.rstrip('.')}", f"method {result.method}, {noise}"]
    write_below(figure, parts, "red" if refused else "0.3")


def write_below(figure: Figure, parts: Sequence[str], colour: str) -> None:
    """Write those of the parts that are not empty below the figure."""
    caption = textwrap.fill("; ".join(part for part in parts if part), int(14.5 * figure.get_figwidth()))
    figure.supxlabel(caption, fontsize=SMALL, color=colour)


def panels(
    count: int, most: int, each: tuple[float, float], around: tuple[float, float], **shared: Any
) -> tuple[Figure, list[Axes], int]:
    """Figure with `count` panels in rows of at most `most`, the panels, and the number of columns.

    ``each`` and ``around`` are width and height (inches) of a panel and of what is beside all of them.
    """
    columns = min(count, most)
    rows = -(-count // columns)
    figure = new_figure(each[0] * columns + around[0], each[1] * rows + around[1])
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes[:count], columns
