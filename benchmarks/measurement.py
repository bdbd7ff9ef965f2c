"""The measurement that every benchmark uses: laminar flow with independent noise, made directly as float32
maps.
"""

from collections.abc import Mapping

import numpy as np

from homodyne.core.correlation import field_shear_factor, shear_argument_scale
from homodyne.core.transport import rate_integral
from homodyne.data.twotime import TwoTimeData, from_cube

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
    rng = np.random.default_rng(seed)
    t = 0.1 * np.arange(1, num_frames + 1)
    phi = np.linspace(-85.0, 85.0, num_angles)
    law = [truth[name] for name in ("D0", "alpha", "D_offset")]
    shear = [truth[name] for name in ("gamma_dot_0", "beta", "gamma_dot_offset")]
    decay = Q**2 * np.asarray(rate_integral(t[0], t, *law))
    strain = np.asarray(rate_integral(t[0], t, *shear))
    c2 = np.empty((num_angles, num_frames, num_frames), np.float32)
    fall = np.exp(-np.abs(decay[:, None] - decay))
    for k in range(num_angles):
        h = float(shear_argument_scale(phi[k], truth["phi0"], Q, GAP))
        g = fall * np.asarray(field_shear_factor(h * (strain[:, None] - strain)) ** 2)
        c2[k] = 1.0 + CONTRAST * g + SIGMA * rng.standard_normal((num_frames, num_frames), dtype=np.float32)
        upper = np.triu(c2[k])
        c2[k] = upper + np.triu(c2[k], 1).T
    return from_cube(c2, t, phi, Q, gap=GAP)
