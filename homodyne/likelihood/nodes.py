"""Reduced maps: weighted nodes in place of pairs of frames, and the sums over them that the likelihood asks for.

All that the likelihood needs of a map are sums over its pairs of w, w g, w g² and w y g. With interpolation polynomials
ℓ_k of g on cells of the triangle of pairs,

    Σ_pairs w y g(t1, t2) = Σ_nodes g(t1_k, t2_k) Y_k + error,    Y_k = Σ_pairs w y ℓ_k(pair),

where Y_k (and W_k for y = 1) do not depend on parameters: anterpolation, the transpose of interpolation, as in fast
multipole methods (Greengard and Rokhlin, J. Comput. Phys. 73, 325, 1987). Nodes may also simply be pairs; then the sums
are exact. `Nodes` of the same grid and centre add up: over shards, over machines, over frames that have just arrived.
"""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from homodyne.arrays import Array, Leaf
from homodyne.physics.compiling import Numbers, namespace
from homodyne.physics.model import CorrelationModel, Params

LARGEST = 100.0
"""Correlation at a node above which a model is excluded: what nodes say of it is wrong.

Between frames g is 1 at most, but nodes may lie behind the last frame, where a rate that falls steeply is negative.
"""

BEYOND, ROUNDING = 1e-3, 1e-12
"""Share of the scatter by which a model may explain more than all of it, and rounding of a sum of w g²."""

SQUARED_OUT = 1e-280
"""Square of a sum of w y g, below which the squares of g have no digits any more: nothing decays."""


class Nodes(NamedTuple):
    """Maps reduced to nodes that they share; a JAX tree.

    Attributes
    ----------
    t1, t2 : (K,) arrays
        Ages of the nodes in s, t1 <= t2; weights are 0 at those that fill up to K.
    weight, weight_y : (n_maps, K) arrays
        Sums of w and of w (y - center) over pairs, by interpolation polynomials; may be negative.
    sums : (n_maps, 5) array
        Number of pairs, sums of w, of w (y - center), of w (y - center)² and of log w.
    center : (n_maps,) array
        A value near the mean of every map, which keeps digits.
    q, phi : (n_maps,) arrays
        1/Å and degrees.
    gap : float
        Å; NaN where it is unknown.
    """

    t1: Float[Leaf, "nodes"]
    t2: Float[Leaf, "nodes"]
    weight: Float[Leaf, "maps nodes"]
    weight_y: Float[Leaf, "maps nodes"]
    sums: Float[Leaf, "maps 5"]
    center: Float[Leaf, "maps"]
    q: Float[Leaf, "maps"]
    phi: Float[Leaf, "maps"]
    gap: Float[Leaf, ""]

    @classmethod
    def none(cls, q: Float[Numbers, "maps"], phi: Float[Numbers, "maps"]) -> "Nodes":
        """No data of maps at q and phi (n_maps,): for what asks nothing of nodes, so that one program serves any."""
        n = len(q)
        empty = np.zeros((n, 0))
        return cls(np.zeros(0), np.zeros(0), empty, empty, np.zeros((n, 5)), np.zeros(n), q, phi, np.nan)

    @property
    def num_maps(self) -> int:
        """Number of maps."""
        return int(np.shape(self.weight)[0])

    @property
    def num_points(self) -> int:
        """Number of pairs with weight over all maps."""
        return int(np.asarray(self.sums)[:, 0].sum())

    def correlation(self, model: CorrelationModel, params: Params) -> Float[jax.Array, "maps nodes"]:
        """Correlation g at the nodes of every map, (n_maps, K)."""
        q, phi = jnp.asarray(self.q)[:, None], jnp.asarray(self.phi)[:, None]
        g = model.g(params, jnp.asarray(self.t1), jnp.asarray(self.t2), q, phi, self.gap)
        g = jnp.where(g < LARGEST, g, jnp.nan)
        return jnp.broadcast_to(g, (*jnp.shape(g)[:-2], *self.weight.shape))


