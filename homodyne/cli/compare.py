"""``homodyne compare``: results of several fits side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homodyne.certificate.verdict import Verdict
from homodyne.cli.options import JSON
from homodyne.cli.output import require_figure, result_file, results_as_json, write_figure
from homodyne.cli.terminal import printable, say

if TYPE_CHECKING:
    from rich.table import Table

    from homodyne.result.comparison import Cells, Comparison


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
    from homodyne.files import TABLE, require_writable, write_atomically
    from homodyne.result.comparison import compare as put_side_by_side

    require_figure(figure)
    if csv is not None:
        require_writable(csv, TABLE)
    found = put_side_by_side([result_file(one) for one in files])
    with results_as_json(json) as show:
        _show(found)
        show(found.to_dict())
    if csv is not None:
        write_atomically(csv, found.to_csv().encode(), TABLE)
        say(f"wrote {csv}")
    if figure is not None:
        from homodyne.viz.comparison import comparison_figure

        write_figure(figure, comparison_figure(found))


def _show(found: "Comparison") -> None:
    from rich.console import Console

    tables = [_table(found.fit_cells(), 5), _table(found.value_cells(), 4)]
    console = Console(width=1000, highlight=False)
    console.width = max(console.measure(table).maximum for table in tables)
    console.print(tables[0])
    say()
    console.print(tables[1])
    for note in found.notes:
        say(f"note: {note}")


def _table(cells: "list[Cells]", num_left: int) -> "Table":
    """Table of rich: a rule before each line whose first cell is not empty, refused results in red."""
    from rich.table import Table as Grid
    from rich.text import Text

    header, *lines = cells
    table = Grid(show_edge=False)
    for k, name in enumerate(header):
        table.add_column(name, justify="left" if k < num_left else "right", no_wrap=True)
    for k, line in enumerate(lines):
        style = "red" if Verdict.REFUSED in line else ""
        last = k + 1 == len(lines) or bool(lines[k + 1][0])
        table.add_row(*(Text(printable(cell), style=style) for cell in line), end_section=last and len(header) == 8)
    return table
