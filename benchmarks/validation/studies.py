"""The studies: their cases, how many data sets each has, and what is done with one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks.validation import alarms, calibration, coverage, engine, wide
from benchmarks.validation.families import FAMILIES
from benchmarks.validation.hard_cases import CASES
from benchmarks.validation.records import Unit
from homodyne.testing.conjugate import PROBLEMS


class Study(NamedTuple):
    """Cases by name, data sets of each, how many are handed to a worker at once, and what it does with a seed.

    `share` of the data sets is what costly and cheap cases have.
    """

    cases: Mapping[str, Any]
    sets: int
    portion: int
    one: Callable[[str, int], dict[str, Any]]
    share: Mapping[str, float] = {}

    def sets_of(self, case: str, sets: int) -> int:
        """Data sets of a case where others have `sets`."""
        return max(1, round(self.share.get(case, 1.0) * sets))


STUDIES = {
    "coverage": Study(coverage.REGIMES, 200, 5, coverage.one),
    "calibration": Study(
        calibration.METHODS, 200, 5, calibration.one, {"laplace, static": 3.5, "cmc 32, static": 0.25}
    ),
    "certificate": Study(alarms.PROBLEMS, 200, 20, alarms.certificate),
    "agreement": Study(alarms.SHARDS, 300, 50, alarms.agreement),
    "hard cases": Study(CASES, 20, 2, alarms.hard_case),
    "healthy cases": Study(PROBLEMS, 20, 2, alarms.healthy_case),
    "wide": Study(wide.KINDS, 60, 1, wide.one, {"Brownian": 4.0}),
    "generic engine": Study(FAMILIES, 5, 1, engine.one),
}
"""Every study by name."""


def perform(units: list[Unit]) -> list[tuple[Unit, dict[str, Any]]]:
    """Work off units, in a worker or here."""
    return [(unit, STUDIES[unit.study].one(unit.case, unit.seed)) for unit in units]
