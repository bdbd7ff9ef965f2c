"""Few nodes in place of many, for points of a small part of the parameter space.

Where parameters are nearly known, g over all nodes of all maps is a combination of few functions. Some nodes, as many
as there are functions, then determine g at all others: empirical interpolation (Barrault, Maday, Nguyen and Patera, C.
R. Math. 339, 667, 2004; nodes chosen by pivoted QR: Drmač and Gugercin, SIAM J. Sci. Comput. 38, A631, 2016). Weights
are carried over by the transpose of that interpolation, as pairs were to nodes. A density of condensed nodes is for
steps whose outcome the density of all nodes decides.

Away from the points that the nodes were chosen at, sums over them may be anything, and the density high where that of
all nodes is nothing. So the interpolation is tried at further nodes: where it misses g there by more than at the points
that the nodes were chosen at, the log density is lower.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import qr, solve_triangular

from homodyne.arrays import AnyArray, Leaf, Values
from homodyne.likelihood import posterior
from homodyne.likelihood.nodes import Nodes, moments_of, padded_to
from homodyne.likelihood.posterior import Posterior
from homodyne.physics.compiling import at_points, compiled
from homodyne.physics.model import CorrelationModel, Params

ROWS = 800  # functions g from which nodes are chosen; their squares are as many again
MOST = 640  # nodes, at most
TRIED = 24  # further nodes at which the interpolation is tried
MISSED = 10.0  # limit of the mean square that is missed, of what is missed where few nodes were made
STEP = 128  # their number is a multiple of this, with nodes of no weight
_LIGHTEST = 1e-3  # weight of a node, of the heaviest, below which it counts as that much
_EXACT = 1e-20  # mean square, below which the interpolation does not miss
_AT_ONCE = 50


class Trial(NamedTuple):
    """Further nodes, at which g follows from g at the chosen ones while these stand for all.

    Their places (C,) among the nodes, where they have no weight, the interpolation (C, K) from all nodes, and the mean
    square by which it may miss g and g² before the log density is lower by a half.
    """

    places: Int[Leaf, "tried"]
    interpolation: Float[Leaf, "tried nodes"]
    limit: float


class Condensed(NamedTuple):
    """A posterior on few nodes with a trial of them."""

    posterior: Posterior
    trial: Trial


def log_density(z: Float[jax.Array, "coordinates"], density: Posterior | Condensed) -> Float[jax.Array, ""]:
    """Log density at z (dim,) of a posterior on all nodes, or of one on few."""
    total = posterior.log_prior(z, posterior_of(density)) + log_likelihood(z, density)
    return jnp.where(jnp.isfinite(total), total, -jnp.inf)


def posterior_of(density: Posterior | Condensed) -> Posterior:
    """The posterior itself, on whatever nodes."""
    return density if isinstance(density, Posterior) else density.posterior


def log_likelihood(z: Float[jax.Array, "coordinates"], density: Posterior | Condensed) -> Float[jax.Array, ""]:
    """Marginal log likelihood at z (dim,) of all nodes, or of few."""
    if isinstance(density, Posterior):
        return posterior.log_likelihood(z, density)
    own, trial = density.posterior, density.trial
    g = own.nodes.correlation(own.space.model, own.space.physical(posterior.image(z, own)))
    value = posterior.log_likelihood_from(z, moments_of(g, own.nodes), own)
    missed = _missed(jnp.concatenate([g, g**2]), jnp.asarray(trial.places), jnp.asarray(trial.interpolation))
    total = value - 0.5 * missed / trial.limit
    return jnp.where(jnp.isfinite(total), total, -jnp.inf)


def _missed(functions: Leaf, places: Leaf, interpolation: Leaf) -> Leaf:
    """Mean square by which functions (rows, K) at some places differ from what the interpolation makes of all."""
    return ((functions[:, places] - functions @ interpolation.T) ** 2).mean()


log_densities = at_points(log_density)
"""`log_density` at points (n, dim)."""


@dataclass(frozen=True, eq=False)
class Condensation:
    """Choice of few of the nodes of a grid, and how their weights follow from those of all.

    Attributes
    ----------
    used : (K,) array of int
        Nodes that have a weight.
    chosen : (C + TRIED,) array of int
        Those of them that stand for all, and those at which this is tried.
    interpolation : (C, K) array
        Weights of the chosen nodes from those of all.
    trial : Trial
    """

    used: Int[AnyArray, "used"]
    chosen: Int[AnyArray, "selected"]
    interpolation: Float[AnyArray, "chosen used"]
    trial: Trial

    def few(self, nodes: Nodes) -> Nodes:
        """The chosen nodes with their weights, and further ones of no weight, from nodes of the same grid."""
        t1, t2, *weights = (np.asarray(x)[..., self.used] for x in (nodes.t1, nodes.t2, nodes.weight, nodes.weight_y))
        weight, weight_y = (np.pad(w @ self.interpolation.T, ((0, 0), (0, TRIED))) for w in weights)
        few = nodes._replace(t1=t1[self.chosen], t2=t2[self.chosen], weight=weight, weight_y=weight_y)
        return padded_to(few, self.trial.interpolation.shape[1])


def condensation(
    nodes: Nodes, model: CorrelationModel, params: Mapping[str, Values], tolerance: float, rng: np.random.Generator
) -> Condensation:
    """Nodes that stand for all while parameters stay among those given.

    Parameters
    ----------
    nodes : Nodes
        Of all data.
    model : CorrelationModel
    params : mapping of (P,) arrays
        Points of the parameter space; a few hundred, from wherever the nodes will be used.
    tolerance : float
        Of the functions that are left out, relative to the largest.
    rng : numpy Generator
        Chooses the functions and their combinations.

    Returns
    -------
    Condensation
        At most `MOST` of the nodes given.
    """
    weight = np.asarray(nodes.weight)
    used = np.flatnonzero(np.any(weight != 0.0, axis=0))
    t1, t2 = np.asarray(nodes.t1)[used], np.asarray(nodes.t2)[used]
    scale = np.sqrt(np.abs(weight[:, used]).mean(axis=0))
    scale = np.maximum(scale, np.sqrt(_LIGHTEST) * scale.max())
    g = _functions(nodes, model, params, t1, t2, rng)
    least = min(MOST, len(used)) + 10
    mixed = sum(rng.standard_normal((least, len(g))) @ rows for rows in (g, g**2)) * scale
    _, upper, order = qr(mixed, mode="economic", pivoting=True, overwrite_a=True)
    size = np.abs(np.diag(upper))
    count = min(int(np.count_nonzero(size > tolerance * size[0])), MOST)
    among = np.empty((count, len(used)))  # values at all nodes from those at the chosen ones
    among[:, order[:count]] = np.eye(count)
    among[:, order[count:]] = solve_triangular(upper[:count, :count], upper[:count, count:])
    kept = order[:count]
    further = np.resize(order[count:] if count < len(order) else order, TRIED)
    among *= scale[kept][:, None] / scale
    chosen = np.concatenate([kept, further])
    full = -(-len(chosen) // STEP) * STEP  # few shapes, so that a program serves most data
    places, interpolation = count + np.arange(TRIED), np.zeros((TRIED, full))
    interpolation[:, :count] = among[:, further].T
    missed = _missed(np.concatenate([g, g**2])[:, chosen], places, interpolation[:, : len(chosen)])
    return Condensation(used, chosen, among, Trial(places, interpolation, MISSED * max(missed, _EXACT)))


def _functions(
    nodes: Nodes,
    model: CorrelationModel,
    params: Mapping[str, Values],
    t1: Float[AnyArray, "nodes"],
    t2: Float[AnyArray, "nodes"],
    rng: np.random.Generator,
) -> Float[AnyArray, "functions nodes"]:
    """The correlation g at times (K,), each row at one of the points for one of the maps, (rows, K)."""
    points = len(next(iter(params.values())))
    which, maps = rng.permutation(np.arange(ROWS) % points), np.arange(ROWS) % nodes.num_maps
    some = {name: np.asarray(values)[which] for name, values in params.items()}
    q, phi = (np.asarray(x)[maps] for x in (nodes.q, nodes.phi))
    parts = [slice(k, k + _AT_ONCE) for k in range(0, ROWS, _AT_ONCE)]
    rows = [_rows(model, {name: x[k] for name, x in some.items()}, t1, t2, q[k], phi[k], nodes.gap) for k in parts]
    g = np.concatenate(rows)
    return np.asarray(g[np.isfinite(g).all(axis=1)])


@partial(compiled, static_argnums=(0,))
def _rows(
    model: CorrelationModel, params: Params, t1: jax.Array, t2: jax.Array, q: jax.Array, phi: jax.Array, gap: jax.Array
) -> Float[jax.Array, "functions nodes"]:
    def one(own: Params, q: jax.Array, phi: jax.Array) -> jax.Array:
        return jnp.broadcast_to(model.g(own, t1, t2, q, phi, gap), t1.shape)

    return jax.vmap(one)(params, q, phi)
