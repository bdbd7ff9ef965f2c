"""Fits of many measurements as one table: a line for each, also where it failed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from homodyne.result.record import MCMCResult
from homodyne.result.summary import csv_of, format_number, median_and_error, span_text

_LOW, _HIGH = 0.16, 0.84
_PARTS = ("", " lower", " upper", " prior share")


@dataclass(frozen=True, eq=False)
class Line:
    """One fit.

    Attributes
    ----------
    label : str
        Name of the measurement.
    result : MCMCResult or None
        None where the fit failed.
    failure : str
        Why it did.
    exit_code : int
        That of a command that ends with this fit.
    values : mapping
        What else is known of the measurement, such as its temperature.
    """

    label: str
    result: MCMCResult | None
    failure: str = ""
    exit_code: int = 0
    values: Mapping[str, float] = field(default_factory=dict)


def to_csv(lines: Sequence[Line]) -> str:
    """Table with a column for median, lower and upper end of 68 %, and the prior's share of every parameter.

    The share is that of the variance: near 1 the data do not determine the parameter. Parameters of single maps
    (contrast, offset) are left out.
    """
    parts = {name: [f"{label}{part}" for part in _PARTS] for name, label in _columns(lines).items()}
    cells = [cell for part in parts.values() for cell in part]
    header = ["file", "q_min", "q_max", "verdict", "method", *_further(lines), *cells, "failure"]
    rows = []
    for line in lines:
        row: dict[str, object] = {**line.values, "file": line.label, "failure": line.failure}
        if (one := line.result) is not None:
            row |= {"verdict": one.verdict, "method": one.method}
            row |= {} if one.q is None else {"q_min": float(np.min(one.q)), "q_max": float(np.max(one.q))}
            shares = (one.diagnostics.get("prior") or {}).get("shares") or {}
            for name in parts.keys() & one.samples.keys():
                numbers = map(float, np.quantile(one.samples[name], (0.5, _LOW, _HIGH)))
                row |= dict(zip(parts[name], [*numbers, shares.get(name, "")], strict=True))
        rows.append(row)
    return csv_of(rows, header)


def to_latex(lines: Sequence[Line]) -> str:
    """The same as a LaTeX table (package booktabs): medians with half the width of 68 %."""
    names = _columns(lines)
    further = _further(lines)
    head = ["file", "$q$ (1/\\AA)", *map(_escaped, further), *map(_escaped, names.values()), "verdict"]
    rows = []
    for line in lines:
        known = [f"{line.values[name]:g}" if name in line.values else "" for name in further]
        one = line.result
        if one is None:
            rows.append([_escaped(line.label), "", *known, *[""] * len(names), "failed"])
            continue
        q = "" if one.q is None else span_text(one.q)
        cells = [_with_error(one, name) if name in one.samples else "" for name in names]
        rows.append([_escaped(line.label), q, *known, *cells, one.verdict.lower()])
    body = [" & ".join(row) + r" \\" for row in rows]
    columns = "l" + "r" * (len(head) - 2) + "l"
    lines_of_table = [
        rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}",
    ]  # fmt: skip
    return "\n".join(["% homodyne table 1", *lines_of_table, ""])


def _further(lines: Sequence[Line]) -> list[str]:
    """Names of what else is known of any of the measurements."""
    return list(dict.fromkeys(name for line in lines for name in line.values))


def _columns(lines: Sequence[Line]) -> dict[str, str]:
    """Parameters that any of the fits has sampled, with the heads of their columns."""
    found: dict[str, str] = {}
    for line in lines:
        if line.result is not None:
            one = line.result
            free = [name for name in one.free_names if one.samples[name].ndim == 2]
            found |= {name: f"{name} ({unit})" if (unit := one.units.get(name)) else name for name in free}
    return found


def _with_error(result: MCMCResult, name: str) -> str:
    value, error = median_and_error(result.samples[name])
    shown = (format_number(one, error, max(abs(value), error)) for one in (value, error))
    return "${} \\pm {}$".format(*map(_power, shown))


def _power(number: str) -> str:
    mantissa, mark, exponent = number.partition("e")
    return rf"{mantissa}\times 10^{{{int(exponent)}}}" if mark else number


def _escaped(text: str) -> str:
    for mark in "\\&%$#_{}~^":
        text = text.replace(mark, {"\\": r"\textbackslash ", "~": r"\~{}", "^": r"\^{}"}.get(mark, f"\\{mark}"))
    return text
