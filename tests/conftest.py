"""Settings of every test run, made before JAX and Numba are imported."""

import os
import secrets
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache"

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("RAY_AUTH_MODE", "token")  # nodes of a cluster listen on every interface
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # read once in a process

from hypothesis import HealthCheck, settings  # noqa: E402  # after the environment is set

# No test may depend on how fast the machine is, or on luck.
settings.register_profile("homodyne", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("homodyne")
