"""``homodyne fit``: from a measurement to a posterior with a verdict, written to a folder."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homodyne.cli import jobs, store
from homodyne.cli.interruption import told_when_interrupted
from homodyne.cli.measurement import DT, Frames, Phi, Q, Unit, given, load_measurement, selection
from homodyne.cli.output import exit_if_refused, staged, write_result

if TYPE_CHECKING:
    from homodyne.config.schema import Config
    from homodyne.data.twotime import TwoTimeData
    from homodyne.optimization.cmc.result import MCMCResult


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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result and its shards.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the finished shards of method cmc.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the job that a scheduler would get.")] = False,
) -> None:
    """Fit a measurement: posterior, verdict, summary and figures.

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
        "output.overwrite": True if overwrite else None,
        "seed": seed,
    }
    is_config = source.suffix.lower() in (".yaml", ".yml")
    base = source if is_config else {"experimental_data": {"file_path": source}}
    config = load_config(
        base, [*(changes or ()), *selection(q=q, phi=phi, frames=frames, dt=dt, unit=unit), *given(options)]
    )
    config = store.place_store(config)
    if resume:
        store.require_store(config)
    data = load_measurement(config.experimental_data)
    if dry_run:
        print(jobs.show_script(data, config), end="")
        return
    with nullcontext() if resume else store.replaced(config):
        result = fit_and_write(data, config)
    exit_if_refused(result)


def fit_and_write(data: "TwoTimeData", config: "Config", truth: Mapping[str, float] | None = None) -> "MCMCResult":
    """Fit a measurement and write result, summary, configuration and figures into the output folder.

    The folder is complete afterwards, or as it was before. Figures also show the truth where it is known.
    """
    from homodyne.cli.terminal import progress_bars
    from homodyne.optimization.mcmc import fit

    directory = Path(config.output.directory)
    with staged(directory, overwrite=config.output.overwrite) as stage:
        with told_when_interrupted(lambda: store.remains(config)), progress_bars() as progress:
            result = fit(data, config=config, progress=progress)
        write_result(result, config, data, stage, truth)
    print(result.summary())
    print(f"wrote {directory}")
    store.say_where(config, result)
    return result
