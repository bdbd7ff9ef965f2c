"""Combination of 50 shards of 2000 draws of 57 parameters by every method, and of 1000 shards by clusters."""

import time

import numpy as np

from homodyne.optimization.cmc.combination import METHODS, combine_subposteriors

DIMENSION = 57  # laminar flow with 25 angles


def seconds(num_shards: int, num_draws: int, method: str) -> float:
    """Time for one combination of correlated normal draws."""
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(np.cov(rng.standard_normal((DIMENSION, 3 * DIMENSION))))
    shards = [{"samples": rng.standard_normal((num_draws, DIMENSION)) @ root.T} for _ in range(num_shards)]
    began = time.perf_counter()
    combine_subposteriors(shards, method)
    return time.perf_counter() - began


def run() -> None:
    """Print a line per method."""
    for method in METHODS:
        print(f"  50 shards x 2000 draws, {method:15s} {seconds(50, 2000, method):6.2f} s", flush=True)
    print(f"  1000 shards x 500 draws, hierarchical   {seconds(1000, 500, 'hierarchical'):6.2f} s")
