"""Many measurements: each is fitted for itself, what fails is noted, and one table and one figure show all."""

import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homodyne.arguments import Json
from homodyne.cli import options, store
from homodyne.cli.interruption import telling_what_remains
from homodyne.cli.output import RESULT, as_record, held
from homodyne.cli.spread import fit_elsewhere
from homodyne.cli.terminal import say
from homodyne.errors import HomodyneError, InputError
from homodyne.files import FIGURE, FITS, LATEX_TABLE, require_writable, write_atomically

if TYPE_CHECKING:
    from homodyne.config.schema import Config
    from homodyne.result.record import MCMCResult
    from homodyne.result.table import Line

TABLE, LATEX, PICTURE = "table.csv", "table.tex", "parameters.png"
_ELSEWHERE = "output.", "optimization.cmc.backend.", "reduction.backend", "reduction.store"
"""Beginnings of the keys on which no number depends."""
_QUIET = 2.0  # seconds for which a file must not have changed before it is read


@dataclass(frozen=True, eq=False)
class Measurement:
    """A file, or one wave vector of it, to be fitted for itself.

    ``inputs`` are the files that are read for it, and never replaced; ``values`` is what else is known of it.
    """

    label: str
    inputs: tuple[Path, ...]
    config: "Config"
    values: Mapping[str, float]


def measurements(
    files: Sequence[Path],
    base: Any,
    changes: Sequence[Any],
    *,
    each_q: bool,
    known: Mapping[str, Sequence[float]] | None = None,
) -> list[Measurement]:
    """What is to be fitted: every file, or every wave vector of every file.

    Parameters
    ----------
    files
        Data files.
    base, changes
        As of `load_config`; the folder of the results is the output folder of these.
    each_q
        Whether the wave vectors that are selected are fitted one by one.
    known
        Numbers by name, one for each file.

    Raises
    ------
    HomodyneError
        The configuration cannot be used, or numbers are missing.
    """
    from homodyne.config.io import load_config
    from homodyne.result.comparison import short_names

    for name, column in (known or {}).items():
        if len(column) != len(files):
            raise InputError(f"--known {name}: {len(column)} numbers for {len(files)} files; expected one for each")
    found, read = [], [base] if isinstance(base, Path) else []
    labels = short_names(files) if len(files) > 1 else [files[0].stem]
    for k, (file, label) in enumerate(zip(files, labels, strict=True)):
        one = load_config(base, [*changes, ("experimental_data.file_path", str(file.resolve()))])
        values = {name: column[k] for name, column in (known or {}).items()}
        folder, checkpoints = Path(one.output.directory), one.optimization.cmc.backend.checkpoint_dir
        for q in _wavevectors(one, file) if each_q else [None]:
            name = label if q is None else f"{label}_q{q:.6g}"
            own: list[tuple[str, object]] = [("output.directory", str(folder / name))]
            own += [("experimental_data.q", q)] if q is not None else []
            own += [("optimization.cmc.backend.checkpoint_dir", f"{checkpoints}/{name}")] if checkpoints else []
            found.append(Measurement(name, (file, *read), load_config(one, own), values))
    return found


def _wavevectors(config: "Config", file: Path) -> list[float | None]:
    """Wave vectors (1/Å) of the maps that are selected; a file that cannot be read is one measurement that fails."""
    from homodyne.data.readers import open_catalog
    from homodyne.data.readers.catalog import select_q

    wanted = config.experimental_data
    q = "all" if wanted.q_selection is None else wanted.q_selection
    try:
        with open_catalog(file, wanted.format, wanted.units) as catalog:
            return list(dict.fromkeys(float(one) for one in select_q(catalog, q)[1]))
    except HomodyneError:
        return [None]


