"""What every backend has to pass: the tasks, what a caller sees of a run of them, and the comparison of two runs."""

import threading

import jax_shards
import numpy as np

from homodyne.optimization.cmc.store.shards import Manifest, ShardStore
from homodyne.optimization.cmc.types import Initialization, ShardTask
from homodyne.optimization.nuts import NutsSettings

SHARDS = 5
NO_NUMBER, DAMAGED = 1, 3
POINTS = 300


def make_tasks(folder):
    """Five shards in a store, of which two cannot be sampled; the order is not that of their numbers."""
    model = jax_shards.model()
    manifest = Manifest("d", "m", {}, model.names, (POINTS,) * SHARDS, 1, setup={"model": "jax_shards:MODEL"})
    store = ShardStore.create(folder / "store", manifest)
    with store.lock():
        for k in range(SHARDS):
            arrays = jax_shards.data(k, POINTS)
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

    def __init__(self, backend, tasks):
        self.results, self.progress, self.threads = {}, [], set()
        with backend:
            self.failures = backend.run(tasks, on_result=self.keep, progress=self.tell)

    def keep(self, shard_id, result):
        assert shard_id not in self.results
        assert result.shard_id == shard_id
        self.results[shard_id] = result
        self.threads.add(threading.get_ident())

    def tell(self, *event):
        self.progress.append(event)
        self.threads.add(threading.get_ident())


def check(run, expected, killed=()):
    assert run.results.keys() == expected.results.keys()
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
        assert result.attempts == other.attempts + (shard_id in killed)
    assert run.failures == expected.failures
    assert run.progress == expected.progress
    assert run.threads == {threading.get_ident()}
