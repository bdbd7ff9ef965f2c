"""A regression whose shards are large enough for XLA to use all its threads, and the plainest way to sample one."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np

import homodyne.physics  # noqa: F401  makes JAX compute in float64
from homodyne.optimization.cmc.models.adapters import LogDensityModel
from homodyne.optimization.cmc.store.shards import read_arrays
from homodyne.optimization.cmc.worker import run_shard
from homodyne.optimization.nuts import sample_posterior

KILLED = 2
NAMES = ("slope", "log_sigma")


def log_prior(z):
    return -0.5 * jnp.sum(z**2)


def log_likelihood(z, data):
    residual = (data["y"] - z[0] * data["x"]) * jnp.exp(-z[1])
    return -0.5 * jnp.sum(residual**2) - data["y"].shape[0] * z[1]


def model():
    return LogDensityModel(NAMES, log_prior, log_likelihood)


MODEL = model()


def data(shard_id, count=100_000):
    rng = np.random.default_rng(shard_id)
    x = rng.normal(size=count)
    return {"x": x, "y": 0.5 * x + rng.normal(size=count)}


def sample(task):
    shard = task.model.load(read_arrays(task.data))

    def log_density(z):
        return task.model.log_likelihood(z, shard, task.power) + task.power * task.model.log_prior(z)

    key = jax.random.fold_in(jax.random.key(task.seed), task.shard_id)
    return sample_posterior(log_density, task.init.center, task.init.covariance, task.settings, key).draws


def run_killed_once(task):
    """Do what a worker does, but be killed at the first attempt at one shard."""
    if task.shard_id == KILLED and task.attempt == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return run_shard(task)
