"""The table a person reads after a fit: verdict in words, then what the data determine, then one line per parameter.

``SummaryTable`` is made by ``MCMCResult.summary()``; ``str(table)`` is the text, ``table.rows`` serves programs.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from homodyne.arguments import Json
from homodyne.arrays import Array, plain
from homodyne.certificate.verdict import Verdict

if TYPE_CHECKING:
    from homodyne.result.record import MCMCResult
    from homodyne.result.words import Words

HELD = 0.5  # share of the variance of a parameter that the prior holds, above which the data do not determine it
PER_MAP = ("contrast", "offset", "sigma")
_HEADER = ("parameter", "unit", "mean", "sd", "5 %", "50 %", "95 %", "ESS", "R-hat")
_BANNER = "!" * 24 + "  REFUSED: DO NOT USE THESE NUMBERS  " + "!" * 24


@dataclass(frozen=True)
class SummaryRow:
    """One parameter (of one map, when it has one value per map).

    ``unit`` is text, ``mean``, ``sd`` and the quantiles ``q05``, ``q50``, ``q95`` are in that unit; ``ess``
    (bulk) and ``rhat`` are None where they were not computed; ``q`` (1/Å) and ``phi`` (degrees) are those of the map
    or None, ``label`` is how the map is called; a ``fixed`` parameter has sd 0.
    """

    name: str
    unit: str
    mean: float
    sd: float
    q05: float
    q50: float
    q95: float
    ess: float | None = None
    rhat: float | None = None
    q: float | None = None
    phi: float | None = None
    label: str = ""
    fixed: bool = False


@dataclass(frozen=True)
class RateRow:
    """A rate of the model in the middle of the record, and how it changes there.

    ``value`` is the median over draws and ``error`` half the width of their central 68 %, in ``unit``, at age ``t``
    (s); ``slope`` and ``slope_error`` are those of d log(rate) / d log(t), NaN where the sign of the rate is open.
    """

    name: str
    unit: str
    t: float
    value: float
    error: float
    slope: float
    slope_error: float

    @property
    def cells(self) -> tuple[str, str, str]:
        """Name, value and slope as text."""
        slope = "sign not determined" if math.isnan(self.slope) else with_error(self.slope, self.slope_error)
        value = f"{with_error(self.value, self.error)} {self.unit}".rstrip()
        return self.name, f"= {value},", f"logarithmic slope {slope}"


@dataclass(frozen=True)
class SummaryTable:
    """Verdict, in words too, one sentence on its reason, facts of the run, rows, warnings, rates of the model.

    ``undetermined`` are parameters of which the posterior is as wide as the prior leaves it.
    """

    verdict: str
    words: "Words"
    reason: str
    facts: str
    rows: tuple[SummaryRow, ...]
    warnings: tuple[str, ...] = ()
    rates: tuple[RateRow, ...] = ()
    undetermined: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int | None = None) -> str:
        """The whole table; where it is wider than so many characters, columns continue below."""
        lines = [*self.words.lines(), "", f"reason: {self.reason}", self.facts, "", *self.body(width)]
        lines += ["", *(f"warning: {text}" for text in self.warnings)] if self.warnings else []
        return "\n".join([self.verdict, *([_BANNER, *lines, _BANNER] if self.verdict == Verdict.REFUSED else lines)])

    def body(self, width: int | None = None) -> list[str]:
        """Lines of rates and parameters."""
        table = align_table([_HEADER, *_body(self.rows, self.undetermined)], width=width)
        return [*self._rate_lines(), *table, *self._advice()]

    def to_dict(self) -> dict[str, Json]:
        """Plain values for JSON: verdict, words, reason, warnings, parameters and rates; what is not finite is None."""
        record = {
            "verdict": str(self.verdict),
            "words": {name: getattr(self.words, name) for name in ("situation", "found", "trust", "next")},
            "reason": self.reason,
            "warnings": list(self.warnings),
            "undetermined": list(self.undetermined),
            "parameters": [asdict(row) for row in self.rows],
            "rates": [asdict(row) for row in self.rates],
        }
        values: dict[str, object] = plain(record)
        return values

    def to_csv(self) -> str:
        """One line for each row, numbers with all digits."""
        return csv_of(self.rows)

    def _advice(self) -> list[str]:
        if not self.undetermined:
            return []
        names = ", ".join(self.undetermined)
        above = "rely on the rates above" if self.rates else "rely on the others"
        return ["", f"* not determined by the data: the width of {names} is that of the prior; {above}, or fix "
                    f"{'one of them' if len(self.undetermined) > 1 else 'it'} where it is known "
                    f"(parameters.{self.undetermined[-1]}.fixed)"]  # fmt: skip

    def _rate_lines(self) -> list[str]:
        if not self.rates:
            return []
        middle = f"in the middle of the record, t = {self.rates[0].t:.3g} s (median and half of the central 68 %):"
        return [middle, *(f"  {line}" for line in align_cells([row.cells for row in self.rates], 3)), ""]


def csv_of(rows: Sequence[object], columns: Sequence[str] | None = None) -> str:
    """Comma-separated values of records or mappings, numbers with all digits; what is not known is empty."""
    import pandas as pd

    text: str = pd.DataFrame(rows, columns=columns).to_csv(index=False, lineterminator="\n")
    return text


def summarise(result: "MCMCResult") -> SummaryTable:
    """Table of all parameters of ``result``, fixed ones included, under its verdict."""
    reason = "no certificate was computed" if result.certificate is None else result.certificate.reason
    first = result.diagnostics.get("implausible") or ()
    warnings = [str(text) for text in result.diagnostics.get("warnings") or () if text not in first]
    unknown = result.missing_model if result.t is not None else ""
    rates = () if result.t is None or unknown else middle_rates(result)
    notes = (*warnings, unknown) if unknown else tuple(warnings)
    suspect = [f"WARNING: {line}" for line in first]
    left_out = [f"left out: {line}" for line in result.diagnostics.get("left_out") or ()]
    weights = str(result.diagnostics.get("weights") or "")
    lines = [*suspect, run_facts(result), *left_out, weights, _reduction(result), tests_line(result)]
    facts, rows = "\n".join(filter(None, lines)), tuple(_rows(result))
    return SummaryTable(result.verdict, result.words, reason, facts, rows, notes, rates, undetermined(result))


def undetermined(result: "MCMCResult") -> tuple[str, ...]:
    """Parameters of which the posterior is as wide as the prior leaves it."""
    shares = (result.diagnostics.get("prior") or {}).get("shares") or {}
    return tuple(name for name in result.parameter_names if shares.get(name, 0.0) > HELD)


def middle_rates(result: "MCMCResult") -> tuple[RateRow, ...]:
    """Every rate of the model at the age in the middle of the record; none whose parameters are all fixed."""
    from homodyne.physics.power_laws import middle_age
    from homodyne.result.curves import rate_draws  # JAX is loaded only where there are rates

    if result.t is None:
        return ()
    t = float(middle_age(result.t[0], result.t[-1]))
    positions = np.arange(result.num_chains * result.num_draws)
    rows = []
    for rate, value, slope in rate_draws(result, np.array([t]), positions):
        if np.ptp(value) <= 1e-12 * np.abs(value).max():
            continue
        of_one_sign = bool(np.all(value > 0) or np.all(value < 0))
        slopes = median_and_error(slope) if of_one_sign else (math.nan, math.nan)
        rows.append(RateRow(rate.name, rate.unit, t, *median_and_error(value), *slopes))
    return tuple(rows)


def median_and_error(draws: Array) -> tuple[float, float]:
    """Median, and half the width of the central 68 %."""
    low, middle, high = (float(x) for x in np.quantile(draws, (0.16, 0.5, 0.84)))
    return middle, (high - low) / 2


def _reduction(result: "MCMCResult") -> str:
    """How exact the sums over nodes are that stand for those over all pairs."""
    found = result.diagnostics.get("reduction")
    if not found:
        return ""
    if found["nodes"] >= found["pairs"]:
        return f"all {found['pairs']:,} pairs entered one by one"
    again = f", made {found['attempts']} times" if found["attempts"] > 1 else ""
    return (
        f"maps reduced to {found['nodes']:,} nodes{again}; against direct sums over all pairs the log density is off "
        f"by {found['error']:.1g} (limit {found['limit']:g}) at {found['checks']} points"
    )


def tests_line(result: "MCMCResult") -> str:
    """What tests of a fit of maps against its data, and of these against the prior, have said."""
    if result.t is None:
        return ""
    checks = result.diagnostics.get("checks") or {}
    said = [*checks.get("alarms", ()), (result.diagnostics.get("prior") or {}).get("alarm")]
    if checks and not checks["alarms"]:
        parts = "blocks of frames and angles" if checks["angles"] else "blocks of frames"
        said.insert(0, f"the model fits the data (p = {checks['misfit']['p']:.2g}), {parts} agree")
    return f"tests: {'; '.join(filter(None, said)) or 'whether the model fits the data was not tested'}"


def run_facts(result: "MCMCResult") -> str:
    """Two lines: what was fitted and how; which uncertainty the numbers carry."""
    cmc = f" over {result.num_shards} shards ({result.combination_method})" if result.is_cmc_result() else ""
    options = ", ".join(f"{name} {value}" for name, value in result.model_options.items())
    maps = f" in {_maps(result.q, result.phi)}" if result.q is not None and result.phi is not None else ""
    return (
        f"{result.analysis_mode}{f' ({options})' if options else ''} by {result.method}{cmc}, "
        f"{result.num_chains} x {result.num_draws} draws, {result.num_points:,} points{maps}, seed {result.seed}\n"
        f"uncertainty: {_uncertainty(result)}"
    )


def _maps(q: Array, phi: Array) -> str:
    """``6 maps, q = 0.0054 1/Å, φ = 0° to 90°``."""
    return f"{q.size} map{'' if q.size == 1 else 's'}, q = {span_text(q)} 1/Å, φ = {span_text(phi, '°')}"


def span_text(values: Array, unit: str = "") -> str:
    """The one value of several that are the same, or the lowest and the highest."""
    shown = distinct_texts(np.array([values.min(), values.max()]))
    return " to ".join(dict.fromkeys(f"{text}{unit}" for text in shown))


def distinct_texts(values: Array) -> list[str]:
    """Numbers with four digits, or as many as tell those apart that differ."""
    number = np.unique(values).size
    for digits in range(4, 18):
        texts = [f"{value + 0.0:.{digits}g}" for value in values]
        if len(set(texts)) == number:
            break
    return texts


def map_labels(q: Array, phi: Array) -> list[str]:
    """What maps are called: wave vector and angle, as far as maps differ in them; both for a single map."""
    named = _varying(q, phi, True) if q.size > 1 else _varying(q, phi, False)
    return [", ".join(parts) for parts in zip(*named, strict=True)]


def shared_label(q: Array, phi: Array) -> str:
    """Wave vector or angle that several maps have in common, as `map_labels` leaves it out; perhaps nothing."""
    return ", ".join(names[0] for names in _varying(q, phi, False)) if q.size > 1 else ""


def _varying(q: Array, phi: Array, wanted: bool) -> list[list[str]]:
    """Names of wave vectors and of angles, those of the two that do or do not differ between maps."""
    waves = [f"q = {text} 1/Å" for text in distinct_texts(q)]
    angles = [f"φ = {text}°" for text in distinct_texts(phi)]
    return [names for names in (waves, angles) if (len(set(names)) > 1) is wanted]


def _uncertainty(result: "MCMCResult") -> str:
    factors = [factor for factor in (result.noise_inflation or {}).values() if isinstance(factor, int | float)]
    span = " to ".join(dict.fromkeys(f"{end(factors):.2g}" for end in (min, max))) if factors else ""
    if result.uncertainty == "calibrated":
        return "calibrated for correlated noise" + (f", sd {span} times that of independent noise" if span else "")
    if result.uncertainty == "independent":
        return "independent noise" + (f"; correlated noise would make each sd {span} times wider" if span else "")
    return result.uncertainty


def summarise_draws(draws: Array) -> tuple[float, float, float, float, float]:
    """Mean, sd (n - 1) and 5, 50, 95 % quantiles of all draws of one scalar."""
    flat = np.ravel(draws)
    low, middle, high = np.quantile(flat, (0.05, 0.5, 0.95))
    sd = float(np.std(flat, ddof=1)) if flat.size > 1 else math.nan
    return float(np.mean(flat)), sd, float(low), float(middle), float(high)


def format_number(value: float, sd: float, size: float | None = None) -> str:
    """``value`` to the decimal place of the second significant digit of ``sd`` (six digits where that is 0).

    ``size`` (of the numbers in one row, default that of ``value``) decides between plain and scientific
    notation.

    >>> format_number(68481.3, 1234.0), format_number(0.00199, 0.00002), format_number(1.5e-05, 2.3e-07)
    ('68500', '0.001990', '1.500e-05')
    """
    if not math.isfinite(value):
        return str(value)
    if not math.isfinite(sd) or sd <= 0:
        return f"{value:.6g}"
    place = math.floor(math.log10(float(f"{sd:.1e}"))) - 1
    rounded = round(value, -place) + 0.0  # no negative zero
    size = max(abs(value), sd) if size is None else size
    if 1e-3 <= size < 1e7:
        return f"{rounded:.{max(0, -place)}f}"
    if not rounded:
        return "0"
    exponent = math.floor(math.log10(abs(rounded)))
    return f"{rounded:.{max(0, exponent - place)}e}"


def with_error(value: float, error: float) -> str:
    """``7120 ± 120``."""
    size = max(abs(value), error)
    return f"{format_number(value, error, size)} ± {format_number(error, error, size)}"


def _body(rows: Sequence[SummaryRow], marked: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Cells of all lines; a name with one row per map gets a line of its own before its maps, some get a star."""
    lines: list[tuple[str, ...]] = []
    group = None
    for row in rows:
        if row.label and row.name != group:
            lines.append((f"{row.name} per map",))
        group = row.name if row.label else None
        cells = _cells(row)
        lines.append((f"{cells[0]} *", *cells[1:]) if row.name in marked else cells)
    return lines


