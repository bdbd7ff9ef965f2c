"""Exit codes, messages and signals: the one place where they are made."""

import os
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import typer

from homodyne.cli import program
from homodyne.cli.interruption import telling_what_remains, uninterrupted
from homodyne.errors import ConvergenceError, DataError, ExecutionError, HomodyneWarning
from homodyne.versions import version_lines


def stop(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def stop_inside_compiled_code(kind: type[Exception]) -> None:
    """Compiled code turns an interruption in a callback into an error of its own kind."""
    try:
        stop(signal.SIGINT)
    except BaseException as error:
        raise kind("callback failed") from error


class Destroyed:
    """Swallows what is raised while it goes."""

    def __del__(self) -> None:
        stop(signal.SIGINT)


def stop_inside_a_destructor() -> None:
    Destroyed()
    signal.pause()  # until the repetition


@pytest.mark.parametrize(
    ("action", "code", "message"),
    [
        (lambda: None, 0, ""),
        (lambda: (_ for _ in ()).throw(typer.Exit(3)), 3, ""),
        (lambda: (_ for _ in ()).throw(DataError("q=3 is not there")), 2, "error: q=3 is not there\n"),
        (lambda: (_ for _ in ()).throw(ConvergenceError("no mode")), 3, "error: no mode\n"),
        (lambda: (_ for _ in ()).throw(ExecutionError("disk")), 4, "error: disk\n"),
        (lambda: (_ for _ in ()).throw(MemoryError("8 EiB")), 4, "error: not enough memory: 8 EiB"),
        (lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")), 4, "No space left on device"),
        (lambda: stop(signal.SIGINT), 130, "error: interrupted; "),
        (lambda: stop(signal.SIGTERM), 130, "error: interrupted; "),
        (lambda: stop(signal.SIGHUP), 130, "error: interrupted; "),
        (lambda: stop_inside_compiled_code(RuntimeError), 130, "error: interrupted; "),
        (lambda: stop_inside_compiled_code(ValueError), 130, "error: interrupted; "),
        (stop_inside_a_destructor, 130, "error: interrupted; "),
        (lambda: warnings.warn("mind this", HomodyneWarning, stacklevel=1), 0, "warning: mind this\n"),
    ],
)
def test_what_a_command_does_becomes_an_exit_code_and_one_message(monkeypatch, capsys, action, code, message):
    app = typer.Typer()
    app.command("now")(lambda: action())
    app.command("never")(lambda: None)
    monkeypatch.setattr(program, "app", app)
    monkeypatch.setattr(program, "REPEAT", 0.2)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert program.run(["now"]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("kind", [ZeroDivisionError, ValueError, RuntimeError, RecursionError])
def test_a_fault_of_the_program_says_so_and_where_its_log_lies(monkeypatch, capsys, tmp_path, kind):
    def now() -> None:
        with telling_what_remains(lambda: "3 shards are kept"):
            raise kind("defect \x1b[2J")

    app = typer.Typer()
    app.command("now")(now)
    app.command("never")(lambda: None)
    monkeypatch.setattr(program, "app", app)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert program.run(["now"]) == 70
    said = capsys.readouterr().err
    (log,) = tmp_path.iterdir()
    begin = f"error: this is a fault of the program, not of what you gave: {kind.__name__}: defect "
    assert said.startswith(begin + "\\x1b")
    assert said.endswith(f"with the log {log}; 3 shards are kept\n")
    assert "in now" in log.read_text(encoding="utf-8")
    assert log.read_text(encoding="utf-8").startswith(version_lines())


def test_an_interruption_waits_for_the_end_of_what_must_not_be_cut_in_two(monkeypatch):
    done = []

    def now() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGHUP)
            done.append("whole")
        done.append("more")

    app = typer.Typer()
    app.command("now")(now)
    app.command("never")(lambda: None)
    monkeypatch.setattr(program, "app", app)
    assert program.run(["now"]) == 130
    assert done == ["whole"]


@pytest.mark.slow
def test_what_is_set_for_windows_and_a_terminal_of_few_characters_do_no_harm(tmp_path):
    program_file = Path(sys.executable).with_name("homodyne")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "MPLBACKEND": "nonsense"}

    def call(*arguments):
        return subprocess.run(
            [program_file, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    made = call("simulate", "x.h5", "--frames", "10", "--angles", "1", "--kind", "independent")
    assert (made.returncode, "1/\\xc5" in made.stdout) == (0, True), made
    drawn = call("inspect", "x.h5", "--figure", "x.png")
    assert drawn.returncode == 0, drawn
    assert (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["zzz"], "zzz"),
        (["fit"], "FILE"),
        (["fit", "x.h5", "--q", "abc"], "experimental_data.q: 'abc'"),
        (["fit", "x.h5", "--nonsense"], "--nonsense"),
        (["simulate", "x.h5", "--frames", "2"], "--frames"),
    ],
)
def test_wrong_usage(homodyne, tmp_path, arguments, named):
    outcome = homodyne(*arguments)
    assert outcome.code == 2
    assert named in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_version_and_help(homodyne):
    assert homodyne("--version").out == f"{version_lines()}\n"
    text = homodyne("--help")
    assert text.code == 0
    for command in ("inspect", "fit", "simulate", "demo", "hardware", "config"):
        assert command in text.out


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", {"COMP_WORDS": "homodyne {}", "COMP_CWORD": "{at}"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "homodyne {}"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "homodyne {}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
@pytest.mark.parametrize(
    ("typed", "offered"),
    [("fi", ["fit", "figures"]), ("config ", ["new", "explain"]), ("figures --format ", ["pdf", "svg", "png"])],
)
def test_shells_complete_what_is_typed(homodyne, monkeypatch, shell, line, typed, offered):
    monkeypatch.setenv("_HOMODYNE_COMPLETE", f"complete_{shell}")
    for name, value in line.items():
        monkeypatch.setenv(name, value.format(typed, at=typed.count(" ") + 1))
    outcome = homodyne()
    assert outcome.code == 0, outcome
    assert all(word in outcome.out for word in offered), outcome
    assert "hardware" not in outcome.out


def test_the_script_for_completion_is_that_of_the_shell(homodyne, monkeypatch):
    for shell, part in (("bash", "complete -o default"), ("zsh", "#compdef homodyne"), ("fish", "complete --command")):
        monkeypatch.setattr("shellingham.detect_shell", lambda shell=shell: (shell, f"/bin/{shell}"))
        outcome = homodyne("--show-completion")
        assert (outcome.code, part in outcome.out) == (0, True), outcome


@pytest.mark.slow
def test_the_installed_program_runs_and_exits_with_its_code():
    program_file = Path(sys.executable).with_name("homodyne")
    good = subprocess.run([program_file, "--version"], capture_output=True, text=True, check=False)
    said, own = (lines.replace("-dirty", "") for lines in (good.stdout, version_lines()))  # files may change meanwhile
    assert (good.returncode, said) == (0, f"{own}\n")
    bad = subprocess.run([program_file, "fit", "absent.yaml"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert bad.stderr == "error: absent.yaml: cannot be read: No such file or directory\n"


def test_hardware(homodyne):
    outcome = homodyne("hardware")
    assert outcome.code == 0
    assert "cores" in outcome.out


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_files_do_not_take_the_place_of_streams_that_are_closed(closed, tmp_path):
    text = "from homodyne.cli import _open_streams; _open_streams(); print(1); exit(open('first').fileno())"
    (tmp_path / "first").touch()
    line = f'exec "$0" -c "$1" {closed}'
    done = subprocess.run(["sh", "-c", line, sys.executable, text], cwd=tmp_path, capture_output=True)
    assert done.returncode > 2
    assert done.stderr == b""


def test_interruptions_in_compiled_modules_print_no_traceback(capsys):
    with program._signals([]):
        sys.excepthook(program.Interrupted, program.Interrupted(), None)
    assert capsys.readouterr().err == ""


EARLY = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, *more):
        if name == "homodyne.cli.program":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupts())
from homodyne.cli import main
sys.argv[1:] = ["--version"]
main()
"""


def test_an_interruption_while_the_program_is_loaded_is_one_sentence():
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, check=False)
    said = "error: interrupted; nothing was begun: start the same command again\n"
    assert (done.returncode, done.stdout, done.stderr) == (130, "", said)


def test_little_is_imported_before_interruptions_are_handled():
    code = "import sys; before = set(sys.modules); import homodyne.cli; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert not {"typing", "pathlib", "subprocess", "importlib.metadata", "typer", "numpy"} & set(done.stdout.split())
