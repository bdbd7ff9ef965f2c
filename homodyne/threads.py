"""Work of one process on many things at once: `in_threads`, and how many threads it may use."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

One = TypeVar("One")
Result = TypeVar("Result")


def num_threads() -> int:
    """Threads that this process may use: as many as OMP_NUM_THREADS says, or as it has cores."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(
    function: Callable[[One], Result],
    items: Iterable[One],
    workers: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Result]:
    """Results for all items in their order, worked on by `num_threads` threads or as many as are given.

    Matrix products use one thread each meanwhile: with more in every worker they take half as long again. `progress` is
    told how many items are done.
    """
    found: list[Result] = []
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers or num_threads()) as pool:
        for one in pool.map(function, items):
            found.append(one)
            progress(len(found))
    return found
