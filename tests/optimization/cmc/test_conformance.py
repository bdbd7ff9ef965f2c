"""Every backend, on the same tasks, gives the same draws bit by bit, the same failures and the same progress events.

Where workers are processes, that of one shard is killed at the first attempt, which costs the attempt and changes no
draw. A new backend is one entry of `KINDS`. Backends that break this rule stand at the end: each must be caught.
"""

import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from homodyne.optimization.cmc.backends import BACKENDS, BackendOptions, SequentialBackend
from homodyne.testing import regression as jax_shards
from homodyne.testing.backends import DAMAGED, NO_NUMBER, SHARDS, Run, compare, make_tasks

pytestmark = pytest.mark.slow

OPTIONS = BackendOptions(num_workers=2)
KILLED = replace(OPTIONS, run="homodyne.testing.regression:run_killed_once")
ONE = replace(KILLED, num_workers=1)  # a process that samples takes seconds to start
KINDS = {
    "multiprocessing": partial(BACKENDS["multiprocessing"], KILLED),
    "executor": partial(BACKENDS["executor"], KILLED),
    "dask": partial(BACKENDS["dask"], ONE),
    "parsl": partial(BACKENDS["parsl"], ONE),
    "ray": partial(BACKENDS["ray"], ONE),
    "pjit": partial(BACKENDS["pjit"], OPTIONS),
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return make_tasks(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def expected(tasks):
    return Run(SequentialBackend(OPTIONS), tasks)


def test_the_reference_is_what_was_planned(expected):
    assert sorted(expected.results) == [0, 2, 4]
    assert [(failure.shard_id, failure.attempts) for failure in expected.failures] == [(NO_NUMBER, 2), (DAMAGED, 1)]
    assert "found no start" in expected.failures[0].reason
    assert expected.progress == [("shards", count, SHARDS) for count in range(1, SHARDS + 1)]
    assert not np.array_equal(expected.results[0].samples, expected.results[2].samples)


@pytest.mark.parametrize("kind", KINDS)
def test_a_backend_gives_what_the_sequential_one_gives(kind, tasks, expected):
    compare(Run(KINDS[kind](), tasks), expected, () if kind == "pjit" else [jax_shards.KILLED])


class CautiousOnceMore(SequentialBackend):
    """A shard whose worker was killed takes smaller steps."""

    def run(self, tasks, **how):
        return super().run([replace(task, caution=int(task.shard_id == 2)) for task in tasks], **how)


class OtherSeed(SequentialBackend):
    def run(self, tasks, **how):
        return super().run([replace(task, seed=task.seed + 1) for task in tasks], **how)


class SeedByPosition(SequentialBackend):
    """The key of a shard comes from its place in the list."""

    def run(self, tasks, *, on_result, progress=None):
        numbers = [task.shard_id for task in tasks]
        renamed = [replace(task, shard_id=k) for k, task in enumerate(tasks)]

        def rename(k, result):
            on_result(numbers[k], replace(result, shard_id=numbers[k]))

        failures = super().run(renamed, on_result=rename, progress=progress)
        return [replace(failure, shard_id=numbers[failure.shard_id]) for failure in failures]


class Swapped(SequentialBackend):
    """Two shards get each other's draws."""

    def run(self, tasks, *, on_result, progress=None):
        kept = {}
        failures = super().run(tasks, on_result=kept.__setitem__, progress=progress)
        kept[0], kept[2] = replace(kept[2], shard_id=0), replace(kept[0], shard_id=2)
        for shard_id, result in kept.items():
            on_result(shard_id, result)
        return failures


class OneRetryTooFew(SequentialBackend):
    def __init__(self, options):
        super().__init__(replace(options, max_attempts=1))


class LosesFailures(SequentialBackend):
    def run(self, tasks, **how):
        return super().run(tasks, **how)[:1]


class SilentOnFailure(SequentialBackend):
    """Counts results only."""

    def run(self, tasks, *, on_result, progress=None):
        done = []

        def count(shard_id, result):
            on_result(shard_id, result)
            done.append(shard_id)
            progress("shards", len(done), len(tasks))

        return super().run(tasks, on_result=count)


class OtherThread(SequentialBackend):
    def run(self, tasks, **how):
        found = []
        thread = threading.Thread(target=lambda: found.extend(SequentialBackend.run(self, tasks, **how)))
        thread.start()
        thread.join()
        return found


@pytest.mark.parametrize(
    "broken",
    [CautiousOnceMore, OtherSeed, SeedByPosition, Swapped, OneRetryTooFew, LosesFailures, SilentOnFailure, OtherThread],
)
def test_a_broken_backend_is_caught(broken, tasks, expected):
    with pytest.raises(AssertionError):
        compare(Run(broken(OPTIONS), tasks), expected)
