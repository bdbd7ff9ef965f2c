"""Output folders: the result is complete before figures are drawn, and only files of the program are ever replaced."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from homodyne.arguments import Json
from homodyne.cli.interruption import telling_what_remains
from homodyne.cli.terminal import say
from homodyne.errors import InputError
from homodyne.files import (
    FIGURE,
    OWN,
    Kind,
    held_folder,
    make_folder,
    remove_abandoned,
    require_writable,
    writable_folder,
    write_atomically,
    write_together,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from homodyne.config.schema import Config, OutputConfig
    from homodyne.data.twotime import TwoTimeData
    from homodyne.result.record import MCMCResult

RESULT, SUMMARY, CONFIG, FIGURES = "result.nc", "summary.txt", "config.yaml", "figures"
REPORT_FILE = "report.html"
INVENTORY = ".homodyne.json"
"""File with the SHA-256 of every file that the program has written into the folder."""


def result_file(place: Path) -> Path:
    """File of a result that is named by its folder, or by itself."""
    return place / RESULT if place.is_dir() else place


class OutputFolder:
    """A folder for a result.

    Parameters
    ----------
    path
        It may hold other files, which are left alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write_result(self, result: "MCMCResult", config: "Config") -> None:
        """Write result, summary and configuration, all or none; report and figures of an earlier result go."""
        from homodyne.config.io import resolve, to_yaml, with_absolute_paths
        from homodyne.result.netcdf import result_to_bytes

        contents = {
            SUMMARY: f"{result.summary()}\n".encode(),
            CONFIG: to_yaml(with_absolute_paths(resolve(config))).encode(),
            RESULT: result_to_bytes(result),
        }
        self._note(*contents.values())
        write_together({self.path / name: content for name, content in contents.items()}, OWN)
        for old in (self.path / REPORT_FILE, *self._figures()):
            if self._wrote(old):
                old.unlink()
        with suppress(OSError):
            (self.path / FIGURES).rmdir()

    def illustrate(
        self,
        wanted: "OutputConfig",
        result: "MCMCResult",
        data: "TwoTimeData | None",
        truth: Mapping[str, float] | None = None,
        missing: str = "",
    ) -> None:
        """Draw the figures of a result that is written, and write the report on it, as far as they are wanted.

        Without data there are no figures of maps, and `missing` says why. Where the report fails, whatever the reason,
        this is said, and that is all.
        """
        drawn = self._draw(result, data, truth) if wanted.figures else {}
        if not wanted.report:
            return
        try:
            from homodyne.viz.report import Reported, report

            name = self.path.resolve().name or "result"
            content = report([Reported(name, result, data, missing, truth, drawn)], figures=wanted.figures)
            self.put(self.path / REPORT_FILE, content, OWN)
        except Exception as error:  # noqa: BLE001  a fit of hours does not end in an error because of a page on it
            say(
                f"warning: no report was written ({type(error).__name__}: {error}); the result is in {self.path}, "
                f"homodyne report {self.path} tries again",
                error=True,
            )

    def _draw(
        self, result: "MCMCResult", data: "TwoTimeData | None", truth: Mapping[str, float] | None
    ) -> "dict[str, tuple[Figure, bytes]]":
        """Draw figures into their folder; return them with their files, for the report."""
        drawn = {}
        with telling_what_remains(lambda: f"the result is in {self.path}, {len(self._figures())} figures are drawn"):
            from homodyne.viz.figures import figure_bytes, standard_figures

            make_folder(self.path / FIGURES)
            for name, figure in standard_figures(result, data, truth):
                drawn[name] = figure, bytes(figure_bytes(figure))
                self.put(self.path / FIGURES / f"{name}.png", drawn[name][1], OWN)
        return drawn

    def put(self, file: Path, content: bytes, kind: Kind) -> None:
        """Write a file, and note that the program has, where it keeps such notes of this folder."""
        self.require_own(file, kind)
        if self._notes(file):
            self._note(content)
        write_atomically(file, content, kind)

    def require_own(self, file: Path, kind: Kind) -> None:
        """Refuse to replace a file of another kind, and where notes are kept what has changed since it was written."""
        require_writable(file, kind)
        if file.exists() and self._notes(file) and not self._wrote(file):
            raise InputError(
                f"{file} is not as homodyne has written it, and is not replaced: keep it under another name, or choose "
                "another place (--output)"
            )

    def _notes(self, file: Path) -> bool:
        return (self.path / INVENTORY).exists() and self.path in file.parents

    def require_replaceable(self, wanted: "OutputConfig", inputs: Sequence[Path]) -> None:
        """Refuse to replace files unasked, files of others, and what the command reads."""
        names = [RESULT, SUMMARY, CONFIG] + [REPORT_FILE] * wanted.report
        for file in [*(self.path / name for name in names), *(self._figures() if wanted.figures else [])]:
            if not file.exists() and not file.is_symlink():
                continue
            if any(one.exists() and one.samefile(file) for one in inputs):
                raise InputError(f"{file} is read by this command and would be replaced; choose another --output")
            if not wanted.overwrite:
                raise InputError(f"{file} exists; choose another folder (--output) or replace it (--overwrite)")
            if not (self.path / INVENTORY).exists():
                raise InputError(
                    f"{file} exists, and there is no {INVENTORY}, in which homodyne notes what it has written: it is "
                    "of an earlier version, or of somebody else, and --overwrite does not replace it; remove it "
                    "yourself if it is a result that you do not need, or choose another folder (--output)"
                )
            if not self._wrote(file):
                raise InputError(
                    f"{file} is not as homodyne has written it, --overwrite does not replace it; move it away or "
                    "choose another folder (--output)"
                )

    def _figures(self) -> list[Path]:
        folder = self.path / FIGURES
        return sorted(folder.iterdir()) if folder.is_dir() else [folder] if folder.exists() else []

    def _known(self) -> list[str]:
        from homodyne.optimization.cmc.store.files import read_json

        file = self.path / INVENTORY
        return list(read_json(file)["written"]) if file.exists() else []

    def _wrote(self, file: Path) -> bool:
        from homodyne.optimization.cmc.store.files import digest

        return file.is_file() and digest(file.read_bytes()) in self._known()

    def _note(self, *contents: bytes) -> None:
        """Note what will be written, before it is: so that it is known whenever the program is killed."""
        from homodyne.optimization.cmc.store.files import digest, write_json

        marks = [*self._known(), *map(digest, contents)]
        write_json(self.path / INVENTORY, {"written": list(dict.fromkeys(marks))})


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Make a folder for results where there is none, and keep other runs out of it while the block runs.

    Raises
    ------
    InputError
        When it cannot be written.
    ExecutionError
        When another run writes into it.
    """
    with writable_folder(path), held_folder(path, "choose another folder (--output)"):
        yield


@contextmanager
def output_folder(wanted: "OutputConfig", inputs: Sequence[Path] = ()) -> Iterator[OutputFolder]:
    """Yield a folder to write a result into; it is removed again if it was made here and nothing was written.

    Parameters
    ----------
    wanted
        What will be written where, and whether a result that is there is replaced.
    inputs
        Files that the command reads.

    Raises
    ------
    InputError
        When a file would be replaced that must not be, or the folder cannot be written; before the block starts.
    ExecutionError
        When another run writes into the folder; then, too.
    """
    folder = OutputFolder(Path(wanted.directory))
    with held(folder.path):
        folder.require_replaceable(wanted, inputs)
        remove_abandoned(folder.path)
        yield folder


@contextmanager
def results_as_json(wanted: bool) -> Iterator[Callable[[object], None]]:
    """Let everything that is said in the block go to the terminal for errors, and print what is given as JSON.

    Yields
    ------
    A function of what is printed when the block has ended; it does nothing where no JSON is wanted.
    """
    if not wanted:
        yield lambda content: None
        return
    given: list[object] = []
    with redirect_stdout(sys.stderr):
        yield given.append
    for content in given:
        print(json.dumps(content, ensure_ascii=True, allow_nan=False))


def as_record(result: "MCMCResult", **more: object) -> dict[str, Json]:
    """What ``--json`` says of a result."""
    about = {"method": result.method, "model": result.analysis_mode, "uncertainty": result.uncertainty}
    return {**more, **result.summary().to_dict(), **about, "num_points": result.num_points, "seed": result.seed}


def write_figure(file: Path, figure: "Figure") -> None:
    """Write a figure into a picture file, which appears only when it is complete."""
    from homodyne.viz.figures import figure_bytes, figure_format

    write_atomically(file, figure_bytes(figure, figure_format(file)), FIGURE)
    say(f"wrote {file}")


def require_figure(file: Path | None) -> None:
    """Refuse a picture file that cannot be written, before the work begins."""
    if file is not None:
        from homodyne.viz.figures import figure_format

        figure_format(file)
        require_writable(file, FIGURE)


def exit_if_refused(result: "MCMCResult") -> None:
    """End the program where the result must not be used."""
    if code := result.verdict.exit_code:
        raise typer.Exit(code)
