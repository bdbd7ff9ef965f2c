"""How many shards: as few as memory and workers allow, with the bias that a plain merge of them lets expect."""

import math
from typing import NamedTuple

from homodyne.errors import InputError


class ShardCount(NamedTuple):
    """Number of shards, and why this number."""

    num_shards: int
    reason: str


def counted(num_shards: int) -> str:
    """Number of shards in words."""
    return f"{num_shards} shard{'s' * (num_shards > 1)}"


def choose_num_shards(
    num_points: int,
    *,
    bytes_per_point: float,
    memory_limit_bytes: float,
    num_workers: int,
    max_points_per_shard: int | None = None,
) -> ShardCount:
    """Choose the fewest shards that keep all workers busy and fit the memory, and say what bias a plain merge has.

    The mean of a posterior of n points is off by O(1/n) (Cox and Snell, J. R. Stat. Soc. B 30, 248, 1968). Shards of
    n = N/M points are all off in the same direction, merging does not average that away (Scott et al., Int. J.
    Manag. Sci. Eng. Manag. 11, 78, 2016), and the sd of the whole is O(N^-1/2): a plainly merged posterior is off by
    about M / sqrt(N) standard deviations, by 100 times as much along weak directions.

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

    Raises
    ------
    InputError
        When the memory does not hold one point per worker.
    """
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
    reason = (
        f"{counted(num_shards)}: {rule}. A plain merge is predicted to be off by "
        f"{num_shards / math.sqrt(num_points):.2g} posterior standard deviations ({num_shards} / sqrt({num_points}))."
    )
    return ShardCount(num_shards, reason)
