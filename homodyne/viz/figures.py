"""The standard set of figures of a fit: :func:`save_figures` saves it, :func:`figure_makers` makes single ones.

:func:`for_journal` turns a figure into one for print: a width in mm, type of 7 to 8 points, and its caption apart.
"""

import base64
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from warnings import warn

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from homodyne.certificate.verdict import Verdict
from homodyne.data.twotime import TwoTimeData
from homodyne.errors import HomodyneWarning, InputError
from homodyne.files import FIGURE, make_folder, write_atomically
from homodyne.result.record import MCMCResult
from homodyne.viz.consensus import agreement_figure, divergence_figure, shard_forest_figure
from homodyne.viz.cuts import cut_figure
from homodyne.viz.labels import NORMAL, notation_of, plain_text
from homodyne.viz.maps import map_figure
from homodyne.viz.misfit import misfit_figure
from homodyne.viz.posterior import corner_figure, trace_figure
from homodyne.viz.rates import rate_figure

FORMATS = ("png", "pdf", "svg")

WIDTHS = {"column": 86.0, "page": 178.0}
"""Width in mm of a figure in one column of a journal, and across the page."""

_PRINT_SMALL, _PRINT_NORMAL = 7.0, 8.0
_COLUMN_MAPS, _COLUMN_PARAMETERS, _COLUMN_ROW = 2, 4, 2.2
_EMBEDDED: Any = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "path"}  # TrueType, which journals ask for


def save_figures(
    result: MCMCResult,
    data: TwoTimeData | None,
    directory: str | os.PathLike[str],
    format: str = "png",  # noqa: A002, the word of matplotlib's savefig
    *,
    truth: Mapping[str, float] | None = None,
) -> list[Path]:
    """Write maps, cuts, rates, corner and traces of a fit into ``directory``, and how well its shards agree.

    A result whose model is not known here has no maps, cuts and rates; a warning says so, and how to name the model.

    Parameters
    ----------
    result : MCMCResult
        The posterior.
    data : TwoTimeData or None
        The data that were fitted; None leaves out the figures that show data.
    directory : path
        Existing directory, or one that can be made in an existing directory.
    format : {"png", "pdf", "svg"}
        Kind of files.
    truth : mapping, optional
        Known physical parameters of simulated data, drawn into rates and corner plot.

    Returns
    -------
    list of Path
        The files, in the order in which they are meant to be looked at.

    Raises
    ------
    InputError
        Unknown format, data that do not belong to the result, or a directory that cannot be written.
    ExecutionError
        The disk is full; files that existed are intact.
    """
    if format not in FORMATS:
        raise InputError(f"figure format is {format!r}; expected one of {', '.join(FORMATS)}")
    if data is not None:
        check_belongs(result, data)
    place = make_folder(Path(directory))
    return [
        write_atomically(place / f"{name}.{format}", figure_bytes(figure, format), FIGURE)
        for name, figure in standard_figures(result, data, truth)
    ]


def standard_figures(
    result: MCMCResult, data: TwoTimeData | None, truth: Mapping[str, float] | None = None
) -> Iterator[tuple[str, Figure]]:
    """Name and figure, one after the other; arguments as in :func:`save_figures`."""
    if result.t is not None and result.model is None:
        warn(HomodyneWarning(f"figures of curves are left out: {result.missing_model}"), stacklevel=2)
    for name, make in figure_makers(result, data, truth).items():
        yield name, make()


def figure_makers(
    result: MCMCResult,
    data: TwoTimeData | None,
    truth: Mapping[str, float] | None = None,
    *,
    width: str | None = None,
) -> dict[str, Callable[[], Figure]]:
    """What draws each figure that there is of a result, by name, in the order in which they are meant to be looked at.

    Arguments as in :func:`save_figures`; for print, `width` is one of WIDTHS: in one column there is room for less.
    """
    column, model = width == "column", result.model
    most: dict[str, Any] = {"max_maps": _COLUMN_MAPS} if column else {}
    fewer = {"max_parameters": _COLUMN_PARAMETERS} if column else {}
    corner: dict[str, Any] = {"titles": width is None, **fewer}
    traces: dict[str, Any] = {"row": _COLUMN_ROW, **fewer} if column else {}
    found: dict[str, Callable[[], Figure]] = {}
    if model is not None and data is not None:
        found["maps"] = partial(map_figure, result, data, **most)
        found["cuts"] = partial(cut_figure, result, data, **most)
    if result.diagnostics.get("checks"):
        found["misfit"] = partial(misfit_figure, result, **most)
    if model is not None and model.rates():
        found["rates"] = partial(rate_figure, result, truth)
    if result.free_names:
        found["corner"] = partial(corner_figure, result, truth, **corner)
        found["traces"] = partial(trace_figure, result, **traces)
    return found | _consensus_figures(result)


