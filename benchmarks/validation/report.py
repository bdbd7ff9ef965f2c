"""docs/validation.md from the records: tables here, figures in `pictures`."""

import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.validation import alarms, engine, wide_report
from benchmarks.validation.bands import uniform_p
from benchmarks.validation.fits import LIKELIHOOD
from benchmarks.validation.pictures import calibration_figure, coverage_figure
from benchmarks.validation.records import Record, Unit, by_case
from benchmarks.validation.scenario import ANGLES
from benchmarks.validation.studies import STUDIES
from benchmarks.validation.wide import FRAMES, INFORMED, REFERENCE
from homodyne.files import OWN, write_atomically
from homodyne.physics.model import find_model
from homodyne.versions import used_versions

Array = np.ndarray[Any, np.dtype[Any]]

LEVELS = (0.5, 0.9)
_SDS, _MARGIN = 2.6, 0.03
_DRAWN = 20  # ranks of a method from which they make a picture


def write_report(records: Mapping[Unit, Record], path: Path, command: str, commit: str) -> None:
    """Write the page, and its figures into ``images`` beside it; sections without records stay as they are.

    `command` and `commit` are those that made the records.
    """
    images = path.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    parts, before = [_heading()], _sections(path)
    for study, (text, section) in _SECTIONS.items():
        own, title = by_case(records, study, STUDIES[study].cases), text.partition("\n")[0]
        if own:
            parts += [text, section(own, images), _made(sum(map(len, own.values())), command, commit)]
        elif title in before:
            parts.append(before[title])
    write_atomically(path, ("\n\n".join(parts) + "\n").encode(), OWN)


def _sections(path: Path) -> dict[str, str]:
    """Sections of the page as it is, by their titles."""
    pieces = path.read_text().split("\n## ")[1:] if path.exists() else ()
    return {"## " + piece.partition("\n")[0]: "## " + piece.strip() for piece in pieces}


def ranks_by_name(records: Iterable[Record]) -> dict[str, Array]:
    """Ranks (sets, angles) of every name; sets without draws are left out."""
    told = [record["ranks"] for record in records if record.get("ranks")]
    return {name: np.array([one[name] for one in told]) for name in (told[0] if told else ())}


def covered(ranks: Array, level: float) -> float:
    """Share of truths in the central interval of this probability."""
    return float(np.mean(np.abs(ranks - 0.5) <= level / 2))


def allowed(level: float, sets: int) -> float:
    """How far coverage may be off: Monte Carlo error and three percentage points."""
    return float(_SDS * np.sqrt(level * (1 - level) / sets) + _MARGIN)


def smallest_p(ranks: Mapping[str, Array]) -> tuple[float, str]:
    """Smallest p-value of uniformity over all quantities, corrected for their number, and the quantity.

    Each angle is a quantity of its own.
    """
    columns = [(uniform_p(column), name) for name, x in ranks.items() for column in x.T]
    least, name = min(columns)
    return min(1.0, least * len(columns)), name


def _heading() -> str:
    full = ", ".join(f"{study.sets} ({name})" for name, study in STUDIES.items())
    other = ", ".join(f"{s.sets_of(case, s.sets)} for {case}" for s in STUDIES.values() for case in s.share)
    return f"""# Validation

Do the error bars hold? This page is written by

```console
make validate
```

(about two hours on two cores, and several more for the wide study; `python -m benchmarks.validation --scale 0.1` makes
a tenth, the name of a study, such as `coverage`, only its section). A whole run has {full} data
sets in each case ({other}); where a table shows fewer, or lacks a case, it was written before the run was finished.
Data set k of every case has the seed k. A thinned version runs in the tests, with errors planted that it must see."""


def _made(count: int, command: str, commit: str) -> str:
    used = ", ".join(f"{name} {number}" for name, number in sorted(used_versions().items()))
    python = platform.python_version()
    return f"Written by `{command.strip()}` at `{commit}` from {count} records, with Python {python},\n{used}."


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _coverage(cases: Mapping[str, list[Record]], images: Path) -> str:
    write_atomically(images / "validation-coverage.png", coverage_figure(cases), OWN)
    parts = ["![coverage](images/validation-coverage.png)"]
    for mode in ANGLES:
        names = [*(one.name for one in find_model(mode).parameters), "contrast", "offset"]
        rows = [row for case, own in cases.items() if case.startswith(mode) for row in _regime(case, own, names)]
        if rows:
            parts.append(_table(["correlation time, counts", "posterior", "sets", "wider", *names], rows))
    told = "; ".join(misses(cases, "calibrated")) or "none"
    return "\n\n".join([*parts, f"Calibrated intervals that are farther off than that: {told}."])


