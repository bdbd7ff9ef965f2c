"""Settings of every test run, made before JAX is imported, and marks of whole folders."""

import os
import secrets
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

# Compiled programs are kept, the small ones too: they are most of the time, and tests and processes share them.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(HERE.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
FASTER_COMPILATION = (  # a third of the time, for programs that take twice as long, of which tests run few for long
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
os.environ.setdefault("XLA_FLAGS", FASTER_COMPILATION)
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("RAY_AUTH_MODE", "token")  # nodes of a cluster listen on every interface
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # read once in a process

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a background job, which every program would inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

from hypothesis import HealthCheck, settings  # noqa: E402  # after the environment is set
from jaxtyping import config, install_import_hook  # noqa: E402

ROOMS = "physics", "likelihood", "noise", "certificate"
"""Rooms whose types and shapes in signatures their tests check in every call, see `checked_types`."""
install_import_hook([f"homodyne.{room}" for room in ROOMS], "lazily.checked")

# No test may depend on how fast the machine is, or on luck.
settings.register_profile("homodyne", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("homodyne")

MARKS = {"schedulers": pytest.mark.scheduler, "validation": pytest.mark.statistical}
"""What all tests of a folder are; `make check` leaves these out."""


@pytest.fixture(autouse=True)
def checked_types(request):
    """Checks are on in tests of the rooms that have shapes in their signatures: elsewhere they would only cost."""
    place = request.path.relative_to(HERE).parts[0]
    config.update("jaxtyping_disable", place not in (*ROOMS, "test_shapes.py"))


@pytest.fixture(autouse=True)
def same_registries():
    """What a test registers is gone when it ends."""
    from homodyne import registries
    from homodyne.physics.model import MODELS

    with ExitStack() as stack:
        for one in (MODELS, *(one for one in vars(registries).values() if isinstance(one, registries.Registry))):
            stack.enter_context(one.unchanged())
        yield


@pytest.fixture(autouse=True)
def same_threads():
    """Nothing that is called leaves the process with another number of threads, or passes one on."""
    from homodyne.optimization.cmc.backends.multiprocessing import thread_limits

    before = {name: os.environ.get(name) for name in thread_limits(1)}
    yield
    assert {name: os.environ.get(name) for name in before} == before


@pytest.hookimpl(tryfirst=True)  # before marks select
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark, and put files that take long first: several processes take files in this order, and end together."""
    slow: dict[Path, int] = {}
    for item in items:
        if mark := MARKS.get(item.path.parent.name):
            item.add_marker(mark)
        marks = {one.name for one in item.iter_markers()}
        weight = 1000 * ("scheduler" in marks) + ("slow" in marks or "statistical" in marks)
        slow[item.path] = slow.get(item.path, 0) + weight
    items.sort(key=lambda item: -slow[item.path])


def pytest_configure(config: pytest.Config) -> None:
    """JAX compiles again what a killed process has left half written; that is said, and no error."""
    config.addinivalue_line("filterwarnings", "default:Error reading persistent compilation cache entry")
