"""Power laws in time with a constant, and their integrals in closed form.

The transport coefficient J(t) and the shear rate γ̇(t) are both ``amplitude * t**exponent + offset``. Start
with :func:`rate` and :func:`rate_integral`. Samplers use the same curve through its values at two anchor
times (:func:`anchor_times`, :func:`anchor_rate`, :func:`anchor_integral`), because amplitude, exponent and
offset form a curved ridge; :func:`amplitude_offset` goes back.

All functions are JAX functions of float64 arrays that broadcast against each other. Value and derivatives
are smooth in the exponent, through -1 (where the integral is a logarithm) and, in anchor form, through 0.
Times must be positive: a power law has no meaning at t = 0. There is no time grid and no clipping; a rate
that is negative somewhere is integrated as it stands.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

ANCHOR_FRACTIONS = (0.35, 0.85)
"""Places of the anchor times between first and last time on a logarithmic axis."""

_SERIES_LIMIT = 0.5
_SERIES_TERMS = 15


def rate(t: ArrayLike, amplitude: ArrayLike, exponent: ArrayLike, offset: ArrayLike) -> jax.Array:
    """Power law plus constant, ``amplitude * t**exponent + offset``.

    Parameters
    ----------
    t : array
        Time since the origin of ageing in s, > 0.
    amplitude, exponent, offset : array
        D0, alpha, D_offset for the transport coefficient (result in Å²/s) or gamma_dot_0, beta,
        gamma_dot_offset for the shear rate (result in 1/s).

    Returns
    -------
    jax.Array
        Rate at `t`; shape of all arguments broadcast.
    """
    return _float(amplitude) * _float(t) ** _float(exponent) + _float(offset)


def rate_integral(
    t1: ArrayLike, t2: ArrayLike, amplitude: ArrayLike, exponent: ArrayLike, offset: ArrayLike
) -> jax.Array:
    """Integral of :func:`rate` from `t1` to `t2`, exact and smooth for every exponent.

    With b = exponent + 1 and Λ = log(t2/t1) the power law gives t1^b Λ expm1(bΛ)/(bΛ), which is Λ at b = 0.

    Parameters
    ----------
    t1, t2 : array
        Limits in s, > 0. The sign follows the usual rule: t2 < t1 changes it.
    amplitude, exponent, offset : array
        As in :func:`rate`.

    Returns
    -------
    jax.Array
        Å² for a transport coefficient, strain (no unit) for a shear rate; shape of all arguments broadcast.
    """
    t1, t2 = _float(t1), _float(t2)
    power_law = _power_integral(t1, t2, _float(exponent), jnp.ones(()))
    return _float(amplitude) * power_law + _float(offset) * (t2 - t1)


def anchor_times(t_first: ArrayLike, t_last: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Two times (t_a, t_b) inside the record at which the rates are measured well.

    Parameters
    ----------
    t_first, t_last : array
        First and last time of the record in s, 0 < t_first < t_last.
    """
    t_first, t_last = _float(t_first), _float(t_last)
    ratio = t_last / t_first
    return t_first * ratio ** ANCHOR_FRACTIONS[0], t_first * ratio ** ANCHOR_FRACTIONS[1]


def anchor_rate(
    t: ArrayLike, rate_a: ArrayLike, rate_b: ArrayLike, exponent: ArrayLike, t_a: ArrayLike, t_b: ArrayLike
) -> jax.Array:
    """Power law plus constant that takes the value `rate_a` at `t_a` and `rate_b` at `t_b`.

    rate_a + (rate_b - rate_a) (t^α - t_a^α) / (t_b^α - t_a^α); at exponent 0 it is linear in log t.

    Parameters
    ----------
    t : array
        Time in s, > 0.
    rate_a, rate_b : array
        Rates at the anchor times, in the unit of the result.
    exponent : array
        α or beta, any real number.
    t_a, t_b : array
        Anchor times in s, > 0 and different from each other.
    """
    t, exponent = _float(t), _float(exponent)
    near, far, t_near, span = _nearer_anchor(t, t, rate_a, rate_b, t_a, t_b)
    v = jnp.log(t / t_near)
    return near + (far - near) * v * _phi1(exponent * v) / (span * _phi1(exponent * span))


def anchor_integral(
    t1: ArrayLike,
    t2: ArrayLike,
    rate_a: ArrayLike,
    rate_b: ArrayLike,
    exponent: ArrayLike,
    t_a: ArrayLike,
    t_b: ArrayLike,
) -> jax.Array:
    """Integral of :func:`anchor_rate` from `t1` to `t2`, exact and smooth through exponent 0 and -1.

    Parameters
    ----------
    t1, t2 : array
        Limits in s, > 0.
    rate_a, rate_b, exponent, t_a, t_b : array
        As in :func:`anchor_rate`.
    """
    t1, t2 = _float(t1), _float(t2)
    early, late = jnp.minimum(t1, t2), jnp.maximum(t1, t2)
    near, far, t_near, span = _nearer_anchor(early, late, rate_a, rate_b, t_a, t_b)
    return near * (t2 - t1) + (far - near) * _weight_integral(t1, t2, _float(exponent), t_near, span)


