"""What the wide study found: a table by kind, the limits, and every case beyond one."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.validation.records import Record
from benchmarks.validation.wide import INFORMED, usable_reference
from homodyne.certificate.verdict import Verdict

LEVELS = {0.5: (1, 3), 0.9: (0, 4)}
"""Places of the ends of central intervals among the quantiles, by their probability."""
MOST_REFUSED, MOST_OFF, MARGIN = 0.03, 0.25, 0.03
_QUARTILES = 1.349  # distance of the quartiles of a normal distribution, in sd

HEAD = ("kind", "maps", "errors", "verdicts", "counted", "in 50 %", "in 90 %", "bias", "references", "farthest",
        "width", "seconds", "longest")  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """A quantity of a fit in use, of which the data say something: truth in sd from the mean, and inside by level."""

    z: float
    inside: tuple[bool, ...]


def counted(record: Record) -> Iterator[Counted]:
    """Quantities of a fit that count."""
    fit = record["fit"]
    if fit.get("verdict", Verdict.REFUSED) == Verdict.REFUSED:
        return
    for one in fit["values"].values():
        if one["truth"] is not None and one["prior"] < INFORMED:
            q = one["quantiles"]
            inside = tuple(q[low] <= one["truth"] <= q[high] for low, high in LEVELS.values())
            yield Counted((one["mean"] - one["truth"]) / one["sd"], inside)


def compared(record: Record) -> dict[str, tuple[float, float]]:
    """Distance of the medians in sd of the reference, and ratio of the 90 % widths, by name; empty without one."""
    if record["fit"].get("verdict", Verdict.REFUSED) == Verdict.REFUSED or not usable_reference(record):
        return {}
    found = {}
    for name, exact in record["reference"]["values"].items():
        own, q = record["fit"]["values"].get(name), exact["quantiles"]
        if own is not None:
            distance = abs(own["quantiles"][2] - q[2]) / ((q[3] - q[1]) / _QUARTILES)
            found[name] = distance, (own["quantiles"][4] - own["quantiles"][0]) / (q[4] - q[0])
    return found


def rows(cases: Mapping[str, Sequence[Record]]) -> list[list[Any]]:
    """Rows of the table: every kind, and all of them."""
    together = [record for records in cases.values() for record in records]
    return [_row(kind, records) for kind, records in (*cases.items(), ("all", together))]


def _row(kind: str, records: Sequence[Record]) -> list[Any]:
    fits = [record["fit"] for record in records]
    verdicts = Counter(fit["verdict"] for fit in fits if "verdict" in fit)
    told = [one for record in records for one in counted(record)]
    against = [pair for record in records for pair in compared(record).values()]
    seconds = [fit["seconds"] for fit in fits]
    z = np.array([one.z for one in told])
    bias = f"{np.median(z):+.2f}" if told else ""  # one fit that is far off would be all of a mean
    return [
        kind, len(records), sum("error" in fit for fit in fits) or "none",
        ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())), len(told),
        *(f"{100 * share:.0f}" if told else "" for share in coverage(told)), bias,
        f"{sum(map(usable_reference, records))} of {sum('reference' in record for record in records)}",
        f"{max(distance for distance, _ in against):.2f}" if against else "",
        f"{np.median([width for _, width in against]):.2f}" if against else "",
        f"{np.median(seconds):.0f}", f"{max(seconds):.0f}",
    ]  # fmt: skip


def coverage(told: Sequence[Counted]) -> list[float]:
    """Share of truths inside the intervals, by level."""
    return np.mean([one.inside for one in told], axis=0).tolist() if told else [np.nan] * len(LEVELS)


def limits(cases: Mapping[str, Sequence[Record]]) -> list[str]:
    """Every limit, whether it is kept, and by what it is missed: kind and seed of the cases."""
    named = [(f"{kind} {record['seed']}", record) for kind, records in cases.items() for record in records]
    told = [one for _, record in named for one in counted(record)]
    errors = [f"{name} ({record['fit']['error']})" for name, record in named if "error" in record["fit"]]
    refused = [name for name, record in named if record["fit"].get("verdict") == Verdict.REFUSED]
    off = [
        f"{name}: {quantity} by {distance:.2f}"
        for name, record in named
        for quantity, (distance, _) in compared(record).items()
        if distance > MOST_OFF
    ]
    shares = list(zip(LEVELS, coverage(told), strict=True))
    kept = [
        ("no error", not errors, "; ".join(errors)),
        (f"REFUSED under {MOST_REFUSED:.0%}", len(refused) < MOST_REFUSED * len(named),
         f"{len(refused)} of {len(named)}: {', '.join(refused)}"),
        (f"no answer in use off by more than {MOST_OFF} sd from its reference", not off, "; ".join(off)),
        (f"coverage within {100 * MARGIN:.0f} points", all(abs(share - level) <= MARGIN for level, share in shares),
         ", ".join(f"{100 * share:.1f} % in {100 * level:.0f} %" for level, share in shares)),
    ]  # fmt: skip
    return [f"- {limit}: {'kept' if good else f'MISSED, {how}'}" for limit, good, how in kept]


def sizes(cases: Mapping[str, Sequence[Record]]) -> str:
    """What was run so far, in a sentence."""
    frames, maps = ([record[what] for records in cases.values() for record in records] for what in ("frames", "maps"))
    return (
        f"These {len(frames)} measurements have {min(frames)} to {max(frames)} frames and {min(maps)} to {max(maps)} "
        "maps."
    )
