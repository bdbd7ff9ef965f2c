"""``homodyne fit``: from a measurement to a posterior with a verdict, written to a folder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homodyne.cli import jobs, many, options, store
from homodyne.cli.interruption import telling_what_remains, uninterrupted
from homodyne.cli.output import as_record, exit_if_refused, held, output_folder, results_as_json
from homodyne.cli.terminal import columns, progress_bars, say
from homodyne.errors import InputError

if TYPE_CHECKING:
    from homodyne.config.schema import Config
    from homodyne.data.twotime import TwoTimeData
    from homodyne.result.record import MCMCResult


def fit(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE... [KEY=VALUE]...",
            help="Configuration (.yaml), or data files, or both; then changes to the configuration.",
        ),
    ],
    method: Annotated[str | None, typer.Option(help="auto, laplace, nuts or cmc.")] = None,
    mode: options.Mode = None,
    q: options.Q = None,
    each_q: options.EachQ = False,
    spread: options.Spread = None,
    known: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=V1,V2,...", help="What is known of each of several files, such as a temperature."),
    ] = None,
    phi: options.Phi = None,
    frames: options.Frames = None,
    dt: options.DT = None,
    unit: options.Unit = None,
    gap: options.Gap = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the result.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random number.")] = None,
    no_figures: options.NoFigures = False,
    no_report: options.NoReport = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result and its shards.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the finished shards of method cmc.")] = False,
    json: options.JSON = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the job that a scheduler would get.")] = False,
) -> None:
    """Fit a measurement: posterior, verdict, summary, figures and a report.

    Several files, or every wave vector of one (--each-q), are fitted one by one into folders of their own, with one
    table (CSV and LaTeX) and one figure; what fails is noted there, and --resume goes on with what is missing.
    --spread fits several at a time.

    Ends with 0 when the posterior is certified or corrected, with 3 when it is refused.

    Examples: homodyne fit run42.h5 --mode static --output out

    homodyne fit settings.yaml run*.h5 --each-q --output night --known "T (K)=293,298,303"
    """
    from homodyne.config.io import load_config

    sources, changes = _split(arguments)
    base, files = (sources[0], sources[1:]) if sources[0].suffix.lower() in (".yaml", ".yml") else (None, sources)
    selected = options.changes_of(q=q, phi=phi, frames=frames, dt=dt, units=options.units_of(unit), gap=gap)
    how = options.changes_of(mode=mode, method=method, resume=resume, seed=seed, spread=spread)
    written = options.changes_of(output=output, no_figures=no_figures, no_report=no_report, overwrite=overwrite)
    chosen: list[str | tuple[str, object]] = [*changes, *selected, *how, *written]
    if len(files) > 1 or each_q or known:
        several = load_config(base, chosen)
        files = files or [Path(several.experimental_data.file_path or "")]
        many.require_files(files)
        if dry_run:
            raise InputError("--dry-run shows the job of one measurement; give one file")
        tasks = many.measurements(files, base, chosen, each_q=each_q, known=many.numbers(known))
        folder = Path(several.output.directory)
        with results_as_json(json) as show, held(folder):
            lines = many.fit_many(
                tasks,
                folder,
                resume=resume,
                overwrite=several.output.overwrite,
                remains=lambda done: (
                    f"{done} of {len(tasks)} fits are in {folder}: start the same command again with --resume"
                ),
            )
            show([many.record_of(line) for line in lines])
        raise typer.Exit(max(line.exit_code for line in lines))
    if spread is not None:
        raise InputError(f"--spread {spread}: there is one measurement; give several files, or --each-q")
    config = load_config(base, [*([("experimental_data.file_path", str(files[0]))] if files else []), *chosen])
    place = store.choose_place(config, resume=resume)
    if resume:
        store.require_store(place)
    data = options.load_measurement(config.experimental_data)
    if dry_run:
        say(jobs.show_script(data, store.at(config, place)), end="", wrap=False)
        return
    with results_as_json(json) as show:
        result = fit_and_write(data, config, place=place, inputs=sources)
        show(as_record(result, directory=str(config.output.directory)))
    exit_if_refused(result)


def _split(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Files, and changes of the configuration, of a command line."""
    changes = [one for one in arguments if "=" in one and not Path(one).exists()]
    sources = [Path(one) for one in arguments if one not in changes]
    if not sources:
        raise InputError(f"{arguments[0]}: expected a configuration (.yaml) or a data file before changes KEY=VALUE")
    return sources, changes


def fit_and_write(
    data: "TwoTimeData",
    config: "Config",
    truth: Mapping[str, float] | None = None,
    *,
    place: Path | None = None,
    inputs: Sequence[Path] = (),
    brief: bool = False,
) -> "MCMCResult":
    """Fit a measurement and write result, summary, configuration, then figures and report into the output folder.

    Parameters
    ----------
    data, config
        What is fitted, and how.
    truth
        Parameters of a simulated measurement, for the figures.
    place
        Where finished shards are kept; None where they are not.
    inputs
        Files that were read, which are not replaced.
    brief
        Print the verdict in words only, not the summary.
    """
    from homodyne.config.io import resolve, to_mapping
    from homodyne.optimization.mcmc import fit

    with output_folder(config.output, inputs) as folder:
        with telling_what_remains(lambda: store.remains(place)), progress_bars() as progress:
            result = fit(data, config=store.at(config, place), progress=progress)
            with uninterrupted():
                result = replace(result, config=to_mapping(resolve(config)))
                folder.write_result(result, config)
                place = store.replace_earlier(place)
        say("\n".join([result.verdict, *result.words.lines()]) if brief else result.summary().text(columns()))
        say(f"wrote {folder.path}")
        store.say_where(place)
        folder.illustrate(config.output, result, data, truth)
    return result
