"""Measurements whose truth is drawn from the prior that the fit is given.

Drawn so, the truth lies in an interval of the posterior as often as the interval says, whatever the prior and however
curved the posterior, if and only if the posterior is right; nothing else but the noise is then on trial.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

import homodyne
from homodyne.config.io import load_config
from homodyne.config.physics import scaling_of, space_of
from homodyne.config.schema import Config
from homodyne.data.twotime import TwoTimeData

Array = np.ndarray[Any, np.dtype[Any]]

Q, GAP, DT, AGE = 0.0054, 2e6, 0.1, 1.0  # 1/Å, Å, s, s
SHORT, LONG, SLOW = 0.5, 3.0, 80.0
"""Correlation times in s, of the diffusion at an age of one second at the median of the prior."""

ANGLES = {"static": (0.0,), "laminar_flow": (-80.0, -35.0, 10.0, 55.0)}
SPEED = 1.5  # rate of the decay by shear, at the best angle, over that by diffusion

_KNOWN = {"amplitude": 0.5, "exponent": 0.15, "contrast": 0.01, "offset": 0.02}
_VAGUE = {"amplitude": 1.0, "exponent": 0.4, "contrast": 0.06, "offset": 0.05}
"""Standard deviations of priors, that of an amplitude in its logarithm."""


@dataclass(frozen=True)
class Scenario:
    """A kind of measurement with what is known beforehand.

    Attributes
    ----------
    mode : "static" or "laminar_flow"
    tau : float
        Correlation time in s that the prior expects.
    num_frames : int
    sigma : float
        Standard deviation of independent noise, where there are no counts.
    mean_counts, pixels : float, int
        Of speckle; no counts stand for independent noise.
    known : float
        Width of the prior of the fit over that of the truth; anything but 1 is an error made on purpose.
    vague : bool
        Whether little is known beforehand: wide priors, offsets of the laws of either sign.
    """

    mode: str
    tau: float
    num_frames: int = 100
    sigma: float = 0.1
    mean_counts: float | None = None
    pixels: int = 1000
    known: float = 1.0
    vague: bool = False

    @property
    def _simulator(self) -> dict[str, Any]:
        """Kind and settings of the simulator."""
        if self.mean_counts is None:
            return {"kind": "independent", "sigma": self.sigma}
        return {"kind": "speckle", "mean_counts": self.mean_counts, "pixels": self.pixels}

    @property
    def t(self) -> Array:
        """Ages of the frames in s."""
        return AGE + DT * np.arange(1, self.num_frames + 1)

    def config(self, **more: Any) -> Config:
        """Configuration of the fit; `more` are top-level entries."""
        return load_config({"analysis_mode": self.mode, "parameters": _priors(self, self.known), **more})

    def measure(self, seed: int) -> tuple[TwoTimeData, dict[str, Array], Array]:
        """Draw a truth and data: record, physical parameters with contrast and offset per angle, coordinates."""
        config = load_config({"analysis_mode": self.mode, "parameters": _priors(self, 1.0)})
        space, rng = space_of(config, self.t), np.random.default_rng([seed, 7])
        z = space.draw_supported(rng, 1)[0]
        phi, scaling = ANGLES[self.mode], scaling_of(config)
        truth = {name: np.asarray(value) for name, value in space.physical(z).items()}
        (mean,), (precision,) = scaling.mean[..., None], scaling.precision[..., None]  # priors here are normal
        offset, contrast = mean + rng.standard_normal((2, len(phi))) / np.sqrt(precision)
        data = homodyne.simulate(
            {name: float(value) for name, value in truth.items()}, q=Q, gap=GAP, num_frames=self.num_frames, dt=DT,
            phi=phi, contrast=contrast, offset=offset, seed=seed, age_origin=AGE, **self._simulator,
        )  # fmt: skip
        return data, {**truth, "contrast": contrast, "offset": offset}, z


def _priors(scenario: Scenario, width: float) -> dict[str, Any]:
    """Priors about laws that fall with age, with a third of the rate left in the offset unless they are vague."""
    sd = {of: width * value for of, value in (_VAGUE if scenario.vague else _KNOWN).items()}
    level = 1.0 / (Q**2 * scenario.tau)
    laws = [("D0", "alpha", "D_offset", level, -0.9)]
    if scenario.mode == "laminar_flow":
        laws.append(("gamma_dot_0", "beta", "gamma_dot_offset", 2.0 * SPEED / (Q * GAP * scenario.tau), -0.7))
    given: dict[str, Any] = {
        "contrast": {"type": "normal", "mean": 0.3, "sd": sd["contrast"]},
        "offset": {"type": "normal", "mean": 1.0, "sd": sd["offset"]},
    }
    for amplitude, exponent, offset, rate, power in laws:
        given[amplitude] = {"type": "lognormal", "median": rate, "sigma": sd["amplitude"]}
        given[exponent] = {"type": "normal", "mean": power, "sd": sd["exponent"]}
        if scenario.vague:
            given[offset] = {"type": "normal", "mean": 0.0, "sd": 0.5 * rate * width}
        else:
            given[offset] = {"type": "lognormal", "median": 0.3 * rate, "sigma": 0.5 * width}
    if scenario.mode == "laminar_flow":
        given["phi0"] = {"type": "normal", "mean": 5.0, "sd": 10.0 * width}
    return {name: {"prior": prior} for name, prior in given.items()}
