"""The command line: parses, shows progress, writes files, and turns errors into exit codes.

Exit codes: 0 done, result certified or corrected; 2 wrong input or configuration; 3 refused or not converged;
4 execution failed (memory, disk); 130 interrupted.
"""

import sys


def main() -> None:
    """Run the program ``homodyne``."""
    from homodyne.cli.program import run

    sys.exit(run(sys.argv[1:]))
