"""The fitted curve on draws of the posterior: what figures compare with the data.

The physics is that of :mod:`homodyne.core.correlation` and :mod:`homodyne.core.transport`; here only draws
are chosen and handed to it.
"""

import jax
import numpy as np
from numpy.typing import NDArray

from homodyne.core import correlation, transport
from homodyne.errors import InputError
from homodyne.optimization.cmc.result import MCMCResult

_g = jax.jit(correlation.g, static_argnames="shear_convention")

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

MAX_DRAWS = 200
"""Draws behind a band; the 5 % and 95 % points of 200 draws are known to about a tenth of the band."""


def thinned(result: MCMCResult, limit: int = MAX_DRAWS) -> Indices:
    """Positions of at most ``limit`` draws spread evenly over all chains, which follow one another."""
    total = result.num_chains * result.num_draws
    return np.unique(np.linspace(0, total - 1, min(limit, total)).astype(np.int64))


def best_draw(result: MCMCResult) -> int:
    """Position of the draw with the highest log posterior; without ``lp``, of the one nearest to the mean."""
    if "lp" in result.sample_stats:
        return int(np.argmax(np.nan_to_num(result.sample_stats["lp"], nan=-np.inf)))
    draws = result.samples_params
    spread = draws.std(axis=0)
    scaled = (draws - draws.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return int(np.argmin(np.sum(scaled**2, axis=1)))


def parameter_draws(result: MCMCResult, positions: Indices) -> dict[str, Array]:
    """Physical parameters at draws ``positions``, each (S,); fixed parameters repeat their value."""
    free = {name: result.samples[name].reshape(-1)[positions] for name in result.free_names}
    return free | {name: np.full(positions.size, value) for name, value in result.fixed.items()}


def correlation_draws(result: MCMCResult, angle: int, t1: Array, t2: Array, positions: Indices) -> Array:
    """c2 of one angle at pairs of times (P,) in s for every draw in ``positions``: (S, P)."""
    if result.phi is None or result.q is None:
        raise InputError("this result does not come from two-time maps; it has no angles and no q to draw")
    parameters = {name: values[:, None] for name, values in parameter_draws(result, positions).items()}
    bits = max((t1.size - 1).bit_length(), 10)
    padding = (0, (1 << bits + bits % 2) - t1.size)  # few different sizes to compile for
    t1, t2 = (np.pad(time, padding, constant_values=1.0) for time in (t1, t2))
    convention = result.shear_convention
    decay = _g(result.phi[angle], t1, t2, parameters, q=result.q, gap=result.gap, shear_convention=convention)
    contrast, offset = (
        result.samples[name].reshape(-1, result.phi.size)[positions, angle, None] for name in ("contrast", "offset")
    )
    return np.asarray(offset + contrast * np.asarray(decay)[:, : t1.size - padding[1]])


def rate_draws(result: MCMCResult, t: Array, names: tuple[str, ...], positions: Indices) -> Array:
    """Transport coefficient or shear rate (amplitude, exponent, offset) at ``t`` (s) per draw: (S, n)."""
    draws = parameter_draws(result, positions)
    amplitude, exponent, offset = (draws[name][:, None] for name in names)
    return np.asarray(transport.rate(t, amplitude, exponent, offset))


def noise_sd(result: MCMCResult) -> Array:
    """Noise sd of c2 per angle (n_phi,): the one used, or the posterior median where it was sampled."""
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
