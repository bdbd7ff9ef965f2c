"""Direct sums over all pairs of frames: what reduced data are checked against in every fit.

`direct_moments` evaluates the model at every pair; `reduction_errors` compares the log density that follows with that
of the nodes. A constant difference drops out of a posterior; the spread of the difference over points is what counts.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from homodyne.arrays import AnyArray, PerMap, Points, Values
from homodyne.likelihood.maps import Maps
from homodyne.likelihood.nodes import Moments, moments_from, pair_totals
from homodyne.likelihood.posterior import Posterior, evaluate_from, log_densities, parameters_at_images
from homodyne.physics.compiling import compiled
from homodyne.physics.model import CorrelationModel, Params
from homodyne.threads import in_threads

LIMIT = 0.05
"""Spread (standard deviation) of the error of the log density over the draws, at most."""

_Arrays = tuple[jax.Array, ...]

_ROWS, _LAGS = 64, 256  # of a rectangle of pairs


def direct_moments(
    model: CorrelationModel,
    params: dict[str, Values],
    maps: Maps,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 2,
) -> Moments:
    """Moments of all pairs at points of the parameter space, fields of shape (P, n_maps); see `direct_sums`."""
    return moments_of_sums(maps.center, *direct_sums(model, params, maps, progress, workers))


def moments_of_sums(
    center: PerMap, sums: Float[AnyArray, "maps 5"], table: Float[AnyArray, "points maps 3"]
) -> Moments:
    """Moments, fields of shape (P, n_maps), from the centre of every map and what `direct_sums` returns."""
    found = moments_from(sums, center, *np.moveaxis(table, 2, 0))
    return Moments(*(np.broadcast_to(x, table.shape[:2]) for x in found))


def direct_sums(
    model: CorrelationModel,
    params: dict[str, Values],
    maps: Maps,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 2,
) -> tuple[Float[AnyArray, "maps 5"], Float[AnyArray, "points maps 3"]]:
    """Sums over all pairs of the data, (n_maps, 5) as of `Nodes`, and of w g, w g² and w y g, (P, n_maps, 3).

    Parameters
    ----------
    model : CorrelationModel
    params : dict of (P,) arrays
    maps : Maps
    progress : callable
        Called with (rectangles of pairs done, all).
    workers : int
        Threads.
    """
    n, count = maps.num_frames, maps.num_maps
    lag_limit = min(_LAGS, max(n - 1, 1))
    parts = list(maps.rectangles(_ROWS, lag_limit))
    waves = np.asarray(maps.q), np.asarray(maps.phi), maps.gap_or_nan
    center = maps.center

    def one(part: tuple[slice, slice]) -> tuple[AnyArray, AnyArray]:
        rows, lags = part
        inside = slice(0, rows.stop - rows.start), slice(0, lags.stop - lags.start)
        y, w = np.zeros((count, _ROWS, lag_limit)), np.zeros((count, _ROWS, lag_limit))
        sums = np.zeros((count, 5))
        for k in range(count):
            values, present = maps.lagged(k, rows, lags)
            weight = maps.lagged_weights(k, rows, lags, present)
            w[k][inside] = present if weight is None else weight
            np.subtract(values, center[k], out=y[k][inside], where=present, dtype=np.float64)
            sums[k] = pair_totals(int(np.count_nonzero(present)), y[k], None if weight is None else w[k])
            if weight is not None:
                y[k] *= w[k]
        i = np.minimum(rows.start + np.arange(_ROWS), n - 1)
        j = np.minimum(i[:, None] + lags.start + np.arange(lag_limit), n - 1)
        return np.asarray(_sums(model, params, (maps.t[i][:, None], maps.t[j]), w, y, waves)), sums

    found = in_threads(one, parts, workers, lambda done: progress(done, len(parts)))
    tables, sums = zip(*found, strict=True)
    return np.sum(sums, axis=0), np.sum(tables, axis=0)


def reduction_errors(
    points: Points,
    posterior: Posterior,
    maps: Maps,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 2,
) -> Values:
    """Log density of nodes minus that of all pairs at points (n, dim), their mean taken out.

    Parameters
    ----------
    points : (n, dim) array
        Inside the support.
    posterior : Posterior
        With the nodes of all of `maps`.
    maps, progress, workers
        As in `direct_moments`.
    """
    m = direct_moments(posterior.space.model, parameters_at_images(points, posterior), maps, progress, workers)
    return errors_against(m, points, posterior)


def errors_against(exact: Moments, points: Points, posterior: Posterior) -> Values:
    """Log density of nodes at points (n, dim) minus that from moments of all pairs, their mean taken out."""
    error = log_densities(points, posterior) - evaluate_from(points, exact, posterior).log_density
    with np.errstate(invalid="ignore"):  # not finite where one of them is zero
        return np.asarray(error - error.mean())


@partial(compiled, static_argnums=(0,))
def _sums(
    model: CorrelationModel, params: Params, times: _Arrays, w: jax.Array, y: jax.Array, waves: _Arrays
) -> Float[jax.Array, "points maps 3"]:
    """Sums of w g, w g² and w y g of every map, (P, n_maps, 3), over one rectangle of pairs."""
    (t1, t2), gap = times, waves[2]

    def at(one: Params) -> jax.Array:
        def sums(place: _Arrays) -> jax.Array:
            w, y, q, phi = place
            g = jnp.broadcast_to(model.g(one, t1, t2, q, phi, gap), w.shape)
            weighted = w * g
            return jnp.stack([weighted.sum(), (weighted * g).sum(), (y * g).sum()])

        return jnp.asarray(jax.lax.map(sums, (w, y, *waves[:2])))  # arrays of one map stay in the processor's cache

    return jnp.asarray(jax.lax.map(at, params))
