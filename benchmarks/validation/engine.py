"""The generic engine against exact posteriors: families of small models, 1 to 64 shards."""

import time
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.validation.families import FAMILIES, LEVELS, Case
from homodyne.errors import HomodyneError, HomodyneWarning
from homodyne.optimization.cmc.coordinator import sample_consensus
from homodyne.result.record import MCMCResult

Array = np.ndarray[Any, np.dtype[Any]]

SHIFT, STRETCH = 0.25, 0.15  # posterior sd, and relative error of a width, that draws in use may be off
LUCK = 3.5  # Monte Carlo errors that they may be off besides: a run is asked up to forty times
MEAN_BIAS, TAIL_BIAS, WIDTH_BIAS, REFUSALS = 0.05, 0.1, 0.05, 0.03  # limits of all runs together
LOW, HIGH = 1, 5  # places of 5 % and 95 % among `LEVELS`


def one(family: str, seed: int) -> dict[str, Any]:
    """Verdict, seconds and errors of one run; "error" in place of them where it has ended with one."""
    case = FAMILIES[family](seed)
    facts = {"shards": case.num_shards, "observations": len(next(iter(case.data.values())))}
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HomodyneWarning)
            found = sample_consensus(
                case.model, case.data, num_shards=case.num_shards, prior_sites=case.prior_sites, backend="sequential",
                seed=1000 * list(FAMILIES).index(family) + seed,  # errors of no two families are alike by chance
            )  # fmt: skip
    except HomodyneError as error:
        facts["error"] = f"{family}, seed {seed}: {type(error).__name__}: {error}"
        return {**facts, "seconds": round(time.perf_counter() - began, 1)}
    told = {**facts, "seconds": round(time.perf_counter() - began, 1), **judge(case, found)}
    return told | {"fault": f"{family}, seed {seed}: {told['fault']}"} if told["fault"] else told


def judge(case: Case, found: MCMCResult) -> dict[str, Any]:
    """Verdict, errors of mean, 5 % and 95 % points in exact sd and of the width, by component, and what is wrong.

    The width is the distance of the 5 % from the 95 % point; ``fault`` is empty where all is well.
    """
    assert found.certificate is not None
    told: dict[str, list[float]] = {"mean": [], "low": [], "high": [], "width": []}
    fault = ""
    for name, exact in case.exact.items():
        draws = np.moveaxis(found.samples[name].reshape(*found.samples[name].shape[:2], -1), 2, 0)
        for x, row in zip(draws, exact, strict=True):
            errors, noise = _errors(x, row, _worth(x, found))
            for key, value in errors.items():
                told[key].append(round(float(value), 4))
            off = {key: abs(errors[key]) - LUCK * noise[key] for key in errors}
            if max(off["mean"], off["low"], off["high"]) > SHIFT or off["width"] > STRETCH:
                fault = fault or f"{name}: " + ", ".join(f"{key} {value:+.2f}" for key, value in errors.items())
    reason = found.certificate.reason
    return {"verdict": found.verdict, "reason": reason, **told, "fault": "" if found.verdict == "REFUSED" else fault}


def _worth(x: Array, found: MCMCResult) -> float:
    """Independent draws that those of one component, (chain, draw), are worth."""
    from arviz_stats.base.array import array_stats

    assert found.certificate is not None
    if found.certificate.weighted:
        return found.certificate.worth(x.size)
    stats: Any = array_stats
    return float(min(stats.ess(x, method="bulk"), stats.ess(x, method="tail", prob=(0.05, 0.95)), x.size))


def _errors(x: Array, exact: Array, count: float) -> tuple[dict[str, float], dict[str, float]]:
    """Errors and their Monte Carlo errors."""
    mean, sd, points = exact[0], exact[1], exact[2:]
    low, high = np.quantile(x, LEVELS[[LOW, HIGH]])
    span = points[HIGH] - points[LOW]
    errors = {
        "mean": (x.mean() - mean) / sd,
        "low": (low - points[LOW]) / sd,
        "high": (high - points[HIGH]) / sd,
        "width": (high - low) / span - 1.0,
    }
    binomial = np.sqrt(LEVELS[LOW] * (1.0 - LEVELS[LOW]) / count)
    ends = [binomial * (points[k + 1] - points[k - 1]) / (LEVELS[k + 1] - LEVELS[k - 1]) for k in (LOW, HIGH)]
    noise = {
        "mean": x.std() / sd / np.sqrt(count),
        "low": ends[0] / sd,
        "high": ends[1] / sd,
        "width": np.hypot(*ends) / span,
    }
    return errors, noise


def pooled(records: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Mean of the errors of all components in use; empty where there are none."""
    used = [record for record in records if record.get("verdict", "REFUSED") != "REFUSED"]
    keys = ("mean", "low", "high", "width") if used else ()
    return {key: float(np.mean(np.concatenate([record[key] for record in used]))) for key in keys}


def complaints(records: list[dict[str, Any]]) -> list[str]:
    """What limits are not kept, in words, from the runs of all families."""
    found = [record.get("fault") or record["error"] for record in records if record.get("fault") or "error" in record]
    refused = sum(record.get("verdict") == "REFUSED" for record in records)
    if refused >= REFUSALS * len(records) and refused:
        found.append(f"{refused} of {len(records)} are refused")
    limits = {"mean": MEAN_BIAS, "low": TAIL_BIAS, "high": TAIL_BIAS, "width": WIDTH_BIAS}
    found += [f"{key} is off by {value:+.3f}" for key, value in pooled(records).items() if abs(value) > limits[key]]
    return found
