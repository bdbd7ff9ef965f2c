"""``homodyne report``, ``homodyne figures`` and ``homodyne export``: a result is shown again, without fitting."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from homodyne.cli.options import load_measurement
from homodyne.cli.output import FIGURES, REPORT_FILE, OutputFolder, result_file
from homodyne.cli.terminal import say
from homodyne.errors import HomodyneError, InputError
from homodyne.files import CAPTIONS, FIGURE, NEXUS, REPORT, make_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from homodyne.config.schema import ExperimentalData
    from homodyne.data.twotime import TwoTimeData
    from homodyne.result.record import MCMCResult


def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Folders of results, or their .nc files.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="HTML file; unless given report.html, beside one result or here."),
    ] = None,
) -> None:
    """Write one HTML file on a result, or on several side by side, that needs nothing beside it.

    Data are read again where the configuration of the result finds them; where they are gone, the report says so.
    """
    from homodyne.result.comparison import short_names
    from homodyne.result.record import load_result
    from homodyne.viz.report import Reported
    from homodyne.viz.report import report as make

    paths = [result_file(one) for one in results]
    file = output or (paths[0].parent if len(paths) == 1 else Path()) / REPORT_FILE
    home = OutputFolder(file.parent)
    home.require_own(file, REPORT)
    names = short_names(paths) if len(paths) > 1 else [paths[0].resolve().parent.name or "result"]
    shown = []
    for name, path in zip(names, paths, strict=True):
        result = load_result(path)
        data, missing = data_of(path, result)
        if missing:
            say(f"{name}: {missing}", error=True)
        shown.append(Reported(name, result, data, missing))
    home.put(file, make(shown), REPORT)
    say(f"wrote {file}")


def figures(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="Folder of a result, or its .nc file.")],
    only: Annotated[str | None, typer.Option(help="Figures to draw, such as maps,cuts; all by default.")] = None,
    kind: Annotated[Literal["pdf", "svg", "png"], typer.Option("--format", help="Kind of files.")] = "pdf",
    width: Annotated[
        Literal["column", "page"], typer.Option(help="86 mm, one column of a journal, or 178 mm.")
    ] = "page",
    output: Annotated[Path | None, typer.Option(help="Folder; figures in that of the result, unless given.")] = None,
) -> None:
    """Draw the figures of a result again for print, without fitting; captions go to captions.txt."""
    from homodyne.result.record import load_result
    from homodyne.viz.figures import WIDTHS, figure_bytes, for_journal

    path = result_file(result)
    found = load_result(path)
    data, missing = data_of(path, found)
    makers, folder = _chosen(only, found, data, missing, width), output or path.parent / FIGURES
    make_folder(folder)
    home, place = OutputFolder(path.parent), folder / "captions.txt"
    home.require_own(place, CAPTIONS)
    for name in makers:
        home.require_own(folder / f"{name}.{kind}", FIGURE)
    lines = [*found.words.lines(), ""]
    for name, make in makers.items():
        figure = make()
        lines += [f"{name}.{kind}: {for_journal(figure, WIDTHS[width])}", ""]
        file = folder / f"{name}.{kind}"
        home.put(file, bytes(figure_bytes(figure, kind, 300)), FIGURE)
        say(f"wrote {file}")
    home.put(place, "\n".join([CAPTIONS.mark.decode(), "", found.verdict, *lines]).encode(), CAPTIONS)
    say(f"wrote {place}")


def export(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="Folder of a result, or its .nc file.")],
    file: Annotated[Path, typer.Argument(metavar="FILE.nxs", help="NeXus file to write: .nxs, .h5 or .hdf5.")],
) -> None:
    """Write a result as a NeXus file: NXprocess with what was found, how and from which file, and every draw.

    Only such a file is ever replaced, never the data. Example: homodyne export out run42_fit.nxs
    """
    from homodyne.result.nexus import nexus_bytes
    from homodyne.result.record import load_result

    if file.suffix.lower() not in (".nxs", ".h5", ".hdf5"):
        raise InputError(f"{file}: expected the name of a NeXus file, which ends with .nxs, .h5 or .hdf5")
    path = result_file(result)
    found = load_result(path)
    source = None if found.t is None else _wanted(path, found).file_path
    if found.t is not None and found.missing_model:
        say(f"note: rates are left out: {found.missing_model}", error=True)
    write_atomically(file, nexus_bytes(found, source), NEXUS)
    say(f"wrote {file}")


def data_of(path: Path, result: "MCMCResult") -> "tuple[TwoTimeData | None, str]":
    """The maps behind the result in a file, read again from where its configuration says, or why there are none."""
    from homodyne.viz.figures import check_belongs

    if result.t is None:
        return None, ""
    try:
        wanted = _wanted(path, result)
        if wanted.file_path is None:
            return None, "the data were in memory, and the result does not keep them"
        data = load_measurement(wanted)
        check_belongs(result, data)
    except HomodyneError as error:
        return None, f"the data cannot be shown: {error}"
    if result.diagnostics.get("weights") and data.weights is None:
        return None, "the fit had weights, which the data file does not hold"
    return data, ""


def _wanted(path: Path, result: "MCMCResult") -> "ExperimentalData":
    """Where the data are: the configuration beside the result knows the full path."""
    from homodyne.cli.output import CONFIG
    from homodyne.config.io import load_config

    beside = path.parent / CONFIG
    return load_config(beside if beside.is_file() else result.config, importing=False).experimental_data


def _chosen(
    only: str | None, result: "MCMCResult", data: "TwoTimeData | None", missing: str, width: str
) -> "dict[str, Callable[[], Figure]]":
    """What draws the figures that are wanted, by name."""
    from homodyne.viz.figures import figure_makers

    found = figure_makers(result, data, width=width)
    if only is None:
        if missing:
            say(f"figures of maps are left out: {missing}", error=True)
        return found
    names = [name.strip() for name in only.split(",")]
    if unknown := [name for name in names if name not in found]:
        why = f"; {missing}" if missing else ""
        raise InputError(f"--only {only}: this result has no figure {unknown[0]!r}, only {', '.join(found)}{why}")
    return {name: found[name] for name in names}