def fit_many(
    tasks: Sequence[Measurement],
    folder: Path,
    *,
    resume: bool,
    overwrite: bool,
    remains: Callable[[int], str],
    before: "Sequence[Line]" = (),
) -> "list[Line]":
    """Fit every measurement, write table and figure, and return the lines of the table.

    One is fitted after the other, or several at a time where `optimization.cmc.backend.spread` names a backend; the
    table is the same. What has failed is noted in it, and the next one is fitted. It is written after every fit.

    Parameters
    ----------
    tasks
        From `measurements`.
    folder
        Where table and figure are written; it exists.
    resume
        Whether results that are there, of the same data and settings, are kept.
    overwrite
        Whether results that are there are replaced.
    remains
        What is said when the fits end early, of so many that are done.
    before
        Lines of fits that are done.

    Raises
    ------
    InputError
        Results are there, and neither `resume` nor `overwrite` says what to do with them; or table or figure cannot be
        written.
    """
    there = [one for one in tasks if (Path(one.config.output.directory) / RESULT).exists()]
    if there and not (resume or overwrite):
        raise InputError(
            f"{len(there)} of {len(tasks)} results are in {folder} already ({there[0].label}, ...): go on with the "
            "others (--resume), replace them (--overwrite), or choose another folder (--output)"
        )
    for name, kind in ((TABLE, FITS), (LATEX, LATEX_TABLE), (PICTURE, FIGURE)):
        require_writable(folder / name, kind)
    done: dict[int, Line] = {}
    lines = list(before)

    def note(number: int, line: "Line") -> None:
        done[number] = line
        lines[len(before) :] = [done[k] for k in sorted(done)]
        _write_tables(folder, lines)

    def over(number: int, said: str, failure: str, exit_code: int) -> None:
        task = tasks[number]
        say(f"[{len(done) + 1}/{len(tasks)}] {task.label}\n{said}", end="")
        line = _failure(task, failure, exit_code) if failure else _line(task, _written)
        assert line is not None
        note(number, line)

    spread = tasks[0].config.optimization.cmc.backend.spread if tasks else None
    with telling_what_remains(lambda: remains(len(done))):
        for number, task in enumerate(tasks):
            if spread is None:
                say(f"[{number + 1}/{len(tasks)}] {task.label}")
            line = _line(task, _kept) if resume else None
            if line is None and spread is None:
                line = _line(task, partial(fitted, resume=resume))
            if line is not None:
                note(number, line)
        if waiting := [k for k in range(len(tasks)) if k not in done]:
            fit_elsewhere(tasks, waiting, folder, over, resume=resume)
        _draw(folder, lines)
    failed = sum(line.result is None for line in lines)
    refused = sum(line.result is not None and not line.result.verdict.usable for line in lines)
    say(f"{len(lines)} fits: {failed} failed, {refused} refused; table, LaTeX and figure are in {folder}")
    return lines


def _line(task: Measurement, work: "Callable[[Measurement], MCMCResult | None]") -> "Line | None":
    """Line of what the work on a measurement gives, or of why it has failed; None where it gives nothing."""
    from homodyne.result.table import Line

    try:
        result = work(task)
    except HomodyneError as error:
        return _failure(task, str(error), error.exit_code)
    return None if result is None else Line(task.label, result, "", result.verdict.exit_code, task.values)


def _written(task: Measurement) -> "MCMCResult":
    from homodyne.result.record import load_result

    return load_result(Path(task.config.output.directory) / RESULT)


def _failure(task: Measurement, reason: str, exit_code: int) -> "Line":
    from homodyne.result.table import Line

    say(f"error: {reason}", error=True)
    return Line(task.label, None, reason, exit_code, task.values)


def _kept(task: Measurement) -> "MCMCResult | None":
    """The result of a measurement that is there, made with the same settings."""
    from homodyne.config.io import resolve, to_mapping
    from homodyne.optimization.stored import decisive_changes

    file = Path(task.config.output.directory) / RESULT
    if not file.exists():
        return None
    result = _written(task)
    if changed := decisive_changes(result.config, to_mapping(resolve(task.config)), _ELSEWHERE):
        raise InputError(
            f"{file} was made with other settings ({', '.join(changed)}); replace it (homodyne fit --overwrite), or "
            "choose another folder (--output)"
        )
    say(f"kept {file.parent}")
    return result


def fitted(task: Measurement, *, resume: bool) -> "MCMCResult":
    """Fit a measurement, and write its folder."""
    from homodyne.cli.fit import fit_and_write

    place = store.choose_place(task.config, resume=resume)
    data = options.load_measurement(task.config.experimental_data)
    return fit_and_write(data, task.config, place=place, inputs=task.inputs, brief=True)


def _write_tables(folder: Path, lines: "Sequence[Line]") -> None:
    from homodyne.result.table import to_csv, to_latex

    write_atomically(folder / TABLE, to_csv(lines).encode(), FITS)
    write_atomically(folder / LATEX, to_latex(lines).encode(), LATEX_TABLE)


