"""Run the tasks of `fake_shards` on a backend, and wait for what must happen."""

import time

import pytest
from fake_shards import FakeTask as task

from homodyne.optimization.cmc.backends import BackendOptions

__all__ = ["options", "outcome", "task", "until"]


def options(**fields):
    return BackendOptions(**({"num_workers": 2, "run": "fake_shards:run"} | fields))


def outcome(backend, tasks, progress=None):
    """Results by shard, failures."""
    results = {}

    def keep(shard_id, result):
        assert shard_id not in results
        results[shard_id] = result

    return results, backend.run(tasks, on_result=keep, progress=progress)


def until(condition):
    """Wait for something that must happen, however slow the machine is."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it never happened")
