"""Compiled programs: `compiled` is `jax.jit` with options under which the processor's code is made in half the time.

`at_points` is the compiled form of a function of one point for any number of points.

A program is kept on disk and shared by processes, in the folder that ``JAX_COMPILATION_CACHE_DIR`` names or in the
user's cache folder.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, wraps
from pathlib import Path
from types import ModuleType
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from homodyne.arrays import AnyArray, Array
from homodyne.threads import num_threads

T = TypeVar("T")

Numbers: TypeAlias = AnyArray | jax.Array
"""Arrays of NumPy or JAX."""

_AT_ONCE = 64  # points of one call, at most
_QUICK = {"xla_cpu_use_fusion_emitters": False}


def compiled(function: Callable[..., T], static_argnums: tuple[int, ...] = ()) -> Callable[..., T]:
    """`jax.jit` of a function without side effects."""

    @lru_cache(maxsize=1)
    def program() -> Callable[..., T]:
        return jax.jit(function, static_argnums=static_argnums, compiler_options=_options())

    @wraps(function)
    def call(*args: object) -> T:
        return program()(*args)

    return call


def namespace(*values: PyTree) -> ModuleType:
    """`jax.numpy` where a value is of JAX; `numpy` otherwise, which compiles nothing."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def one_by_one(function: Callable[[PyTree, PyTree], PyTree], points: PyTree, count: object, argument: PyTree) -> PyTree:
    """Results of a function of one point and an argument for the first `count` of n points, (n,), 0 for others.

    Points are an array or a tree of arrays with a leading axis.

    Part of a JAX program; points are evaluated one after the other, which needs the memory of one. The function is
    traced once.
    """
    single = jax.jit(function)

    def point(k: object) -> PyTree:
        return jax.tree.map(lambda column: column[k], points)

    shapes, n = jax.eval_shape(single, point(0), argument), len(jax.tree.leaves(points)[0])
    blank = jax.tree.map(lambda one: jnp.zeros((n, *one.shape), one.dtype), shapes)

    def put(k: jax.Array, table: PyTree) -> PyTree:
        return jax.tree.map(lambda column, one: column.at[k].set(one), table, single(point(k), argument))

    return jax.lax.fori_loop(0, count, put, blank)


def at_points(function: Callable[[PyTree, PyTree], PyTree]) -> Callable[..., PyTree]:
    """A function of n points, an argument and, optionally, progress; its results have a leading axis (n,).

    Points are an array or a tree of arrays, with a leading axis (n,). They are evaluated `one_by_one`, in calls of one
    shape by as many threads as the process may use: one program serves any number of them. Results are NumPy arrays;
    `progress` is called with how many points are done. Who calls often with one argument gives it `on_device`.
    """

    def at_first(points: PyTree, count: jax.Array, argument: PyTree) -> PyTree:
        return one_by_one(function, points, count, argument)

    at_first.__name__ = function.__name__  # under which JAX logs it
    program = compiled(at_first)

    def evaluate(points: PyTree, argument: PyTree, progress: Callable[[int], None] = lambda done: None) -> PyTree:
        argument, parts, threads = on_device(argument), [], num_threads()
        n = len(jax.tree.leaves(points)[0])
        portion = max(1, min(_AT_ONCE, -(-n // threads)))

        def some(begin: int) -> PyTree:
            count = min(portion, n - begin)
            full = jax.tree.map(lambda column: _filled(column[begin : begin + count]), points)
            return jax.tree.map(lambda column: np.asarray(column)[:count], program(full, count, argument))

        with ThreadPoolExecutor(threads) as pool:
            for part in pool.map(some, range(0, max(n, 1), portion)):
                parts.append(part)
                progress(min(n, portion * len(parts)))
        return jax.tree.map(lambda *x: np.concatenate(x), *parts)

    return evaluate


def on_device(tree: T) -> T:
    """Return a tree with its arrays where programs take them from; as it is where they are there."""
    there = all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))
    return tree if there else jax.device_put(tree)


def _filled(column: AnyArray) -> Array:
    """A column with zeros behind, of the length that programs expect."""
    own = np.asarray(column, dtype=float)
    return np.concatenate([own, np.zeros((_AT_ONCE - len(own), *own.shape[1:]))])


@lru_cache(maxsize=1)
def _options() -> dict[str, bool] | None:
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
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # type: ignore[no-untyped-call]
