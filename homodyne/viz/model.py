"""Which draws and which maps of a result figures show, and in units of which noise."""

import numpy as np
from numpy.typing import NDArray

from homodyne.arrays import Array, evenly
from homodyne.errors import InputError
from homodyne.result.record import MCMCResult

Indices = NDArray[np.int64]

MAX_DRAWS = 200
"""Draws behind a band; the 5 % and 95 % points of 200 draws are known to about a tenth of the band."""


def thinned(result: MCMCResult) -> Indices:
    """Positions of at most `MAX_DRAWS` draws spread evenly over all chains, which follow one another."""
    return evenly(result.num_chains * result.num_draws, MAX_DRAWS)


def best_draw(result: MCMCResult) -> int:
    """Position of the draw with the highest log posterior; without ``lp``, of the one nearest to the mean."""
    if "lp" in result.sample_stats:
        return int(np.argmax(np.nan_to_num(result.sample_stats["lp"], nan=-np.inf)))
    draws = result.samples_params
    spread = draws.std(axis=0)
    scaled = (draws - draws.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return int(np.argmin(np.sum(scaled**2, axis=1)))


def noise_sd(result: MCMCResult) -> Array:
    """Noise sd of c2 per map (n_maps,): the one used, or the posterior median where it was sampled."""
    if result.sigma is not None:
        return np.asarray(result.sigma, dtype=np.float64)
    if "sigma" in result.samples:
        return np.asarray(np.median(result.samples["sigma"], axis=(0, 1)))
    raise InputError("the result holds no noise standard deviation; residuals cannot be drawn in its units")


def spread_over(values: Array, limit: int) -> list[int]:
    """Positions of at most ``limit`` values spread evenly over their order."""
    order = np.argsort(values, kind="stable")
    chosen = np.linspace(0, order.size - 1, min(limit, order.size)).round().astype(int)
    return [int(order[k]) for k in chosen]


def chosen_maps(q: Array, phi: Array, limit: int) -> list[int]:
    """Positions of at most `limit` maps that stand for all, in the order of q and then of phi.

    Where both vary, half as many wave vectors as maps, each with angles spread over those it has.
    """
    waves = np.unique(q)
    most = limit if waves.size == q.size else max(limit // 2, 1)
    shown = waves[spread_over(waves, min(waves.size, most))]
    chosen = []
    for wave in shown:
        own = np.flatnonzero(q == wave)
        chosen += [int(own[k]) for k in spread_over_directions(phi[own], limit // shown.size)]
    return chosen


def spread_over_directions(phi: Array, limit: int) -> list[int]:
    """Positions of at most ``limit`` angles (degrees), in their order, that stand for all directions.

    Directions are the same 180 degrees apart. The one nearest to 0 comes first, then always the one farthest from those
    chosen: across the flow, the one nearest to 90 or -90 degrees, is the second.
    """
    distance = _between(phi, 0.0)
    chosen = [int(np.argmin(distance))]
    while len(chosen) < min(limit, phi.size):
        distance = np.min([_between(phi, phi[k]) for k in chosen], axis=0)
        distance[chosen] = -1.0
        chosen.append(int(np.argmax(np.round(distance, 6))))
    return sorted(chosen, key=lambda k: float(phi[k]))


def _between(phi: Array, direction: float) -> Array:
    """Angles between directions, 0 to 90 degrees."""
    return np.asarray(np.abs((phi - direction + 90.0) % 180.0 - 90.0))
