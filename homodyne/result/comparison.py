"""Several results side by side: `compare` makes a `Comparison`, whose text is the table to print.

Before the parameters stand the rates of the model in the middle of what the records have in common: data determine them
much better than amplitudes, exponents and offsets.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from homodyne.arguments import Faults, Json, as_path, shown
from homodyne.arrays import Array
from homodyne.certificate.verdict import Verdict
from homodyne.data.checks import real_vector
from homodyne.errors import InputError
from homodyne.result.record import MCMCResult, load_result
from homodyne.result.summary import align_table, csv_of, format_number, span_text

Cells = tuple[str, ...]

_LEVELS = (0.5, 0.16, 0.84, 0.025, 0.975)


class Interval(NamedTuple):
    """Median, central 68 % and central 95 % of draws; all the same where a parameter was fixed."""

    median: float
    low68: float
    high68: float
    low95: float
    high95: float

    @property
    def fixed(self) -> bool:
        """Whether there is no spread."""
        return self.low95 == self.high95

    @property
    def cells(self) -> Cells:
        """Median, 68 % and 95 % as text, to the second digit of half the 68 %."""
        if self.fixed:
            return f"{self.median:.6g}", "fixed", ""
        error = (self.high68 - self.low68) / 2
        size = max(abs(self.median), error)
        middle, *ends = (format_number(value, error, size) for value in self)
        return middle, f"{ends[0]} .. {ends[1]}", f"{ends[2]} .. {ends[3]}"


@dataclass(frozen=True)
class Quantity:
    """What is compared: a parameter, or a rate at one age; ``symbol`` is mathtext without dollar signs, or empty."""

    name: str
    unit: str
    symbol: str = ""


@dataclass(frozen=True)
class ComparedFit:
    """One result in a comparison.

    ``q`` holds the lowest and the highest wave vector (1/Å), or nothing; ``values`` an interval for each quantity.
    """

    label: str
    model: str
    method: str
    uncertainty: str
    verdict: Verdict
    num_points: int
    num_maps: int
    q: tuple[float, float] | None
    q_text: str
    phi_text: str
    values: Mapping[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """Fits, what of them is compared, and what has to be said about it."""

    fits: tuple[ComparedFit, ...]
    quantities: tuple[Quantity, ...]
    notes: tuple[str, ...] = ()
    against: tuple[str, tuple[float, ...]] | None = None

    @property
    def axis(self) -> str:
        """What the fits are drawn against; empty for the files one after the other."""
        return self.against[0] if self.against else "q (1/Å)" if self.q_differs else ""

    @property
    def q_differs(self) -> bool:
        """Whether every fit has wave vectors, not always the same ones."""
        found = {fit.q for fit in self.fits}
        return None not in found and len(found) > 1

    def fit_cells(self) -> list[Cells]:
        """Header and one line for each fit."""
        lines: list[Cells] = [("file", "model", "method", "uncertainty", "verdict", "maps", "q (1/Å)", "φ", "points")]
        for fit in self.fits:
            facts = (fit.label, fit.model, fit.method, fit.uncertainty, fit.verdict)
            lines.append((*facts, str(fit.num_maps or "-"), fit.q_text, fit.phi_text, f"{fit.num_points:,}"))
        return lines

    def value_cells(self) -> list[Cells]:
        """Header and, for each quantity, one line for each fit, so that what is to be compared stands in a column."""
        lines: list[Cells] = [("parameter", "unit", "file", "q (1/Å)", "median", "68 %", "95 %", "verdict")]
        for one in self.quantities:
            for k, fit in enumerate(self.fits):
                name = (one.name, one.unit or "-") if k == 0 else ("", "")
                lines.append((*name, fit.label, fit.q_text, *fit.values[one.name].cells, fit.verdict))
        return lines

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int | None = None) -> str:
        """Both tables; where one is wider than so many characters, its columns continue below."""
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join(
            [
                *align_table(self.fit_cells(), 5, width=width),
                "",
                *align_table(self.value_cells(), 4, width=width, keys=(0, 2)),
                *([""] if notes else []),
                *notes,
            ]
        )

    def to_dict(self) -> dict[str, Json]:
        """Plain values for JSON."""
        fits = [
            {
                "file": fit.label, "model": fit.model, "method": fit.method, "uncertainty": fit.uncertainty,
                "verdict": str(fit.verdict), "num_points": fit.num_points, "q": fit.q,
                "values": {name: {**one._asdict(), "fixed": one.fixed} for name, one in fit.values.items()},
            }
            for fit in self.fits
        ]  # fmt: skip
        return {"fits": fits, "units": {one.name: one.unit for one in self.quantities}, "notes": list(self.notes)}

    def to_csv(self) -> str:
        """One line for each quantity of each fit, numbers with all digits."""
        rows = []
        for one in self.quantities:
            for fit in self.fits:
                value = fit.values[one.name]
                facts = (one.name, one.unit, fit.label, fit.model, fit.method, fit.uncertainty, fit.verdict)
                rows.append((*facts, *(fit.q or ("", "")), *value, value.fixed))
        columns = ("parameter", "unit", "file", "model", "method", "uncertainty", "verdict", "q_min", "q_max")
        return csv_of(rows, [*columns, *Interval._fields, "fixed"])


def compare(
    results: "Mapping[str, MCMCResult] | Sequence[MCMCResult | str | os.PathLike[str]]",
    *,
    against: tuple[str, Sequence[float]] | None = None,
) -> Comparison:
    """Put results side by side.

    Parameters
    ----------
    results : mapping of names to results, or sequence of results and of files of results
        Two or more. Results of different models are compared in the parameters that they have in common.
    against
        Name, with unit, and a number for each result, such as its temperature: the axis of the figure in place of q.

    Raises
    ------
    InputError
        Fewer than two results, a file twice, nothing in common, or another number of numbers.
    """
    if isinstance(results, str | bytes) or not isinstance(results, Mapping | Sequence):
        raise InputError(f"results is {shown(results)}; expected a list of results or of their files, two or more")
    named = results if isinstance(results, Mapping) else _named(results)
    if len(named) < 2:
        raise InputError(f"{len(named)} result given to compare; expected two or more")
    with Faults() as faults:
        for label, one in named.items():
            faults.kind(f"result {label}", one, MCMCResult)
        if against is not None:
            faults.of(_axis, against)
    parameters, notes = _common_parameters(named)
    rates, values, reason = _common_rates(named)
    if not parameters and not rates:
        models = ", ".join(f"{label}: {result.analysis_mode}" for label, result in named.items())
        raise InputError(f"these results have no parameter in common ({models}); compare results of one model")
    refused = [label for label, result in named.items() if result.verdict == Verdict.REFUSED]
    notes += [reason] if reason else []
    notes += [f"{Verdict.REFUSED}, do not use the numbers of {', '.join(refused)}"] if refused else []
    fits = tuple(_fit(label, one, parameters, values.get(label, {})) for label, one in named.items())
    if against is not None and len(against[1]) != len(fits):
        raise InputError(f"{len(against[1])} numbers of {against[0]} for {len(fits)} results; expected one for each")
    axis = None if against is None else (against[0], tuple(float(one) for one in against[1]))
    return Comparison(fits, (*rates, *parameters), tuple(notes), axis)


def _axis(against: object) -> None:
    if not (isinstance(against, tuple) and len(against) == 2 and isinstance(against[0], str)):
        raise InputError(f"against is {shown(against)}; expected a name and a number for each result")
    real_vector(against[0], against[1])


def short_names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Names of files as short as tells them apart: ``a`` and ``b`` for ``out/a/result.nc`` and ``out/b/result.nc``.

    Raises
    ------
    InputError
        A file is named twice.
    """
    full = [as_path("a result", path).resolve() for path in paths]
    if len(set(full)) < len(full):
        raise InputError(f"{', '.join(os.fspath(path) for path in paths)}: expected different files to compare")
    bare = [path.with_suffix("") for path in full]
    places = [path.parts for path in (bare if len(set(bare)) == len(full) else full)]
    alike = len(places) > 1 and len({place[-1] for place in places}) == 1
    places = [place[:-1] if alike else place for place in places]
    depth = 1
    while len({place[-depth:] for place in places}) < len(places):
        depth += 1
    return ["/".join(place[-depth:]) for place in places]


