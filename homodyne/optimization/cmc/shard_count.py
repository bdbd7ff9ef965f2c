"""How many shards: as few as memory and workers allow, with the bias that a plain merge of them lets expect."""

import math
from dataclasses import dataclass

import numpy as np

from homodyne.errors import InputError


@dataclass(frozen=True)
class ShardCount:
    """Number of shards, the bias of a plain merge that it lets expect (posterior sd), and why this number."""

    num_shards: int
    predicted_bias_sd: float
    reason: str


def predicted_bias(num_shards: int, num_points: int, c: float = 1.0) -> float:
    """Bias of a plainly merged posterior, in posterior standard deviations: ``c M / sqrt(N)``.

    The mean of a posterior of n points is off by O(1/n) (Cox and Snell, J. R. Stat. Soc. B 30, 248, 1968). Shards of
    n = N/M points are all off in the same direction, merging does not average that away (Scott et al., Int. J.
    Manag. Sci. Eng. Manag. 11, 78, 2016), and the sd of the whole is O(N^-1/2).

    Parameters
    ----------
    num_shards, num_points : int, at least 1
        M and N.
    c : float, positive
        Curvature of the problem: near 1 in textbook cases, 100 and more along weak directions.

    Raises
    ------
    InputError
        For numbers outside these ranges.
    """
    require_count("num_shards", num_shards)
    require_count("num_points", num_points)
    _require_positive("c", c)
    return c * num_shards / math.sqrt(num_points)


def choose_num_shards(
    num_points: int,
    *,
    bytes_per_point: float,
    memory_limit_bytes: float,
    num_workers: int,
    max_points_per_shard: int | None = None,
    c: float = 1.0,
) -> ShardCount:
    """Choose the fewest shards that keep all workers busy and fit the memory.

    Parameters
    ----------
    num_points : int
        Points of the whole data set.
    bytes_per_point : float
        Memory of a worker per point of the shard it works on.
    memory_limit_bytes : float
        Memory of all workers together; each holds one shard at a time.
    num_workers : int
        Shards worked on at once.
    max_points_per_shard : int, optional
        Largest shard wanted.
    c : float
        See :func:`predicted_bias`.

    Raises
    ------
    InputError
        For numbers that are not positive, and when the memory does not hold one point per worker.
    """
    counts = {"num_points": num_points, "num_workers": num_workers}
    if max_points_per_shard is not None:
        counts["max_points_per_shard"] = max_points_per_shard
    for name, count in counts.items():
        require_count(name, count)
    for name, amount in {"bytes_per_point": bytes_per_point, "memory_limit_bytes": memory_limit_bytes}.items():
        _require_positive(name, amount)
    fitting = int(min(memory_limit_bytes / (bytes_per_point * num_workers), num_points))
    if fitting < 1:
        raise InputError(
            f"memory_limit_bytes = {memory_limit_bytes:.3g} does not hold one point of {bytes_per_point:.3g} bytes for "
            f"each of {num_workers} workers; use fewer workers or give them more memory"
        )
    rules = {f"one for each worker ({num_workers})": num_workers}
    if num_workers > num_points:
        rules = {f"one for each point, fewer than the {num_workers} workers": num_points}
    gigabytes = memory_limit_bytes / 2**30
    rules[f"{num_workers} shards at a time must fit into {gigabytes:.3g} GiB"] = -(-num_points // fitting)
    if max_points_per_shard is not None:
        rules[f"at most {max_points_per_shard} points in a shard are allowed"] = -(-num_points // max_points_per_shard)
    num_shards, rule = max(rules.items(), key=lambda item: item[1])[::-1]
    bias = predicted_bias(num_shards, num_points, c)
    reason = (
        f"{num_shards} shard{'s' * (num_shards > 1)}: {rule}. A plain merge is predicted to be off by {bias:.2g} "
        f"posterior standard deviations ({c:.3g} x {num_shards} / sqrt({num_points}))."
    )
    return ShardCount(num_shards, bias, reason)


def require_count(name: str, value: int, least: int = 1) -> None:
    """Raise InputError unless `value` is an integer of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name} = {value!r}; expected an integer of {least} or more")


def _require_positive(name: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"{name} = {value!r}; expected a positive number")
