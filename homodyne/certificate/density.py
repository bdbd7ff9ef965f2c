"""What every sampler here is given: a log density of unconstrained coordinates, and a way to report progress."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from homodyne.arrays import Points, Values
from homodyne.errors import InputError

LogDensity: TypeAlias = Callable[[Float[jax.Array, "coordinates"]], Float[jax.Array, ""]]
"""Maps coordinates to a scalar, differentiable; minus infinity outside the support."""

Evaluate: TypeAlias = Callable[[Points], Values]
"""Maps points to exact log densities."""

Progress = Callable[[str, int, int], None]
"""Called with the stage, the number of units done and their total."""


def check_log_density(log_density: LogDensity, dimension: int) -> None:
    """Refuse a density that is not a float64 scalar, before anything is computed with it.

    Log densities of large data sets are near 1e7, where neighbouring float32 numbers are one unit apart.

    Parameters
    ----------
    log_density
        Function of coordinates (d,).
    dimension
        Number of coordinates d.

    Raises
    ------
    InputError
        When JAX runs in float32, or the density returns another type or shape than a float64 scalar.
    """
    if jnp.zeros(()).dtype != jnp.float64:
        raise InputError(
            "JAX runs in float32, in which log densities lose their digits; "
            'call jax.config.update("jax_enable_x64", True) before the first JAX operation'
        )
    value = jax.eval_shape(log_density, jnp.zeros(dimension))
    if getattr(value, "shape", None) != () or value.dtype != jnp.float64:
        raise InputError(f"the log density must be a float64 scalar of {dimension} coordinates, got {value}")
