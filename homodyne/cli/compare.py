"""``homodyne compare``: results of several fits side by side."""

from pathlib import Path
from typing import Annotated

import typer

from homodyne.cli.options import JSON
from homodyne.cli.output import require_figure, result_file, results_as_json, write_figure
from homodyne.cli.terminal import columns, say
from homodyne.files import TABLE, require_writable, write_atomically


def compare(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Results of fits (.nc), or their folders.")],
    csv: Annotated[Path | None, typer.Option(help="Write the numbers into this file.")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the parameters against q, or against the file, into this picture.")
    ] = None,
    json: JSON = False,
) -> None:
    """Show parameters of several fits side by side, with intervals of 68 and 95 % and verdicts.

    Results of different models are compared in the parameters that they have in common. Ends with 0, whatever the
    verdicts are.
    """
    from homodyne.result.comparison import compare as put_side_by_side

    require_figure(figure)
    if csv is not None:
        require_writable(csv, TABLE)
    found = put_side_by_side([result_file(one) for one in files])
    with results_as_json(json) as show:
        say(found.text(columns()))
        show(found.to_dict())
    if csv is not None:
        write_atomically(csv, found.to_csv().encode(), TABLE)
        say(f"wrote {csv}")
    if figure is not None:
        from homodyne.viz.comparison import comparison_figure

        write_figure(figure, comparison_figure(found))
