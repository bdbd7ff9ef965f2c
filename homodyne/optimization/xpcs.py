"""Two-time maps as a model of the consensus engine.

A shard is a `Block`. Contrast and offset of every angle are shared by all shards, so they cannot be integrated out
shard by shard: a shard integrates them under its share of their prior, draws them back, and reports them as joint
coordinates. The full posterior needs no such detour, because moments of the data add up over shards: from their sum
the exact marginal likelihood follows as if all data were in one place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.scipy.stats import norm

from homodyne.core.blocks import Block
from homodyne.core.likelihood import Likelihood, ScalingPrior
from homodyne.core.moments import BlockSlot, Moments
from homodyne.core.parameters import ParameterSpace
from homodyne.core.posterior import scaling_draws
from homodyne.optimization.cmc.model import Model

Array = npt.NDArray[np.float64]

_SIZE = "size"  # name of the array that holds the numbers of frames and of angles
_LAYOUT = tuple(field.name for field in fields(Block) if field.name not in ("num_frames", "num_angles"))


def block_arrays(block: Block) -> dict[str, npt.NDArray[Any]]:
    """Arrays of a block by name, as a shard keeps them."""
    arrays = {name: getattr(block, name) for name in _LAYOUT if getattr(block, name) is not None}
    return {**arrays, _SIZE: np.array([block.num_frames, block.num_angles])}


@dataclass(frozen=True, eq=False)
class XpcsModel(Model):
    """Posterior of the coordinates of a `ParameterSpace` given two-time maps.

    Attributes
    ----------
    space, t, phi, q, gap, scaling, shear_convention
        As in `homodyne.core.likelihood.Likelihood`.
    sigma : (n_phi,) array
        Standard deviation of a point of weight one at every angle.
    """

    space: ParameterSpace
    t: Array
    phi: Array
    q: float
    gap: float | None
    scaling: ScalingPrior
    shear_convention: str
    sigma: Array

    @classmethod
    def of(cls, likelihood: Likelihood, sigma: Array) -> "XpcsModel":
        """Take over everything but the data."""
        names = (field.name for field in fields(cls) if field.name != "sigma")
        return cls(**{name: getattr(likelihood, name) for name in names}, sigma=np.asarray(sigma))

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _likelihood(self) -> Likelihood:
        """Compiled programs of the model; its slot is filled by `argument`."""
        none, start = np.zeros(0, np.int64), np.zeros(1, np.int64)
        nothing = Block(
            num_frames=len(self.t), num_angles=len(self.phi), col_frames=none, angle=none, row=none, start=start,
            first_col=none, columns=None, values=np.zeros(0, np.float32), weights=None, chunks=start,
        )  # fmt: skip
        names = (field.name for field in fields(self) if field.name != "sigma")
        return Likelihood(BlockSlot(nothing), **{name: getattr(self, name) for name in names})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return self.space.coordinate_names

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Coordinates, then offset and contrast of every angle."""
        count = range(len(self.phi))
        return (*self.names, *(f"offset[{k}]" for k in count), *(f"contrast[{k}]" for k in count))

    def log_prior(self, z: jax.Array) -> jax.Array:
        """Log density of the prior in z."""
        return self.space.log_prior(z)

    def load(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Block:
        """Build the block of a shard; its arrays stay where they are."""
        frames, angles = (int(size) for size in arrays[_SIZE])
        layout = {name: np.asarray(arrays[name]) if name in arrays else None for name in _LAYOUT}
        return Block(num_frames=frames, num_angles=angles, **layout)  # type: ignore[arg-type]

    def argument(self, shard: Block) -> tuple[()]:
        """Point the compiled programs at the shard."""
        self._likelihood.slot.block = shard
        return ()

    def num_points(self, shard: Block) -> int:
        """Count the pairs of frames."""
        return shard.num_points

    def log_likelihood(self, z: jax.Array, shard: Any, power: float) -> jax.Array:
        """Marginal log likelihood of the shard that `argument` was called with."""
        return self._likelihood.log_likelihood(z, jnp.asarray(self.sigma), self._tempered(power))

    def _tempered(self, power: float) -> jax.Array:
        """Prior of (offset, contrast) to a power: a normal distribution with less precision."""
        mean, precision = self.scaling.table
        return jnp.asarray(np.stack([mean, power * precision]))

    def complete(self, z: Array, shard: Block, power: float, rng: np.random.Generator) -> Array:
        """Draw offset and contrast of every angle for draws of z (n, d), given this shard."""
        conditional = jax.jit(
            lambda m: self._likelihood.scaling_posterior(m, jnp.asarray(self.sigma), self._tempered(power))
        )
        moments = [self._evaluate(point, shard) for point in z]
        mean, covariance = (np.array(part) for part in zip(*(conditional(m) for m in moments), strict=True))
        pairs = scaling_draws(mean, covariance, rng)
        return np.concatenate([z, pairs[..., 0], pairs[..., 1]], axis=1)

    def _evaluate(self, point: Array, shard: Block) -> Moments:
        self.argument(shard)
        return self._likelihood.evaluate(point, self.sigma).moments

    def log_joint(self, x: Array, shard: Block, power: float) -> float:
        """Log density of coordinates, offsets and contrasts x (d + 2 n_phi,)."""
        d, n = len(self.names), len(self.phi)
        offset, contrast = x[d : d + n], x[d + n :]
        m = self._evaluate(x[:d], shard)
        gap = m.mean - offset
        squares = m.scatter + m.weight * gap**2 - 2 * contrast * (m.yg + gap * m.g) + contrast**2 * m.gg
        likelihood = -0.5 * m.points * jnp.log(2 * jnp.pi * self.sigma**2) + 0.5 * m.log_weights
        likelihood -= 0.5 * squares / self.sigma**2
        (mean, precision), pairs = self.scaling.table, np.stack([offset, contrast], axis=1)
        prior = norm.logpdf(pairs, mean, precision**-0.5).sum() + self.log_prior(jnp.asarray(x[:d]))
        return float(likelihood.sum() + power * prior)

    def statistics(self, z: Array, shard: Block) -> Array:
        """Moments of the shard at points z (S, d), (S, 8 n_phi)."""
        return np.array([np.concatenate(self._evaluate(point, shard)) for point in z])

    def merge(self, statistics: Sequence[Array]) -> Array:
        """Moments of several shards together, from those of each."""
        first = statistics[0]
        table = np.stack(statistics).reshape(len(statistics), len(first), 8, -1)
        parts = Moments(*np.moveaxis(table, 2, 0))
        weight = parts.weight.sum(axis=0)
        mean = np.sum(parts.weight * parts.mean, axis=0) / np.where(weight > 0, weight, 1.0)
        apart = parts.mean - mean
        merged = Moments(
            points=parts.points.sum(axis=0),
            weight=weight,
            mean=mean,
            scatter=np.sum(parts.scatter + parts.weight * apart**2, axis=0),
            log_weights=parts.log_weights.sum(axis=0),
            g=parts.g.sum(axis=0),
            gg=parts.gg.sum(axis=0),
            yg=np.sum(parts.yg + apart * parts.g, axis=0),
        )
        return np.stack(merged, axis=1).reshape(len(first), -1)

    def _moments(self, merged: Array) -> Moments:
        """Merged statistics (..., 8 n_phi) as moments with leading axes."""
        table = merged.reshape(*merged.shape[:-1], 8, -1)
        return Moments(*(jnp.asarray(column) for column in np.moveaxis(table, -2, 0)))

    def log_density(self, z: Array, merged: Array) -> Array:
        """Exact full log posterior at points z (S, d), offset and contrast integrated out."""

        def one(point: jax.Array, m: Moments) -> jax.Array:
            return self.log_prior(point) + self._likelihood.from_moments(m, jnp.asarray(self.sigma)).sum()

        total = np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(z), self._moments(merged)))
        return np.where(np.isfinite(total), total, -np.inf)

    def finish(self, z: Array, merged: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws of free physical parameters, contrast and offset from draws z (chain, draw, d)."""
        conditional = jax.vmap(jax.vmap(lambda m: self._likelihood.scaling_posterior(m, jnp.asarray(self.sigma))))
        mean, covariance = jax.jit(conditional)(self._moments(merged))
        pairs = scaling_draws(np.asarray(mean), np.asarray(covariance), rng)
        physical = jax.jit(jax.vmap(jax.vmap(self.space.physical)))(jnp.asarray(z))
        draws = {name: np.asarray(physical[name]) for name in self.space.free_names}
        return {**draws, "contrast": pairs[..., 1], "offset": pairs[..., 0]}
