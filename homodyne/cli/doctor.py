"""``homodyne doctor``: does this installation work? Versions, machine, folders, and a fit whose answer is known."""

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import typer

from homodyne.cli.terminal import say
from homodyne.device.config import detect_hardware
from homodyne.errors import HomodyneError
from homodyne.versions import version_lines

_FOLDERS = {
    "JAX_COMPILATION_CACHE_DIR": "compiled programs",
    "MPLCONFIGDIR": "settings of matplotlib",
    "TMPDIR": "temporary files",
}
_LEAST = 100  # effective draws that a usable answer has
_OFF = 5.0  # standard deviations from the truth that one fit in a million exceeds


def doctor() -> None:
    """Check the installation: versions, cores and memory, folders that must be writable, a fit with a known answer.

    Takes about ten seconds, and twice as long the first time. Ends with 0 when everything works, with 4 otherwise.
    """
    say(version_lines())
    say(detect_hardware(gpus=True))
    failed = 0
    for name, check in _checks():
        try:
            said, works = check(), True
        except (HomodyneError, OSError, AssertionError, ImportError) as error:
            said, works = f"{error}", False
        failed += not works
        say(f"{'ok  ' if works else 'FAIL'}  {name}: {said}", error=not works)
    if failed:
        raise typer.Exit(4)


def _checks() -> Iterator[tuple[str, Callable[[], str]]]:
    """Names of the checks, and functions that return what they found or raise."""
    for variable, purpose in _FOLDERS.items():
        yield f"folder of {purpose}", partial(_writable, variable)
    yield "double precision", _double_precision
    yield "consensus of a known answer", _consensus
    yield "fit of a simulated map", _map


def _writable(variable: str) -> str:
    folder = Path(os.environ.get(variable) or tempfile.gettempdir()).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return f"{folder} can be written"


def _double_precision() -> str:
    import jax.numpy as jnp

    import homodyne.physics  # noqa: F401  switches it on

    kind = jnp.ones(()).dtype
    assert kind == "float64", f"JAX computes in {kind}; something has set jax_enable_x64 back"
    return "JAX computes in float64"


def _consensus() -> str:
    import numpy as np

    from homodyne.optimization.cmc.coordinator import sample_consensus
    from homodyne.testing.conjugate import gaussian_mean

    problem = gaussian_mean(n=400)
    found = sample_consensus(problem.model, problem.data, num_shards=2, backend="sequential", seed=0)
    exact = problem.exact(problem.data, 1.0)
    draws = np.concatenate([one.reshape(*one.shape[:2], -1) for one in found.samples.values()], axis=2)
    off = np.abs(draws.mean(axis=(0, 1)) - exact.mean) / exact.sd
    assert found.verdict.usable, f"the answer is {found.verdict}: {found.certificate and found.certificate.reason}"
    assert off.max() < _OFF / np.sqrt(_LEAST), f"means are off by {off.max():.2g} standard deviations"
    return f"{found.verdict}, means to {off.max():.2g} standard deviations of the exact posterior"


def _map() -> str:
    import homodyne
    from homodyne.result.summary import with_error

    truth = {"D0": 1e4, "alpha": 0.0, "D_offset": 0.0}
    data = homodyne.simulate(
        truth, q=0.01, num_frames=40, dt=0.05, phi=[0.0], contrast=0.3, kind="independent", sigma=0.02, seed=1
    )
    fixed = {"parameters": {"alpha": {"fixed": 0.0}, "D_offset": {"fixed": 0.0}}}
    result = homodyne.fit(data, mode="static", method="laplace", config=fixed)
    off = abs(result.mean["D0"] - truth["D0"]) / result.sd["D0"]
    assert result.verdict.usable, f"the fit is {result.verdict}"
    assert off < _OFF, f"D0 is off by {off:.2g} standard deviations"
    found = with_error(float(result.mean["D0"]), float(result.sd["D0"]))
    return f"{result.verdict}, D0 = {found} Å²/s, the truth is 10000"
