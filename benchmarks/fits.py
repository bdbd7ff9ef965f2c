"""Whole fits of 50 million pairs from arrays in memory, each in a process of its own so that peak memory is
its own.
"""

import json
import resource
import subprocess
import sys
import time

from benchmarks.measurement import TRUTH, laminar_flow


def one(method: str, num_frames: int, num_angles: int) -> None:
    """Fit once and print what it took as JSON."""
    import homodyne

    data = laminar_flow(num_frames, num_angles)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    result = homodyne.fit(data, method=method, uncertainty="independent")
    ess = min(min(x) if isinstance(x, list) else x for x in result.diagnostics["ess_bulk"].values())
    facts = {
        "method": method,
        "pairs": result.num_points,
        "seconds": time.perf_counter() - start,
        "verdict": result.verdict,
        "k_hat": result.certificate.k_hat,
        "least ess": ess,
        "gigabytes before the fit": before / 2**20,
        "gigabytes at the peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "gradients of the sampler": result.diagnostics.get("num_gradients"),
        "gradients of the pilot fit": result.diagnostics["pilot"]["num_gradients"],
        "timings": result.timings,
        "distance of the truth (sd)": {name: (TRUTH[name] - result.mean[name]) / result.sd[name] for name in TRUTH},
    }
    print(json.dumps(facts))


def run(methods: tuple[str, ...] = ("laplace", "nuts"), num_frames: int = 2000, num_angles: int = 25) -> None:
    """Print the figures of every method."""
    for method in methods:
        command = [sys.executable, "-m", "benchmarks.fits", method, str(num_frames), str(num_angles)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for name, value in json.loads(output).items():
            shown = {k: round(v, 2) for k, v in value.items()} if isinstance(value, dict) else value
            print(f"  {name:28s} {shown:.4g}" if isinstance(shown, float) else f"  {name:28s} {shown}")
        print()


if __name__ == "__main__":
    one(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
