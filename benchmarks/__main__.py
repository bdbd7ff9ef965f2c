"""Run the named benchmarks, or all of them."""

import sys

from benchmarks import calibration, command_line, fits, primitive, shards

BENCHMARKS = {
    "primitive": primitive.run,
    "fits": fits.run,
    "command_line": command_line.run,
    "calibration": calibration.run,
    "shards": shards.run,
}

for name in sys.argv[1:] or BENCHMARKS:
    print(f"== {name}")
    BENCHMARKS[name]()