def _draw(folder: Path, lines: "Sequence[Line]") -> None:
    """Draw the parameters of two or more results against what is known of the files, against q, or file by file."""
    from homodyne.result.comparison import compare
    from homodyne.viz.comparison import comparison_figure
    from homodyne.viz.figures import figure_bytes

    named = {line.label: line.result for line in lines if line.result is not None}
    if len(named) < 2:
        return
    values = [line.values for line in lines if line.result is not None]
    axis = next(iter(values[0]), None)
    against = None if axis is None else (axis, [one[axis] for one in values])
    try:
        figure = comparison_figure(compare(named, against=against))
    except InputError as error:  # nothing in common
        say(f"note: no figure is drawn: {error}", error=True)
        return
    write_atomically(folder / PICTURE, figure_bytes(figure), FIGURE)


def record_of(line: "Line") -> dict[str, Json]:
    """What ``--json`` says of one fit of many."""
    about = {"file": line.label, "known": dict(line.values), "failure": line.failure}
    return about if line.result is None else as_record(line.result, **about)


def numbers(known: Sequence[str] | None) -> dict[str, list[float]]:
    """Translate ``--known NAME=V1,V2,...``."""
    found = {}
    for text in known or ():
        name, mark, values = text.partition("=")
        try:
            found[name.strip()] = [float(one) for one in values.split(",")]
        except ValueError:
            mark = ""
        if not (mark and re.fullmatch(r"[A-Za-z][\w ()/%°.^-]*", name.strip())):
            raise InputError(f"--known {text}: expected NAME=V1,V2,..., a number for each file")
    return found


def watch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where data files arrive.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to the configuration.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration (.yaml) of the fits.")] = None,
    pattern: Annotated[str, typer.Option(help="Which files.")] = "*.h*5",
    mode: options.Mode = None,
    q: options.Q = None,
    each_q: options.EachQ = False,
    phi: options.Phi = None,
    frames: options.Frames = None,
    dt: options.DT = None,
    unit: options.Unit = None,
    gap: options.Gap = None,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("watched"),
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 10.0,
    until_idle: Annotated[
        float | None, typer.Option(min=0.0, help="End when nothing new has come for so many seconds.")
    ] = None,
) -> None:
    """Fit every file that arrives in a folder, each once; what was fitted before is kept, also after a restart.

    A file is read when it has not changed for two seconds and its name fits --pattern. Ends with Ctrl-C.
    """
    selected = options.changes_of(q=q, phi=phi, frames=frames, dt=dt, units=options.units_of(unit), gap=gap)
    chosen = [*(changes or ()), *selected, *options.changes_of(mode=mode, output=output)]
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the one in which data files arrive")
    say(f"watching {folder} for {pattern}; results go to {output}; Ctrl-C ends")
    lines: list[Line] = []

    def remains() -> str:
        fits = len(list(output.glob(f"*/{RESULT}")))
        return f"{fits} fits are in {output}: start the same command again, which keeps them" if fits else ""

    with held(output), telling_what_remains(remains):
        for files in _arrivals(folder, pattern, every, until_idle):
            tasks = [one for file in files for one in measurements([file], config, chosen, each_q=each_q)]
            lines = fit_many(tasks, output, resume=True, overwrite=False, remains=lambda done: "", before=lines)


def _arrivals(folder: Path, pattern: str, every: float, until_idle: float | None) -> Iterator[list[Path]]:
    """Files that have come and are complete, as they come."""
    seen: dict[Path, tuple[int, int]] = {}
    given: set[Path] = set()
    idle = 0.0
    while True:
        now = {path: state for path in folder.glob(pattern) if (state := _state(path)) is not None}
        calm = [path for path, state in now.items() if seen.get(path) == state and path not in given]
        seen = now
        if calm:
            given.update(calm)
            idle = 0.0
            yield sorted(calm)
            continue
        waiting = [path for path in now if path not in given]
        pause = _QUIET if waiting else every
        if until_idle is not None and not waiting and idle >= until_idle:
            return
        time.sleep(pause)
        idle += pause


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None of what is none, or has just been taken away."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def require_files(files: Sequence[Path]) -> None:
    """Refuse file names that are no data files, before any is fitted."""
    if wrong := [file for file in files if file.suffix.lower() in (".yaml", ".yml")]:
        raise InputError(f"{wrong[0]}: one configuration at most, before the data files")
    if missing := [file for file in files if not file.exists()]:
        raise InputError(f"{missing[0]}: no such file; what is not a file changes the configuration, KEY=VALUE")
