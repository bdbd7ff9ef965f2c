"""The table a person reads after a fit: verdict first, then one line per parameter.

``SummaryTable`` is made by ``MCMCResult.summary()``; ``str(table)`` is the text, ``table.rows`` serves programs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from homodyne.optimization.cmc.result import MCMCResult

REFUSED = "REFUSED"
PER_ANGLE = ("contrast", "offset", "sigma")
_HEADER = ("parameter", "unit", "mean", "sd", "5 %", "50 %", "95 %", "ESS", "R-hat")
_BANNER = "!" * 24 + "  REFUSED: DO NOT USE THESE NUMBERS  " + "!" * 24


@dataclass(frozen=True)
class SummaryRow:
    """One parameter (of one angle, when it has one value per angle).

    ``unit`` is text, ``mean``, ``sd`` and the quantiles ``q05``, ``q50``, ``q95`` are in that unit; ``ess``
    (bulk) and ``rhat`` are None where they were not computed; ``angle`` is phi in degrees or None; a
    ``fixed`` parameter has sd 0.
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
    angle: float | None = None
    fixed: bool = False


@dataclass(frozen=True)
class SummaryTable:
    """Verdict, one sentence on its reason, facts of the run, rows, warnings, and what to believe."""

    verdict: str
    reason: str
    facts: str
    rows: tuple[SummaryRow, ...]
    warnings: tuple[str, ...] = ()
    belief: str = ""

    def __str__(self) -> str:
        cells = [_HEADER, *_body(self.rows)]
        widths = [max(len(line[k]) for line in cells if len(line) > 1) for k in range(len(_HEADER))]
        table = [_align(line, widths) for line in cells]
        table.insert(1, "-" * len(table[0]))
        head = [f"{self.verdict}: {self.reason}", self.facts, *filter(None, [self.belief]), ""]
        notes = ["", *(f"warning: {text}" for text in self.warnings)] if self.warnings else []
        if self.verdict == REFUSED:
            return "\n".join([head[0], _BANNER, *head[1:], *table, *notes, _BANNER])
        return "\n".join([*head, *table, *notes])


def summarise(result: "MCMCResult") -> SummaryTable:
    """Table of all parameters of ``result``, fixed ones included, under its verdict."""
    reason = "no certificate was computed" if result.certificate is None else result.certificate.reason
    warnings = tuple(str(text) for text in result.diagnostics.get("warnings") or ())
    return SummaryTable(result.verdict, reason, run_facts(result), tuple(_rows(result)), warnings, belief(result))


def belief(result: "MCMCResult") -> str:
    """One sentence on what to believe of maps: the draws, the kind of uncertainty, whether model and data agree."""
    if result.t is None:
        return ""
    if result.verdict == REFUSED:
        return "believe: nothing; the draws are not the posterior"
    draws = "the numbers" if result.verdict != "UNCERTIFIED" else "the numbers as far as you trust draws without a test"
    width = {
        "calibrated": "with their error bars",
        "independent": "but error bars only if points of the map have independent noise",
    }.get(result.uncertainty, f"with uncertainty {result.uncertainty}")
    checks = result.diagnostics.get("checks")
    if not checks:
        return f"believe: {draws}, {width}; whether the model fits the data was not tested"
    if checks["alarms"]:
        return (
            f"believe: {draws} only as a description by a model that the data contradict: {'; '.join(checks['alarms'])}"
        )
    parts = "blocks of frames and angles" if checks["angles"] else "blocks of frames"
    return f"believe: {draws}, {width}; the model fits the data (p = {checks['misfit']['p']:.2g}), {parts} agree"


def run_facts(result: "MCMCResult") -> str:
    """Two lines: what was fitted and how; which uncertainty the numbers carry."""
    cmc = f" over {result.num_shards} shards ({result.combination_method})" if result.is_cmc_result() else ""
    return (
        f"{result.analysis_mode} by {result.method}{cmc}, {result.num_chains} x {result.num_draws} draws, "
        f"{result.num_points:,} points, seed {result.seed}\n"
        f"uncertainty: {_uncertainty(result)}"
    )


def _uncertainty(result: "MCMCResult") -> str:
    factors = [factor for factor in (result.noise_inflation or {}).values() if isinstance(factor, int | float)]
    span = " to ".join(dict.fromkeys(f"{end(factors):.2g}" for end in (min, max))) if factors else ""
    if result.uncertainty == "calibrated":
        return "calibrated for correlated noise" + (f", sd {span} times that of independent noise" if span else "")
    if result.uncertainty == "independent":
        return "independent noise" + (f"; correlated noise would make each sd {span} times wider" if span else "")
    return result.uncertainty


def summarise_draws(draws: NDArray[np.float64]) -> tuple[float, float, float, float, float]:
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


def _body(rows: tuple[SummaryRow, ...]) -> list[tuple[str, ...]]:
    """Cells of all lines; a name with one row per angle gets a line of its own before its angles."""
    lines: list[tuple[str, ...]] = []
    group = None
    for row in rows:
        if row.angle is not None and row.name != group:
            lines.append((f"{row.name} per angle",))
        group = row.name if row.angle is not None else None
        lines.append(_cells(row))
    return lines


def _cells(row: SummaryRow) -> tuple[str, ...]:
    name = row.name if row.angle is None else f"  phi = {row.angle:.4g}"
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


def _align(line: tuple[str, ...], widths: list[int]) -> str:
    if len(line) == 1:
        return line[0]
    left = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
    return "  ".join(left + right).rstrip()


def _rows(result: "MCMCResult") -> Iterator[SummaryRow]:
    """Physical parameters in order, then what has one value per angle, then anything else."""
    others = sorted(set(result.samples) - set(result.parameter_names), key=lambda name: (name not in PER_ANGLE, name))
    for name in (*result.parameter_names, *others):
        unit = result.units.get(name, "")
        if name in result.fixed:
            value = float(result.fixed[name])
            yield SummaryRow(name, unit, value, 0.0, value, value, value, fixed=True)
            continue
        draws = result.samples[name]
        per_angle = name in PER_ANGLE and result.phi is not None
        for k, index in enumerate(np.ndindex(draws.shape[2:])):
            label = name if per_angle or not index else f"{name}[{','.join(map(str, index))}]"
            angle = float(result.phi[k]) if per_angle and result.phi is not None else None
            ess, rhat = (_pick(result.diagnostics.get(key), name, k) for key in ("ess_bulk", "rhat"))
            yield SummaryRow(label, unit, *summarise_draws(draws[:, :, *index]), ess=ess, rhat=rhat, angle=angle)


def _pick(table: Any, name: str, k: int) -> float | None:
    """Entry ``k`` of what a diagnostic table holds for ``name``: a number, or a list with one per angle."""
    value = table.get(name) if isinstance(table, dict) else None
    if isinstance(value, list):
        value = np.ravel(value)[k] if k < np.size(value) else None
    return None if value is None else float(value)
