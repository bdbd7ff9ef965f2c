"""What a person waits for at the command line: the help, and a small fit (200 frames, 5 angles), first with nothing
compiled and then again."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.page import Row

REFUSED = 3  # exit code of a fit whose result is refused, which takes as long


def timed(*arguments: str, cache: str) -> float:
    """Seconds of one run of the program, which keeps compiled programs in the folder `cache`."""
    start = time.perf_counter()
    command = [str(Path(sys.executable).with_name("homodyne")), *arguments]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    if done.returncode != REFUSED:
        done.check_returncode()
    return time.perf_counter() - start


def run(small: bool = False) -> Iterator[Row]:
    """Rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        cache = f"{folder}/programs"
        yield Row("`homodyne --help`", f"{min(timed('--help', cache=cache) for _ in range(5)):.2f} s")
        file, size = f"{folder}/small.h5", ("60", "3") if small else ("200", "5")
        common = ["--frames", size[0], "--angles", size[1], "--kind", "independent"]
        yield Row("`homodyne simulate`, the file of the fit", f"{timed('simulate', file, *common, cache=cache):.1f} s")
        fit = ["fit", file, "--gap", "2e6", "--mode", "laminar_flow", "--overwrite", "--output", f"{folder}/out"]
        for name, extra, aim in (
            ("first run, without figures", ["--no-figures"], "< 12 s"),
            ("second run, without figures", ["--no-figures"], "< 6 s"),
            ("third run, with figures", [], ""),
        ):
            yield Row(f"`homodyne fit`, {name}", f"{timed(*fit, *extra, cache=cache):.1f} s", aim)
