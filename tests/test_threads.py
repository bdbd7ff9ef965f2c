"""Threads of one process: results in order, one thread for matrix products meanwhile, as many threads as allowed."""

import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from homodyne import threads
from homodyne.device.config import detect_hardware
from homodyne.threads import in_threads, num_threads, one_blas_thread


def blas_threads():
    return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]


def test_results_come_in_order_and_progress_counts_them():
    told = []
    assert in_threads(lambda k: time.sleep(0.01 * (3 - k)) or k * k, range(4), 4, told.append) == [0, 1, 4, 9]
    assert told == [1, 2, 3, 4]


def test_matrix_products_have_one_thread_meanwhile():
    np.linalg.inv(np.eye(2))
    before = blas_threads()
    assert before
    assert in_threads(lambda _: max(blas_threads()), range(3), 2) == [1, 1, 1]
    assert blas_threads() == before


def test_the_limit_ends_with_the_last_that_needs_it():
    before, first, second = blas_threads(), one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert blas_threads() == [1 for _ in before], "the first has ended, the second still counts on it"
    second.__exit__(None, None, None)
    assert blas_threads() == before
    limits = threadpool_limits(1, "blas"), threadpool_limits(1, "blas")
    for one in limits:  # planted: the second to end puts back the one thread that it found
        one.restore_original_limits()
    left = blas_threads()
    limits[0].restore_original_limits()
    assert left != before or set(before) == {1}


def test_an_error_ends_the_work_and_restores_the_threads():
    before = blas_threads()
    with pytest.raises(ValueError, match="third"):
        in_threads(lambda k: k if k < 2 else raise_third(), range(5), 2)
    assert blas_threads() == before


def raise_third():
    raise ValueError("third")


def test_as_many_threads_as_the_process_may_use(monkeypatch):
    assert threads._cores() == detect_hardware().cores
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert num_threads() == 3
    gate = threading.Barrier(3, timeout=30)  # breaks unless three work at once
    assert in_threads(lambda _: gate.wait() >= 0, range(3)) == [True] * 3
    monkeypatch.setattr(threads, "_cores", lambda: 5)  # which knows the quota of a container
    for said in ("many", "0", ""):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert num_threads() == 5