class Moments(NamedTuple):
    """Everything that the likelihood needs of maps and model, each of shape (n_maps,).

    Number of pairs, sum of weights, weighted mean of the data, their weighted scatter about it, sum of log weights;
    sums of ``w g``, ``w g²`` and ``w (y - mean) g``, which alone depend on the model.
    """

    points: Float[Leaf, "maps"]
    weight: Float[Leaf, "maps"]
    mean: Float[Leaf, "maps"]
    scatter: Float[Leaf, "maps"]
    log_weights: Float[Leaf, "maps"]
    g: Float[Leaf, "maps"]
    gg: Float[Leaf, "maps"]
    yg: Float[Leaf, "maps"]


def moments(model: CorrelationModel, params: Params, nodes: Nodes) -> Moments:
    """Moments of reduced maps under a model."""
    return moments_of(nodes.correlation(model, params), nodes)


def moments_of(g: Float[jax.Array, "maps nodes"], nodes: Nodes) -> Moments:
    """Moments of reduced maps for a correlation g (n_maps, K) at their nodes."""
    weighted = nodes.weight * g
    return moments_from(
        nodes.sums, nodes.center, weighted.sum(-1), (weighted * g).sum(-1), (nodes.weight_y * g).sum(-1)
    )


def moments_from(sums: Numbers, center: Numbers, g: Numbers, gg: Numbers, yg: Numbers) -> Moments:
    """Moments, of NumPy or JAX, from sums over the data, (n_maps, 5), and sums of w g, w g², w (y - center) g.

    NaN where no model has them, because it varies within cells: one that would leave less than nothing of the data.
    """
    xp = namespace(sums, g)
    points, weight, first, second, log_weights = xp.moveaxis(xp.asarray(sums), -1, 0)
    whole = xp.where(weight > 0, weight, 1.0)
    off, spread = first / whole, gg - g * g / whole
    scatter, along = second - off * first, yg - off * g
    possible = along * along <= (1.0 + BEYOND) * scatter * (spread + ROUNDING * gg) + SQUARED_OUT
    return Moments(points, weight, center + off, scatter, log_weights, xp.where(possible, g, xp.nan), gg, along)


def pair_totals(
    count: int, centred: Float[Array, "*pairs"], weight: Float[Array, "*pairs"] | None
) -> Float[Array, "5"]:
    """Sums over pairs as in `Nodes.sums`, (5,), from their number, y - center and weights, both 0 where none are."""
    if weight is None:
        return np.array([count, count, float(centred.sum()), float(np.vdot(centred, centred)), 0.0])
    weighted = weight * centred
    logs = np.log(weight[weight > 0]).sum()
    return np.array([count, weight.sum(), weighted.sum(), np.vdot(weighted, centred), logs])


def add(parts: Iterable[Nodes]) -> Nodes:
    """Nodes of parts of the data, with the same grid and centre, together."""

    def two(a: Nodes, b: Nodes) -> Nodes:
        if not (np.array_equal(a.t1, b.t1) and np.array_equal(a.t2, b.t2) and np.array_equal(a.center, b.center)):
            raise ValueError("only nodes of one grid and one centre can be added")
        return a._replace(weight=a.weight + b.weight, weight_y=a.weight_y + b.weight_y, sums=a.sums + b.sums)

    return reduce(two, parts)


def padded_size(count: int) -> int:
    """Least number of nodes at or above `count` that is a power of two, from 4096 on an eighth of one: few shapes."""
    power = 1 << max(count - 1, 255).bit_length()
    step = power if power <= 4096 else power // 16
    return -(-count // step) * step


def padded(nodes: Nodes, least: int = 0) -> Nodes:
    """Nodes with further ones of no weight, up to `padded_size` of their number or of `least`."""
    return padded_to(nodes, padded_size(max(len(nodes.t1), least)))


def padded_to(nodes: Nodes, count: int) -> Nodes:
    """Nodes with further ones of no weight, `count` in all."""
    more = count - len(nodes.t1)
    wide, long = ((0, 0), (0, more)), (0, more)
    return nodes._replace(
        t1=np.pad(nodes.t1, long, mode="edge"),
        t2=np.pad(nodes.t2, long, mode="edge"),
        weight=np.pad(nodes.weight, wide),
        weight_y=np.pad(nodes.weight_y, wide),
    )
