"""Run what is not finished of the studies, on two processes, and write docs/validation.md with its figures.

Finished data sets are lines of JSON in a file of records; an interrupted run goes on where it stopped.
"""

import argparse
import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
"""One thread for each worker; read when they start."""


def main() -> None:
    """Parse the command line, run, report."""
    from benchmarks.page import made_here
    from benchmarks.validation.records import read
    from benchmarks.validation.report import write_report
    from benchmarks.validation.studies import STUDIES

    parser = argparse.ArgumentParser(prog="python -m benchmarks.validation", description=__doc__)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"all by default: {', '.join(STUDIES)}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the data sets of every study")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--records", type=Path, default=records_of_this_version(), help="%(default)s by default")
    parser.add_argument("--output", type=Path, default=Path("docs/validation.md"))
    parser.add_argument("--report", action="store_true", help="only write the report of what is finished")
    given = parser.parse_args()
    unknown = set(given.studies) - set(STUDIES)
    if unknown:
        parser.error(f"unknown study {', '.join(sorted(unknown))}; known: {', '.join(STUDIES)}")
    if not given.report:
        sets = {name: max(1, round(given.scale * STUDIES[name].sets)) for name in given.studies or STUDIES}
        run(sets, given.records, given.workers)
    command = "python -m benchmarks.validation " + " ".join(sys.argv[1:])
    write_report(read(given.records), given.output, command, made_here().commit)


def records_of_this_version() -> Path:
    """File of the records that this state of the package has made."""
    digest = hashlib.sha256()
    for source in sorted([*Path("homodyne").rglob("*.py"), *Path(__file__).parent.glob("*.py")]):
        digest.update(source.read_bytes())
    return Path(f".cache/validation-{digest.hexdigest()[:12]}.jsonl")


def run(sets: Mapping[str, int], path: Path, workers: int) -> None:
    """Do what is missing of the studies with these numbers of data sets."""
    from benchmarks.validation.records import Unit, append, read
    from benchmarks.validation.studies import STUDIES, perform

    done, portions = read(path), []
    for name, count in sets.items():
        study = STUDIES[name]
        for case in study.cases:
            seeds = range(study.sets_of(case, count))
            left = [unit for unit in (Unit(name, case, seed) for seed in seeds) if unit not in done]
            portions += [left[k : k + study.portion] for k in range(0, len(left), study.portion)]
    portions.sort(key=lambda units: units[0].seed)  # all cases grow together, should the run be interrupted
    total, finished, began = sum(map(len, portions)), 0, time.monotonic()
    path.parent.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for results in pool.imap_unordered(perform, portions):
            append(path, results)
            finished += len(results)
            left_s = (time.monotonic() - began) * (total / finished - 1)
            last = results[-1][0]
            print(f"\r{finished} of {total} sets, {left_s / 60:.0f} min left ({last.study}: {last.case})\033[K", end="")
    print()


if __name__ == "__main__":
    os.environ.update(_SETTINGS)
    main()
