"""The program: its list of commands, and the one place where errors become messages and exit codes."""

import logging
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer

from homodyne import __version__
from homodyne.cli import combine, compare, config, demo, fit, hardware, inspect, jobs, plan, simulate, worker
from homodyne.cli.interruption import Interrupted, remains_of
from homodyne.errors import HomodyneError, HomodyneWarning

EXECUTION_FAILED = 4
REPEAT = 3.0  # seconds after which an interruption that was swallowed is raised again
INTERRUPTED = 130

app = typer.Typer(
    name="homodyne",
    help="Physical parameters from X-ray photon correlation maps, with error bars that can be believed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (
    inspect.inspect, fit.fit, compare.compare, combine.combine, combine.certify, jobs.status, jobs.cancel, jobs.unlock,
    worker.worker, simulate.simulate, plan.plan, demo.demo, hardware.hardware,
):  # fmt: skip
    app.command()(_command)
app.add_typer(config.app, name="config")


def _show_version(value: bool) -> None:
    if value:
        print(f"homodyne {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell more of what is done.")] = False,
) -> None:
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("homodyne").setLevel(logging.INFO if verbose else logging.WARNING)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    arguments
        The command line without the name of the program.
    """
    stopped: list[int] = []
    with _signals(stopped), _plain_warnings():
        try:
            app(args=list(arguments), prog_name="homodyne")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except HomodyneError as error:
            if stopped:  # a shard that was interrupted may count as one that failed
                return _say_interrupted(error)
            return _complain(str(error), error.exit_code)
        except Interrupted as error:
            return _say_interrupted(error)
        except MemoryError as error:
            return _complain(f"not enough memory: {error}; select fewer frames or angles", EXECUTION_FAILED)
        except OSError as error:
            return _complain(f"the system refused: {error}", EXECUTION_FAILED)
        except (RuntimeError, ValueError) as error:
            if stopped:  # compiled code reports what is raised inside of it as an error of its own
                return _say_interrupted(error)
            raise
    return 0


def _complain(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def _say_interrupted(error: BaseException) -> int:
    remains = remains_of(error) or "nothing of this run was kept: start the same command again"
    return _complain(f"interrupted; files that were there before are as they were, {remains}", INTERRUPTED)


@contextmanager
def _signals(stopped: list[int]) -> Iterator[None]:
    """Turn interrupt and termination into `Interrupted`, which unwinds and cleans up.

    The signal is noted in `stopped`, for code that turns the exception into another one.  Code that may not raise
    (a destructor, a callback of a library) swallows it, without a word; an alarm therefore repeats it until the
    program has unwound.
    """
    usual = sys.unraisablehook

    def swallowed(what: "sys.UnraisableHookArgs") -> None:
        if not issubclass(what.exc_type, Interrupted):
            usual(what)

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        signal.setitimer(signal.ITIMER_REAL, REPEAT)
        raise Interrupted

    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.signal(number, stop) for number in handled}
    sys.unraisablehook = swallowed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = usual
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show our own warnings as one line of text."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, HomodyneWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
