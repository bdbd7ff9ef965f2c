"""What a result says in plain words: `in_words` makes three sentences for people who look before they read.

The rows of `SITUATIONS` are tried in turn; the first that holds says how far the numbers can be trusted, why, and what
to do next. Its sentences know no statistics: k-hat, p-values and the like stand below them, in the summary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from homodyne.certificate.verdict import Verdict
from homodyne.result.summary import RateRow, median_and_error, middle_rates, undetermined, with_error

if TYPE_CHECKING:
    from homodyne.result.record import MCMCResult

FEW = 200.0
"""Draws that a parameter is worth, below which a ± is not known to 5 %: 1 / sqrt(2 FEW)."""
_MOST = 4  # parameters that are named
_MEASURE = "measure more (homodyne plan says whether frames, angles, pixels or counts help most)"

Detail = Mapping[str, str] | None
"""What is filled into the sentences of a situation; None where it does not hold."""


@dataclass(frozen=True)
class Words:
    """Three sentences on a result.

    ``situation`` is the row of `SITUATIONS` that holds, ``found`` what was found, with its error, in the units of the
    result, ``trust`` how far and why, ``next`` what to do.
    """

    situation: str
    found: str
    trust: str
    next: str

    def lines(self) -> tuple[str, str, str]:
        """The sentences, each with its heading."""
        return f"Found: {self.found}", f"Trust: {self.trust}", f"Next:  {self.next}"


@dataclass(frozen=True)
class Situation:
    """A row of the table: when it holds, and what is said then."""

    name: str
    holds: Callable[["MCMCResult"], Detail]
    trust: str
    next: str


def in_words(result: "MCMCResult") -> Words:
    """Three sentences on a result."""
    one, detail = next((row, found) for row in SITUATIONS if (found := row.holds(result)) is not None)
    trust, further = (text.format_map(detail) for text in (one.trust, one.next))
    if result.verdict is Verdict.CORRECTED and one.name != "corrected":
        trust = f"{trust.removesuffix('.')}; the table is already the mended one."
    return Words(one.name, _found(result), trust, further)


def _found(result: "MCMCResult") -> str:
    if result.verdict is Verdict.REFUSED:
        return "Nothing that may be used: the numbers of this fit are not an answer."
    if rates := () if result.missing_model else middle_rates(result):
        return f"At an age of {rates[0].t:.3g} s {_joined([_rate(row) for row in rates])}."
    open_ones = undetermined(result)
    names = [name for name in result.free_names if result.samples[name].ndim == 2 and name not in open_ones]
    values = [
        f"{name} = {with_error(*median_and_error(result.samples[name]))} {result.units.get(name, '')}".rstrip()
        for name in names[:_MOST]
    ]
    if not values:
        return "No number that the data determine; see the table."
    more = f"; {len(names) - _MOST} more in the table" if len(names) > _MOST else ""
    return f"{_joined(values)}{more}."


def _rate(row: RateRow) -> str:
    value = f"{row.name} = {with_error(row.value, row.error)} {row.unit}".rstrip()
    if np.isnan(row.slope):
        return f"{value}, of which not even the sign is sure"
    if abs(row.slope) < 1e-9 and row.slope_error < 1e-9:
        return f"{value}, the same at all ages"
    return f"{value}, changing as age to the power {with_error(row.slope, row.slope_error)}"


def _joined(parts: Sequence[str]) -> str:
    return " and ".join(["; ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _if(condition: object, **detail: object) -> Detail:
    return {"measure": _MEASURE} | {name: str(value) for name, value in detail.items()} if condition else None


def _refused(then: Callable[["MCMCResult"], Detail]) -> Callable[["MCMCResult"], Detail]:
    return lambda result: then(result) if result.verdict is Verdict.REFUSED else None


def _implausible(result: "MCMCResult") -> Detail:
    said = [str(text).split(" (expected")[0] for text in result.diagnostics.get("implausible") or ()]
    return _if(said, what=" and ".join(said))


def _coarse(result: "MCMCResult") -> Detail:
    found = result.diagnostics.get("reduction") or {}
    return _if(found and found["error"] > found["limit"])


def _unseen(result: "MCMCResult") -> Detail:
    from homodyne.certificate.mode_search import UNSEEN

    found = result.diagnostics.get("pilot") or result.diagnostics.get("modes") or {}
    return _if(found.get("unseen", 0.0) >= UNSEEN)


def _several(result: "MCMCResult") -> Detail:
    number = (result.diagnostics.get("pilot") or {}).get("num_modes", 1)
    return _if(number > 1, number=number)


def _open(result: "MCMCResult") -> Detail:
    names = undetermined(result)
    if not names:
        return None
    rates = result.t is not None and not result.missing_model
    one, are = ("one of them", "are") if len(names) > 1 else ("it", "is")
    fix = f"ix {one} where it is known (parameters.{names[-1]}.fixed)"
    use = "Use the rates, which are determined" if rates else "Use the others"
    return _if(True, names=", ".join(names), are=are, use=f"{use}, or f{fix}", fix=f"F{fix}")


def _failed(*tests: str) -> Callable[["MCMCResult"], Detail]:
    def holds(result: "MCMCResult") -> Detail:
        checks = result.diagnostics.get("checks") or {}
        failed = checks.get("failed", ["misfit"] if checks.get("alarms") else [])  # earlier results name none
        size = (checks.get("misfit") or {}).get("size")
        by = f"by about {100 * size:.2g} % of the contrast" if size else "by more than noise"
        limits, p = ((checks.get("frames") or {}).get(key) for key in ("limits", "p"))
        worst = int(np.argmin(p)) if p else 0
        where = f"{limits[worst]:.4g} to {limits[worst + 1]:.4g} s" if limits else "some frames"
        return _if(set(failed) & set(tests), by=by, where=where)

    return holds


def _against(result: "MCMCResult") -> Detail:
    prior = result.diagnostics.get("prior") or {}
    distances = prior.get("parameters") or {}
    name = max(distances, key=distances.__getitem__, default="NAME")
    return _if(prior.get("alarm"), name=name)


def _sources(stated: bool) -> Callable[["MCMCResult"], Detail]:
    def holds(result: "MCMCResult") -> Detail:
        given = result.config.get("speckle") or {}
        contradicted = (result.diagnostics.get("noise") or {}).get("contradicted", ())
        key = next((one for one in contradicted if (given.get(one) is not None) is stated), None)
        return _if(key, key=f"speckle.{key}", what="counts per frame" if key == "mean_counts" else "pixels")

    return holds


def _few(result: "MCMCResult") -> Detail:
    table = result.diagnostics.get("ess_bulk") or {}
    worth = [np.min(table[name]) for name in result.samples if np.size(table.get(name, ()))]
    least = min((float(one) for one in worth if np.isfinite(one)), default=np.inf)
    key = {"laplace": "laplace.num_draws", "nuts": "mcmc.num_samples"}.get(
        result.method, "cmc.per_shard_mcmc.num_samples"
    )
    return _if(least < FEW, percent=f"{100 / np.sqrt(2 * max(least, 1.0)):.0f}", key=f"optimization.{key}")


SITUATIONS: tuple[Situation, ...] = (
    Situation(
        "refused: units",
        _refused(_implausible),
        "Do not use the numbers: the fit has failed, and what came with the data looks wrong ({what}).",
        "Check the units with homodyne inspect, state them (--unit, --dt, --gap), and fit again.",
    ),
    Situation(
        "refused: coarse",
        _refused(_coarse),
        "Do not use the numbers: the maps were condensed too coarsely for them.",
        "Lower reduction.tolerance tenfold and fit again.",
    ),
    Situation(
        "refused: other answers",
        _refused(_unseen),
        "Do not use the numbers: different answers fit the data about equally well, and not all of them are known.",
        "Fix a parameter that you know, narrow what you allow for the others (parameters.NAME.prior), and fit "
        "again; if nothing more is known, measure more angles or a longer record.",
    ),
    Situation(
        "refused: not determined",
        _refused(_open),
        "Do not use the numbers: the fit has failed, and {names} {are} not determined by the data.",
        "{fix} and fit again; otherwise {measure}.",
    ),
    Situation(
        "refused: laplace",
        _refused(lambda result: _if(result.method == "laplace")),
        "Do not use the numbers: the quick method has missed a part of what the data allow, and the test has seen it.",
        "Fit again with --method nuts, which can follow every shape.",
    ),
    Situation(
        "refused",
        _refused(lambda result: _if(True)),
        "Do not use the numbers: the fit did not come to one answer, and the test has seen it.",
        "Fix a parameter that you know or take a simpler model (--mode static), and fit again; otherwise {measure}.",
    ),
    Situation(
        "not tested",
        lambda result: _if(result.verdict is Verdict.UNCERTIFIED),
        "The numbers are as good as the method: they were not compared with an exact answer.",
        "Do not publish before the answer is tested: fit again with the certificate.",
    ),
    Situation(
        "units",
        _implausible,
        "The numbers mean nothing before the units are checked: what came with the data looks wrong ({what}).",
        "Look at the data with homodyne inspect, state the units (--unit, --dt, --gap), and fit again.",
    ),
    Situation(
        "record changes",
        _failed("frames"),
        "The numbers are a rough description only, with errors larger than their ±: parts of the record "
        "disagree, most of all {where}, so that sample or beam have changed in a way that the model does not "
        "know.",
        "Look at the figure misfit, fit the part before or after the change (--frames FIRST:LAST), or take a "
        "model that knows of it (--mode).",
    ),
    Situation(
        "angles disagree",
        _failed("angles", "replicates"),
        "The numbers are a rough description only, with errors larger than their ±: angles disagree about the motion.",
        "Look at the figure misfit, leave out angles with shadows or parasitic scattering (--phi), or take a "
        "model with a direction (--mode laminar_flow).",
    ),
    Situation(
        "misfit",
        _failed("misfit"),
        "The numbers are a rough description only, with errors larger than their ±: the model misses the data {by}.",
        "Look at the figure misfit to see at which ages and lags, and try another model (--mode).",
    ),
    Situation(
        "noise differs",
        _failed("rows"),
        "The values can be used, but not their ±: neighbouring points of the maps vary together in another "
        "way than speckle and photons make them.",
        "State the counts per pixel and frame of the detector (speckle.mean_counts), and fit again.",
    ),
    Situation(
        "prior against data",
        _against,
        "The numbers are a compromise: what was assumed beforehand of {name} and what the data say exclude each other.",
        "If you know less than you said, widen parameters.{name}.prior and fit again; if you are sure of it, "
        "try another model (--mode).",
    ),
    Situation(
        "noise sources contradict",
        _sources(stated=False),
        "The numbers can be used, their ± with care: two ways to find the number of {what} contradict each "
        "other, and the one with the larger ± was taken.",
        "Look up the number of {what} of the detector, state it ({key}), and fit again.",
    ),
    Situation(
        "stated noise contradicted",
        _sources(stated=True),
        "The numbers can be used, their ± with care: the number of {what} that you stated was taken, and the "
        "data contradict it.",
        "Check {key} with the detector; where you are not sure, leave it out and fit again.",
    ),
    Situation(
        "not determined",
        _open,
        "The numbers can be used except for {names}, not determined by the data: the ± there only repeats "
        "what was assumed beforehand.",
        "{use}.",
    ),
    Situation(
        "several answers",
        _several,
        "The numbers need care: {number} separate answers were found, and a mean with its ± may lie between them.",
        "Look at the figure corner: where it shows one answer only, use the table; otherwise fix or narrow a "
        "parameter with which you can exclude others, or report all.",
    ),
    Situation(
        "few draws",
        _few,
        "The values can be used; their ± is itself known to {percent} % only, because too few points were drawn.",
        "Raise {key} fourfold and fit again before you publish.",
    ),
    Situation(
        "independent noise",
        lambda result: _if(result.t is not None and result.uncertainty == "independent"),
        "The values can be used; their ± is too small where points of a map share noise, as speckle and "
        "photons make them.",
        "Fit again with uncertainty=calibrated, unless you know that the noise of every point is its own.",
    ),
    Situation(
        "model not tested",
        lambda result: _if(result.t is not None and not result.diagnostics.get("checks")),
        "The numbers are the right answer for this model; whether the model fits the data was not tested.",
        "Compare data and model in the figures; fit 16 frames or more, so that the test is made.",
    ),
    Situation(
        "corrected",
        lambda result: _if(result.verdict is Verdict.CORRECTED),
        "The numbers and their ± can be used: the first answer was not exact enough, the test has mended it, "
        "and the table is already the mended one.",
        "Use the table; there is nothing to repeat.",
    ),
    Situation(
        "certified",
        lambda result: _if(True),
        "The numbers and their ± can be used: an exact test has confirmed the answer.",
        "Use the table, after a look at the figures of data and model.",
    ),
)
"""From what spoils most to what is well; the last one always holds."""
