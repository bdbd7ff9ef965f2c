"""The options that several commands have, and what they change in the configuration."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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


def _number(text: str) -> object:
    """A number as in a configuration file; another text stays, and is refused there with what is expected."""
    from homodyne.config import yaml

    found = yaml.parse(text, text)
    return text if found is None else found


DT = Annotated[
    float | None,
    typer.Option("--dt", parser=_number, metavar="<float>", help="Seconds between frames; for files that do not say."),
]
Mode = Annotated[str | None, typer.Option(help="Name of a correlation model, or module:Class.")]
Gap = Annotated[
    float | None, typer.Option(parser=_number, metavar="<float>", help="Distance of the plates in Å (2e6 = 200 µm).")
]
EachQ = Annotated[bool, typer.Option("--each-q", help="Fit every wave vector for itself.")]
Spread = Annotated[
    str | None,
    typer.Option(metavar="BACKEND", help="Fit several measurements at a time: multiprocessing, ray, slurm, ..."),
]
NoFigures = Annotated[bool, typer.Option("--no-figures", help="Draw nothing.")]
NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report.html.")]
JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and everything else to stderr.")]
Unit = Annotated[
    list[str] | None,
    typer.Option(
        "--unit",
        metavar="QUANTITY=UNIT",
        help="Unit of frame_time, q or phi in the file, where it does not say: frame_time=ms; may come again.",
    ),
]


_KEYS = {
    **{name: f"experimental_data.{name}" for name in ("q", "phi", "frames", "dt", "units", "gap")},
    "mode": "analysis_mode",
    "method": "optimization.method",
    "combination": "optimization.cmc.combination.method",
    "resume": "optimization.cmc.backend.resume_from_checkpoint",
    "spread": "optimization.cmc.backend.spread",
    "points": "certificate.num_points",
    "output": "output.directory",
    "overwrite": "output.overwrite",
    "seed": "seed",
}
_OFF = {"no_figures": "output.figures", "no_report": "output.report"}


def changes_of(**options: object) -> list[tuple[str, object]]:
    """Translate options to changes of the configuration; those that were not given are left out."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    return [(_OFF[name], False) if name in _OFF else (_KEYS[name], value) for name, value in given.items()]


def units_of(options: list[str] | None) -> dict[str, str] | None:
    """Translate ``--unit`` to units by quantity; None if there is none."""
    pairs = [(text, *text.partition("=")) for text in options or ()]
    if wrong := [text for text, name, _, unit in pairs if not (name and unit)]:
        raise ConfigError(f"--unit {wrong[0]}: expected QUANTITY=UNIT, such as frame_time=ms or q=1/nm")
    return {name.strip(): unit.strip() for _, name, _, unit in pairs} or None


def load_measurement(wanted: "ExperimentalData") -> "TwoTimeData":
    """Read the part of a data file that a configuration names."""
    from homodyne.data import load

    if wanted.file_path is None:
        raise ConfigError("experimental_data.file_path: missing; give the data file")
    data = load(Path(wanted.file_path), **wanted.selection, format=wanted.format, units=wanted.units)
    if "age" in data.source and wanted.frames is not None:
        say(f"age: {data.source['age']}", error=True)
    return data