def _named(results: Sequence[Any]) -> dict[str, MCMCResult]:
    files = [one for one in results if not isinstance(one, MCMCResult)]
    names = iter(short_names(files))
    return {
        f"result {k}" if isinstance(one, MCMCResult) else next(names): (
            one if isinstance(one, MCMCResult) else load_result(one)
        )
        for k, one in enumerate(results, 1)
    }


def _common_parameters(named: Mapping[str, MCMCResult]) -> tuple[list[Quantity], list[str]]:
    """Parameters that are one number with one unit in every result, and what is left out and why."""
    results = list(named.values())
    scalar = [[n for n in r.parameter_names if n in r.fixed or r.samples[n].ndim == 2] for r in results]
    everywhere = [name for name in scalar[0] if all(name in names for names in scalar)]
    units = {name: {result.units.get(name, "") for result in results} for name in everywhere}
    common = [name for name in everywhere if len(units[name]) == 1]
    notes = []
    if len({result.analysis_mode for result in results}) > 1:
        models = ", ".join(f"{label}: {result.analysis_mode}" for label, result in named.items())
        notes.append(f"different models ({models}): only what they have in common is compared")
    elif len({str(sorted(result.model_options.items())) for result in results}) > 1:
        given = ", ".join(f"{label}: {_model_text(result)}" for label, result in named.items())
        notes.append(f"options of the models differ ({given}): a parameter may not mean the same everywhere")
    other = list(dict.fromkeys(name for names in scalar for name in names if name not in everywhere))
    notes += [f"not in every result: {', '.join(other)}"] if other else []
    mixed = [name for name in everywhere if name not in common]
    notes += [f"left out, because units differ: {', '.join(mixed)}"] if mixed else []
    model = next((result.model for result in results if result.t is not None and result.model), None)
    symbols = {one.name: one.symbol for one in model.parameters} if model else {}
    return [Quantity(name, units[name].pop(), symbols.get(name, "")) for name in common], notes


