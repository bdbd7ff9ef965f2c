"""Shards that hold the same data, which counts twice then."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from homodyne.arrays import AnyArray
from homodyne.optimization.cmc.store.shards import digest_arrays

CHANCE = 1e-6  # probability that equal shards of a healthy run are taken for copies
GLANCE = 256  # values of every array that are compared first


def duplicates(shards: Sequence[Mapping[str, AnyArray]]) -> list[tuple[int, int]]:
    """Pairs of shards with equal arrays that did not become equal by chance.

    Shards of few different values, such as ten trials without a success, may well be equal. The probability of
    meeting n given values again is about exp(-n H) with the entropy H of their distribution. Arrays that are the same
    in all shards, such as a design, say nothing, unless every array is.
    """
    groups: dict[object, list[int]] = {}
    for k, shard in enumerate(shards):
        groups.setdefault(_glance(shard), []).append(k)
    pairs = []
    for group in (group for group in groups.values() if len(group) > 1):
        digests = {k: digest_arrays(shards[k]) for k in group}
        pairs += [(i, j) for i, j in combinations(group, 2) if digests[i] == digests[j]]
    if not pairs:
        return []
    varied = [name for name in shards[0] if any(_differ(name, shards[0], shard) for shard in shards)]
    limit = np.log(len(shards) * (len(shards) - 1) / 2.0 / CHANCE)
    return [(i, j) for i, j in pairs if max(_surprise(shards[i][name]) for name in varied or shards[i]) > limit]


def _glance(shard: Mapping[str, AnyArray]) -> object:
    """Shapes and some values of a shard, which can be hashed."""
    parts = []
    for name, array in shard.items():
        some = np.asarray(array).ravel()[:: max(1, array.size // GLANCE)]
        parts.append((name, array.shape, some.tobytes()))
    return tuple(parts)


def _differ(name: str, one: Mapping[str, AnyArray], other: Mapping[str, AnyArray]) -> bool:
    return name not in other or _glance({name: one[name]}) != _glance({name: other[name]})


def _surprise(array: AnyArray) -> float:
    """Entropy of the rows of an array times their number."""
    counts = np.unique(np.asarray(array), axis=0, return_counts=True)[1]
    return float(-(counts * np.log(counts / counts.sum())).sum())
