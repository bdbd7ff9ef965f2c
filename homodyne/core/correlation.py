"""The two-time correlation of an ageing, sheared sample: the one place where the equation stands.

    c2 = offset + contrast * g,    g = |g1|²,    g1 = exp(-½ q² ∫ J dt) * sin(x)/x,    x = h ∫ γ̇ dt

for a pair of times t1, t2 and an angle phi (He et al., PNAS 121, e2401162121 (2024); shear factor:
Burghardt et al., PRE 85, 021402 (2012)). :func:`g` takes whole arrays of angles and times and is the plain, slow
reference; everything in it is differentiable by JAX. Fast code needs two numbers per frame, q² ∫ J dt and h ∫ γ̇ dt,
because every pair is a difference of two frames: :func:`homodyne.core.transport.rate_integral` and
:func:`shear_argument_scale` give them, the square of :func:`field_shear_factor` turns the difference into the factor.

Parameters are a mapping with the names in :data:`homodyne.core.parameters.LAMINAR_NAMES`; without the four
shear parameters the sample is static. `q` is in 1/Å, `gap` (between the plates) in Å, angles in degrees,
times in s and positive.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from homodyne.core.parameters import LAMINAR_NAMES, STATIC_NAMES
from homodyne.core.transport import rate, rate_integral
from homodyne.errors import InputError

_SERIES_LIMIT = 0.5
_SINC_SERIES = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(9))


class ShearConvention(NamedTuple):
    """Meaning of the shear rate: argument q gap / `divisor`, factor (sin x / x)**(2 `order`) in g."""

    divisor: float
    order: int


SHEAR_CONVENTIONS: Mapping[str, ShearConvention] = {
    "he2024": ShearConvention(2.0, 1),
    "legacy": ShearConvention(2.0 * math.pi, 2),
}
"""``he2024`` is the average of the phase over the gap; ``legacy`` reproduces fits of earlier software,
whose shear rate is about 2.2 times larger for the same decay."""


def find_convention(name: str) -> ShearConvention:
    """Look up a shear convention by name; an unknown one is an :class:`~homodyne.errors.InputError`."""
    if name not in SHEAR_CONVENTIONS:
        raise InputError(f"shear_convention is {name!r}: expected one of {', '.join(SHEAR_CONVENTIONS)}")
    return SHEAR_CONVENTIONS[name]


def g(
    phi: ArrayLike,
    t1: ArrayLike,
    t2: ArrayLike,
    params: Mapping[str, ArrayLike],
    *,
    q: ArrayLike,
    gap: ArrayLike | None = None,
    shear_convention: str = "he2024",
) -> jax.Array:
    """Squared field correlation |g1|², 1 at equal times; arguments as in :func:`g1`."""
    return g1(phi, t1, t2, params, q=q, gap=gap, shear_convention=shear_convention) ** 2


def g1(
    phi: ArrayLike,
    t1: ArrayLike,
    t2: ArrayLike,
    params: Mapping[str, ArrayLike],
    *,
    q: ArrayLike,
    gap: ArrayLike | None = None,
    shear_convention: str = "he2024",
) -> jax.Array:
    """Field correlation, real and signed: the covariance of the scattered field at two times.

    Parameters
    ----------
    phi : array
        Azimuth of the wave vector in degrees.
    t1, t2 : array
        Times since the origin of ageing in s, > 0, in either order: the result is symmetric.
    params : mapping
        D0, alpha, D_offset and, for laminar flow, gamma_dot_0, beta, gamma_dot_offset, phi0 (degrees).
    q : float
        Modulus of the wave vector in 1/Å.
    gap : float, optional
        Distance between the plates in Å; needed with shear parameters.
    shear_convention : {"he2024", "legacy"}
        Meaning of the shear rate, see :data:`SHEAR_CONVENTIONS`.

    Returns
    -------
    jax.Array
        No unit; shape of `phi`, `t1`, `t2` broadcast.

    Raises
    ------
    InputError
        Parameter names are missing or unknown, or `gap` is missing, or the convention is unknown.
    """
    if _has_shear(params) and gap is None:
        raise InputError("gap is missing: shear needs the distance between the plates in Å (2e6 Å = 200 µm)")
    find_convention(shear_convention)
    angles_and_times = (jnp.asarray(x, dtype=float) for x in (phi, t1, t2))
    field: jax.Array = _field_correlation(*angles_and_times, dict(params), q, gap, shear_convention)
    return field


@partial(jax.jit, static_argnames="shear_convention")
def _field_correlation(
    phi: jax.Array,
    t1: jax.Array,
    t2: jax.Array,
    params: dict[str, ArrayLike],
    q: ArrayLike,
    gap: ArrayLike | None,
    shear_convention: str,
) -> jax.Array:
    early, late = jnp.minimum(t1, t2), jnp.maximum(t1, t2)
    transport = rate_integral(early, late, params["D0"], params["alpha"], params["D_offset"])
    decay = jnp.exp(-0.5 * jnp.asarray(q) ** 2 * transport)
    if gap is None or not _has_shear(params):
        return jnp.broadcast_to(decay, jnp.broadcast_shapes(decay.shape, phi.shape))
    strain = rate_integral(early, late, params["gamma_dot_0"], params["beta"], params["gamma_dot_offset"])
    scale = shear_argument_scale(phi, params["phi0"], q, gap, shear_convention)
    return decay * field_shear_factor(scale * strain, shear_convention)


def shear_argument_scale(
    phi: ArrayLike, phi0: ArrayLike, q: ArrayLike, gap: ArrayLike, convention: str = "he2024"
) -> jax.Array:
    """Factor h that turns a strain ∫ γ̇ dt into the argument of the shear factor.

    (q gap / 2) cos(phi0 - phi) for ``he2024``, (q gap / 2π) cos(phi0 - phi) for ``legacy``.

    Parameters
    ----------
    phi, phi0 : array
        Azimuth and flow direction in degrees; phi0 + 180 changes the sign only.
    q, gap : array
        1/Å and Å.
    convention : {"he2024", "legacy"}
        Meaning of the shear rate.
    """
    angle = jnp.deg2rad(jnp.asarray(phi0, dtype=float) - jnp.asarray(phi, dtype=float))
    return jnp.asarray(q) * jnp.asarray(gap) / find_convention(convention).divisor * jnp.cos(angle)


def field_shear_factor(x: ArrayLike, convention: str = "he2024") -> jax.Array:
    """Factor of shear in g1, signed: sin x / x for ``he2024``, (sin x / x)² for ``legacy``; smooth at x = 0.

    Its square is the factor in g.

    Parameters
    ----------
    x : array
        :func:`shear_argument_scale` times the strain, no unit.
    convention : {"he2024", "legacy"}
        Meaning of the shear rate.
    """
    return sinc(jnp.asarray(x, dtype=float)) ** find_convention(convention).order


def transport_positive(params: Mapping[str, ArrayLike], t_first: ArrayLike, t_last: ArrayLike) -> jax.Array:
    """Whether J(t) > 0 from `t_first` to `t_last` (s): a bool array, the support of the transport parameters.

    A power law plus a constant is monotone in t, so both ends decide.
    """
    _has_shear(params)
    first, last = (rate(t, params["D0"], params["alpha"], params["D_offset"]) for t in (t_first, t_last))
    return (first > 0) & (last > 0)


def _has_shear(params: Mapping[str, ArrayLike]) -> bool:
    """Check the names and tell laminar flow from a static sample."""
    unknown = [name for name in params if name not in LAMINAR_NAMES]
    if unknown:
        known = ", ".join(LAMINAR_NAMES)
        raise InputError(f"unknown parameter {', '.join(unknown)}: expected names among {known}")
    sheared = any(name not in STATIC_NAMES for name in params)
    missing = [name for name in (LAMINAR_NAMES if sheared else STATIC_NAMES) if name not in params]
    if missing:
        mode = "laminar_flow" if sheared else "static"
        raise InputError(f"missing parameter {', '.join(missing)} for {mode}: add a value for each")
    return sheared


def sinc(x: jax.Array) -> jax.Array:
    """sin(x)/x, 1 at x = 0; a series near 0 keeps first and second derivatives exact there."""
    near = jnp.abs(x) < _SERIES_LIMIT
    square = jnp.where(near, x, 0.0) ** 2
    series = jnp.zeros_like(square)
    for coefficient in reversed(_SINC_SERIES):
        series = series * square + coefficient
    outside = jnp.where(near, 1.0, x)
    return jnp.where(near, series, jnp.sin(outside) / outside)