def _consensus_figures(result: MCMCResult) -> dict[str, Callable[[], Figure]]:
    """Do the shards agree? Nothing for other methods, and where fewer than two shards could be compared."""
    found = result.cmc_diagnostics
    if not found or found["between"] is None:
        return {}
    validation, notation = {**found, "per_shard": result.per_shard_diagnostics}, notation_of(result.model, result.units)
    figures = {"shards": partial(shard_forest_figure, validation, notation)}
    if found["between"]["kl"]["matrix"] is not None:
        figures["shard_divergence"] = partial(divergence_figure, validation)
    return {**figures, "shard_agreement": partial(agreement_figure, validation, notation)}


def caption_of(figure: Figure) -> str:
    """Title and caption of a figure in one line, mathematical type as plain letters."""
    found = [figure.get_suptitle(), figure.get_supxlabel()]
    return plain_text(". ".join(" ".join(one.split()) for one in found if one))


def for_journal(figure: Figure, width: float) -> str:
    """Give a figure a width in mm and type of 7 to 8 points; take title and caption off it, and return them."""
    caption, size = caption_of(figure), width / 25.4
    before, height = figure.get_size_inches()
    figure.suptitle("")
    figure.supxlabel("")
    figure.set_size_inches(size, min(max(height / before, 0.6), 1.4) * size)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        points = float(text.get_fontsize())
        if text.get_text() == Verdict.REFUSED:
            text.set_fontsize(points * size / before)
        else:
            text.set_fontsize(_PRINT_NORMAL if points >= NORMAL and width > WIDTHS["column"] else _PRINT_SMALL)
    return caption


def figure_format(file: str | os.PathLike[str]) -> str:
    """Kind of a picture file, by the end of its name; one of FORMATS.

    Raises
    ------
    InputError
        It ends otherwise.
    """
    kind = Path(file).suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise InputError(f"{os.fspath(file)}: expected a name that ends in .{', .'.join(FORMATS)}")
    return kind


def figure_bytes(figure: Figure, kind: str = "png", dpi: float | None = None) -> memoryview:
    """Content of the file of one figure; ``kind`` is one of FORMATS, ``dpi`` its own by default."""
    buffer = io.BytesIO()
    author = FIGURE.mark.decode()
    with matplotlib.rc_context(_EMBEDDED):
        figure.savefig(
            buffer, format=kind, dpi=dpi or "figure", metadata={"Software" if kind == "png" else "Creator": author}
        )
    return buffer.getbuffer()


def without_caption(figure: Figure, content: bytes | memoryview) -> bytes:
    """The PNG file of a figure that `figure_bytes` has just made, cut above its caption, of 256 colours: for a page."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    captions = [text for text in figure.texts if text.get_text() and text.get_text() == figure.get_supxlabel()]
    below = max((text.get_window_extent().y1 / figure.bbox.height for text in captions), default=0.0)
    few = image.crop((0, 0, image.width, image.height - math.ceil(below * image.height))).quantize(
        dither=Image.Dither.NONE
    )
    buffer = io.BytesIO()
    few.save(buffer, "PNG")
    return buffer.getvalue()


def address_of(content: bytes | memoryview) -> str:
    """Address under which a page holds a PNG file itself."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def check_belongs(result: MCMCResult, data: TwoTimeData) -> None:
    """Refuse data that are not those of a result (InputError)."""
    for name in ("t", "phi", "q"):
        fitted, given = getattr(result, name), getattr(data, name)
        if fitted is None or fitted.shape != given.shape or not np.allclose(fitted, given, rtol=1e-9, atol=0):
            raise InputError(f"{name} of the data differs from the fit's; give the selection that was fitted")
