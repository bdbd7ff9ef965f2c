"""Parameters of samples that several tests measure."""

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
