"""Settings of every test run, made before JAX is imported, and the order of the files."""

import os
import secrets
import signal
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

# Compiled programs are kept, the small ones too: they are most of the time, and tests and processes share them.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(HERE.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")  # half the time to compile
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("RAY_AUTH_MODE", "token")  # nodes of a cluster listen on every interface
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # read once in a process

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a background job, which every program would inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)

from hypothesis import HealthCheck, settings  # noqa: E402  # after the environment is set

# No test may depend on how fast the machine is, or on luck.
settings.register_profile("homodyne", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("homodyne")

LONGEST = (
    "schedulers/test_jobs.py",
    "test_docs.py",
    "cli/test_shards.py",
    "cmc/test_consensus.py",
    "optimization/test_certificate.py",
    "cmc/test_executors.py",
    "config/test_effects.py",
    "optimization/test_fit.py",
    "cmc/test_conformance.py",
    "cmc/test_xpcs.py",
    "test_guide.py",
    "cli/test_fit_command.py",
    "cmc/test_hard_cases.py",
    "validation/test_validation.py",
    "cmc/test_ray.py",
)
"""Files of tests that take longest; several processes take files in this order, so that they end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {HERE / name: position for position, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_configure(config: pytest.Config) -> None:
    """JAX compiles again what a killed process has left half written; that is said, and no error."""
    config.addinivalue_line("filterwarnings", "default:Error reading persistent compilation cache entry")
