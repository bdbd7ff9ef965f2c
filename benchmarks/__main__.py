"""Run the named benchmarks, or all of them, and write docs/performance.md."""

import argparse
from pathlib import Path

from benchmarks import (
    backends,
    combination,
    command_line,
    distributed,
    engine,
    fits,
    hard_cases,
    likelihood,
    noise,
    shards,
    size,
)
from benchmarks.page import keep, made_here, records_of_this_version, write_page

BENCHMARKS = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        likelihood, engine, noise, fits, command_line, shards, combination, hard_cases, backends, distributed, size,
    )
}  # fmt: skip


def main() -> None:
    """Parse the command line, run, report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all by default: {', '.join(BENCHMARKS)}")
    parser.add_argument("--small", action="store_true", help="little data, to see that all works; nothing is written")
    parser.add_argument("--output", type=Path, default=Path("docs/performance.md"))
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; known: {', '.join(BENCHMARKS)}")
    made, records = made_here(), records_of_this_version()
    texts = [(name, str(module.__doc__)) for name, module in BENCHMARKS.items()]
    for name in given.names or BENCHMARKS:
        print(f"== {name}", flush=True)
        rows = []
        for row in BENCHMARKS[name].run(given.small):
            print(f"  {row.work}: {row.measured}{row.aim and f' (aim {row.aim})'}", flush=True)
            rows.append(row)
        if not given.small:
            keep(records, name, made, rows)
            write_page(given.output, records, texts)


if __name__ == "__main__":
    main()
