"""``homodyne combine`` and ``homodyne certify``: finish again what is in the store of a consensus run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homodyne.cli.interruption import telling_what_remains, uninterrupted
from homodyne.cli.options import JSON, NoFigures, NoReport, changes_of
from homodyne.cli.output import as_record, exit_if_refused, output_folder, results_as_json
from homodyne.cli.terminal import columns, progress_bars, say

if TYPE_CHECKING:
    from homodyne.certificate.certify import Certificate
    from homodyne.optimization.stored import StoredRun
    from homodyne.result.record import MCMCResult

Store = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the shards of a fit with method cmc.")]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes of the configuration of combination and certificate."),
]
Run = Annotated[bool, typer.Option("--run", help="Sample the shards that are missing first.")]

_NO_MAPS = "the store does not hold the data as maps"


def combine(
    store: Store,
    changes: Changes = None,
    method: Annotated[
        str | None, typer.Option(help="weighted, consensus, hierarchical, semiparametric, swiss or average.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the result; that of the fit by default.")] = None,
    run: Run = False,
    no_figures: NoFigures = False,
    no_report: NoReport = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a result that is there.")] = False,
    json: JSON = False,
) -> None:
    """Combine the finished shards of a fit again, without its data.

    Ends with 0 when the posterior is certified or corrected, with 3 when it is refused, with 4 when shards are
    missing.
    """
    from homodyne.optimization.stored import open_stored

    chosen = changes_of(
        combination=method, output=output, no_figures=no_figures, no_report=no_report, overwrite=overwrite
    )
    stored = open_stored(store, [*(changes or ()), *chosen])
    wanted = stored.config.output
    with results_as_json(json) as show, output_folder(wanted) as folder:
        result = _finish(stored, run)
        with uninterrupted():
            folder.write_result(result, stored.config)
        say(result.summary().text(columns()))
        say(f"wrote {wanted.directory}")
        if wanted.figures:
            say(f"figures of the measured maps are left out: {_NO_MAPS}")
        folder.illustrate(wanted, result, None, missing=_NO_MAPS)
        show(as_record(result, directory=str(wanted.directory)))
    exit_if_refused(result)


def certify(
    store: Store,
    changes: Changes = None,
    points: Annotated[int | None, typer.Option(help="Exact evaluations of the posterior.")] = None,
    run: Run = False,
    json: JSON = False,
) -> None:
    """Combine the finished shards of a fit and show the verdict; nothing is written.

    Ends with 0 when the posterior is certified or corrected, with 3 when it is refused, with 4 when shards are
    missing.
    """
    from homodyne.optimization.stored import open_stored

    stored = open_stored(store, [*(changes or ()), *changes_of(points=points)])
    with results_as_json(json) as show:
        result = _finish(stored, run)
        if result.certificate is not None:
            say(_facts(result.certificate))
        show(as_record(result))
    exit_if_refused(result)


def _finish(stored: "StoredRun", run: bool) -> "MCMCResult":
    with telling_what_remains(stored.store.remains), progress_bars() as progress:
        return stored.finish(sample_missing=run, progress=progress)


def _facts(certificate: "Certificate") -> str:
    """Verdict, reason and numbers of a certificate."""
    return (
        f"{certificate.verdict}: {certificate.reason}\n"
        f"k_hat      {certificate.k_hat:.2f}\n"
        f"ESS        {certificate.ess:.0f} of {certificate.num_points} points"
    )
