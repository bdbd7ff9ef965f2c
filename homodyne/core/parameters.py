"""Names of the physical parameters."""

STATIC_NAMES = ("D0", "alpha", "D_offset")
LAMINAR_NAMES = (*STATIC_NAMES, "gamma_dot_0", "beta", "gamma_dot_offset", "phi0")