def _regime(case: str, records: list[Record], names: Sequence[str]) -> Iterable[list[str]]:
    """Row of every posterior: coverage of 50 % and 90 % intervals in percent, bold where it is off."""
    label = ", ".join(case.split(", ")[1:])
    for posterior in ("calibrated", "independent"):
        ranks = ranks_by_name(record.get(posterior, {}) for record in records)
        if not ranks:
            continue
        sets = len(next(iter(ranks.values())))
        cells = []
        for name in names:
            shares = [covered(ranks[name], level) for level in LEVELS]
            off = any(abs(s - level) > allowed(level, sets) for s, level in zip(shares, LEVELS, strict=True))
            text = " / ".join(f"{100 * share:.0f}" for share in shares)
            cells.append(f"**{text}**" if off else text)
        wider = _widening(records) if posterior == "calibrated" else ""
        yield [label, posterior, f"{sets} of {len(records)}", wider, *cells]


def _widening(records: Sequence[Record]) -> str:
    """Least and largest ratio of standard deviations, calibrated over independent, of the medians over the sets."""
    pairs = [(one.get("calibrated", {}).get("sd"), one.get("independent", {}).get("sd")) for one in records]
    both = [(wide, narrow) for wide, narrow in pairs if wide and narrow]
    names = [name for name in (both[0][0] if both else ()) if name != LIKELIHOOD]
    ratios = [np.median([np.mean(wide[name]) / np.mean(narrow[name]) for wide, narrow in both]) for name in names]
    return f"{min(ratios):.1f} to {max(ratios):.1f}" if ratios else ""


def misses(cases: Mapping[str, list[Record]], posterior: str) -> list[str]:
    """Regimes, parameters and levels whose coverage is farther off than allowed."""
    found = []
    for case, records in cases.items():
        for name, x in ranks_by_name(record.get(posterior, {}) for record in records).items():
            for level in LEVELS:
                share = covered(x, level)
                if name != LIKELIHOOD and abs(share - level) > allowed(level, len(x)):
                    found.append(f"{case}: {name} {100 * share:.0f} % of nominal {100 * level:.0f} %, {len(x)} sets")
    return found


def _calibration(cases: Mapping[str, list[Record]], images: Path) -> str:
    parts, rows, drawn = [], [], _ranks_of(cases)
    if drawn:
        write_atomically(images / "validation-calibration.png", calibration_figure(drawn), OWN)
        parts.append("![ranks](images/validation-calibration.png)")
    for case, records in cases.items():
        ranks = ranks_by_name(records)
        if ranks:
            p, name = smallest_p(ranks)
            rows.append([case, len(records), _counted(records), len(next(iter(ranks.values()))), f"{p:.2g}", name])
    return "\n\n".join([*parts, _table(["method", "sets", "verdicts", "ranked", "smallest p", "of"], rows)])


def _ranks_of(cases: Mapping[str, list[Record]]) -> dict[str, dict[str, Array]]:
    found = {case: ranks_by_name(records) for case, records in cases.items()}
    return {case: ranks for case, ranks in found.items() if ranks and len(next(iter(ranks.values()))) >= _DRAWN}


def _counted(records: Iterable[Record], without: str = "no mode") -> str:
    counts = Counter(record.get("verdict", without) for record in records)
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))


def _certificate(cases: Mapping[str, list[Record]], images: Path) -> str:
    rows = [
        [case, defect, _counted({"verdict": record[defect]} for record in records)]
        for case, records in cases.items()
        for defect in alarms.DEFECTS
    ]
    return _table(["posterior", "draws", "verdicts"], rows)


