"""What is finished: one line of JSON per data set."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Record = dict[str, Any]


class Unit(NamedTuple):
    """One data set of a case of a study."""

    study: str
    case: str
    seed: int


def read(path: Path) -> dict[Unit, Record]:
    """Return all finished records; half a line at the end, of a run that was killed, is cut off."""
    if not path.exists():
        return {}
    whole = path.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if len(kept) < len(whole):
        with path.open("r+b") as file:
            file.truncate(len(kept))
    lines = (json.loads(line) for line in kept.splitlines())
    return {Unit(*unit): record for unit, record in lines}


def append(path: Path, finished: Iterable[tuple[Unit, Record]]) -> None:
    """Add records, on the disk when this returns."""
    with path.open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in finished)
        file.flush()
        os.fsync(file.fileno())


def by_case(records: Mapping[Unit, Record], study: str, cases: Iterable[str]) -> dict[str, list[Record]]:
    """Records of a study by case, in the order of seeds; cases without any are left out."""
    found: dict[str, list[Record]] = {case: [] for case in cases}
    for unit in sorted(records):
        if unit.study == study and unit.case in found:
            found[unit.case].append(records[unit])
    return {case: own for case, own in found.items() if own}
