"""Samples that several tests measure: parameters, and a model."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from homodyne.physics.model import CorrelationModel, Parameter

STATIC = {"D0": 2e4, "alpha": -0.5, "D_offset": 1000.0}
MIRROR = STATIC | {
    "D0": 1e5,
    "D_offset": 0.0,
    "gamma_dot_0": 1e-3,
    "beta": -0.5,
    "gamma_dot_offset": 1e-4,
    "phi0": 80.0,
}
"""At one angle a second flow direction, at which scattering is the same."""


@dataclass(frozen=True)
class TwoRates(CorrelationModel):
    """Two components that decay; nothing tells which is which."""

    name = "two_rates"
    parameters = tuple(
        Parameter(one, ("lognormal", {"median": 1.0, "sigma": 2.0}), "1/s", one, "rate", support=(0.0, np.inf))
        for one in ("fast", "slow")
    )

    def g(self, params, t1, t2, q, phi, gap):
        """Square of the mean of both."""
        lag = t2 - t1
        return 0.25 * (jnp.exp(-params["fast"] * lag) + jnp.exp(-params["slow"] * lag)) ** 2