def _agreement(cases: Mapping[str, list[Record]], images: Path) -> str:
    rows = []
    for case, records in cases.items():
        p = np.array([[record["p"], record["p_parameters"], record["sick p"]] for record in records])
        named, identical, sick = (
            np.mean([record[key] > 0 for record in records]) for key in ("named", "identical", "sick named")
        )
        below = [100 * np.mean(p[:, 0] < level) for level in (0.01, 0.05)]
        shares = (*below, 100 * np.mean(p[:, 1] < 0.05), 100 * named, 100 * identical)
        rows.append(
            [case, len(records), *(f"{share:.1f}" for share in shares), f"{100 * np.mean(p[:, 2] < 0.01):.0f}",
             f"{100 * sick:.0f}"]
        )  # fmt: skip
    head = ["shards", "sets", "Q: p < 0.01", "p < 0.05", "any parameter < 0.05", "named", "identical", "Q sees it",
            "named rightly"]  # fmt: skip
    return _table(head, rows)


def _hard_cases(cases: Mapping[str, list[Record]], images: Path) -> str:
    rows = [
        [case, len(own), _counted(own), sum(bool(record["fault"]) for record in own) or "none"]
        for case, own in cases.items()
    ]
    return _table(["case", "runs", "verdicts", "faults"], rows)


def _healthy_cases(cases: Mapping[str, list[Record]], images: Path) -> str:
    rows = [[case, len(own), _counted(own)] for case, own in cases.items()]
    return _table(["posterior", "runs", "verdicts"], rows)


def _wide(cases: Mapping[str, list[Record]], images: Path) -> str:
    table, limits = _table(wide_report.HEAD, wide_report.rows(cases)), "\n".join(wide_report.limits(cases))
    return "\n\n".join([table, limits, wide_report.sizes(cases)])


def _generic_engine(cases: Mapping[str, list[Record]], images: Path) -> str:
    rows = []
    everything = [record for own in cases.values() for record in own]
    for case, own in [*cases.items(), ("all", everything)]:
        bias = engine.pooled(own)
        shown = [f"{bias[key]:+.3f}" if bias else "" for key in ("mean", "low", "high", "width")]
        seconds = sorted(record["seconds"] for record in own)
        errors = sum("error" in record for record in own)
        times = f"{seconds[len(seconds) // 2]:.0f}, {seconds[-1]:.0f}"
        rows.append([case, len(own), errors or "none", _counted(own, "error"), *shown, times])
    head = ["family", "runs", "errors", "verdicts", "mean", "5 %", "95 %", "width", "seconds: median, most"]
    found = engine.complaints(everything)
    said = "All limits are kept." if not found else "Limits that are not kept:\n\n" + "\n".join(f"- {x}" for x in found)
    return f"{_table(head, rows)}\n\n{said}"


_COVERAGE = """## Coverage on speckle

Frames of a detector are simulated: fields of complex normal pixels and modes with the covariance of the model, Poisson
counts, division by the frame mean. 100 frames, one angle at rest and four under flow, 1000 pixels (4000 at 0.02 counts
per pixel and frame, 2000 at 0.1). Correlation times: short, about 5 frames at first; long, 30 frames; slow, 800 frames,
so that an eighth of the correlation decays, with vague priors of all parameters. Truths are drawn from the prior that
the fit is given, contrast and offset too, so that intervals of a right posterior hold the truth as often as they say.
Posteriors are evaluated by importance weights around their mode, data sets with fewer than 50 effective points are left
out; the search for the mode starts at the truth.

Percent of truths inside nominal 50 % and 90 % intervals; bold where either is off by more than 2.6 binomial standard
deviations and three points. All angles count for contrast and offset. `independent` takes the points of a map as
independent of each other, `calibrated` is what the package reports by default; `wider` is the range of the ratio of
their standard deviations over the parameters, medians over the sets."""

_CALIBRATION = """## Simulation-based calibration

On data with independent noise, for which the posterior is exact, the truth is one more draw of the posterior: its rank
among the draws is uniform, for every parameter and for the log likelihood. The p-value is that of the widest departure
of the distribution of ranks from the diagonal, corrected for the number of quantities; data sets whose draws were
refused have no ranks. Consensus Monte Carlo runs with 1, 8 and 32 shards; 4950 pairs of frames are few for 32.
All methods of a mode see the same data sets, so that truths which lie to one side by chance show in all of them; the
cheapest method has more sets, which tells chance from error. The figure leaves out methods with fewer than 20 ranks."""

