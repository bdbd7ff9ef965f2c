"""A correlation model that is not registered, as a user would write it, for tests of what reads results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from homodyne.physics.model import CorrelationModel, Parameter, Params, Rate

KOHLRAUSCH_TRUTH = {"tau": 0.5, "gamma": 0.8}


@dataclass(frozen=True)
class Kohlrausch(CorrelationModel):
    """g = exp(-2 (lag / tau)^gamma) with tau ~ 1/q; lags are in s.

    Attributes
    ----------
    q_ref : float
        Wave vector to which tau belongs, 1/Å.
    """

    q_ref: float = 0.005

    name = "kohlrausch_example"
    parameters = (
        Parameter("tau", ("lognormal", {"median": 1.0, "sigma": 2.0}), "s", r"\tau", "relaxation time", (0.0, jnp.inf)),
        Parameter("gamma", ("lognormal", {"median": 1.0, "sigma": 0.5}), "", r"\gamma", "stretching", (0.0, jnp.inf)),
    )

    def g(self, params: Params, t1: Any, t2: Any, q: Any, phi: Any, gap: Any) -> jax.Array:
        """exp(-2 (lag / tau)^gamma)."""
        lag = jnp.asarray(t2) - jnp.asarray(t1)
        apart = lag > 0
        scaled = jnp.where(apart, lag, 1.0) / params["tau"] * jnp.asarray(q) / self.q_ref
        return jnp.where(apart, jnp.exp(-2.0 * scaled ** params["gamma"]), 1.0) + 0.0 * jnp.asarray(phi)

    def rates(self) -> Sequence[Rate]:
        """Relaxation rate, and a drift whose sign nobody knows."""
        return (
            Rate("Gamma", r"\Gamma(t)", "1/s", lambda params, t: 1.0 / params["tau"] + 0.0 * t),
            Rate("drift", r"\delta(t)", "", lambda params, t: (params["gamma"] - KOHLRAUSCH_TRUTH["gamma"]) * t**2),
        )
