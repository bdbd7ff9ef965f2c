"""Run the named benchmarks, or all of them."""

import sys

from benchmarks import command_line, fits, primitive

BENCHMARKS = {"primitive": primitive.run, "fits": fits.run, "command_line": command_line.run}

for name in sys.argv[1:] or BENCHMARKS:
    print(f"== {name}")
    BENCHMARKS[name]()
