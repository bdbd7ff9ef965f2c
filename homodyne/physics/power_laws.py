"""Power laws in time with a constant, ``amplitude * t**exponent + offset``, and their integrals in closed form.

All functions are JAX functions of float64 arrays that broadcast against each other; value and derivatives are smooth in
the exponent, through -1, where the integral is a logarithm. Times must be positive. There is no time grid and no
clipping; a rate that is negative somewhere is integrated as it stands.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from homodyne.arrays import Leaf
from homodyne.physics.compiling import namespace
from homodyne.physics.elementary import combination, power

_SERIES_LIMIT = 0.5
_SERIES_TERMS = 15


def rate(t: ArrayLike, amplitude: ArrayLike, exponent: ArrayLike, offset: ArrayLike = 0.0) -> jax.Array:
    """Power law plus constant, ``amplitude * t**exponent + offset``.

    Parameters
    ----------
    t : array
        Time since the origin of ageing in s, > 0.
    amplitude, exponent, offset : array
        Of the law; the result has the unit of `offset`.
    """
    return _float(amplitude) * power(_float(t), _float(exponent)) + _float(offset)


def rate_integral(
    t1: ArrayLike, t2: ArrayLike, amplitude: ArrayLike, exponent: ArrayLike, offset: ArrayLike = 0.0
) -> jax.Array:
    """Integral of :func:`rate` from `t1` to `t2`, exact and smooth for every exponent.

    With b = exponent + 1 and Λ = log(t2/t1) the power law gives t1^b Λ expm1(bΛ)/(bΛ), which is Λ at b = 0.

    Parameters
    ----------
    t1, t2 : array
        Limits in s, > 0. The sign follows the usual rule: t2 < t1 changes it.
    amplitude, exponent, offset : array
        As in :func:`rate`.
    """
    t1, t2 = _float(t1), _float(t2)
    b, length = _float(exponent) + 1.0, _log_ratio(t1, t2)
    return combination((amplitude, offset), (power(t1, b) * length * expm1_ratio(b * length), t2 - t1))


def middle_age(first: Leaf, last: Leaf) -> Leaf:
    """Geometric mean of all ages of a record from age `first` to `last`, in s, in NumPy or JAX.

    The level and the logarithmic slope of a law that is fitted to a whole record depend least on each other there. It
    is ``first`` exp(x / (1 - e^-x) - 1), x = log(``last`` / ``first``): last / e for a record from zero on.
    """
    xp = namespace(first, last)
    x = xp.log1p((last - first) / first)
    some = xp.where(x > 0, x, 1.0)
    return first * xp.exp(xp.where(x > 0, some / -xp.expm1(-some), 1.0) - 1.0)


def expm1_ratio(x: ArrayLike) -> jax.Array:
    """expm1(x)/x, 1 at x = 0, with exact derivatives of every order there."""
    return _exp_moment(0, _float(x))


def _float(x: ArrayLike) -> jax.Array:
    return jnp.asarray(x, dtype=float)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _exp_moment(k: int, x: jax.Array) -> jax.Array:
    """∫_0^1 s^k e^{sx} ds. The derivative is the next moment, so that all derivatives are exact at x = 0."""
    near = jnp.abs(x) < _SERIES_LIMIT
    inside, outside = jnp.where(near, x, 0.0), jnp.where(near, 1.0, x)
    series = jnp.zeros_like(inside)
    for j in reversed(range(_SERIES_TERMS)):
        series = series * inside + 1.0 / (math.factorial(j) * (j + k + 1))
    moment = jnp.expm1(outside) / outside
    for lower in range(1, k + 1):
        moment = (jnp.exp(outside) - lower * moment) / outside
    return jnp.where(near, series, moment)


@_exp_moment.defjvp
def _exp_moment_jvp(k: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _exp_moment(k, primals[0]), _exp_moment(k + 1, primals[0]) * tangents[0]


def _log_ratio(t1: jax.Array, t2: jax.Array) -> jax.Array:
    """log(t2/t1) without loss of digits for neighbouring times."""
    sign = jnp.where(t2 < t1, -1.0, 1.0)
    return sign * jnp.log1p(sign * (t2 - t1) / jnp.where(t2 < t1, t2, t1))
