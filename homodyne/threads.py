"""Work of one process on many things at once: `in_threads`, and how many threads it may use."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from threadpoolctl import threadpool_limits

from homodyne.device.config import usable_cores

One = TypeVar("One")
Result = TypeVar("Result")


def num_threads() -> int:
    """Threads that this process may use: as many as OMP_NUM_THREADS says, or as it may keep cores busy."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else _cores()


@lru_cache(maxsize=1)
def _cores() -> int:
    """Cores that this process may keep busy; asked once, since a dozen files are read for it."""
    return usable_cores()


def in_threads(
    function: Callable[[One], Result],
    items: Iterable[One],
    workers: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Result]:
    """Results for all items in their order, worked on by `num_threads` threads or as many as are given.

    Matrix products use one thread each meanwhile: with more in every worker they take half as long again. `progress` is
    called with how many items are done.
    """
    found: list[Result] = []
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers or num_threads()) as pool:
        for one in pool.map(function, items):
            found.append(one)
            progress(len(found))
    return found