def _common_rates(named: Mapping[str, MCMCResult]) -> tuple[list[Quantity], dict[str, dict[str, Interval]], str]:
    """Rates that every model has, their intervals by result, and why there are none."""
    spans = {label: result.t[[0, -1]] for label, result in named.items() if result.t is not None}
    if len(spans) < len(named):
        return [], {}, ""
    for label, result in named.items():
        if result.missing_model:
            return [], {}, f"rates are not compared, {label}: {result.missing_model}"
    first, last = max(span[0] for span in spans.values()), min(span[1] for span in spans.values())
    if first >= last:
        return [], {}, "rates are not compared: the records have no age in common"
    from homodyne.physics.power_laws import middle_age
    from homodyne.result.curves import rate_draws  # JAX is loaded only where there are rates

    t = float(middle_age(first, last))
    found = {}
    for label, result in named.items():
        draws = rate_draws(result, np.array([t]), np.arange(result.num_chains * result.num_draws))
        found[label] = {
            Quantity(
                f"{one.rate.name} at {t:.3g} s", one.rate.unit, rf"{one.rate.symbol},\ t = {t:.3g}\,\mathrm{{s}}"
            ): _interval(one.value)
            for one in draws
        }
    common = [one for one in next(iter(found.values())) if all(one in rates for rates in found.values())]
    values = {label: {one.name: rates[one] for one in common} for label, rates in found.items()}
    return common, values, ""


def _fit(label: str, result: MCMCResult, parameters: Sequence[Quantity], rates: Mapping[str, Interval]) -> ComparedFit:
    values = dict(rates)
    for name in (one.name for one in parameters):
        fixed = result.fixed.get(name)
        values[name] = _interval(result.samples[name]) if fixed is None else Interval(*[float(fixed)] * 5)
    q, phi = result.q, result.phi
    return ComparedFit(
        label=label,
        model=_model_text(result),
        method=result.method,
        uncertainty=result.uncertainty,
        verdict=result.verdict,
        num_points=result.num_points,
        num_maps=0 if q is None else q.size,
        q=None if q is None else (float(q.min()), float(q.max())),
        q_text="-" if q is None else span_text(q),
        phi_text="-" if phi is None else span_text(phi, "°"),
        values=values,
    )


def _model_text(result: MCMCResult) -> str:
    return " ".join([result.analysis_mode, *(f"{name}={value}" for name, value in result.model_options.items())])


def _interval(draws: Array) -> Interval:
    return Interval(*(float(value) for value in np.quantile(draws, _LEVELS)))
