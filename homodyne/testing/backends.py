"""What every backend has to pass: `check_backend`."""

import tempfile
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from homodyne.optimization.cmc.backends.base import BackendOptions, CMCBackend, SequentialBackend
from homodyne.optimization.cmc.store.shards import Manifest, ShardStore
from homodyne.optimization.cmc.types import Initialization, ShardFailure, ShardResult, ShardTask
from homodyne.optimization.nuts import NutsSettings
from homodyne.testing import regression

SHARDS = 5
NO_NUMBER, DAMAGED = 1, 3
POINTS = 300


def check_backend(backend: CMCBackend, killed: Collection[int] = ()) -> None:
    """Assert that a backend gives what the sequential one gives: draws bit by bit, failures, progress, one thread.

    Five small shards are sampled, one of which has a number that is none and one a damaged file; some seconds.

    Parameters
    ----------
    backend
        Made with two attempts, the default. It is closed afterwards.
    killed
        Shards whose worker is lost at the first attempt, as that of ``homodyne.testing.regression.KILLED`` is with
        ``BackendOptions(run="homodyne.testing.regression:run_killed_once")``: it costs the attempt and changes no draw.

    Raises
    ------
    AssertionError
        Something differs.
    """
    with tempfile.TemporaryDirectory() as folder:
        tasks = make_tasks(Path(folder))
        compare(Run(backend, tasks), Run(SequentialBackend(BackendOptions(num_workers=2)), tasks), killed)


def make_tasks(folder: Path) -> list[ShardTask]:
    """Five shards in a store, of which two cannot be sampled; the order is not that of their numbers."""
    model = regression.model()
    setup = {"model": "homodyne.testing.regression:MODEL"}
    manifest = Manifest("d", "m", {}, model.names, (POINTS,) * SHARDS, 1, setup=setup)
    store = ShardStore.create(folder / "store", manifest)
    with store.lock():
        for k in range(SHARDS):
            arrays = regression.data(k, POINTS)
            if k == NO_NUMBER:
                arrays["y"][7] = np.nan
            store.write_shard(k, arrays)
        store.finish_setup()
    (store.shard_path(DAMAGED) / "y.npy").write_bytes(b"nothing")
    settings = NutsSettings(num_warmup=20, num_samples=20, num_chains=2)
    start = Initialization(np.array([0.5, 0.0]), np.diag([3e-3, 2e-3]), "identity")
    return [
        ShardTask(k, model, store.shard_path(k), 1 / SHARDS, settings, start, 11) for k in (4, NO_NUMBER, 0, DAMAGED, 2)
    ]


class Run:
    """What a caller sees of a run."""

    def __init__(self, backend: CMCBackend, tasks: list[ShardTask]) -> None:
        self.results: dict[int, ShardResult] = {}
        self.progress: list[tuple[object, ...]] = []
        self.threads: set[int] = set()
        with backend:
            self.failures: list[ShardFailure] = backend.run(tasks, on_result=self._keep, progress=self._note)

    def _keep(self, shard_id: int, result: Any) -> None:
        assert shard_id not in self.results, f"shard {shard_id} came twice"
        assert result.shard_id == shard_id, f"the result of shard {result.shard_id} was given as that of {shard_id}"
        self.results[shard_id] = result
        self.threads.add(threading.get_ident())

    def _note(self, *event: object) -> None:
        self.progress.append(event)
        self.threads.add(threading.get_ident())


def compare(run: Run, expected: Run, killed: Collection[int] = ()) -> None:
    """Assert that two runs are the same to their callers; arguments as of `check_backend`."""
    assert run.results.keys() == expected.results.keys(), "other shards have results"
    for shard_id, result in run.results.items():
        other = expected.results[shard_id]
        np.testing.assert_array_equal(result.samples, other.samples)
        assert result.stats.keys() == other.stats.keys()
        for name, column in result.stats.items():
            np.testing.assert_array_equal(column, other.stats[name])
        for name in ("rhat", "ess_bulk", "ess_tail", "ebfmi"):
            np.testing.assert_array_equal(getattr(result, name), getattr(other, name))
        for name in ("names", "num_points", "converged", "problems", "divergences", "num_gradients"):
            assert getattr(result, name) == getattr(other, name), name
        assert result.attempts == other.attempts + (shard_id in killed), f"attempts at shard {shard_id}"
    assert run.failures == expected.failures, "other failures"
    assert run.progress == expected.progress, "other progress"
    assert run.threads == {threading.get_ident()}, "results have to be given in the thread of the caller"
