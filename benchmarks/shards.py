"""Consensus Monte Carlo of 50 million pairs in 50 shards on the cores there are, and the same answer from fewer shards
of a smaller measurement.
"""

import json
import os
import resource
import subprocess
import sys
import time

from benchmarks.measurement import TRUTH, laminar_flow


def one(num_frames: int, num_angles: int, num_shards: int) -> None:
    """Fit once and print what it took as JSON."""
    import homodyne

    data = laminar_flow(num_frames, num_angles)
    start = time.perf_counter()
    cmc = {"escalate": False, "sharding": {"num_shards": num_shards}}
    result = homodyne.fit(data, method="cmc", config={"optimization": {"cmc": cmc}})
    mine, worker = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    facts = {
        "pairs": result.num_points,
        "shards": num_shards,
        "seconds": time.perf_counter() - start,
        "verdict": result.verdict,
        "k_hat": result.certificate.k_hat,
        "polish": result.diagnostics["polish"],
        "gigabytes of all processes at their peaks, at most": (mine + worker * len(os.sched_getaffinity(0))) / 2**20,
        "gradients of all shards": result.diagnostics["num_gradients"],
        "timings": result.timings,
        "mean": result.mean,
        "sd": result.sd,
        "distance of the truth (sd)": {name: (TRUTH[name] - result.mean[name]) / result.sd[name] for name in TRUTH},
    }
    print(json.dumps(facts))


def run() -> None:
    """Print the figures of every number of shards."""
    for size in ((2000, 25, 50), (500, 8, 1), (500, 8, 4), (500, 8, 16), (500, 8, 50)):
        command = [sys.executable, "-m", "benchmarks.shards", *map(str, size)]
        facts = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for name, value in facts.items():
            shown = {k: float(f"{v:.4g}") for k, v in value.items()} if name in ("timings", "mean", "sd") else value
            print(f"  {name:28s} {shown:.4g}" if isinstance(shown, float) else f"  {name:28s} {shown}")
        print()


if __name__ == "__main__":
    one(*map(int, sys.argv[1:]))
