"""The options that select a measurement, shared by the commands that read one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homodyne.cli.terminal import say
from homodyne.errors import ConfigError

if TYPE_CHECKING:
    from homodyne.config.schema import ExperimentalData
    from homodyne.data.twotime import TwoTimeData

Q = Annotated[
    str | None,
    typer.Option(
        "--q", help="Wavevectors in 1/Å: one, a list such as 0.004,0.006 (nearest in the file), low:high, or all."
    ),
]
Phi = Annotated[str | None, typer.Option(help="Angles in degrees: low:high, or a list such as 0,45,90.")]
Frames = Annotated[str | None, typer.Option(help="First and last frame, counted from 1, as first:last.")]
DT = Annotated[float | None, typer.Option("--dt", help="Seconds between frames; for files that do not say.")]
Mode = Annotated[str | None, typer.Option(help="Name of a correlation model, or module:Class.")]
Gap = Annotated[float | None, typer.Option(help="Distance of the plates in Å (2e6 = 200 µm).")]
EachQ = Annotated[bool, typer.Option("--each-q", help="Fit every wave vector for itself.")]

Unit = Annotated[
    list[str] | None,
    typer.Option(
        "--unit",
        metavar="QUANTITY=UNIT",
        help="Unit of frame_time, q or phi in the file, where it does not say: frame_time=ms; may come again.",
    ),
]


def selection(
    *, q: str | None, phi: str | None, frames: str | None, dt: float | None, unit: list[str] | None
) -> list[tuple[str, Any]]:
    """Translate options to configuration changes; those not given are left out."""
    options = {"q": q, "phi": phi, "frames": frames, "dt": dt, "units": units_of(unit)}
    return given({f"experimental_data.{key}": value for key, value in options.items()})


def units_of(options: list[str] | None) -> dict[str, str] | None:
    """Translate ``--unit`` to units by quantity; None if there is none."""
    pairs = [(text, *text.partition("=")) for text in options or ()]
    if wrong := [text for text, name, _, unit in pairs if not (name and unit)]:
        raise ConfigError(f"--unit {wrong[0]}: expected QUANTITY=UNIT, such as frame_time=ms or q=1/nm")
    return {name.strip(): unit.strip() for _, name, _, unit in pairs} or None


def given(options: dict[str, Any]) -> list[tuple[str, Any]]:
    """Options that were given, as changes of the configuration."""
    return [(key, value) for key, value in options.items() if value is not None]


def load_measurement(wanted: "ExperimentalData") -> "TwoTimeData":
    """Read the part of a data file that a configuration names."""
    from homodyne.data import load

    if wanted.file_path is None:
        raise ConfigError("experimental_data.file_path: missing; give the data file")
    data = load(Path(wanted.file_path), **wanted.selection, format=wanted.format, units=wanted.units)
    if "age" in data.source and wanted.frames is not None:
        say(f"age: {data.source['age']}", error=True)
    return data
