"""``homodyne fit``: from a measurement to a posterior with a verdict, written to a folder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homodyne.cli import jobs, store
from homodyne.cli.interruption import telling_what_remains, uninterrupted
from homodyne.cli.measurement import DT, Frames, Phi, Q, Unit, given, load_measurement, selection
from homodyne.cli.output import exit_if_refused, output_folder
from homodyne.cli.terminal import progress_bars, say

if TYPE_CHECKING:
    from homodyne.config.schema import Config
    from homodyne.data.twotime import TwoTimeData
    from homodyne.result.record import MCMCResult


def fit(
    source: Annotated[Path, typer.Argument(metavar="CONFIG_OR_FILE", help="Configuration (.yaml) or data file.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to the configuration.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="auto, laplace, nuts or cmc.")] = None,
    mode: Annotated[str | None, typer.Option(help="Name of a correlation model, or module:Class.")] = None,
    q: Q = None,
    phi: Phi = None,
    frames: Frames = None,
    dt: DT = None,
    unit: Unit = None,
    gap: Annotated[float | None, typer.Option(help="Distance of the plates in Å (2e6 = 200 µm).")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the result.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random number.")] = None,
    no_figures: Annotated[bool, typer.Option("--no-figures", help="Draw nothing.")] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.html.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result and its shards.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the finished shards of method cmc.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the job that a scheduler would get.")] = False,
) -> None:
    """Fit a measurement: posterior, verdict, summary, figures and a report.

    Ends with 0 when the posterior is certified or corrected, with 3 when it is refused.
    """
    from homodyne.config.io import load_config

    options = {
        "analysis_mode": mode,
        "experimental_data.gap": gap,
        "optimization.method": method,
        "optimization.cmc.backend.resume_from_checkpoint": True if resume else None,
        "output.directory": output,
        "output.figures": False if no_figures else None,
        "output.report": False if no_report else None,
        "output.overwrite": True if overwrite else None,
        "seed": seed,
    }
    is_config = source.suffix.lower() in (".yaml", ".yml")
    base = source if is_config else {"experimental_data": {"file_path": source}}
    config = load_config(
        base, [*(changes or ()), *selection(q=q, phi=phi, frames=frames, dt=dt, unit=unit), *given(options)]
    )
    place = store.choose_place(config, resume=resume)
    if resume:
        store.require_store(place)
    data = load_measurement(config.experimental_data)
    if dry_run:
        say(jobs.show_script(data, store.at(config, place)), end="")
        return
    exit_if_refused(fit_and_write(data, config, place=place, inputs=[source]))


def fit_and_write(
    data: "TwoTimeData",
    config: "Config",
    truth: Mapping[str, float] | None = None,
    *,
    place: Path | None = None,
    inputs: Sequence[Path] = (),
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
    """
    from homodyne.config.io import resolve, to_mapping
    from homodyne.optimization.mcmc import fit

    wanted = config.output
    with output_folder(
        Path(wanted.directory),
        overwrite=wanted.overwrite,
        figures=wanted.figures,
        report=wanted.report,
        inputs=inputs,
    ) as folder:
        with telling_what_remains(lambda: store.remains(place)), progress_bars() as progress:
            result = fit(data, config=store.at(config, place), progress=progress)
            with uninterrupted():
                result = replace(result, config=to_mapping(resolve(config)))
                folder.write_result(result, config)
                place = store.replace_earlier(place)
        say(result.summary())
        say(f"wrote {folder.path}")
        store.say_where(place)
        if wanted.figures:
            folder.draw(result, data, truth)
        if wanted.report:
            folder.report(result, data, truth, figures=wanted.figures)
    return result
