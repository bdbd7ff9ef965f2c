"""The command line: parses, shows progress, writes files, and turns errors into exit codes.

Exit codes: 0 done, result certified or corrected; 2 wrong input or configuration; 3 refused or not converged;
4 execution failed (memory, disk); 70 a fault of the program; 130 interrupted.
"""

import io
import os
import sys


def main() -> None:
    """Run the program ``homodyne``, which finds modules in the working directory, as ``python -m homodyne`` does.

    After an interruption the process ends at once: everything of ours is unwound by then, and compiled code that
    was left in the middle of a callback crashes when the interpreter is taken down around it.
    """
    from homodyne.cli.program import INTERRUPTED, run

    if os.getcwd() not in sys.path:  # last, so that no file there takes the place of a package
        sys.path.append(os.getcwd())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # of a terminal that cannot show every character
            stream.reconfigure(errors="backslashreplace")
    os.environ["MPLBACKEND"] = "agg"  # figures are written to files, whatever is set for windows
    code = run(sys.argv[1:])
    if code == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
