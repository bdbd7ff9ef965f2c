"""Verdicts of 200 consensus runs on cases where merging shards fails, and how far off the draws in use are."""

from collections import defaultdict
from collections.abc import Iterator

from benchmarks.page import Row
from benchmarks.validation.hard_cases import CASES, SHIFT, STRETCH, HardCase, Outcome, run_case

NUM_RUNS = 203
FIRST_SEED = 1000  # none that a test uses, or that the code was written with


def run(small: bool = False) -> Iterator[Row]:
    """Rows of the table: verdicts by case with the worst errors of their draws, and every fault."""
    for name, make in CASES.items():
        seeds = range(FIRST_SEED, FIRST_SEED + (1 if small else NUM_RUNS // len(CASES)))
        cases = sorted(((make(seed), seed) for seed in seeds), key=_program)
        by_verdict: dict[str, list[tuple[int, Outcome]]] = defaultdict(list)
        for case, seed in cases:
            outcome = run_case(case, seed)
            by_verdict[outcome.verdict].append((seed, outcome))
        for verdict, own in sorted(by_verdict.items()):
            faults = [f"seed {seed}: {one.fault}: {one.reason}" for seed, one in own if one.fault]
            told = [f"{len(own)} {verdict}", *([] if verdict in _UNUSED else [_worst(own)]), *(faults or ["no fault"])]
            yield Row(name, "; ".join(told), "no fault")


_UNUSED = ("REFUSED", "ERROR")  # their draws must not be used


def _worst(outcomes: list[tuple[int, Outcome]]) -> str:
    seed, worst = max(outcomes, key=lambda pair: max(pair[1].shift / SHIFT, pair[1].stretch / STRETCH))
    return f"worst (seed {seed}): mean {worst.shift:.2f} sd off, width {100 * worst.stretch:.0f} %"


def _program(numbered: tuple[HardCase, int]) -> tuple[int, int]:
    """Cases with one compiled program stand together."""
    case = numbered[0]
    return case.num_shards, len(case.data["y"])
