"""Can this consensus run be believed? :func:`validate_cmc_results` answers with a verdict, numbers and sentences.

Three questions, each with a known distribution for healthy runs, so that the rate of false alarms is a setting and
not an accident: did the chains of every shard converge, do the shards agree with each other, and is the combined
posterior made of finite numbers that fit the product of the shards. R-hat across shards is not among them: shards
see different data, and their posteriors differ by right.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from homodyne.arguments import Faults, Json, shown
from homodyne.arrays import Array, plain, real_array
from homodyne.certificate.certify import Certificate
from homodyne.certificate.chains import chain_problems, diagnose, energy_problems, rhat_limit, unusable
from homodyne.errors import InputError
from homodyne.optimization.cmc.divergence import _kl_divergence_gaussian, kl_expectation, kl_threshold
from homodyne.optimization.cmc.heterogeneity import Heterogeneity, ShardMoments, compare_shards
from homodyne.optimization.cmc.shard_records import ShardDraws, comparable, get, number_of, read_shards
from homodyne.registries import COMBINERS

__all__ = ["_kl_divergence_gaussian", "convergence", "validate_cmc_results"]


MAX_MATRIX = 100  # largest number of shards whose divergence matrix is part of the numbers
_TEST = ("q", "expected", "p", "p_low")
FAMILIES = 4  # tests between shards that share the rate of false alarms


MIN_ESS = 100.0
"""Effective draws of every parameter of every shard, in bulk and tails. The Monte Carlo error of the combined mean is
its standard deviation divided by the square root of this number. The estimate itself falls to a third of the truth for
one in some thousand parameters of healthy short chains: leave room for that.
"""

ALARM = 0.01 / FAMILIES
"""Probability that one family of tests between shards fails a healthy run."""


def validate_cmc_results(
    shard_results: Sequence[object], combined: object = None, *, strict: bool = True, cavity: bool = False
) -> tuple[bool, dict[str, Json]]:
    """Judge a consensus run.

    Parameters
    ----------
    shard_results
        One record or mapping per planned shard: a ``ShardResult`` (``samples`` (chain, draw, D) or (draw, D); what
        is missing of R-hat and effective sizes is computed from the draws), or a ``ShardFailure``, which has a
        ``reason`` and no draws.
    combined
        Record or mapping with ``samples``, ``mean``, ``cov`` and ``method`` in the shards' coordinates, where there
        is one.
    strict
        True: every problem makes the run invalid. False: only shards without usable draws do (failed, not finite,
        stuck chain) and a combined posterior that is not finite; the other problems are still listed.
    cavity
        Whether all shards were sampled times one density, so that it is no news when they agree too well.

    Returns
    -------
    is_valid : bool
    diagnostics : dict
        What JSON can hold (None for numbers that do not exist): ``problems`` and ``warnings`` (sentences that name
        shards and parameters), ``names``, ``shard_ids`` (of the compared shards), ``per_shard`` (one mapping for
        each entry of ``shard_results``), ``between`` (tests of agreement; None for fewer than two usable shards),
        ``combined`` (None without it).

    Raises
    ------
    InputError
        No shards at all, two with one number, draws of the wrong shape, or shards with different parameters.
    """
    with Faults() as faults:
        for name, value in {"strict": strict, "cavity": cavity}.items():
            faults.kind(name, value, bool, np.bool_)
        failures, shards = read_shards(shard_results)
    fatal = [f"shard {entry['shard_id']} failed: {entry['failed']}" for entry in failures]
    soft: list[str] = []
    warnings: list[str] = []
    entries = {entry["shard_id"]: entry for entry in failures}
    usable: list[ShardDraws] = []
    for shard in shards:
        broken, problems = _judge_chains(shard, len(shards))
        entries[shard.shard_id] = _entry(shard, broken + problems)
        fatal += [f"shard {shard.shard_id}: {text}" for text in broken]
        soft += [f"shard {shard.shard_id}: {text}" for text in problems]
        if not broken:
            usable.append(shard)
    moments, compared, left_out = comparable(usable)
    fatal += left_out
    between, comparison = None, None
    if len(compared) > 1:
        comparison = compare_shards(moments, ALARM)
        between = _between(comparison, moments, compared)
        disagreement, remarks = _judge_agreement(comparison, compared)
        soft, warnings = soft + disagreement, warnings + between.pop("remarks") + ([] if cavity else remarks)
        single = comparison.leave_one_out
        for m, shard in enumerate(compared):
            entries[shard.shard_id]["leave_one_out"] = _fields(single, ("distance", "score", "p"), m)
    numbers = None
    if combined is not None:
        numbers, bad, remarks = _judge_combined(combined, comparison, shards)
        fatal, warnings = fatal + bad, warnings + remarks
    problems = fatal + soft
    valid = not (problems if strict else fatal)
    report = {
        "valid": valid,
        "strict": strict,
        "problems": problems,
        "warnings": warnings,
        "names": list(shards[0].names) if shards else [],
        "shard_ids": [shard.shard_id for shard in compared],
        "per_shard": [entries[number_of(record, k)] for k, record in enumerate(shard_results)],
        "between": between,
        "combined": numbers,
    }
    return valid, plain(report)


def _judge_chains(shard: ShardDraws, num_shards: int) -> tuple[list[str], list[str]]:
    """Sentences about draws that cannot be used at all, and about chains that are not good enough.

    The limit of R-hat counts all parameters of all shards: of many healthy shards one exceeds the limit for one.
    """
    broken = list(unusable(shard.samples, shard.names).values())
    if shard.bad_density:
        broken.append(f"the log density is not finite at {shard.bad_density} draws")
    if broken:
        return broken, []
    chains, draws, dimension = shard.samples.shape
    ess = np.fmax(np.fmin(shard.ess_bulk, shard.ess_tail), MIN_ESS)
    limit = rhat_limit((chains, draws, dimension * num_shards), ess)
    return [], [
        *chain_problems(shard.names, shard.rhat, limit, shard.ess_bulk, shard.ess_tail, MIN_ESS),
        *energy_problems(shard.divergences, chains * draws, shard.ebfmi),
    ]


def _entry(shard: ShardDraws, problems: list[str]) -> dict[str, object]:
    flat = shard.samples.reshape(-1, len(shard.names))
    return {
        "shard_id": shard.shard_id,
        "converged": not problems,
        "problems": problems,
        "mean": flat.mean(axis=0),
        "sd": flat.std(axis=0, ddof=1),
        **_fields(shard, ("rhat", "ess_bulk", "ess_tail", "ebfmi")),
        "max_rhat": shard.rhat.max(),
        "min_ess": np.fmin(shard.ess_bulk, shard.ess_tail).min(),
        "divergences": shard.divergences,
        **shard.facts,
    }


def _judge_agreement(comparison: Heterogeneity, shards: list[ShardDraws]) -> tuple[list[str], list[str]]:
    """Problems and warnings about shards that disagree, or agree too well."""
    names = shards[0].names
    ids = [shard.shard_id for shard in shards]
    overall, count = comparison.overall, len(shards)
    if len(ids) == 2 and comparison.outliers:
        problems = [f"shards {ids[0]} and {ids[1]} disagree: {_farthest(comparison, 0, names)}"]
    else:
        problems = [
            f"shard {ids[m]} disagrees with the others: {_farthest(comparison, m, names)} "
            f"(p = {min(count * comparison.leave_one_out.p[m], 1.0):.1g})"
            for m in comparison.outliers
        ]
    if not problems and overall.p < ALARM:
        problems.append(
            f"the shards disagree as a whole, none of them in particular: Q is {overall.q:.4g} where "
            f"{overall.expected:.4g} is expected (p = {overall.p:.1g}); either their posteriors are about "
            f"{math.sqrt(overall.q / overall.expected):.2f} times too narrow, or the model does not fit all of the data"
        )
    bad = [k for k in np.argsort(comparison.p_parameters) if comparison.p_parameters[k] < ALARM]
    if bad and not problems:
        listed = ", ".join(f"{names[k]} (p = {comparison.p_parameters[k]:.1g})" for k in bad[:6])
        problems.append(f"the shards disagree about {listed}" + (f" and {len(bad) - 6} more" if len(bad) > 6 else ""))
    problems += [
        f"shards {ids[i]} and {ids[j]} agree to within Monte Carlo error, as if they had the same data"
        for i, j in comparison.identical
    ]
    warnings = []
    if overall.p_low < ALARM:
        warnings.append(
            f"the shards agree better than their widths allow: Q is {overall.q:.4g} where {overall.expected:.4g} is "
            f"expected (p = {overall.p_low:.1g}); noise that is assumed too large or correlated between shards, "
            "data that shards share, or a prior that dominates"
        )
    return problems, warnings


def _farthest(comparison: Heterogeneity, shard: int, names: Sequence[str]) -> str:
    score = comparison.leave_one_out.score[shard]
    worst = int(np.argmax(np.abs(score)))
    return (
        f"{names[worst]} is off by {score[worst]:+.1f} standard deviations, all {len(names)} parameters together by a "
        f"squared distance of {comparison.leave_one_out.distance[shard]:.1f} where {len(names)} is expected"
    )


def _between(comparison: Heterogeneity, moments: ShardMoments, shards: list[ShardDraws]) -> dict[str, Json]:
    ids, names = [shard.shard_id for shard in shards], shards[0].names
    ess = float(moments.ess_spread.min())
    limit = kl_threshold(len(names), len(ids), ess, ALARM)
    total, count = comparison.divergence, len(ids)
    above = total > limit
    remarks = []
    if above.any():
        most = int(np.argmax(above.sum(axis=1)))
        remarks.append(
            f"shards farther apart in place or width than healthy shards of one size: {above.sum() // 2} of "
            f"{count * (count - 1) // 2} pairs (divergence up to {total.max():.1f}, limit {limit:.1f}), "
            f"most of them with shard {ids[most]}"
        )
    pairs = total[np.triu_indices(len(ids), 1)]
    return {
        "remarks": remarks,
        "q": _fields(comparison.overall, _TEST) | {"dof": (len(ids) - 1) * len(names)},
        "parameters": [
            {"name": name, **_fields(test, _TEST), "p_holm": p}
            for name, test, p in zip(names, comparison.parameters, comparison.p_parameters, strict=True)
        ],
        "outliers": [ids[m] for m in comparison.outliers],
        "identical": [[ids[i], ids[j]] for i, j in comparison.identical],
        "product": {
            "mean": comparison.mean,
            "sd": np.sqrt(np.diag(comparison.covariance)),
            "mcse": comparison.mean_error,
        },
        "kl": {
            "matrix": total if len(ids) <= MAX_MATRIX else None,
            "median": np.median(pairs),
            "max": pairs.max(),
            "expected": kl_expectation(len(names), ess),
            "limit": limit,
        },
    }


def _fields(record: object, names: Sequence[str], row: Any = ...) -> dict[str, Json]:
    return {name: np.asarray(getattr(record, name))[row] for name in names}


def _read_combined(combined: object, d: int | None) -> tuple[str, Array | None, Array, Array]:
    """Method, draws (n, d), mean (d,) and covariance (d, d) of a combined posterior; an InputError for others."""
    samples, mean, covariance = (get(combined, name) for name in ("samples", "mean", "cov"))
    draws = None if samples is None else real_array("samples of the combined posterior", samples)
    if draws is not None:
        if draws.ndim not in (2, 3) or not draws.shape[-1] or draws.size < 2 * draws.shape[-1]:
            raise InputError(
                f"samples of the combined posterior have shape {draws.shape}, expected (n, d) or (chain, draw, d), two "
                "draws at least"
            )
        draws = draws.reshape(-1, draws.shape[-1])
        mean = draws.mean(axis=0) if mean is None else mean
        covariance = np.atleast_2d(np.cov(draws, rowvar=False)) if covariance is None else covariance
    if mean is None or covariance is None:
        raise InputError("the combined posterior has neither samples nor mean and cov")
    mean = real_array("mean of the combined posterior", mean, *([] if d is None else [(d,)]))
    if mean.ndim != 1 or (draws is not None and draws.shape[1:] != mean.shape):
        raise InputError(f"mean of the combined posterior has shape {mean.shape}; expected one number per parameter")
    covariance = real_array("cov of the combined posterior", covariance, 2 * mean.shape)
    method = get(combined, "method", "")
    if not isinstance(method, str):
        raise InputError(f"method of the combined posterior is {shown(method)}; expected a name")
    return method, draws, mean, covariance


def _judge_combined(
    combined: object, comparison: Heterogeneity | None, shards: list[ShardDraws]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Numbers, problems and warnings about the combined posterior."""
    method, draws, mean, covariance = _read_combined(combined, len(shards[0].names) if shards else None)
    problems = []
    for what, values in (("draws", draws), ("mean", mean), ("covariance", covariance)):
        if values is not None and not np.isfinite(values).all():
            problems.append(f"the combined posterior: {what} not finite ({(~np.isfinite(values)).sum()} numbers)")
    variance = np.diag(covariance)
    if not problems and not (variance > 0.0).all():
        problems.append("the combined posterior: a variance is not positive")
    numbers: dict[str, object] = {"method": method, "mean": mean, "sd": None}
    warnings = []
    name = COMBINERS.name_of(method)
    if name in COMBINERS and not COMBINERS[name].is_product:
        warnings.append("the shards were pooled, not multiplied: the posterior is about sqrt(shards) times too wide")
    if problems:
        return numbers, problems, warnings
    sd = np.sqrt(variance)
    numbers["sd"] = sd
    if comparison is not None:
        shift, width = (mean - comparison.mean) / sd, sd / np.sqrt(np.diag(comparison.covariance))
        numbers |= {"shift": shift, "width_ratio": width}
        numbers["mcse_in_sd"] = comparison.mean_error / sd
        far = int(np.argmax(np.abs(shift)))
        if abs(shift[far]) > 1.0:
            warnings.append(
                f"the combined {shards[0].names[far]} is {shift[far]:+.1f} of its standard deviations away from the "
                "normal product of the shards: the shards are not normal, or the polish moved it"
            )
    return numbers, problems, warnings


def convergence(samples: Mapping[str, Array], certificate: Certificate) -> dict[str, Json]:
    """R-hat and effective sizes by name; resampled draws are worth what the weights and their number are worth."""
    if certificate.weighted:
        return {
            "rhat": {},
            "ess_bulk": {name: _like(x, certificate.worth(x.shape[0] * x.shape[1])) for name, x in samples.items()},
            "ess_tail": {},
        }
    columns = {name: x.reshape(*x.shape[:2], -1) for name, x in samples.items()}
    labels = [f"{name}[{k}]" for name, x in columns.items() for k in range(x.shape[2])]
    measured = diagnose(np.concatenate(list(columns.values()), axis=2), {}, labels)
    table: dict[str, Json] = {"rhat": {}, "ess_bulk": {}, "ess_tail": {}}
    for kind, values in table.items():
        numbers = iter(getattr(measured, kind).tolist())
        for name, x in columns.items():
            own = [next(numbers) for _ in range(x.shape[2])]
            values[name] = own if samples[name].ndim > 2 else own[0]
    return table


def _like(x: Array, value: float) -> Any:
    return value if x.ndim == 2 else [value] * math.prod(x.shape[2:])