def _cells(row: SummaryRow) -> tuple[str, ...]:
    name = f"  {row.label}" if row.label else row.name
    unit = row.unit or "-"
    if row.fixed:
        return (name, unit, f"{row.mean:.6g}", "fixed", "", "", "", "", "")
    size = max(abs(row.mean), row.sd)
    spread = (row.q95 - row.q05) / 3.29  # the sd, unless rare far draws make that large
    narrow = spread if 0 < spread < row.sd / 3 else row.sd
    moments = (format_number(value, row.sd, size) for value in (row.mean, row.sd))
    near = size if narrow == row.sd else max(abs(row.q50), narrow)
    quantiles = (format_number(value, narrow, near) for value in (row.q05, row.q50, row.q95))
    ess = "-" if row.ess is None else f"{row.ess:.0f}"
    rhat = "-" if row.rhat is None else f"{row.rhat:.3f}"
    return (name, unit, *moments, *quantiles, ess, rhat)


def align_table(
    cells: Sequence[tuple[str, ...]], num_left: int = 2, *, width: int | None = None, keys: Sequence[int] = (0,)
) -> list[str]:
    """Lines of a table, a rule below the first; the first `num_left` columns start, the others end in line.

    Where it is wider than `width`, it is cut into several with some columns each, which all begin with the columns
    `keys`.
    """
    widths = _widths(cells)
    lines: list[str] = []
    for columns in _columns(widths, width, keys):
        left = sum(k < num_left for k in columns)
        part = align_cells([tuple(line[k] for k in columns) if len(line) > 1 else line for line in cells], left)
        lines += [*([""] if lines else []), part[0], "-" * max(map(len, part)), *part[1:]]
    return lines


