"""A regression for tests of backends, and the plainest way to sample a shard of it.

Its shards may be so large that XLA uses all its threads, which must not change a draw.
"""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

import homodyne.physics  # noqa: F401  makes JAX compute in float64
from homodyne.arrays import Array
from homodyne.optimization.cmc.models.adapters import LogDensityModel
from homodyne.optimization.cmc.store.shards import read_arrays
from homodyne.optimization.cmc.types import ShardResult, ShardTask
from homodyne.optimization.cmc.worker import run_shard
from homodyne.optimization.nuts import sample_posterior

KILLED = 2
"""Shard of `run_killed_once`."""

NAMES = ("slope", "log_sigma")


def log_prior(z: jax.Array) -> jax.Array:
    """Standard normal in slope and logarithm of sigma."""
    return -0.5 * jnp.sum(z**2)


def log_likelihood(z: jax.Array, data: PyTree) -> jax.Array:
    """Log likelihood of a line through the origin with normal noise, without its constant."""
    residual = (data["y"] - z[0] * data["x"]) * jnp.exp(-z[1])
    return jnp.asarray(-0.5 * jnp.sum(residual**2) - data["y"].shape[0] * z[1])


def model() -> LogDensityModel:
    """The regression as a model of the consensus engine."""
    return LogDensityModel(NAMES, log_prior, log_likelihood)


MODEL = model()


def data(shard_id: int, count: int = 100_000) -> dict[str, Array]:
    """Data ``x`` and ``y`` (count,) of a shard, of slope 0.5 and sigma 1."""
    rng = np.random.default_rng(shard_id)
    x = rng.normal(size=count)
    y: Array = 0.5 * x + rng.normal(size=count)
    return {"x": x, "y": y}


def sample(task: ShardTask) -> Array:
    """Draws (chain, draw, d) of a shard by Markov chains alone."""
    shard = task.model.load(read_arrays(task.data))

    def log_density(z: jax.Array) -> jax.Array:
        return MODEL.log_likelihood(z, shard, task.power) + task.power * MODEL.log_prior(z)

    key = jax.random.fold_in(jax.random.key(task.seed), task.shard_id)
    draws: Array = sample_posterior(log_density, task.init.center, task.init.covariance, task.settings, key).draws
    return draws


def run_killed_once(task: ShardTask) -> ShardResult | Array:
    """Do what a worker does, but be killed at the first attempt at one shard."""
    if task.shard_id == KILLED and task.attempt == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return run_shard(task)
