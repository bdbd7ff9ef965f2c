"""Consensus Monte Carlo of 50 million pairs in 50 shards on the cores there are, and of one million pairs with every
number of shards and every strategy, against the no-U-turn sampler on all data.
"""

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import numpy as np
import psutil

from benchmarks.measurement import STEADY, laminar_flow

SMALL = (500, 8)  # frames and angles of a million pairs
STRATEGIES = ("interleaved", "stratified", "time_stratified", "random", "contiguous", "frame_blocks")
MANY = 16  # shards beyond which each is sampled shortly
RUNS = [("interleaved", 1), *((name, count) for count in (4, 16, 50) for name in STRATEGIES)]


class Memory:
    """Watches the memory of this process and its children together, pages that they share counted once."""

    def __enter__(self) -> "Memory":
        self.peak, self._end = 0, threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._watcher.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._end.wait(1.0):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    total += process.memory_full_info().pss
            self.peak = max(self.peak, total)


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
        result = homodyne.fit(data, method="cmc" if num_shards else "nuts", config=config)
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
    return (
        f"{facts['seconds']:6.0f} s  {facts['verdict']:9s} k-hat {facts['k_hat']:5.2f}  {facts['combination']}, {moved}"
    )


def invariance() -> None:
    """Print how far the answer from shards lies from that of all data together."""
    whole = fit(*SMALL, "interleaved", 0)
    print(f"{whole['pairs']:,} pairs; nuts on all data: {described(whole)}", flush=True)
    for strategy, count in RUNS:
        facts = fit(*SMALL, strategy, count)
        off = np.abs(facts["mean"] - whole["mean"]) / whole["sd"]
        wide = facts["sd"] / whole["sd"]
        apart = f"{off.max():.2f} sd off, widths {wide.min():.2f} to {wide.max():.2f}"
        print(f"  {count:3d} {strategy:16s} {described(facts)}; {apart}")
        print(f"      {facts['reason']}", flush=True)


def run() -> None:
    """Print the figures of the large fit, then the comparison."""
    large = fit(2000, 25, "interleaved", 50)
    print(f"{large['pairs']:,} pairs in 50 shards: {described(large)}")
    print(f"  {large['gigabytes at most']:.2f} GB at most in all processes, {large['gradients']} gradients of shards")
    off = np.abs(large["mean"] - large["truth"]) / large["sd"]
    print(f"  the truth is {off.max():.1f} sd away, at most")
    print("  " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in large["timings"].items()))
    invariance()


if __name__ == "__main__":
    one(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
