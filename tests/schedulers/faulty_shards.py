"""A model that jobs can import, and work on its shards that goes wrong where a file in the store says so."""

import os
import signal
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import homodyne.physics  # noqa: F401  makes JAX compute in float64
from homodyne.errors import InputError
from homodyne.optimization.cmc.models.adapters import LogDensityModel
from homodyne.optimization.cmc.worker import run_shard


def log_prior(z):
    return -0.5 * jnp.sum(z**2) / 100.0


def log_likelihood(z, data):
    return -0.5 * jnp.sum((data["y"] - z[0] - z[1] * data["x"]) ** 2)


MODEL = LogDensityModel(("level", "slope"), log_prior, log_likelihood)
REFERENCE = "faulty_shards:MODEL"


def data(count=400):
    rng = np.random.default_rng(0)
    x = rng.normal(size=count)
    return {"x": x, "y": 1.0 + 0.5 * x + rng.normal(size=count)}


def run(task):
    """Suffer what the file says, once unless it says always, then do the work."""
    store = task.data.parent.parent
    file = store / f"fault-{task.shard_id}"
    if file.exists():
        fault = file.read_text()
        if not fault.startswith("always "):
            file.unlink()
        FAULTS[fault.removeprefix("always ")](store, task)
    return run_shard(task)


def leave(store, task):
    os._exit(7)


def refuse(store, task):
    raise InputError("the model has no parameters")


def die(store, task):
    os.kill(os.getpid(), signal.SIGKILL)


def hang(store, task):
    (store / f"hangs-{task.shard_id}").touch()
    time.sleep(600)


def wait(store, task):
    """Wait until a file is there."""
    (store / f"hangs-{task.shard_id}").touch()
    while not (store / "go").exists():
        time.sleep(0.05)


def wait_and_leave(store, task):
    wait(store, task)
    os._exit(7)


def eat(store, task):
    """Use more memory than the job was given."""
    blocks: list[np.ndarray] = []
    while len(blocks) < 2000:
        blocks.append(np.ones(2**17))
    os._exit(1)


def spoil(store, task):
    """Leave a result that is damaged."""
    (store / "results" / f"{task.shard_id:04d}.npz").write_bytes(b"nonsense" * 100)
    os._exit(0)


FAULTS = {
    "refuse": refuse,
    "leave": leave,
    "die": die,
    "hang": hang,
    "wait": wait,
    "wait and leave": wait_and_leave,
    "eat": eat,
    "spoil": spoil,
}
HERE = Path(__file__).parent
