"""A stretched or compressed exponential whose rate ages and scales with the wave vector.

    g = exp(-2 (∫ Γ dt)^k),    Γ(t) = Gamma_ref t^-mu (q / q_ref)^n

The Kohlrausch form, exp(-2 (Γ τ)^k) at constant Γ: k < 1 for a spread of relaxation times, k = 1 and n = 2 for
diffusion, k > 1 and n = 1 for ballistic motion as of relaxing stress (Madsen et al., New J. Phys. 12, 055001, 2010).
No field has k > 2: exp(-x^k) is no covariance then.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp

from homodyne.physics.elementary import power
from homodyne.physics.model import CorrelationModel, Parameter, Params, PowerLaw, Rate, Real
from homodyne.physics.power_laws import rate, rate_integral

_PARAMETERS = (
    Parameter(
        "Gamma_ref", ("lognormal", {"median": 1.0, "sigma": 4.0}), "1/s^(1-mu)", r"\Gamma_\mathrm{ref}",
        "relaxation rate at q_ref and an age of 1 s, 1/s^(1-mu)", (0.0, math.inf),
    ),
    Parameter(
        "mu", ("normal", {"mean": 0.0, "sd": 1.5}), "", r"\mu", "ageing exponent: the relaxation time grows as t^mu"
    ),
    Parameter(
        "k", ("lognormal", {"median": 1.0, "sigma": 0.5}), "", "k",
        "stretching exponent, below 1 stretched, above 1 compressed", (0.0, math.inf),
    ),
)  # fmt: skip
_SCALING = Parameter(
    "n", ("normal", {"mean": 2.0, "sd": 1.0}), "", "n", "exponent of the wave vector, 2 for diffusion", fixed=2.0
)


@dataclass(frozen=True)
class Stretched(CorrelationModel):
    """Stretched or compressed exponential with an ageing rate.

    Attributes
    ----------
    free_n : bool
        Whether n is fitted by default; it is fixed at 2 otherwise, unless it is given a prior.
    q_ref : float
        Wave vector to which Gamma_ref belongs, 1/Å.
    """

    free_n: bool = field(default=False, metadata={"description": "fit n, the exponent of q, instead of 2"})
    q_ref: float = field(default=0.01, metadata={"description": "wave vector of Gamma_ref, 1/Å"})

    name = "stretched"

    @property
    def parameters(self) -> Sequence[Parameter]:
        """Gamma_ref, mu, k and n."""
        return (*_PARAMETERS, replace(_SCALING, fixed=None if self.free_n else _SCALING.fixed))

    def g(self, params: Params, t1: Real, t2: Real, q: Real, phi: Real, gap: Real) -> jax.Array:
        """exp(-2 (∫ Γ dt)^k)."""
        k, lag = params["k"], rate_integral(t1, t2, params["Gamma_ref"], -jnp.asarray(params["mu"]))
        scale = power(jnp.asarray(q) / self.q_ref, params["n"] * jnp.asarray(k))
        later = lag > 0  # at equal times the slope of the power is infinite where k < 1
        stretched = jnp.where(later, power(jnp.where(later, lag, 1.0), k), 0.0)
        return jnp.exp(-2.0 * scale * stretched) + 0.0 * jnp.asarray(phi)

    def coordinates(self) -> Sequence[PowerLaw]:
        """Γ(t) at q_ref."""
        return (PowerLaw("Gamma", "Gamma_ref", "mu", sign=-1.0, visible=lambda q, gap: 2.0 * (q / self.q_ref) ** 2),)

    def rates(self) -> Sequence[Rate]:
        """Γ(t) at q_ref and its inverse."""
        at = rf"q = {self.q_ref:g}\,\mathrm{{Å}}^{{-1}}"
        return (
            Rate("Gamma", rf"\Gamma(t),\ {at}", "1/s", relaxation_rate),
            Rate("tau", rf"\tau(t),\ {at}", "s", lambda params, t: 1.0 / relaxation_rate(params, t)),
        )

    def supported(self, params: Params, t_first: Real, t_last: Real) -> jax.Array:
        """Whether rate and stretching exponent are positive."""
        return (jnp.asarray(params["Gamma_ref"]) > 0) & (jnp.asarray(params["k"]) > 0)


def relaxation_rate(params: Params, t: Real) -> jax.Array:
    """Γ(t) at q_ref, 1/s; its inverse is the time in which c1 falls to 1/e while Γ stays."""
    return rate(t, params["Gamma_ref"], -jnp.asarray(params["mu"]))
