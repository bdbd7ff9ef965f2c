"""The program: its list of commands, and the one place where errors become messages and exit codes."""

import faulthandler
import logging
import os
import resource
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated, Any

import typer

from homodyne.cli import (
    INTERRUPTED,
    combine,
    compare,
    config,
    demo,
    doctor,
    fit,
    hardware,
    inspect,
    jobs,
    many,
    plan,
    report,
    simulate,
    store,
    worker,
)
from homodyne.cli.interruption import Interrupted, interrupt, remains_of
from homodyne.cli.terminal import printable, say
from homodyne.cli.verbosity import Verbose, telling
from homodyne.errors import ExecutionError, HomodyneError, HomodyneWarning
from homodyne.versions import version_lines

EXECUTION_FAILED = 4
FAULT = 70
ADDRESS_SPACE = 3e9  # bytes that JAX takes with data that hardly count; 1.5e9 on two cores
FEW_THREADS, THREADS_PER_CORE = 8, 6
"""Threads that JAX starts: 20 on two cores, with those of its libraries."""
_SMALL = ("inspect", "status", "cancel", "unlock", "config", "store", "hardware", "compare")  # commands without JAX
REPEAT = 3.0  # seconds after which an interruption that was swallowed is raised again

app = typer.Typer(
    name="homodyne",
    help="Physical parameters from X-ray photon correlation maps, with error bars that can be believed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_WRITING = (  # files, so that they can be silent
    fit.fit, many.watch, report.report, report.figures, report.export, combine.combine, simulate.simulate,
)  # fmt: skip
for _command in (
    inspect.inspect, fit.fit, many.watch, report.report, report.figures, report.export,
    compare.compare, combine.combine, combine.certify,
    jobs.status, jobs.cancel, jobs.unlock, worker.worker, simulate.simulate, plan.plan, demo.demo, hardware.hardware,
    doctor.doctor,
):  # fmt: skip
    app.command()(telling(_command, silent=_command in _WRITING))
app.add_typer(config.app, name="config")
app.add_typer(store.app, name="store")


def _show_version(value: bool) -> None:
    if value:
        say(version_lines())
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions and commit, and exit."),
    ] = False,
    verbose: Verbose = False,
) -> None:
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("homodyne").setLevel(logging.INFO if verbose else logging.WARNING)
    if context.invoked_subcommand not in _SMALL:
        _require_address_space()
        _require_threads()
    for handler in logging.getLogger().handlers:
        handler.addFilter(_printable_record)


def _require_address_space() -> None:
    """Refuse a limit of memory under which compiled code would abort, without a word on why."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE:
        raise ExecutionError(
            f"not enough memory: this process is limited to {limit / 1e9:.2g} GB of address space (ulimit -v), "
            f"compiled code and its threads take {ADDRESS_SPACE / 1e9:.2g} GB; raise the limit"
        )


def _require_threads() -> None:
    """Refuse a limit of processes under which compiled code would abort, which starts threads of its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count, go = FEW_THREADS + THREADS_PER_CORE * cores, threading.Event()
    trial = [threading.Thread(target=go.wait) for _ in range(count)]
    started = []
    try:
        for one in trial:
            one.start()
            started.append(one)
    except RuntimeError as error:
        raise ExecutionError(
            f"compiled code needs about {count} threads, the system allows {len(started)} more: raise the limit of "
            "processes (ulimit -u), or end some"
        ) from error
    finally:
        go.set()
        for one in started:
            one.join()


def _printable_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), ()
    return True


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    arguments
        The command line without the name of the program.
    """
    stopped: list[int] = []
    with suppress(OSError, ValueError):  # without a terminal or file for it
        faulthandler.enable(sys.__stderr__ or sys.stderr)  # a file that is cut while it is mapped ends this with SIGBUS
    with _signals(stopped), _plain_warnings():
        try:
            app(args=list(arguments), prog_name="homodyne")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except (Exception, Interrupted) as error:  # noqa: BLE001  the one place where every error becomes a message
            remains = remains_of(error)
            if stopped or isinstance(error, Interrupted):  # compiled code and shards turn the second into other errors
                remains = remains or "nothing of this run was kept: start the same command again"
                return _complain(f"interrupted; {remains}", INTERRUPTED)
            message, code = _explained(error)
            return _complain("; ".join(filter(None, (message, remains))), code)
    return 0


def _explained(error: BaseException) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, HomodyneError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}; select fewer frames or angles", EXECUTION_FAILED
    if isinstance(error, OSError):
        return f"the system refused: {error}", EXECUTION_FAILED
    log = _log_of(error)
    return (
        f"this is a fault of the program, not of what you gave: {type(error).__name__}: {error}; please report it with "
        f"{log}",
        FAULT,
    )


def _log_of(error: BaseException) -> str:
    """Write down where an error came from; say where that lies."""
    text = f"{version_lines()}\nPython {sys.version}\n{sys.argv}\n" + "".join(traceback.format_exception(error))
    try:
        descriptor, file = tempfile.mkstemp(prefix="homodyne-fault-", suffix=".log")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(text)
    except OSError:
        return f"this:\n{text}"
    return f"the log {file}"


def _complain(message: str, code: int) -> int:
    with suppress(OSError):  # of a terminal that is closed
        say(f"error: {message}", error=True)
    return code


@contextmanager
def _signals(stopped: list[int]) -> Iterator[None]:
    """Turn interrupt and termination into `Interrupted`, which unwinds and cleans up.

    The signal is noted in `stopped`, for code that turns the exception into another one.  Code that may not raise
    (a destructor, a callback of a library) swallows it, without a word; an alarm therefore repeats it until the
    program has unwound.
    """
    usual, printed = sys.unraisablehook, sys.excepthook

    def swallowed(what: "sys.UnraisableHookArgs") -> None:
        if not issubclass(what.exc_type, Interrupted):
            usual(what)

    def shown(kind: type[BaseException], *more: Any) -> None:  # by compiled modules that import others
        if not issubclass(kind, Interrupted):
            printed(kind, *more)

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        signal.setitimer(signal.ITIMER_REAL, REPEAT)
        interrupt()

    handled = [signal.SIGINT, signal.SIGTERM, signal.SIGALRM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup asks
        handled.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in handled}
    sys.unraisablehook, sys.excepthook = swallowed, shown
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook, sys.excepthook = usual, printed
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show our own warnings as one line of text."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, HomodyneWarning):
            say(f"warning: {message}", error=True)
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
