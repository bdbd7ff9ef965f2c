"""The moments of a block in plain JAX, for accelerators.

The block lies on the device as dense maps, one angle is worked on at a time, and the product is written by
hand so that no intermediate of the size of a map is kept between the passes.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from homodyne.core.blocks import Block
from homodyne.core.correlation import sinc

Shear = tuple[jax.Array, jax.Array]


class DenseBlock(NamedTuple):
    """A block as dense maps, which a compiled program takes as an argument.

    Values and weights (n_phi, rows, columns), weight 0 where there is no point; frames of rows and columns; sums over
    the data of every angle, (5, n_phi), see `homodyne.core.blocks.Block.sums`.
    """

    values: jax.Array
    weights: jax.Array
    rows: jax.Array
    cols: jax.Array
    sums: jax.Array


def dense_block(block: Block) -> DenseBlock:
    """Copy a block to the default device."""
    angle, i, j = block.point_frames()
    rows, cols = np.unique(block.row), np.unique(j)
    shape = (block.num_angles, rows.size, cols.size)
    index = (angle, np.searchsorted(rows, i), np.searchsorted(cols, j))
    values, weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    values[index] = block.values
    weights[index] = 1.0 if block.weights is None else block.weights
    return DenseBlock(*(jnp.asarray(x) for x in (values, weights, rows, cols, block.sums.T)))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def model_sums(data: DenseBlock, f: jax.Array, shear: Shear | None, order: int) -> jax.Array:
    """Sums of w g, w g^2 and w y g of every angle, (n_phi, 3); differentiable by the curves."""
    f = jnp.asarray(f)
    decay = _decay(f, data)

    def one(angle: Any) -> jax.Array:
        y, w, h = angle
        g = decay * _wave(h, shear, data, order)[0]
        wg = w * g
        return jnp.stack([wg.sum(), (wg * g).sum(), (wg * y).sum()])

    sums = jax.lax.map(one, (data.values, data.weights, _per_angle(shear, data)))
    return jnp.where(_usable(f, shear), sums, jnp.nan)


def _forward(data: DenseBlock, f: jax.Array, shear: Shear | None, order: int) -> tuple[jax.Array, Any]:
    return model_sums(data, f, shear, order), (data, f, shear)


def _backward(order: int, saved: Any, cotangent: jax.Array) -> Any:
    data, f, shear = saved
    rows, cols = data.rows, data.cols
    decay = _decay(f, data)

    def one(total: Any, angle: Any) -> Any:
        y, w, h, u = angle
        wave, slope = _wave(h, shear, data, order)
        g = decay * wave
        r = w * (u[0] + 2 * u[1] * g + u[2] * y)
        d_decay = r * g
        d_f = total[0].at[rows].add(d_decay.sum(1)).at[cols].add(-d_decay.sum(0))
        if shear is None:
            return (d_f, total[1]), jnp.zeros(())
        d_x = r * decay * slope
        integral = shear[1]
        d_g = total[1].at[rows].add(-h * d_x.sum(1)).at[cols].add(h * d_x.sum(0))
        d_h = (d_x.sum(0) * integral[cols]).sum() - (d_x.sum(1) * integral[rows]).sum()
        return (d_f, d_g), d_h

    start = (jnp.zeros_like(f), jnp.zeros_like(f))
    (d_f, d_g), d_h = jax.lax.scan(one, start, (data.values, data.weights, _per_angle(shear, data), cotangent))
    return None, d_f, None if shear is None else (d_h, d_g)


model_sums.defvjp(_forward, _backward)


def _decay(f: jax.Array, data: DenseBlock) -> jax.Array:
    """exp(-(F_j - F_i)); positions with j before i carry no weight and are held at 1: nothing overflows."""
    return jnp.exp(-jnp.maximum(f[data.cols][None, :] - f[data.rows][:, None], 0.0))


def _wave(h: jax.Array, shear: Shear | None, data: DenseBlock, order: int) -> tuple[jax.Array, jax.Array]:
    """(sin x / x)^(2 order) of every pair and its derivative with respect to x."""
    if shear is None:
        return jnp.ones(()), jnp.zeros(())
    x = h * (shear[1][data.cols][None, :] - shear[1][data.rows][:, None])
    return jax.jvp(lambda x: sinc(x) ** (2 * order), (x,), (jnp.ones_like(x),))


def _per_angle(shear: Shear | None, data: DenseBlock) -> jax.Array:
    return jnp.zeros(data.values.shape[0]) if shear is None else shear[0]


def _usable(f: jax.Array, shear: Shear | None) -> jax.Array:
    usable = jnp.isfinite(f).all() & (jnp.diff(f) >= 0).all()
    if shear is None:
        return usable
    step = jnp.diff(shear[1])
    return usable & jnp.isfinite(shear[0]).all() & ((step >= 0).all() | (step <= 0).all())
