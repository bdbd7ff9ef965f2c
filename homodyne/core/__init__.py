"""Physics and likelihood: arrays in, arrays out; no files, no configuration, no logging.

This is the one place where a global setting of JAX is changed. Log likelihoods of 25 million points have a
spacing of 2.0 in single precision, so the whole package computes in double precision; JAX offers that only
as a switch of the process, and it has to be set before the first array exists. Whoever imports anything
below ``homodyne.core`` gets it.
"""

import jax

jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]
