"""An ageing sample without flow: g = exp(-q² ∫ J dt), J = D0 t^alpha + D_offset.

He et al., PNAS 121, e2401162121 (2024).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from homodyne.physics.model import CorrelationModel, Parameter, Params, PowerLaw, Rate, Real
from homodyne.physics.power_laws import rate, rate_integral

TRANSPORT_PARAMETERS = (
    Parameter(
        "D0", ("lognormal", {"median": 1e4, "sigma": 4.0}), "Å²/s^(1+alpha)", "D_0",
        "transport amplitude, Å²/s^(1+alpha)", (0.0, float("inf")),
    ),
    Parameter("alpha", ("normal", {"mean": 0.0, "sd": 1.5}), "", r"\alpha", "transport exponent"),
    Parameter(
        "D_offset", ("share", {"median": 1.0, "sigma": 1.0}), "Å²/s", r"D_\mathrm{offset}", "transport offset, Å²/s"
    ),
)  # fmt: skip
TRANSPORT_LAW = PowerLaw("J", "D0", "alpha", "D_offset", visible=lambda q, gap: q**2)


def transport(params: Params, t: Real) -> jax.Array:
    """Transport coefficient J(t), Å²/s."""
    return rate(t, params["D0"], params["alpha"], params["D_offset"])


def transport_integral(params: Params, t1: Real, t2: Real) -> jax.Array:
    """∫ J dt from t1 to t2, Å²."""
    return rate_integral(t1, t2, params["D0"], params["alpha"], params["D_offset"])


TRANSPORT_RATE = Rate("J", "J(t)", "Å²/s", transport)


@dataclass(frozen=True)
class Static(CorrelationModel):
    """Ageing sample without flow."""

    name = "static"
    parameters = TRANSPORT_PARAMETERS

    def g(self, params: Params, t1: Real, t2: Real, q: Real, phi: Real, gap: Real) -> jax.Array:
        """exp(-q² ∫ J dt)."""
        return jnp.exp(-(jnp.asarray(q) ** 2) * transport_integral(params, t1, t2)) + 0.0 * jnp.asarray(phi)

    def coordinates(self) -> Sequence[PowerLaw]:
        """J(t)."""
        return (TRANSPORT_LAW,)

    def rates(self) -> Sequence[Rate]:
        """J(t)."""
        return (TRANSPORT_RATE,)

    def supported(self, params: Params, t_first: Real, t_last: Real) -> jax.Array:
        """Whether J is positive: a power law with a constant is monotone, so both ends decide."""
        return (transport(params, t_first) > 0) & (transport(params, t_last) > 0)
