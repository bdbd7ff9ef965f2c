"""Output folders that are either complete or as they were before."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from homodyne.errors import InputError
from homodyne.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from homodyne.config.schema import Config
    from homodyne.data.twotime import TwoTimeData
    from homodyne.optimization.cmc.result import MCMCResult

RESULT = "result.nc"
NOT_TRUSTED = 3  # exit code


@contextmanager
def staged(directory: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary folder whose content moves into `directory` when the block ends well.

    When it does not, `directory` is left as it was, or removed again if it was made here. The result moves
    last, so that where it stands the rest stands too.

    Parameters
    ----------
    directory
        Where the files shall lie at the end; it may hold other files, which are left alone.
    overwrite
        Replace a result that is there already.

    Raises
    ------
    InputError
        When there is a result already, or the folder cannot be written; before the block starts.
    """
    made: list[Path] = []
    try:
        if (directory / RESULT).exists() and not overwrite:
            raise InputError(
                f"{directory / RESULT} exists; choose another folder (--output) or replace it (--overwrite)"
            )
        made += [folder for folder in (directory, *directory.parents) if not folder.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".homodyne-", dir=directory))
    except OSError as error:
        _remove_empty(made)
        raise InputError(f"cannot write to the folder {directory}: {error.strerror}; choose another one") from None
    try:
        yield stage
        for item in sorted(stage.iterdir(), key=lambda path: path.name == RESULT):
            _move(item, directory / item.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        _remove_empty(made)


def write_result(
    result: "MCMCResult",
    config: "Config",
    data: "TwoTimeData | None",
    stage: Path,
    truth: Mapping[str, float] | None = None,
) -> None:
    """Write result, summary, configuration and, where wanted, figures into a folder.

    Figures of maps are left out without data. Figures also show the truth where it is known.
    """
    from homodyne.config.io import resolve, to_yaml, with_absolute_paths

    result.save(stage / RESULT)
    write_atomically(stage / "summary.txt", f"{result.summary()}\n".encode())
    write_atomically(stage / "config.yaml", to_yaml(with_absolute_paths(resolve(config))).encode())
    if config.output.figures:
        from homodyne.viz import save_figures

        (stage / "figures").mkdir()
        save_figures(result, data, stage / "figures", truth=truth)


def write_figure(file: Path, figure: "Figure") -> None:
    """Write a figure into a picture file, which appears only when it is complete."""
    from homodyne.viz.figures import figure_bytes, figure_format

    write_atomically(file, figure_bytes(figure, figure_format(file)))
    print(f"wrote {file}")


def exit_if_refused(result: "MCMCResult") -> None:
    """End the program where the result must not be used."""
    if result.verdict == "REFUSED":
        raise typer.Exit(NOT_TRUSTED)


def _move(source: Path, target: Path) -> None:
    """Put a file or folder in the place of another one."""
    if target.is_dir():
        target.rename(source.with_name(f"{target.name}.replaced"))
    source.replace(target)


def _remove_empty(folders: list[Path]) -> None:
    """Remove the given folders, innermost first, as far as they are empty."""
    for folder in folders:
        if not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()