_CERTIFICATE = f"""## Certificate

Verdicts on {alarms.DRAWS} draws of known posteriors, exact ones and spoilt ones, by {alarms.POINTS} evaluations. A
refusal or a correction of exact draws costs time; CERTIFIED for spoilt draws would be a false certificate. CORRECTED
replaces the draws by weighted points."""

_AGREEMENT = f"""## Tests between shards

Normal subposteriors with 200 independent draws each: rates in percent of alarms between healthy shards (nominal 1, 5,
5, {100 * alarms.ALARM:.0f} and {100 * alarms.ALARM:.0f}), and of finding one that is six standard deviations off."""

_HEALTHY = """## Consensus runs with nothing wrong

Conjugate models of 4000 observations in four shards; REFUSED would be a false alarm."""

_HARD = """## Consensus runs that are hard to merge

Random cases with known posteriors. A fault is a result in use with a mean off by more than 0.3 posterior sd or a width
by more than 25 %, beyond Monte Carlo error, a refusal for a wrong reason, or a bad shard that is not named."""

_WIDE = f"""## Wide study

Fits as users call them, `homodyne.fit(data, mode)` with default priors and no start, of speckle measurements of which
everything is drawn at random; nothing is left out. Of the maps 40 % are Brownian, a tenth each age, have an offset, are
in laminar flow, are at rest and fitted by laminar flow (no flow), or follow the stretched and the heterodyne model. The
decay takes from one frame to ten records; {FRAMES[0]} to {FRAMES[1]} frames, 1 to 12 angles, 1 to 3 q, 0.02 to 10
counts per pixel and frame, 500 to 50 000 pixels, contrast 0.05 to 0.9, a normalisation that is off by 2 % in half of
the cases, up to 5 % dead frames in a third; pixels and counts are told to half of the fits. Sizes are drawn again where
detector frames would take minutes to simulate.

Counted are parameters, and rates with their logarithmic slopes in the middle of the record, of fits in use (CERTIFIED
or CORRECTED) of which the data say something: their central 90 % interval holds less than {100 * INFORMED:.0f} % of
the prior. Truths do not come from the prior, so that where the prior decides, coverage means nothing. Contrast and
offset are those of the first map. Shares of truths in central intervals; bias is the median of
(posterior mean - truth) / posterior sd. Every {REFERENCE}th case has a reference: a second fit by No-U-turn sampling
alone, with another seed and 4 x 1500 draws, that is CERTIFIED by its own draws. It shares the reduction of maps to
nodes, which direct sums over all pairs check, and the noise with the fit. `farthest` is the largest distance of a
median from that of the reference, in sd of the reference (from its quartiles), over all quantities, counted or not;
`width` is the median ratio of 90 % intervals. Seconds are medians and the longest, on one thread."""

_GENERIC = f"""## Generic engine

Models of {len(engine.FAMILIES)} families, exact posteriors: conjugate, by quadrature or on a grid; 1 to 64 shards:
second modes, ridges, edges, heavy tails, few observations, flat priors under which a shard has no posterior of its own.
Columns hold errors of mean, 5 % and 95 % points in exact posterior sd, and of the distance of these points, relative,
averaged over all draws in use. Limits of single runs: no error; no draws in use with a mean or a point off by more than
{engine.SHIFT} sd, or a width by more than {100 * engine.STRETCH:.0f} %, beyond Monte Carlo error. Limits of all runs
together: less than {100 * engine.REFUSALS:.0f} % refused, means within {engine.MEAN_BIAS} sd, points within
{engine.TAIL_BIAS} sd, widths within {100 * engine.WIDTH_BIAS:.0f} %."""

_SECTIONS = {
    "wide": (_WIDE, _wide),
    "coverage": (_COVERAGE, _coverage),
    "calibration": (_CALIBRATION, _calibration),
    "certificate": (_CERTIFICATE, _certificate),
    "agreement": (_AGREEMENT, _agreement),
    "healthy cases": (_HEALTHY, _healthy_cases),
    "hard cases": (_HARD, _hard_cases),
    "generic engine": (_GENERIC, _generic_engine),
}
