"""``homodyne inspect``: what is in a data file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homodyne.cli.measurement import DT, Frames, Phi, Q, load_measurement, selection

if TYPE_CHECKING:
    from homodyne.data.twotime import TwoTimeData


def inspect(
    file: Annotated[Path, typer.Argument(help="Data file.")],
    q: Q = None,
    phi: Phi = None,
    frames: Frames = None,
    dt: DT = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the selected maps into this PNG file.")] = None,
) -> None:
    """Show format, wavevectors, angles, frames, frame time and bad frames of a data file."""
    from homodyne.config.io import load_config
    from homodyne.data import describe

    print(describe(file))
    chosen = selection(q=q, phi=phi, frames=frames, dt=dt)
    if not chosen and figure is None:
        return
    data = load_measurement(load_config({"experimental_data": {"file_path": file}}, chosen).experimental_data)
    print(f"selected: {data}")
    if figure is not None:
        draw(data, figure)


def draw(data: "TwoTimeData", file: Path) -> None:
    """Draw the maps of a measurement into a picture file, which appears only when it is complete."""
    from homodyne.files import write_atomically
    from homodyne.viz import inspect_figure
    from homodyne.viz.figures import figure_bytes

    write_atomically(file, figure_bytes(inspect_figure(data)))
    print(f"wrote {file}")
