"""Small pictures that results and data show as the last line of a cell of a notebook."""

import html

from matplotlib.figure import Figure

from homodyne.data.twotime import TwoTimeData
from homodyne.result.record import MCMCResult
from homodyne.viz.figures import address_of, caption_of, figure_bytes, figure_makers, without_caption
from homodyne.viz.inspection import inspect_figure

DPI, CELLS = 70, 150


def result_picture(result: MCMCResult) -> str:
    """HTML of the rates of the model against age, or of the parameters where there are none; empty without either."""
    makers = figure_makers(result, None)
    make = makers.get("rates") or makers.get("corner")
    return "" if make is None else _image(make())


def data_picture(data: TwoTimeData) -> str:
    """HTML of some maps, and of what becomes of them frame by frame."""
    return _image(inspect_figure(data, CELLS))


def _image(figure: Figure) -> str:
    content = without_caption(figure, figure_bytes(figure, "png", DPI))
    return f'<img alt="{html.escape(caption_of(figure))}" src="{address_of(content)}">'
