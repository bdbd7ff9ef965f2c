"""Lines of terminals of 60 and 80 columns; progress without one: stage and remaining time, every 30 s at most."""

import logging
import re
import sys

import pytest
from typer.main import get_command

from benchmarks.example_results import example_result
from homodyne.cli.program import app
from homodyne.cli.terminal import ProgressLines, columns, progress_bars, quietly, say
from homodyne.result.comparison import compare

WIDTHS = [60, 80]
COMMANDS = [
    name.split()
    for first, command in get_command(app).commands.items()
    for name in (first, *(f"{first} {second}" for second in getattr(command, "commands", ())))
]


@pytest.fixture(params=WIDTHS)
def terminal(request, monkeypatch, capsys):
    """Call it in a test, for standard output to be a terminal; it returns the number of columns."""

    def now() -> int:
        monkeypatch.setenv("COLUMNS", str(request.param))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        return request.param

    return now


@pytest.mark.parametrize("width", WIDTHS)
def test_help_fits_and_nothing_of_it_is_cut(homodyne, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for command in [[], *COMMANDS]:
        text = homodyne(*command, "--help").out
        assert "…" not in text.replace("--install-completi…", ""), (command, text)  # of Typer, of 60 columns
        assert max(map(len, text.splitlines())) <= width, (command, text)


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_help_has_no_brackets_which_would_be_taken_for_markup_and_vanish(names):
    command = get_command(app)
    for name in names:
        command = command.commands[name]
    assert not [one.help for one in command.params if "[" in (getattr(one, "help", None) or "")]


def test_tables_fit_and_keep_every_cell(terminal, capsys):
    width = terminal()
    one = example_result(num_frames=20, shape=(2, 20)).result
    table, side_by_side = one.summary(), compare({"first": one, "second": one})
    for shown in (table, side_by_side):
        say(shown.text(columns()))
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= width, text
        for word in str(shown).replace("-" * 20, " ").split():
            assert word.strip("-") in text, word


def test_a_column_that_is_lost_would_be_seen(capsys, terminal, monkeypatch):
    """Planted: the last of the tables into which one is cut is left out."""
    from homodyne.result import summary

    real = summary._columns
    monkeypatch.setattr(summary, "_columns", lambda *given: list(real(*given))[:1])
    with pytest.raises(AssertionError):
        test_tables_fit_and_keep_every_cell(terminal, capsys)


@pytest.mark.parametrize(
    ("line", "below"),
    [
        ("backend    multiprocessing: " + "there are 2 cores " * 9, " " * 11),
        ("Found: At an age of 14.9 s " + "J = 3820 ± 210 Å²/s, " * 9, " " * 7),
        ("  q                       wavevectors in 1/Å: " + "a number or a list " * 9, " " * 26),
        ("  and" + " so on" * 60, " " * 4),
    ],
)
def test_long_lines_go_on_below_where_they_began(terminal, capsys, line, below):
    width = terminal()
    say(line)
    first, *rest = capsys.readouterr().out.splitlines()
    assert max(map(len, [first, *rest])) <= width
    assert all(re.match(rf"{below}\S", one) for one in rest)
    assert " ".join([first, *rest]).split() == line.split()
    assert not any(one.endswith(("±", "± ")) or one.strip().startswith("±") for one in [first, *rest])


def test_what_is_copied_or_goes_to_a_file_is_left_alone(terminal, capsys, monkeypatch):
    terminal()
    line = "key: value " * 20
    say(line, wrap=False)
    monkeypatch.undo()
    say(line)
    assert capsys.readouterr().out == f"{line}\n{line}\n"


def test_a_line_at_most_every_30_s():
    lines, now = [], [0.0]
    report = ProgressLines(lines.append, lambda: now[0])
    for done in range(1, 100):
        now[0] = float(done)
        report("sampling shards", done, 100)
    assert lines == [
        "sampling shards: 30 of 100, about 68 s left",
        "sampling shards: 60 of 100, about 39 s left",
        "sampling shards: 90 of 100, about 10 s left",
    ]
    now[0] = 130.0
    report("certificate", 0, 1000)  # a stage that has just begun has no rate
    assert lines[3:] == ["certificate: 0 of 1000"]
    now[0] = 190.0
    report("certificate", 10, 1000)
    assert lines[4:] == ["certificate: 10 of 1000, about 2 h left"]
    report("polish", 1, 3)
    assert len(lines) == 5


def test_nothing_is_said_of_what_is_short(capsys):
    with progress_bars() as report:
        report("pilot fit", 1, 2)
    assert capsys.readouterr().err == ""


def test_quiet_commands_print_errors_only_and_show_no_progress(homodyne, tmp_path, monkeypatch):
    monkeypatch.setattr("homodyne.cli.terminal.EVERY", 0.0)
    few = "--frames", 20, "--angles", 1
    told = homodyne("simulate", "told.h5", *few)
    assert "wrote told.h5" in told.out
    silent = homodyne("simulate", "silent.h5", *few, "--quiet")
    assert (silent.code, silent.out, silent.err) == (0, "", "")
    assert (tmp_path / "silent.h5").stat().st_size == (tmp_path / "told.h5").stat().st_size
    assert "silent.h5" in homodyne("simulate", "silent.h5", *few, "--quiet").err  # it exists
    with quietly(), progress_bars() as progress:
        progress("stage", 1, 2)
    assert homodyne("inspect", "told.h5").out  # what was silent is not so any more


def test_each_step_is_told_before_and_behind_the_name_of_a_command(homodyne):
    logger = logging.getLogger("homodyne")
    for arguments, level in (
        (["config", "new"], "WARNING"),
        (["-v", "hardware"], "INFO"),
        (["hardware", "-v"], "INFO"),
    ):
        homodyne(*arguments)
        assert logging.getLevelName(logger.level) == level