def _columns(widths: Sequence[int], width: int | None, keys: Sequence[int]) -> Iterator[list[int]]:
    """Columns of each of the tables into which one is cut: the keys, and as many others as there is room for."""
    chosen: list[int] = []
    for k in (k for k in range(len(widths)) if k not in keys):
        if chosen and width is not None and sum(widths[one] + 2 for one in (*keys, *chosen, k)) - 2 > width:
            yield sorted((*keys, *chosen))
            chosen = []
        chosen.append(k)
    yield sorted((*keys, *chosen))


def _widths(cells: Sequence[tuple[str, ...]]) -> list[int]:
    full = [line for line in cells if len(line) > 1]
    return [max(len(line[k]) for line in full) for k in range(len(full[0]))]


def align_cells(cells: Sequence[tuple[str, ...]], num_left: int) -> list[str]:
    """Lines whose cells stand below each other; a line of one cell is left as it is."""
    widths = _widths(cells)
    return [
        line[0]
        if len(line) == 1
        else "  ".join(
            cell.ljust(width) if k < num_left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def _rows(result: "MCMCResult") -> Iterator[SummaryRow]:
    """Physical parameters in order, then what has one value per map, then anything else."""
    others = sorted(set(result.samples) - set(result.parameter_names), key=lambda name: (name not in PER_MAP, name))
    places: list[dict[str, Json]] = []
    if result.q is not None and result.phi is not None:
        labels = map_labels(result.q, result.phi)
        places = [
            {"q": q, "phi": phi, "label": label}
            for q, phi, label in zip(result.q.tolist(), result.phi.tolist(), labels, strict=True)
        ]
    for name in (*result.parameter_names, *others):
        unit = result.units.get(name, "")
        if name in result.fixed:
            value = float(result.fixed[name])
            yield SummaryRow(name, unit, value, 0.0, value, value, value, fixed=True)
            continue
        draws = result.samples[name]
        per_map = name in PER_MAP and bool(places)
        for k, index in enumerate(np.ndindex(draws.shape[2:])):
            full = name if per_map or not index else f"{name}[{','.join(map(str, index))}]"
            ess, rhat = (_pick(result.diagnostics.get(key), name, k) for key in ("ess_bulk", "rhat"))
            place = places[k] if per_map else {}
            yield SummaryRow(full, unit, *summarise_draws(draws[:, :, *index]), ess=ess, rhat=rhat, **place)


def _pick(table: object, name: str, k: int) -> float | None:
    """Entry ``k`` of what a diagnostic table holds for ``name``: a number, or a list with one per map."""
    value = table.get(name) if isinstance(table, dict) else None
    if isinstance(value, list):
        value = np.ravel(value)[k] if k < np.size(value) else None
    return None if value is None else float(value)
