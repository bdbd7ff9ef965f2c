"""Work of one process on many things at once: `in_threads`, how many threads it may use, and `one_blas_thread`."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

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


class _Blas:
    """The limit of the BLAS libraries of this process, and how many need it."""

    lock = threading.Lock()
    users = 0
    limit: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep matrix products of this process to one thread each; also a decorator of functions.

    BLAS adds numbers in another order with several threads, so that results would differ in their last digits from
    one machine to the next. The limit is one of the whole process: it ends with the last of those that need it, in
    whichever order they end.
    """
    import scipy.linalg  # noqa: F401  whose BLAS is limited only once it is loaded

    with _Blas.lock:
        if _Blas.users == 0:
            _Blas.limit = threadpool_limits(1, "blas")
        _Blas.users += 1
    try:
        yield
    finally:
        with _Blas.lock:
            _Blas.users -= 1
            if _Blas.users == 0:
                _Blas.limit.restore_original_limits()


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
    with one_blas_thread(), ThreadPoolExecutor(workers or num_threads()) as pool:
        for one in pool.map(function, items):
            found.append(one)
            progress(len(found))
    return found
