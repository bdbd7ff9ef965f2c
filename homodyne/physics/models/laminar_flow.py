"""An ageing sample between plates that shear it.

    g = exp(-q² ∫ J dt) [sin(x)/x]²,    x = (q gap / 2) cos(phi0 - phi) ∫ γ̇ dt

(He et al., PNAS 121, e2401162121, 2024; shear factor: Burghardt et al., PRE 85, 021402, 2012). J and γ̇ are power laws
of the age with a constant.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp

from homodyne.physics.elementary import direction_cosine, sinc
from homodyne.physics.model import CorrelationModel, Parameter, Params, PowerLaw, Rate, Real
from homodyne.physics.models.static import (
    TRANSPORT_LAW,
    TRANSPORT_PARAMETERS,
    TRANSPORT_RATE,
    transport,
    transport_integral,
)
from homodyne.physics.power_laws import rate, rate_integral

SHEAR_CONVENTIONS = {"he2024": (2.0, 1), "legacy": (2.0 * math.pi, 2)}
"""Divisor of q gap in x, and power of sin(x)/x in c1. ``he2024`` is the mean of the phase over the gap; ``legacy``
reproduces fits of earlier software, whose shear rate is about 2.2 times larger for the same decay."""


@dataclass(frozen=True)
class LaminarFlow(CorrelationModel):
    """Ageing sample in laminar shear flow.

    Attributes
    ----------
    shear_convention : "he2024" or "legacy"
        Meaning of the shear rate, see `SHEAR_CONVENTIONS`.
    """

    shear_convention: Literal["he2024", "legacy"] = field(
        default="he2024",
        metadata={"description": "equation of the shear factor; legacy reproduces fits of earlier software"},
    )

    name = "laminar_flow"
    needs_gap = True
    parameters = (
        *TRANSPORT_PARAMETERS,
        Parameter(
            "gamma_dot_0", ("lognormal", {"median": 1e-2, "sigma": 4.0}), "1/s^(1+beta)", r"\dot\gamma_0",
            "shear rate amplitude, 1/s^(1+beta)", (0.0, math.inf), aliases=("gamma_dot_t0",),
        ),
        Parameter("beta", ("normal", {"mean": 0.0, "sd": 1.0}), "", r"\beta", "shear rate exponent"),
        Parameter(
            "gamma_dot_offset", ("share", {"median": 1.0, "sigma": 1.0}), "1/s", r"\dot\gamma_\mathrm{offset}",
            "shear rate offset, 1/s", aliases=("gamma_dot_t_offset",),
        ),
        Parameter(
            "phi0", ("uniform", {"low": -90.0, "high": 90.0}), "deg", r"\varphi_0", "flow direction, degrees",
            period=180.0,
        ),
    )  # fmt: skip

    def _c1(self, params: Params, t1: Real, t2: Real, q: Real, phi: Real, gap: Real, power: int) -> jax.Array:
        """The field correlation to a power of 1 or 2."""
        divisor, order = SHEAR_CONVENTIONS[self.shear_convention]
        strain = rate_integral(t1, t2, params["gamma_dot_0"], params["beta"], params["gamma_dot_offset"])
        phase = jnp.asarray(q) * gap / divisor * direction_cosine(params["phi0"], phi) * strain
        decay = jnp.exp(-0.5 * power * jnp.asarray(q) ** 2 * transport_integral(params, t1, t2))
        return decay * sinc(phase) ** (power * order)

    def g(self, params: Params, t1: Real, t2: Real, q: Real, phi: Real, gap: Real) -> jax.Array:
        """exp(-q² ∫ J dt) [sin(x)/x]², or the fourth power for the legacy convention."""
        return self._c1(params, t1, t2, q, phi, gap, 2)

    def field(self, params: Params, t1: Real, t2: Real, q: Real, phi: Real, gap: Real) -> jax.Array:
        """exp(-½ q² ∫ J dt) sin(x)/x, signed."""
        return self._c1(params, t1, t2, q, phi, gap, 1)

    def coordinates(self) -> Sequence[PowerLaw]:
        """J(t) and γ̇(t)."""
        flow = PowerLaw("gamma_dot", "gamma_dot_0", "beta", "gamma_dot_offset", visible=lambda q, gap: 0.5 * q * gap)
        return (TRANSPORT_LAW, flow)

    def rates(self) -> Sequence[Rate]:
        """J(t) and γ̇(t)."""
        return (TRANSPORT_RATE, Rate("gamma_dot", r"\dot\gamma(t)", "1/s", shear_rate))

    def supported(self, params: Params, t_first: Real, t_last: Real) -> jax.Array:
        """Whether J and γ̇ are positive: both are monotone, so the ends decide."""
        rates = [law(params, t) for law in (transport, shear_rate) for t in (t_first, t_last)]
        return jnp.stack(jnp.broadcast_arrays(*rates)).min(axis=0) > 0


def shear_rate(params: Params, t: Real) -> jax.Array:
    """γ̇(t), 1/s."""
    return rate(t, params["gamma_dot_0"], params["beta"], params["gamma_dot_offset"])
