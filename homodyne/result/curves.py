"""What the model of a result predicts on its draws: `rate_draws` against age, `correlation_draws` of a map.

Draws are named by their positions among all draws, chains one after the other.
"""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from homodyne.arrays import Array
from homodyne.errors import InputError
from homodyne.physics.model import CorrelationModel, Params, Rate, Real

if TYPE_CHECKING:
    from homodyne.result.record import MCMCResult

Indices = NDArray[np.int64]


class RateDraws(NamedTuple):
    """One rate of a model on draws at some times: value and logarithmic slope d log|rate| / d log t, each (S, n)."""

    rate: Rate
    value: Array
    slope: Array


def parameter_draws(result: "MCMCResult", positions: Indices) -> dict[str, Array]:
    """Physical parameters at draws `positions`, each (S,); fixed parameters repeat their value."""
    free = {name: result.samples[name].reshape(-1)[positions] for name in result.free_names}
    return free | {name: np.full(positions.size, value) for name, value in result.fixed.items()}


def rate_draws(result: "MCMCResult", t: Array, positions: Indices) -> tuple[RateDraws, ...]:
    """Every rate of the result's model at times t (n,) in s for every draw in `positions`.

    Raises
    ------
    InputError
        The model of the result is not known.
    """
    model = result.require_model()
    values = _rates(model, _columns(result, positions), np.asarray(t, dtype=float))
    with np.errstate(divide="ignore", invalid="ignore"):
        return tuple(
            RateDraws(rate, np.asarray(value), np.asarray(derivative) / np.asarray(value))
            for rate, (value, derivative) in zip(model.rates(), values, strict=True)
        )


def correlation_draws(result: "MCMCResult", k: int, t1: Array, t2: Array, positions: Indices) -> Array:
    """c2 of map k at pairs of times (P,) in s for every draw in `positions`: (S, P).

    Raises
    ------
    InputError
        The model of the result is not known.
    """
    model = result.require_model()
    if result.phi is None or result.q is None:
        raise InputError("this result has no wave vectors and angles of maps, for which c2 could be drawn")
    bits = max((t1.size - 1).bit_length(), 10)
    padding = (0, (1 << bits + bits % 2) - t1.size)  # few different sizes to compile for
    first, second = (np.pad(time, padding, constant_values=time[-1] if time.size else 1.0) for time in (t1, t2))
    gap = np.nan if result.gap is None else result.gap
    g = g_of(model, _columns(result, positions), first, second, float(result.q[k]), float(result.phi[k]), gap)
    contrast, offset = (
        result.samples[name].reshape(-1, result.phi.size)[positions, k, None] for name in ("contrast", "offset")
    )
    return np.asarray(offset + contrast * np.asarray(g)[:, : t1.size])


@partial(jax.jit, static_argnames="model")
def _rates(model: CorrelationModel, params: Params, t: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Values of all rates (S, n) and their derivatives with respect to log t."""
    shape = jnp.broadcast_shapes(t.shape, *(jnp.shape(value) for value in params.values()))
    found = (jax.jvp(lambda time, rate=rate: rate.value(params, time), (t,), (t,)) for rate in model.rates())
    return [(jnp.broadcast_to(value, shape), jnp.broadcast_to(slope, shape)) for value, slope in found]


@partial(jax.jit, static_argnames="model")
def g_of(model: CorrelationModel, params: Params, t1: Real, t2: Real, q: Real, phi: Real, gap: Real) -> jax.Array:
    """Compiled `CorrelationModel.g`."""
    return model.g(params, t1, t2, q, phi, gap)


def _columns(result: "MCMCResult", positions: Indices) -> dict[str, Array]:
    return {name: values[:, None] for name, values in parameter_draws(result, positions).items()}
