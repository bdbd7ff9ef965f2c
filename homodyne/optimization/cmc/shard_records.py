"""What the validation of a consensus run reads of each shard: :func:`read_shards`, then :func:`comparable`.

Records and mappings are taken alike. Nothing is left out in silence: what cannot be compared comes back as a sentence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from homodyne.arguments import Faults, as_names, require_list, shown
from homodyne.arrays import Array, real_array
from homodyne.certificate.chains import array_stats, chain_stats, diagnose
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


def number_of(record: object, position: int) -> int:
    """Number of a shard: its own, or its position in a list.

    Raises
    ------
    InputError
        It is not an integer of 0 or more.
    """
    given = get(record, "shard_id")
    with Faults() as faults:
        faults.integer(f"shard_id of record {position}", position if given is None else given)
    return position if given is None else int(given)


def reason_of(record: object, number: int) -> str | None:
    """Why a shard has failed; None of one that has not, an InputError for anything but a text."""
    reason = get(record, "reason")
    if not isinstance(reason, str | None):
        raise InputError(f"reason of shard {number} is {shown(reason)}; expected a text, or None of one with draws")
    return reason


def finished_and_failed(records: Sequence[Any]) -> tuple[list[Any], dict[int, str]]:
    """Records with draws, and the reasons of those that failed, by number."""
    require_list("shard_results", records, "one mapping or record for each shard")
    numbers = [number_of(record, k) for k, record in enumerate(records)]
    reasons = [reason_of(record, number) for record, number in zip(records, numbers, strict=True)]
    finished = [record for record, reason in zip(records, reasons, strict=True) if reason is None]
    return finished, {k: reason for k, reason in zip(numbers, reasons, strict=True) if reason is not None}


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
        number = number_of(record, k)
        reason = reason_of(record, number)
        if reason is not None:
            attempts = _plain_numbers(record, number, "attempts")
            failures.append({"shard_id": number, "failed": reason, **attempts})
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
    samples = real_array(f"samples of shard {number}", get(record, "samples", ()))
    samples = samples[None] if samples.ndim == 2 else samples
    if samples.ndim != 3 or samples.shape[1] < 8:
        raise InputError(
            f"samples of shard {number} have shape {samples.shape}, expected (chain, draw, D) with 8 draws or more"
        )
    dimension = samples.shape[2]
    given = get(record, "names")
    names = tuple(f"x{k}" for k in range(dimension))
    if given is not None:
        names = as_names(f"names of shard {number}", given, dimension)
    stats = chain_stats(f" of shard {number}", get(record, "stats"), samples.shape[:2])
    measured = {name: get(record, name) for name in ("rhat", "ess_bulk", "ess_tail", "divergences", "ebfmi")}
    if any(value is None for value in measured.values()):
        judged = diagnose(samples, stats, names)
        measured = {name: getattr(judged, name) if value is None else value for name, value in measured.items()}
    given = get(record, "problems")
    problems = () if given is None else given
    with Faults() as faults:
        faults.integer(f"divergences of shard {number}", measured["divergences"])
        shapes = dict.fromkeys(("rhat", "ess_bulk", "ess_tail"), ((dimension,),)) | {"ebfmi": ((0,), samples.shape[:1])}
        arrays = {
            name: faults.of(real_array, f"{name} of shard {number}", measured[name], *expected)
            for name, expected in shapes.items()
        }
        if not isinstance(problems, list | tuple) or not all(isinstance(text, str) for text in problems):
            faults.add(f"problems of shard {number} is {shown(problems)}; expected a list of sentences")
        facts = faults.of(_plain_numbers, record, number, "num_points", "num_gradients", "attempts", "seconds")
    bad_density = int((~np.isfinite(stats["lp"])).sum()) if "lp" in stats else 0
    facts["worker_problems"] = list(problems)
    divergences = int(measured["divergences"])
    return ShardDraws(number, samples, names, **arrays, divergences=divergences, bad_density=bad_density, facts=facts)


def _plain_numbers(record: object, number: int, *names: str) -> dict[str, Any]:
    """Entries of a record that are numbers or None, by name; an InputError for anything else."""
    with Faults() as faults:
        for name in names:
            if get(record, name) is not None:
                faults.number(f"{name} of shard {number}", get(record, name))
    return {name: get(record, name) for name in names}


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
