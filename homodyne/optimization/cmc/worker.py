"""What a worker does with a task, wherever it runs: sample a shard, or evaluate the model on it.

`run_shard` is the only entry. A process keeps the compiled programs of the model that it met last, so that one
compilation serves all shards of the same shape.
"""

import functools
import pickle
import threading
import time
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

import homodyne.physics  # noqa: F401  makes JAX compute in float64
from homodyne.arrays import AnyArray, Array
from homodyne.certificate.chains import diagnose
from homodyne.errors import ConvergenceError
from homodyne.optimization.cmc.models.model import Model
from homodyne.optimization.cmc.store.shards import read_arrays
from homodyne.optimization.cmc.types import CHEAPEST, ShardResult, ShardTask
from homodyne.optimization.cmc.weighted_shard import programs, weighted_draws
from homodyne.optimization.nuts import Frame, NutsSettings, sample
from homodyne.threads import one_blas_thread

MIN_ESS = 100.0  # effective draws of a shard, at least: its estimate errs by a factor of three once in a thousand


@one_blas_thread()
def run_shard(task: ShardTask) -> ShardResult | Array:
    """Sample the shard of a task, or return the model's statistics (S, k) at its points.

    The answer depends on the task only, not on where or after what it runs: a shard whose worker was lost gets the
    same draws as one that was not. Only what the sampler itself has spoilt (`caution`) is done otherwise.

    Raises
    ------
    ConvergenceError
        No chain finds a start, or a chain is stuck or not finite: worth another attempt.
    InputError
        The shard's files, or the model, cannot be used.
    """
    programs = _programs_for(task)
    shard = programs.model.load(read_arrays(task.data))
    if task.points is not None:
        return programs.model.statistics(task.points, shard)
    return programs.sample(task, shard)


class _Programs:
    """A model with its compiled sampler."""

    def __init__(self, model: Model, settings: NutsSettings, power: float, caution: int) -> None:
        def log_density(z: jax.Array, argument: PyTree) -> jax.Array:
            data, center, root = argument
            away = root @ (z - center)
            return jnp.asarray(model.log_subposterior(z, data, power) - 0.5 * away @ away)

        self.model, self.power, self.log_density = model, power, log_density
        self.settings, self.weighted = _cautious(settings, caution), programs(log_density)

    def sample(self, task: ShardTask, shard: object) -> ShardResult:
        began, model = time.perf_counter(), self.model
        init, rng = task.init, np.random.default_rng([task.seed, task.shard_id])
        root = np.sqrt(init.cavity) * np.linalg.inv(np.linalg.cholesky(init.covariance))
        argument = model.argument(shard), init.center, root
        covariance = init.covariance / (1.0 + init.cavity)
        drawn = self._draw(task, argument, covariance)
        flat = drawn.draws.reshape(-1, len(model.names))
        x = model.complete(flat, shard, self.power, rng).reshape(*drawn.draws.shape[:2], -1)
        judged = diagnose(x, drawn.stats, model.joint_names, min_ess=MIN_ESS)
        stuck = [chain for chain, steps in enumerate(np.ptp(drawn.draws, axis=1).min(axis=1)) if not steps > 0]
        if stuck or not np.isfinite(x).all():
            raise ConvergenceError(f"shard {task.shard_id}: {'; '.join(judged.problems[:3])}")
        return ShardResult(
            shard_id=task.shard_id,
            samples=x,
            names=model.joint_names,
            stats=drawn.stats,
            num_points=model.num_points(shard),
            converged=judged.converged,
            problems=judged.problems,
            rhat=judged.rhat,
            ess_bulk=np.minimum(judged.ess_bulk, drawn.worth),
            ess_tail=np.minimum(judged.ess_tail, drawn.worth),
            divergences=judged.divergences,
            ebfmi=judged.ebfmi,
            num_gradients=drawn.num_evaluations,
            attempts=task.attempt + 1,
            seconds=time.perf_counter() - began,
        )

    def _draw(self, task: ShardTask, argument: object, covariance: Array) -> "_Drawn":
        """Draws by weighted points where these do, and the task leaves it open; by Markov chains otherwise."""
        settings, init = self.settings, task.init
        if task.operation == CHEAPEST and task.caution == 0 and init.method != "identity":
            n, rng = settings.num_chains * settings.num_samples, np.random.default_rng([task.seed, task.shard_id, 1])
            found = weighted_draws(self.weighted, argument, init.center, covariance, n, rng)
            if found is not None and found.ess >= MIN_ESS:
                shape = settings.num_chains, settings.num_samples
                return _Drawn(
                    found.draws.reshape(*shape, -1), {"lp": found.lp.reshape(shape)}, found.num_evaluations, found.ess
                )
        key = jax.random.fold_in(jax.random.key(task.seed), task.shard_id)
        drawn = sample(self.log_density, argument, Frame(init.center, covariance), settings, key)
        return _Drawn(drawn.draws, drawn.stats, drawn.num_gradients)


class _Drawn(NamedTuple):
    """Draws (chain, draw, d), what is known of them (chain, draw), evaluations, and what they are worth at most."""

    draws: Array
    stats: dict[str, AnyArray]
    num_evaluations: int
    worth: float = np.inf


def _cautious(settings: NutsSettings, caution: int) -> NutsSettings:
    """Smaller steps, a longer warm-up and nearer starts after every attempt that the sampler has spoilt."""
    if caution == 0:
        return settings
    accept = 1.0 - (1.0 - settings.target_accept_prob) / 2.0**caution
    warmup = settings.num_warmup * 2**caution
    spread = settings.init_spread / 2**caution
    return replace(settings, target_accept_prob=accept, num_warmup=warmup, init_spread=spread)


def _programs_for(task: ShardTask) -> _Programs:
    """Programs for a task. A model that was made inside a function cannot be pickled; it never leaves its process."""
    parts = task.model, task.settings, task.power, task.caution
    try:
        content = pickle.dumps(parts)
    except (pickle.PicklingError, AttributeError, TypeError):
        return _own_programs(*parts)
    with _making:  # threads share what is compiled
        return _programs(content)


_making = threading.Lock()
_own_programs = functools.lru_cache(maxsize=2)(_Programs)


@functools.lru_cache(maxsize=2)
def _programs(content: bytes) -> _Programs:
    """Programs by content: every task arrives with a copy of the model.

    The bytes come from `run_shard` in this process, not from a file.
    """
    return _Programs(*pickle.loads(content))
