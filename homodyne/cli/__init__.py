"""The command line: parses, shows progress, writes files, and turns errors into exit codes.

Exit codes: 0 done, result certified or corrected; 2 wrong input or configuration; 3 refused or not converged;
4 execution failed (memory, disk); 70 a fault of the program; 130 interrupted.
"""

import io
import os
import signal
import sys
from contextlib import suppress

INTERRUPTED = 130


def main() -> None:
    """Run the program ``homodyne``, which finds modules in the working directory, as ``python -m homodyne`` does.

    After an interruption the process ends at once: everything of ours is unwound by then, and compiled code that
    was left in the middle of a callback crashes when the interpreter is taken down around it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nothing to unwind until the program handles it
        signal.signal(signal.SIGINT, _stop)
    _open_streams()
    from homodyne.cli.program import run

    with suppress(OSError):  # of a working directory that is gone
        if os.getcwd() not in sys.path:  # last, so that no file there takes the place of a package
            sys.path.append(os.getcwd())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # of a terminal that cannot show every character
            stream.reconfigure(errors="backslashreplace")
    os.environ["MPLBACKEND"] = "agg"  # figures are written to files, whatever is set for windows
    code = run(sys.argv[1:])
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if code == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _stop(number: int, frame: object) -> None:
    """End the program before anything of it has run: there is nothing to unwind."""
    with suppress(OSError):
        os.write(2, b"error: interrupted; nothing was begun: start the same command again\n")
    os._exit(INTERRUPTED)


def _open_streams() -> None:
    """Open those of the standard streams that are closed on nothing: a file of the user would take their number.

    What libraries print would then be written into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
