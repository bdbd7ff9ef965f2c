"""Rows of the performance page: measured, kept beside the code that they measure, and written out.

Rows lie in a file whose name is a digest of the code. Rows of any other code are therefore never shown.
"""

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from homodyne.files import OWN, write_atomically


class Row(NamedTuple):
    """What was done, what came out, and what was aimed at (empty where nothing was)."""

    work: str
    measured: str
    aim: str = ""


class Made(NamedTuple):
    """Commit, machine and date of a row."""

    commit: str
    machine: str
    date: str


def made_here() -> Made:
    """Where and when this runs; the commit is marked where code differs from it."""
    words = ["git", "describe", "--always", "--exclude=*"]
    commit = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "homodyne", "benchmarks"], check=False).returncode:
        commit += "-dirty"
    return Made(commit, f"{os.cpu_count()} cores, {_processor()}", time.strftime("%Y-%m-%d"))


def _processor() -> str:
    """Name of the processor, where the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def records_of_this_version() -> Path:
    """File of the rows that this state of the package has made."""
    digest = hashlib.sha256()
    for source in sorted([*Path("homodyne").rglob("*.py"), *Path(__file__).parent.glob("*.py")]):
        digest.update(source.read_bytes())
    return Path(f".cache/benchmarks-{digest.hexdigest()[:12]}.json")


def keep(path: Path, name: str, made: Made, rows: Iterable[Row]) -> None:
    """Put the rows of a benchmark in the place of those that it had; rows of another commit go."""
    found = {} if not path.exists() else json.loads(path.read_text())
    same = {other: own for other, own in found.items() if own["made"][0] == made.commit}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({**same, name: {"made": made, "rows": list(rows)}}).encode(), OWN)


def write_page(path: Path, records: Path, sections: Iterable[tuple[str, str]]) -> None:
    """Write the page from the rows that are there; `sections` are names of benchmarks with what they measure."""
    found = {} if not records.exists() else json.loads(records.read_text())
    parts = [_HEADING]
    for name, text in sections:
        told = _table(**found[name]) if name in found else "Not measured with this version of the code."
        parts.append(f"## {name.replace('_', ' ').capitalize()}\n\n{text}\n\n{told}")
    write_atomically(path, ("\n\n".join(parts) + "\n").encode(), OWN)


def _table(made: list[str], rows: list[list[str]]) -> str:
    commit, machine, date = made
    head = ["| work | measured | aim | commit | machine | date |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} | `{commit}` | {machine} | {date} |" for row in rows)])


_HEADING = """# Performance

This page is written by

```console
make bench
```

(`python -m benchmarks NAME ...` measures only some sections; `--small` tries them with little data and writes nothing).
All rows are of one commit, and a row that is older than the code is not shown. Arithmetic is float64 over float32
data. Absolute times of a shared machine wander by a factor of two; ratios are taken in one run. Aims are for two quiet
cores. Whole fits run in processes of their own, programs compiled before are read from the disk."""
