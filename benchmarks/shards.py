"""Consensus Monte Carlo of 50 million pairs in 50 shards on the cores there are, and of one million pairs with every
number of shards and every strategy, against the no-U-turn sampler on all data.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.measurement import STEADY, Memory, laminar_flow
from benchmarks.page import Row

SMALL = (500, 8)  # frames and angles of a million pairs
STRATEGIES = ("interleaved", "stratified", "time_stratified", "random", "contiguous", "frame_blocks")
MANY = 16  # shards beyond which each is sampled shortly
RUNS = [("interleaved", 1), *((name, count) for count in (4, 16, 50) for name in STRATEGIES)]


def one(num_frames: int, num_angles: int, strategy: str, num_shards: int) -> None:
    """Fit once, by nuts where there are no shards, and print what it took as JSON."""
    import homodyne

    data = laminar_flow(num_frames, num_angles, truth=STEADY)
    start = time.perf_counter()
    cmc: dict[str, Any] = {
        "escalate": False,
        "sharding": {"num_shards": max(num_shards, 1), "strategy": strategy},
    }
    if num_shards > MANY:
        cmc["per_shard_mcmc"] = {"num_warmup": 30, "num_samples": 50}
    config = {"uncertainty": "independent", "optimization": {"cmc": cmc}}  # the data have white noise
    with Memory() as memory:
        result = homodyne.fit(data, mode="laminar_flow", method="cmc" if num_shards else "nuts", config=config)
    facts = {
        "pairs": result.num_points,
        "seconds": time.perf_counter() - start,
        "verdict": result.verdict,
        "reason": result.certificate.reason,
        "k_hat": result.certificate.k_hat,
        "polish": result.diagnostics.get("polish"),
        "combination": result.combination_method,
        "gigabytes at most": memory.peak / 2**30,
        "gradients": result.diagnostics.get("num_gradients"),
        "timings": result.timings,
        "mean": [result.mean[name] for name in STEADY],
        "sd": [result.sd[name] for name in STEADY],
        "truth": list(STEADY.values()),
    }
    print(json.dumps(facts))


def fit(*what: object) -> dict[str, Any]:
    """Run `one` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.shards", *map(str, what)]
    facts: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {name: np.array(value) if isinstance(value, list) else value for name, value in facts.items()}


def described(facts: dict[str, Any]) -> str:
    """One line on how a fit went."""
    polish = facts["polish"]
    moved = "no polish" if polish is None else f"{len(polish['steps'])} steps, {polish['shift']:.2g} sd from the merge"
    merged = f"{facts['combination']}, {moved}" if facts["combination"] else "one sampler"
    return f"{facts['seconds']:.0f} s, {facts['verdict']}, k-hat {facts['k_hat']:.2f}; {merged}"


def invariance(size: tuple[int, int], runs: Sequence[tuple[str, int]]) -> Iterator[Row]:
    """How far the answer from shards lies from that of all data together."""
    whole = fit(*size, "interleaved", 0)
    yield Row(f"nuts on {whole['pairs']:,} pairs", described(whole))
    for strategy, count in runs:
        facts = fit(*size, strategy, count)
        off = np.abs(facts["mean"] - whole["mean"]) / whole["sd"]
        wide = facts["sd"] / whole["sd"]
        apart = f"means {off.max():.2f} sd off, widths {wide.min():.2f} to {wide.max():.2f} times"
        yield Row(f"the same, {count} shards, {strategy}", f"{described(facts)}; {apart}")


def run(small: bool = False) -> Iterator[Row]:
    """Rows of the table."""
    large = fit(100, 4, "interleaved", 4) if small else fit(2000, 25, "interleaved", 50)
    yield Row(f"{large['pairs']:,} pairs in {4 if small else 50} shards", described(large), "< 45 s")
    yield Row("memory of all processes at most", f"{large['gigabytes at most']:.2f} GB")
    yield Row("of this", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in large["timings"].items()))
    off = np.abs(large["mean"] - large["truth"]) / large["sd"]
    yield Row("distance of the truth, at most", f"{off.max():.1f} sd")
    yield from invariance((60, 3), RUNS[:2]) if small else invariance(SMALL, RUNS)


if __name__ == "__main__":
    one(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
