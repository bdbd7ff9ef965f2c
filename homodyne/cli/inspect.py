"""``homodyne inspect``: what is in a data file."""

from pathlib import Path
from typing import Annotated

import typer

from homodyne.cli.options import DT, Frames, Phi, Q, Unit, changes_of, load_measurement, units_of
from homodyne.cli.output import require_figure, write_figure
from homodyne.cli.terminal import say


def inspect(
    file: Annotated[Path, typer.Argument(help="Data file.")],
    q: Q = None,
    phi: Phi = None,
    frames: Frames = None,
    dt: DT = None,
    unit: Unit = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the maps into this picture (.png, .pdf, .svg).")] = None,
) -> None:
    """Show format, wavevectors, angles, frames, frame time and what is no data in a data file."""
    from homodyne.config.io import load_config
    from homodyne.data import describe

    require_figure(figure)
    chosen = changes_of(q=q, phi=phi, frames=frames, dt=dt, units=units_of(unit))
    wanted = None
    if chosen or figure is not None:
        wanted = load_config({"experimental_data": {"file_path": file}}, chosen).experimental_data
    say(describe(file, units=units_of(unit)))
    if wanted is None:
        return
    data = load_measurement(wanted)
    say(f"selected: {data}")
    for line in data.left_out_lines():
        say(f"left out    {line}")
    if data.weights is not None:
        say(f"weights     {data.weight_line()}")
    if figure is not None:
        from homodyne.viz import inspect_figure

        write_figure(figure, inspect_figure(data))
