"""Two components, of which one moves with a velocity against the other: an ageing sample beside a reference.

    c1 = [r r' H_ref + s s' H_sample exp(i q cos(phi - phi0) ∫ v dt)] / [(s² + r²) (s'² + r'²)]^½,    g = |c1|²

with s(t) = f0 exp(f1 (t - f2)) + f3 the fraction of the field that the moving component scatters, r = 1 - s, primes at
t2, H = exp(-½ q² ∫ J dt), J = D0 t^alpha + D_offset for each component, and v = v0 t^beta + v_offset (He et al., PNAS
121, e2401162121, 2024).

Intensities do not tell phi0 from phi0 + 180 degrees, nor v from -v: of two equal laws the one with v >= 0 in the middle
of the record is taken. f0 and f2 say the same twice, so f2 is 0 unless it is given another value or a prior. Nor do
intensities tell which component moves: 1 - s with both J exchanged gives the same g, and only f0 > 0 excludes that, as
far as s bends. Earlier software writes phi + phi0_het for phi - phi0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from homodyne.physics.elementary import cosine, direction_cosine
from homodyne.physics.model import CorrelationModel, Growth, Parameter, Params, PowerLaw, Rate, Real
from homodyne.physics.models.static import TRANSPORT_PARAMETERS, transport, transport_integral
from homodyne.physics.power_laws import middle_age, rate, rate_integral

REFERENCE, SAMPLE = "_ref", "_sample"
"""Ends of the names of the transport parameters of both components."""

_SYMBOLS = {
    "D0": r"D_{{0,\mathrm{{{0}}}}}",
    "alpha": r"\alpha_\mathrm{{{0}}}",
    "D_offset": r"D_\mathrm{{offset,{0}}}",
}


def _transport_parameters(component: str) -> tuple[Parameter, ...]:
    word = component.lstrip("_")
    return tuple(
        replace(
            one,
            name=one.name + component,
            symbol=_SYMBOLS[one.name].format(word),
            description=f"{one.description} (of the {'reference' if component == REFERENCE else 'moving component'})",
        )
        for one in TRANSPORT_PARAMETERS
    )


@dataclass(frozen=True)
class Heterodyne(CorrelationModel):
    """Two components in relative motion."""

    name = "heterodyne"
    parameters = (
        *_transport_parameters(REFERENCE),
        *_transport_parameters(SAMPLE),
        Parameter(
            "v0", ("lognormal", {"median": 1e3, "sigma": 4.0}), "Å/s^(1+beta)", "v_0",
            "velocity amplitude, Å/s^(1+beta)", (0.0, math.inf),
        ),
        Parameter("beta", ("normal", {"mean": 0.0, "sd": 1.0}), "", r"\beta", "velocity exponent", aliases=("v_beta",)),
        Parameter(
            "v_offset", ("share", {"median": 1.0, "sigma": 1.0}), "Å/s", r"v_\mathrm{offset}", "velocity offset, Å/s"
        ),
        Parameter(
            "f0", ("uniform", {"low": 0.0, "high": 1.0}), "", "f_0", "fraction of the moving component that changes"
        ),
        Parameter("f1", ("normal", {"mean": 0.0, "sd": 0.1}), "1/s", "f_1", "rate at which that fraction changes, 1/s"),
        Parameter(
            "f2", ("normal", {"mean": 0.0, "sd": 10.0}), "s", "f_2", "age at which that fraction is f0, s", fixed=0.0
        ),
        Parameter(
            "f3", ("uniform", {"low": -1.0, "high": 1.0}), "", "f_3", "fraction of the moving component that stays"
        ),
        Parameter(
            "phi0", ("uniform", {"low": -90.0, "high": 90.0}), "deg", r"\varphi_0",
            "direction of the velocity, degrees", period=180.0,
        ),
    )  # fmt: skip

    def _parts(self, params: Params, t1: Real, t2: Real, q: Real, phi: Real) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Both terms of c1 without the phase factor, and the phase."""
        s1, s2 = fraction(params, t1), fraction(params, t2)
        r1, r2 = 1.0 - s1, 1.0 - s2
        norm = jax.lax.rsqrt((s1**2 + r1**2) * (s2**2 + r2**2))
        reference, sample = (
            jnp.exp(-0.5 * jnp.asarray(q) ** 2 * transport_integral(_component(params, which), t1, t2))
            for which in (REFERENCE, SAMPLE)
        )
        return norm * r1 * r2 * reference, norm * s1 * s2 * sample, _phase(params, t1, t2, q, phi)

    def g(self, params: Params, t1: Real, t2: Real, q: Real, phi: Real, gap: Real) -> jax.Array:
        """|c1|²."""
        reference, sample, phase = self._parts(params, t1, t2, q, phi)
        return reference**2 + sample**2 + 2.0 * reference * sample * cosine(phase)

    def field(self, params: Params, t1: Real, t2: Real, q: Real, phi: Real, gap: Real) -> jax.Array:
        """c1, complex."""
        reference, sample, phase = self._parts(params, t1, t2, q, phi)
        return reference + sample * jnp.exp(1j * phase)

    def coordinates(self) -> Sequence[PowerLaw]:
        """Both J(t), and v(t)."""
        transports = (
            PowerLaw(f"J{which}", f"D0{which}", f"alpha{which}", f"D_offset{which}", visible=lambda q, gap: q**2)
            for which in (REFERENCE, SAMPLE)
        )
        return (*transports, PowerLaw("v", "v0", "beta", "v_offset", visible=lambda q, gap: q))

    def growths(self) -> Sequence[Growth]:
        """The fraction of the moving component."""
        return (Growth("fraction", "f0", "f1", "f3", "f2"),)

    def alternatives(self, params: Params, t_middle: float) -> Sequence[Params]:
        """Both components exchanged; 1 - s is s with -f1, as far as s does not bend."""
        other = dict(params)
        for one in TRANSPORT_PARAMETERS:
            other[one.name + REFERENCE], other[one.name + SAMPLE] = (
                params[one.name + SAMPLE],
                params[one.name + REFERENCE],
            )
        grown = math.exp(params["f1"] * (t_middle - params["f2"]))
        other["f0"], other["f1"] = params["f0"] * grown**2, -params["f1"]
        other["f3"] = 1.0 - params["f3"] - 2.0 * params["f0"] * grown
        return (other,)

    def rates(self) -> Sequence[Rate]:
        """Both J(t), v(t), and the fraction of the moving component."""
        return (
            Rate("J_ref", r"J_\mathrm{ref}(t)", "Å²/s", lambda p, t: transport(_component(p, REFERENCE), t)),
            Rate("J_sample", r"J_\mathrm{sample}(t)", "Å²/s", lambda p, t: transport(_component(p, SAMPLE), t)),
            Rate("v", "v(t)", "Å/s", velocity),
            Rate("fraction", "s(t)", "", fraction),
        )

    def supported(self, params: Params, t_first: Real, t_last: Real) -> jax.Array:
        """Whether both J are positive and s is in (0, 1), which are monotone in t, and v >= 0 in the middle."""
        fractions = [fraction(params, t) for t in (t_first, t_last)]
        transports = [transport(_component(params, c), t) for c in (REFERENCE, SAMPLE) for t in (t_first, t_last)]
        positive = [*transports, *fractions, *(1.0 - s for s in fractions)]
        middle = velocity(params, middle_age(t_first, t_last))
        return (jnp.stack(jnp.broadcast_arrays(*positive)).min(axis=0) > 0) & (middle >= 0)

    def warnings(self, params: Params, t: Real, q: Real, phi: Real, gap: Real) -> Sequence[str]:
        """Whether the phase advances by more than π from frame to frame, so that the velocity is ambiguous."""
        t, q, phi = (np.asarray(x, dtype=float) for x in (t, q, phi))
        steps = np.abs(np.asarray(_phase(params, t[:-1], t[1:], q[:, None], phi[:, None]))).max(axis=1)
        k = int(steps.argmax())
        if steps[k] <= math.pi:
            return ()
        return (
            f"the phase q v dt advances by up to {steps[k]:.3g} from frame to frame (q = {q[k]:g} 1/Å, "
            f"phi = {phi[k]:g} degrees): above π other velocities explain the data as well; measure with shorter "
            "frames or fit a smaller q",
        )


def velocity(params: Params, t: Real) -> jax.Array:
    """v(t), Å/s."""
    return rate(t, params["v0"], params["beta"], params["v_offset"])


def fraction(params: Params, t: Real) -> jax.Array:
    """s(t), the fraction of the moving component."""
    grown = jnp.exp(params["f1"] * (jnp.asarray(t, dtype=float) - params["f2"]))
    return jnp.asarray(params["f3"] + params["f0"] * grown)


def _component(params: Params, which: str) -> dict[str, object]:
    """Transport parameters of one component under the names of the static model."""
    return {one.name: params[one.name + which] for one in TRANSPORT_PARAMETERS}


def _phase(params: Params, t1: Real, t2: Real, q: Real, phi: Real) -> jax.Array:
    path = rate_integral(t1, t2, params["v0"], params["beta"], params["v_offset"])
    return jnp.asarray(q) * direction_cosine(params["phi0"], phi) * path
