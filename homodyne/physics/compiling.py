"""Compiled programs: `compiled` is `jax.jit` with options under which the processor's code is made in half the time.

A program is kept on disk and shared by processes, in the folder that ``JAX_COMPILATION_CACHE_DIR`` names or in the
user's cache folder.
"""

import os
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import jax

_QUICK = {"xla_cpu_use_fusion_emitters": False}


def compiled(function: Callable[..., Any], static_argnums: tuple[int, ...] = ()) -> Callable[..., Any]:
    """`jax.jit` of a function without side effects."""

    @lru_cache(maxsize=1)
    def program() -> Any:
        return jax.jit(function, static_argnums=static_argnums, compiler_options=_options())

    @wraps(function)
    def call(*args: Any) -> Any:
        return program()(*args)

    return call


@lru_cache(maxsize=1)
def _options() -> dict[str, Any] | None:
    """Options that this version of the compiler knows."""
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x + 1.0, compiler_options=_QUICK).lower(0.0).compile()
    except (jax.errors.JaxRuntimeError, ValueError):
        return None
    return dict(_QUICK)


def keep_programs() -> None:
    """Keep compiled programs on disk, unless the user has said where or switched it off."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or "JAX_ENABLE_COMPILATION_CACHE" in os.environ:
        return
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(Path(base) / "homodyne" / "jax"))  # type: ignore[no-untyped-call]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # type: ignore[no-untyped-call]
