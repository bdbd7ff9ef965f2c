"""What a person waits for at the command line: the help, and a small fit from a cold start."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path


def timed(*arguments: str) -> float:
    """Seconds of one run of the program."""
    start = time.perf_counter()
    subprocess.run([str(Path(sys.executable).with_name("homodyne")), *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def run() -> None:
    """Print the seconds."""
    print(f"  homodyne --help            {min(timed('--help') for _ in range(5)):.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/small.h5"
        common = ["--frames", "180", "--angles", "6", "--kind", "independent"]
        print(f"  homodyne simulate          {timed('simulate', file, *common):.1f} s")
        for figures in ([], ["--no-figures"]):
            took = timed("fit", file, "--gap", "2e6", "--output", f"{folder}/out{len(figures)}", *figures)
            print(f"  homodyne fit, 97 k pairs   {took:.1f} s {' '.join(figures)}")
