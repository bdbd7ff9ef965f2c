"""The one operation that touches the data: moments of the model's g over a block, differentiable.

`moment_function` binds a block and an implementation and returns ``moments(F, shear) -> Moments``. The
implementations, "numba" for the processor and "jax" for accelerators, agree to rounding; both carry their
own vector-Jacobian product.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from homodyne.core import moments_jax, moments_numba
from homodyne.core.blocks import Block
from homodyne.errors import InputError

Implementation = Literal["numba", "jax"]
Shear = tuple[jax.Array, jax.Array]


@dataclass(eq=False)
class BlockSlot:
    """Holds the block that a compiled program reads: one program serves every block of the same layout.

    Exchange the `block` between calls; number of frames and of angles must stay the same.
    """

    block: Block

    @property
    def sums(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Sums over the data of every angle, as of the block."""
        return self.block.sums


class Moments(NamedTuple):
    """Everything the likelihood needs of a block, each of shape (n_phi,).

    Number of points, sum of weights, weighted mean ``ybar`` of the data, their weighted scatter about it,
    sum of log weights; sums of ``w g``, ``w g^2`` and ``w (y - ybar) g``, which alone depend on the model.
    Centring keeps digits that a map near 1 would lose.
    """

    points: jax.Array
    weight: jax.Array
    mean: jax.Array
    scatter: jax.Array
    log_weights: jax.Array
    g: jax.Array
    gg: jax.Array
    yg: jax.Array


MomentFunction = Callable[[jax.Array, Shear | None], Moments]


def moment_function(slot: BlockSlot, implementation: Implementation = "numba", order: int = 1) -> MomentFunction:
    """Bind a block to the differentiable primitive.

    Parameters
    ----------
    slot : BlockSlot
        The block; with "jax" it is copied to the device once, now.
    implementation : "numba" or "jax"
    order : 1 or 2
        The shear factor is ``(sin x / x)**(2 order)``; see `homodyne.core.correlation.SHEAR_CONVENTIONS`.

    Returns
    -------
    moments : callable
        ``moments(F, shear) -> Moments`` with ``F`` (n,) the increasing ``q^2 int J dt`` at every frame and
        ``shear`` either None or the pair ``h`` (n_phi,), ``G`` (n,) whose product is the argument of
        ``sin(x)/x``. The model's part is NaN where a curve is not finite or not monotone.

    Raises
    ------
    InputError
        For an unknown implementation.
    """
    if implementation == "numba":
        return _on_host(slot, order)
    if implementation == "jax":
        return _on_device(slot, order)
    raise InputError(f"unknown implementation {implementation!r}: use 'numba' or 'jax'")


def _on_device(slot: BlockSlot, order: int) -> MomentFunction:
    return partial(device_moments, moments_jax.dense_block(slot.block), order=order)


def device_moments(data: moments_jax.DenseBlock, f: jax.Array, shear: Shear | None, order: int) -> Moments:
    """Moments of a block that a compiled program is given as an argument; the others as in `moment_function`."""
    g, gg, yg = moments_jax.model_sums(data, f, shear, order).T
    points, weight, mean, scatter, log_weights = data.sums
    return Moments(points, weight, mean, scatter, log_weights, g, gg, yg - mean * g)


def host_table(
    slot: BlockSlot, f: Any, shear: Any, order: int, tables: moments_numba.Tables | None = None
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Moments of the block in the slot as an (n_phi, 8) array, without JAX; arguments as in `moment_function`."""
    table = moments_numba.moments(slot.block, f, shear, order, tables)
    table[:, 2] -= slot.sums[:, 2] * table[:, 0]
    return np.concatenate([slot.sums, table], axis=1)


def moments_of(tables: Any) -> Moments:
    """Moments with leading axes from tables (..., 8 n_phi) that have a row of angles for each field."""
    rows = tables.reshape(*tables.shape[:-1], len(Moments._fields), -1)
    return Moments(*(jnp.asarray(row) for row in np.moveaxis(rows, -2, 0)))


def _on_host(slot: BlockSlot, order: int) -> MomentFunction:
    """Callbacks take one array each: every argument costs as much as tens of thousands of pairs."""
    latest: list[Any] = [None]  # tables of the latest curves: a gradient asks for them twice

    def tables(curves: Any, f: Any, shear: Any) -> moments_numba.Tables | None:
        known = latest[0]  # taken once: other threads may replace it
        if known is None or known[0] is not slot.block or not np.array_equal(known[1], curves):
            known = latest[0] = slot.block, curves, moments_numba.tables_of(slot.block, f, shear, order)
        return known[2]  # type: ignore[no-any-return]

    def host_moments(packed: Any) -> Any:
        curves = np.array(packed)
        f, shear = _unpacked(slot, curves)
        return host_table(slot, f, shear, order, tables(curves, f, shear))

    def host_product(packed: Any) -> Any:
        u, curves = np.split(np.array(packed), [3 * slot.block.num_angles])
        u, (f, shear) = u.reshape(-1, 3), _unpacked(slot, curves)
        u[:, 0] -= slot.sums[:, 2] * u[:, 2]
        slopes = moments_numba.product(slot.block, f, shear, u, order, tables(curves, f, shear))
        return np.concatenate(jax.tree.leaves(slopes))

    @jax.custom_vjp
    def table(curves: jax.Array) -> jax.Array:
        shape = jnp.zeros((slot.block.num_angles, 8))
        return jnp.asarray(jax.pure_callback(host_moments, shape, curves, vmap_method="sequential"))

    def forward(curves: jax.Array) -> tuple[jax.Array, jax.Array]:
        return table(curves), curves

    def backward(curves: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
        packed = jnp.concatenate([cotangent[:, 5:].ravel(), curves])
        return (jnp.asarray(jax.pure_callback(host_product, curves, packed, vmap_method="sequential")),)

    table.defvjp(forward, backward)
    return lambda f, shear: Moments(*table(jnp.concatenate([f, *(shear or ())])).T)


def _unpacked(slot: BlockSlot, curves: Any) -> tuple[Any, Any]:
    """F and the shear (h, G), or None, of curves that stand one behind the other."""
    n, n_phi = slot.block.num_frames, slot.block.num_angles
    f, h, g = np.split(curves, [n, n + n_phi])
    return f, (h, g) if g.size else None
