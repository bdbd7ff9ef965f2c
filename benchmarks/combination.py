"""Combination of 50 shards of 2000 draws of 57 parameters by every method, and of 1000 shards by clusters."""

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.page import Row
from homodyne.optimization.cmc.combination import combine_subposteriors
from homodyne.registries import COMBINERS

DIMENSION = 57  # laminar flow with 25 angles


def seconds(num_shards: int, num_draws: int, method: str) -> float:
    """Time for one combination of correlated normal draws."""
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(np.cov(rng.standard_normal((DIMENSION, 3 * DIMENSION))))
    shards = [{"samples": rng.standard_normal((num_draws, DIMENSION)) @ root.T} for _ in range(num_shards)]
    began = time.perf_counter()
    combine_subposteriors(shards, method)
    return time.perf_counter() - began


def run(small: bool = False) -> Iterator[Row]:
    """Rows of the table."""
    draws, many = (400, 60) if small else (2000, 1000)
    for method in COMBINERS:
        yield Row(f"50 shards of {draws} draws, {method}", f"{seconds(50, draws, method):.2f} s")
    yield Row(
        f"{many} shards of {draws // 4} draws, hierarchical", f"{seconds(many, draws // 4, 'hierarchical'):.2f} s"
    )
