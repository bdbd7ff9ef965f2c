"""Run the named benchmarks, or all of them."""

import sys

from benchmarks import (
    backends,
    calibrated,
    cluster,
    combination,
    command_line,
    engine,
    fits,
    hard_cases,
    primitive,
    shards,
)

BENCHMARKS = {
    "primitive": primitive.run,
    "fits": fits.run,
    "command_line": command_line.run,
    "engine": engine.run,
    "shards": shards.run,
    "combination": combination.run,
    "hard_cases": hard_cases.run,
    "backends": backends.run,
    "calibrated": calibrated.run,
    "cluster": cluster.run,
}

for name in sys.argv[1:] or BENCHMARKS:
    print(f"== {name}")
    BENCHMARKS[name]()
