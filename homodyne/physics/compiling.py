"""Compiled programs: `compiled` is `jax.jit` with options under which the processor's code is made in half the time.

`at_points` is the compiled form of a function of one point for any number of points.

A program is kept on disk and shared by processes, in the folder that ``JAX_COMPILATION_CACHE_DIR`` names or in the
user's cache folder.
"""

import os
from collections.abc import Callable
from functools import lru_cache, partial, wraps
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_AT_ONCE = 64  # points of one call
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


def one_by_one(function: Callable[[Any], Any], points: jax.Array, count: Any) -> Any:
    """Results of a function of one point for the first `count` of points (n, d), (n,) and 0 for the others.

    Part of a JAX program; points are evaluated one after the other, which needs the memory of one.
    """
    shapes = jax.eval_shape(function, points[0])
    blank = jax.tree.map(lambda one: jnp.zeros((len(points), *one.shape), one.dtype), shapes)

    def put(k: jax.Array, table: Any) -> Any:
        return jax.tree.map(lambda column, one: column.at[k].set(one), table, function(points[k]))

    return jax.lax.fori_loop(0, count, put, blank)


def at_points(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """A function of points (n, d), an argument and, optionally, progress; its results have a leading axis (n,).

    Points are evaluated `one_by_one`, in calls of one shape: one program serves any number of them. Results are NumPy
    arrays; `progress` is told how many points are done.
    """

    @compiled
    def program(points: jax.Array, count: jax.Array, argument: Any) -> Any:
        return one_by_one(lambda point: function(point, argument), points, count)

    def evaluate(points: Any, argument: Any, progress: Callable[[int], None] = lambda done: None) -> Any:
        argument, parts = jax.device_put(argument), []
        for begin in range(0, max(len(points), 1), _AT_ONCE):
            some = points[begin : begin + _AT_ONCE]
            full = np.concatenate([some, np.zeros((_AT_ONCE - len(some), points.shape[1]))])
            found = program(full, len(some), argument)
            parts.append(jax.tree.map(partial(_first, len(some)), found))
            progress(begin + len(some))
        return jax.tree.map(lambda *x: np.concatenate(x), *parts)

    return evaluate


def _first(count: int, values: Any) -> Any:
    return np.asarray(values)[:count]


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
