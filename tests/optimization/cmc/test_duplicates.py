"""Shards with the same data are found; those that are alike by chance or by design are not."""

import numpy as np

from homodyne.optimization.cmc.duplicates import duplicates


def shards(count=6, size=40, seed=0, **columns):
    rng = np.random.default_rng(seed)
    return [{name: make(rng, size) for name, make in columns.items()} for _ in range(count)]


def normal(rng, size):
    return rng.standard_normal(size)


def test_a_copy_is_found_whatever_its_type():
    found = shards(y=normal, x=lambda rng, size: rng.integers(0, 2, size))
    found[4] = {name: array.copy() for name, array in found[1].items()}
    assert duplicates(found) == [(1, 4)]
    found[4]["x"][0] ^= 1
    assert duplicates(found) == []
    coins = shards(size=200, y=lambda rng, size: rng.integers(0, 2, size))
    coins[2] = dict(coins[0])
    assert duplicates(coins) == [(0, 2)]
    assert duplicates([{"y": np.arange(9.0)}] * 2) == [(0, 1)]


def test_values_that_a_glance_does_not_see_count():
    found = shards(size=5000, y=normal)
    found[4] = {"y": found[1]["y"].copy()}
    found[4]["y"][1] += 1.0
    assert duplicates(found) == []


def test_few_different_values_may_be_alike_by_chance():
    rare = shards(count=100, y=lambda rng, size: (rng.random(size) < 1e-2).astype(np.int64))
    assert duplicates(rare) == []
    assert duplicates(shards(size=1, y=lambda rng, size: np.zeros(size))) == []


def test_a_design_that_all_shards_share_says_nothing():
    grid = shards(y=lambda rng, size: np.zeros(size, dtype=np.int64), t=lambda rng, size: np.arange(1.0 * size))
    grid[3]["y"][0] = 1
    assert duplicates(grid) == []