def amplitude_offset(
    rate_a: ArrayLike, rate_b: ArrayLike, exponent: ArrayLike, t_a: ArrayLike, t_b: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Amplitude and offset of the curve that :func:`anchor_rate` draws.

    The map is singular at exponent 0, where a power law cannot be told from a constant: the values grow
    like 1/exponent and are not finite at 0 itself.

    Parameters
    ----------
    rate_a, rate_b, exponent, t_a, t_b : array
        As in :func:`anchor_rate`.

    Returns
    -------
    tuple of jax.Array
        (amplitude, offset) as :func:`rate` takes them.
    """
    rate_a, rate_b, exponent, t_a = _float(rate_a), _float(rate_b), _float(exponent), _float(t_a)
    log_ratio = exponent * jnp.log(_float(t_b) / t_a)
    amplitude = (rate_b - rate_a) / (t_a**exponent * jnp.expm1(log_ratio))
    return amplitude, -rate_a / jnp.expm1(-log_ratio) - rate_b / jnp.expm1(log_ratio)


def _float(x: ArrayLike) -> jax.Array:
    return jnp.asarray(x, dtype=float)


def _phi1(x: jax.Array) -> jax.Array:
    """expm1(x)/x, 1 at x = 0."""
    return _exp_moment(0, x)


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
    near = jnp.abs(t2 - t1) < _SERIES_LIMIT * t1
    return jnp.where(near, jnp.log1p(jnp.where(near, (t2 - t1) / t1, 0.0)), jnp.log(t2 / t1))


def _power_integral(t1: jax.Array, t2: jax.Array, exponent: jax.Array, t_unit: jax.Array) -> jax.Array:
    """Integral of (t/t_unit)^exponent from t1 to t2."""
    b, length = exponent + 1.0, _log_ratio(t1, t2)
    return t_unit * (t1 / t_unit) ** b * length * _phi1(b * length)


def _nearer_anchor(
    early: jax.Array, late: jax.Array, rate_a: ArrayLike, rate_b: ArrayLike, t_a: ArrayLike, t_b: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Choose the anchor from which the curve is built: (its rate, the other rate, its time, signed log span).

    The curve is near + (far - near) * weight(t) with either anchor as the near one. Outside the anchors
    the weight may be huge, so the anchor on that side is taken, where it vanishes. Between them it runs
    from 0 to 1 and the smaller rate is taken, because the other may be many decades larger.
    """
    rate_a, rate_b, t_a, t_b = _float(rate_a), _float(rate_b), _float(t_a), _float(t_b)
    at_a = (early < t_a) | ((late <= t_b) & (jnp.abs(rate_a) <= jnp.abs(rate_b)))
    span = jnp.log(t_b / t_a)
    return (
        jnp.where(at_a, rate_a, rate_b),
        jnp.where(at_a, rate_b, rate_a),
        jnp.where(at_a, t_a, t_b),
        jnp.where(at_a, span, -span),
    )


def _weight_integral(
    t1: jax.Array, t2: jax.Array, exponent: jax.Array, t_unit: jax.Array, span: jax.Array
) -> jax.Array:
    """Integral of ((t/t_unit)^α - 1) / (exp(α span) - 1) from t1 to t2.

    Term by term when |α span| is not small. Otherwise both differences vanish together, and with
    v = log(t1/t_unit), x^α - 1 = e^{αv} ((t/t1)^α - 1) + (e^{αv} - 1) leaves an integral that starts at t1.
    """
    elapsed = t2 - t1
    small = jnp.abs(exponent * span) < _SERIES_LIMIT
    divisor = jnp.where(small, 1.0, jnp.expm1(exponent * span))
    direct = (_power_integral(t1, t2, exponent, t_unit) - elapsed) / divisor

    v = jnp.log(t1 / t_unit)
    from_t1 = jnp.exp(exponent * v) * t1 * _box_cox_integral(exponent, _log_ratio(t1, t2))
    smooth = (from_t1 + v * _phi1(exponent * v) * elapsed) / (span * _phi1(exponent * span))
    return jnp.where(small, smooth, direct)


def _box_cox_integral(alpha: jax.Array, length: jax.Array) -> jax.Array:
    """Integral of (x^α - 1)/α from x = 1 to e^length.

    It is the second divided difference of s -> e^{s length} at α + 1, 1 and 0, which can be formed by
    dividing by α or by α + 1; each side takes the one that is not near zero.
    """
    right = alpha > -0.5
    b = alpha + 1.0
    by_b = (jnp.exp(length) * length * _phi1(alpha * length) - jnp.expm1(length)) / jnp.where(right, b, 1.0)
    by_alpha = (length * _phi1(b * length) - jnp.expm1(length)) / jnp.where(right, -1.0, alpha)
    return jnp.where(right, by_b, by_alpha)
