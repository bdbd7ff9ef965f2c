"""Coordinates without funnels for models whose prior makes some values normal given all others.

Given the others, the log prior of such a block of b coordinates is quadratic, with a precision P and a mean that depend
on the others: effects whose width is a parameter, random walks, fields with a covariance of parameters. Where the
precision changes with the others the posterior is a funnel (Papaspiliopoulos, Roberts and Skoeld, Statistical Science
22, 59, 2007). `Deviations` has, in place of the block, its deviations from the mean it would have given the others, in
units of the root of the covariance, if the likelihood of the block were normal with an information F: deviations from
the prior where the data tell nothing, values where they tell all, and everything between (the same reference, section
on partial non-centring; Gorinova, Moore and Hoffman, ICML 2020).

The block is found by comparing curvatures of the log prior, so that it does not matter how a model is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import PyTree

from homodyne.arguments import Json
from homodyne.arrays import Matrix, Points, Vector
from homodyne.certificate.density import LogDensity
from homodyne.certificate.mode import Mode
from homodyne.optimization.cmc.models.splitting import ArrayModel

MOST = 100  # coordinates of models that are looked at: their Hessians have as many numbers, cubed
_LOOKS = 4  # points around which curvatures are compared
_SAME = 1e-8  # difference of two curvatures, over the largest, that is none
_ROUNDING = 1e-14  # relative, of the diagonal of a precision
_FLOOR = 1e-8  # information of a block where nothing else makes it proper


@dataclass(frozen=True, eq=False)
class Block:
    """Coordinates that are normal in the prior given the others, and what the likelihood tells of them.

    Attributes
    ----------
    index : (b,) array of int
        Positions among the coordinates.
    information : (b, b) array
        F, minus the Hessian of a log likelihood that is quadratic in the block.
    slope : (b,) array
        Its gradient where the block is zero.
    """

    index: npt.NDArray[np.int64]
    information: Matrix
    slope: Vector

    def record(self) -> dict[str, Json]:
        """The block as plain values."""
        return {name: getattr(self, name).tolist() for name in ("index", "information", "slope")}

    @classmethod
    def of_record(cls, record: Mapping[str, Json]) -> "Block":
        """The block that `record` has written."""
        index, information, slope = (record[name] for name in ("index", "information", "slope"))
        return cls(np.array(index, dtype=np.int64), np.array(information, dtype=float), np.array(slope, dtype=float))


class Deviations(ArrayModel):
    """A model with deviations in place of the values of a block.

    Parameters
    ----------
    model
        Any model of arrays.
    block
        Coordinates that are replaced. The density is exact whatever the information is.
    """

    def __init__(self, model: ArrayModel, block: Block) -> None:
        self.model, self.block, self._names = model, block, model.names

    def log_prior(self, z: jax.Array) -> jax.Array:
        """Log density of the prior in z (d,), Jacobian included."""
        values, root = self._values(z)
        return self.model.log_prior(values) - jnp.sum(jnp.log(jnp.diag(root)))

    def log_likelihood(self, z: jax.Array, shard: PyTree, power: float) -> jax.Array:
        """Log likelihood of a shard at z (d,)."""
        return self.model.log_likelihood(self._values(z)[0], shard, power)

    def constrain(self, z: jax.Array) -> dict[str, jax.Array]:
        """Return what has a name at z (d,)."""
        return self.model.constrain(self._values(z)[0])

    def values(self, z: Points) -> Points:
        """Coordinates of the model (n, d) at points z (n, d)."""
        return np.asarray(jax.jit(jax.vmap(lambda one: self._values(one)[0]))(z))

    def informed(self, log_likelihood: LogDensity, z: Vector) -> "Deviations":
        """Deviations with what a likelihood tells of the block at a point z (d,); these where that has no value.

        The log likelihood is one of coordinates of the model (d,).
        """
        index, values = self.block.index, self.values(z[None])[0]

        def of_block(block: jax.Array) -> jax.Array:
            return log_likelihood(jnp.asarray(values).at[index].set(block))

        slope, hessian = (np.asarray(jax.jit(f(of_block))(values[index])) for f in (jax.grad, jax.hessian))
        if not (np.isfinite(slope).all() and np.isfinite(hessian).all()):
            return self
        sizes, vectors = np.linalg.eigh(-hessian)
        told = (vectors * np.fmax(sizes, 0.0)) @ vectors.T  # no information is negative
        block = Block(index, told + _FLOOR * np.eye(len(index)), slope + told @ values[index])
        return _proper(Deviations(self.model, block)) or self

    def taken_over(self, modes: Sequence[Mode], before: "Deviations") -> list[Mode]:
        """Modes in other deviations of the same model as points of these: starts for climbs to those of these."""
        there = jax.jit(lambda z: self._deviations(before._values(z)[0]))
        slopes, found = jax.jit(jax.jacfwd(there)), []
        for mode in modes:
            turn = np.linalg.inv(np.asarray(slopes(mode.point)))
            found.append(replace(mode, point=np.asarray(there(mode.point)), precision=turn.T @ mode.precision @ turn))
        return found

    def _deviations(self, values: jax.Array) -> jax.Array:
        """Coordinates z (d,) of coordinates of the model (d,)."""
        mean, root = self._conditional(values)
        return values.at[self.block.index].set(root.T @ (values[self.block.index] - mean))

    def _values(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Coordinates of the model (d,) at z (d,), and the lower root (b, b) of the precision of the block."""
        mean, root = self._conditional(z)
        away = jax.scipy.linalg.solve_triangular(root, z[self.block.index], lower=True, trans=1)
        return z.at[self.block.index].set(mean + away), root

    def _conditional(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean (b,) of the block given the others in z (d,), and the lower root (b, b) of its precision."""
        index = self.block.index

        def prior(values: jax.Array) -> jax.Array:
            return self.model.log_prior(z.at[index].set(values))

        at = jax.vmap(jax.grad(prior))(jnp.eye(len(index) + 1, len(index), -1))  # at zero, and one off along each axis
        precision = self.block.information + at[0] - at[1:]
        root = jnp.linalg.cholesky(precision + _ROUNDING * jnp.diag(jnp.diag(precision)))
        slope = at[0] + self.block.slope
        return jax.scipy.linalg.cho_solve((root, True), slope), root


def with_deviations(model: ArrayModel) -> Deviations | None:
    """The model with deviations from its prior, or None where they would be no better or have no proper values."""
    index = conditionally_normal(model)
    b = len(index)
    return _proper(Deviations(model, Block(index, _FLOOR * np.eye(b), np.zeros(b)))) if b else None


def conditionally_normal(model: ArrayModel) -> npt.NDArray[np.int64]:
    """Coordinates, (b,), that are normal in the prior given the others, with a precision that depends on the others.

    None of a model with more than `MOST` coordinates.
    """
    d = len(model.names)
    nothing = np.zeros(0, dtype=np.int64)
    if d > MOST:
        return nothing
    steps = np.eye(d + 1, d, -1)  # none, and one along each axis
    points = np.random.default_rng(0).standard_normal((_LOOKS, 1, d)) + steps
    curvatures = jax.jit(lambda z: jax.lax.map(jax.hessian(model.log_prior), z, batch_size=64))
    curvature = np.asarray(curvatures(points.reshape(-1, d))).reshape(_LOOKS, d + 1, d, d)
    change = np.abs(curvature[:, 1:] - curvature[:, :1]).max(axis=0)
    if not np.isfinite(change).all():
        return nothing
    changes = change > _SAME * np.abs(curvature).max()
    own = np.arange(d)
    index = own[~changes[own, own, own]]
    while index.size and (met := changes[np.ix_(index, index, index)].sum(axis=(1, 2))).any():
        index = np.delete(index, np.argmax(met))
    others = np.setdiff1d(own, index)
    found: npt.NDArray[np.int64] = index[changes[np.ix_(others, index, index)].any(axis=(0, 2))]
    return found


def _proper(model: Deviations) -> Deviations | None:
    """A model whose coordinates are numbers wherever they are tried."""
    points = 2.0 * np.random.default_rng(1).standard_normal((64, len(model.names)))
    return model if np.isfinite(model.values(points)).all() else None
