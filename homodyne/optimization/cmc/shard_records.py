"""What the validation of a consensus run reads of each shard: :func:`read_shards`, then :func:`comparable`.

Records and mappings are taken alike. Nothing is left out in silence: what cannot be compared comes back as a sentence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from homodyne.arguments import require_list
from homodyne.arrays import Array
from homodyne.certificate.chains import array_stats, diagnose
from homodyne.errors import InputError
from homodyne.optimization.cmc.heterogeneity import ShardMoments

SINGULAR = 1e-12  # share of a coordinate's variance that the others leave over; less is rounding


@dataclass(frozen=True, eq=False)
class ShardDraws:
    """One finished shard as the validation sees it.

    Attributes
    ----------
    shard_id : int
    samples : (chain, draw, D) array
    names : tuple of str
    rhat, ess_bulk, ess_tail : (D,) arrays
    divergences : int
    ebfmi : (chain,) array
    bad_density : int
        Draws whose log density is not finite.
    facts : dict
        Further plain numbers of the record: points, gradients, attempts, seconds, problems the worker saw.
    """

    shard_id: int
    samples: Array
    names: tuple[str, ...]
    rhat: Array
    ess_bulk: Array
    ess_tail: Array
    divergences: int
    ebfmi: Array
    bad_density: int
    facts: dict[str, object]


def get(record: object, name: str, default: object = None) -> Any:
    """Attribute of a record or entry of a mapping."""
    return record.get(name, default) if isinstance(record, Mapping) else getattr(record, name, default)


def finished_and_failed(records: Sequence[object]) -> tuple[list[object], dict[int, str]]:
    """Records with draws, and the reasons of those that failed, by number."""
    require_list("shard_results", records, "one mapping or record for each shard")
    numbers = [get(record, "shard_id", k) for k, record in enumerate(records)]
    reasons = [get(record, "reason") for record in records]
    finished = [record for record, reason in zip(records, reasons, strict=True) if reason is None]
    return finished, {k: str(reason) for k, reason in zip(numbers, reasons, strict=True) if reason is not None}


def read_shards(records: Sequence[object]) -> tuple[list[dict[str, object]], list[ShardDraws]]:
    """Failed shards as mappings with ``shard_id``, ``failed`` (the reason) and ``attempts``; finished ones as records.

    Raises
    ------
    InputError
        No records, two with one number, draws of the wrong shape, or shards with different parameters.
    """
    require_list("shard_results", records, "one mapping or record for each shard")
    if not len(records):
        raise InputError("there are no shard results to validate")
    failures: list[dict[str, object]] = []
    shards: list[ShardDraws] = []
    for k, record in enumerate(records):
        number = int(get(record, "shard_id", k))
        reason = get(record, "reason")
        if reason is not None:
            failures.append({"shard_id": number, "failed": str(reason), "attempts": get(record, "attempts")})
        else:
            shards.append(_read(record, number))
    ids = [entry["shard_id"] for entry in failures] + [shard.shard_id for shard in shards]
    if len(set(ids)) < len(ids):
        raise InputError(f"two shards have the number {next(n for n in ids if ids.count(n) > 1)}; numbers must differ")
    for shard in shards[1:]:
        if shard.names != shards[0].names:
            raise InputError(
                f"shard {shard.shard_id} has the parameters {', '.join(shard.names)}, "
                f"shard {shards[0].shard_id} has {', '.join(shards[0].names)}"
            )
    return failures, shards


def _read(record: object, number: int) -> ShardDraws:
    samples = np.asarray(get(record, "samples", ()), dtype=np.float64)
    samples = samples[None] if samples.ndim == 2 else samples
    if samples.ndim != 3 or samples.shape[1] < 8:
        raise InputError(
            f"samples of shard {number} have shape {samples.shape}, expected (chain, draw, D) with 8 draws or more"
        )
    dimension = samples.shape[2]
    names = tuple(get(record, "names") or (f"x{k}" for k in range(dimension)))
    if len(names) != dimension:
        raise InputError(f"shard {number} has {dimension} parameters and {len(names)} names")
    stats = {name: np.asarray(values) for name, values in (get(record, "stats") or {}).items()}
    measured = {name: get(record, name) for name in ("rhat", "ess_bulk", "ess_tail", "divergences", "ebfmi")}
    if any(value is None for value in measured.values()):
        judged = diagnose(samples, stats, names)
        measured = {name: getattr(judged, name) if value is None else value for name, value in measured.items()}
    arrays = {name: np.asarray(measured[name], dtype=np.float64) for name in ("rhat", "ess_bulk", "ess_tail", "ebfmi")}
    for name in ("rhat", "ess_bulk", "ess_tail"):
        if arrays[name].shape != (dimension,):
            raise InputError(f"{name} of shard {number} has shape {arrays[name].shape}, expected ({dimension},)")
    facts = {name: get(record, name) for name in ("num_points", "num_gradients", "attempts", "seconds")}
    facts["worker_problems"] = [str(text) for text in get(record, "problems") or ()]
    bad_density = int((~np.isfinite(stats["lp"])).sum()) if "lp" in stats else 0
    divergences = int(measured["divergences"])
    return ShardDraws(number, samples, names, **arrays, divergences=divergences, bad_density=bad_density, facts=facts)


def _moments(shard: ShardDraws) -> ShardMoments:
    """Mean, covariance and their effective numbers of draws, of one shard.

    The effective number behind a covariance is that of the squares of whitened draws: chains that alternate about
    the mean know the mean better than the width.
    """
    draws = shard.samples.reshape(-1, len(shard.names))
    covariance = np.atleast_2d(np.cov(draws, rowvar=False))
    spread = np.array([_spread_ess(shard.samples, covariance)])
    return ShardMoments(draws.mean(axis=0)[None], covariance[None], shard.ess_bulk[None], spread)


def _spread_ess(samples: Array, covariance: Array) -> float:
    sd = np.sqrt(np.diag(covariance))
    factor = np.linalg.cholesky(covariance / np.outer(sd, sd))
    if np.square(np.diag(factor)).min() < SINGULAR:
        raise np.linalg.LinAlgError("the correlation matrix is singular to rounding")
    white = np.linalg.solve(factor, ((samples - samples.mean(axis=(0, 1))) / sd).reshape(-1, len(sd)).T)
    squares = np.square(white).reshape(len(sd), *samples.shape[:2])
    ess = np.asarray(array_stats().ess(squares, method="mean"), dtype=np.float64)
    number = samples.shape[0] * samples.shape[1]
    return float(1.0 / np.mean(1.0 / np.minimum(ess, number)))


def comparable(shards: list[ShardDraws]) -> tuple[ShardMoments, list[ShardDraws], list[str]]:
    """Moments of the shards that have them, those shards, and a sentence for each of the others."""
    kept, moments, sentences = [], [], []
    for shard in shards:
        dimension = len(shard.names)
        try:
            moment = _moments(shard)
        except np.linalg.LinAlgError:
            sentences.append(f"shard {shard.shard_id}: the covariance of its draws is singular")
            continue
        if not (moment.ess_spread[0] >= dimension + 5 and (moment.ess > 0.0).all()):
            sentences.append(
                f"shard {shard.shard_id}: {moment.ess_spread[0]:.0f} effective draws are too few for the covariance "
                f"of {dimension} parameters, {dimension + 5} are needed"
            )
            continue
        kept.append(shard)
        moments.append(moment)
    joined = {
        field.name: np.concatenate([getattr(moment, field.name) for moment in moments]) if moments else np.empty(0)
        for field in fields(ShardMoments)
    }
    return ShardMoments(**joined), kept, sentences
