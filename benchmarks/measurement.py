"""The measurement that every benchmark uses: laminar flow with independent noise."""

from collections.abc import Mapping

import numpy as np

from homodyne.data.twotime import TwoTimeData, from_cube
from homodyne.physics.models.laminar_flow import LaminarFlow
from homodyne.physics.simulate import TrueModel, independent

TRUTH = {
    "D0": 68481.0,
    "alpha": -1.327,
    "D_offset": 1708.0,
    "gamma_dot_0": 4.4e-3,
    "beta": -0.212,
    "gamma_dot_offset": -1.3e-3,
    "phi0": 2.0,
}
STEADY = {**TRUTH, "D0": 2e4, "alpha": -0.5, "D_offset": 500.0}
"""A law that every part of a record tells of; with `TRUTH` only the first hundredth knows the exponent."""

Q, GAP, CONTRAST, SIGMA = 0.0054, 2e6, 0.3, 0.1


def laminar_flow(num_frames: int, num_angles: int, seed: int = 0, truth: Mapping[str, float] = TRUTH) -> TwoTimeData:
    """Simulate maps with white noise; 2000 frames and 25 angles are 50 million pairs and 400 MB."""
    t = 0.1 * np.arange(1, num_frames + 1)
    phi = np.linspace(-85.0, 85.0, num_angles)
    maps = independent(TrueModel(LaminarFlow(), truth, t, phi, Q, GAP, CONTRAST), sigma=SIGMA, seed=seed)
    return from_cube(maps.c2, t, phi, Q, gap=GAP)
