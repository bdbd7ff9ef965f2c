"""What the consensus engine asks of a model, and adapters for models written elsewhere.

A `Model` has d coordinates z without bounds, a prior density in them (Jacobian included) and the likelihood of
any part of the data. It holds no data itself: a shard arrives as a mapping of arrays, `load` turns it into what
the likelihood takes.

The subposterior of a shard is ``log L(z | shard) + power * log_prior(z)`` with power 1 / number of shards, so
that the product over the shards is the full posterior (Scott et al., Int. J. Management Science and Engineering
Management 11, 78, 2016).
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from homodyne.arrays import AnyArray, Array
from homodyne.physics.compiling import at_points


class Model(ABC):
    """A posterior that can be split over shards.

    A subclass gives names, prior and likelihood. The other methods have defaults for models whose likelihood is a
    product over observations with every parameter among the coordinates. Instances travel to other processes: they
    must be picklable, and small.
    """

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the d coordinates."""

    @abstractmethod
    def log_prior(self, z: jax.Array) -> jax.Array:
        """Log density of the prior in z (d,), Jacobian included; -inf outside the support."""

    @abstractmethod
    def log_likelihood(self, z: jax.Array, shard: PyTree, power: float) -> jax.Array:
        """Log likelihood of a shard, given by its `argument`, at z (d,); differentiable.

        `power` is the exponent of the prior of whatever the likelihood integrates out; others ignore it.
        """

    def log_subposterior(self, z: jax.Array, shard: PyTree, power: float) -> jax.Array:
        """Log density of a shard, given by its `argument`, times the prior to a power, at z (d,)."""
        return self.log_likelihood(z, shard, power) + power * self.log_prior(z)

    def load(self, arrays: Mapping[str, AnyArray]) -> PyTree:
        """Turn the arrays of a shard into the `shard` that the other methods take: a tree of JAX arrays."""
        return {name: jnp.asarray(value) for name, value in arrays.items()}

    def argument(self, shard: PyTree) -> PyTree:
        """Return what is an argument of compiled programs: the shard, and what else a model wants to be one."""
        return shard

    def num_points(self, shard: PyTree) -> int:
        """Count the observations of a shard: the length of its first array."""
        return len(next(iter(jax.tree.leaves(shard))))

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the D joint coordinates, which a shard reports and which are combined; the first d are `names`."""
        return self.names

    @property
    def joint_groups(self) -> tuple[tuple[int, ...], ...]:
        """Positions of further joint coordinates that are independent of all others given the first d."""
        return ()

    def complete(self, z: Array, shard: PyTree, power: float, rng: np.random.Generator) -> Array:
        """Extend draws of a shard's z (n, d) to joint coordinates (n, D)."""
        return z

    def log_joint(self, x: Array, shard: PyTree, power: float) -> float:
        """Log density of a shard's subposterior at joint coordinates x (D,)."""
        return float(_subposterior_program(self)(jnp.asarray(x), self.argument(shard), power))

    def statistics(self, z: Array, shard: PyTree) -> Array:
        """Everything that a shard tells about the full log likelihood at points z (S, d), as (S, k)."""
        return np.asarray(_likelihood_program(self)(np.asarray(z), self.argument(shard)))[:, None]

    def prior_draws(self, n: int, rng: np.random.Generator) -> Array | None:
        """Draws (n', d) of the prior, n' at most n; None where it cannot be drawn from."""
        return None

    def joined(self, shards: Iterable[PyTree]) -> PyTree | None:
        """One shard with the data of all; None where it would be as large as all, and only statistics are added."""
        return None

    def dealt_anew(self, shards: Sequence[PyTree], rng: np.random.Generator) -> list[PyTree] | None:
        """Shards of the same sizes with the observations dealt out at random; None where they cannot be exchanged."""
        return None

    def merge(self, statistics: Sequence[Array]) -> Array:
        """Statistics of all shards together, (S, k), from those of each."""
        return np.asarray(np.sum(statistics, axis=0))

    def log_priors(self, z: Array) -> Array:
        """Log density of the prior at points z (S, d), (S,)."""
        return np.asarray(_prior_program(self)(np.asarray(z), None))

    def log_density(self, z: Array, merged: Array) -> Array:
        """Full log posterior density at points z (S, d) from merged statistics (S, k)."""
        prior = self.log_priors(z)
        total = prior + merged[:, 0]
        return np.where(np.isfinite(prior), total, -np.inf)

    def finish(self, z: Array, merged: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws of everything that has a name from draws z (chain, draw, d) and statistics there (chain, draw, k)."""
        return {name: z[..., k] for k, name in enumerate(self.names)}


@functools.lru_cache(maxsize=8)
def _likelihood_program(model: Model) -> Callable[[Array, PyTree], Array]:
    """Compiled log likelihood (S,) of points z (S, d) and the argument of a shard."""
    return at_points(lambda z, argument: model.log_likelihood(z, argument, 1.0))


@functools.lru_cache(maxsize=8)
def _subposterior_program(model: Model) -> Callable[[jax.Array, PyTree, float], jax.Array]:
    """Compiled log density of a shard at a point."""
    return jax.jit(model.log_subposterior)


@functools.lru_cache(maxsize=8)
def _prior_program(model: Model) -> Callable[[Array, None], Array]:
    """Compiled log prior (S,) of points z (S, d)."""
    return at_points(lambda z, _: model.log_prior(z))
