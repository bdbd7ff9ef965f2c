"""What the correlation of a sample is: models, their parameters, priors and coordinates. Knows no data.

Start with `homodyne.physics.model.CorrelationModel`. This is the one place where a global setting of JAX is changed:
log likelihoods of 25 million points have a spacing of 2.0 in single precision, so the package computes in double
precision, which JAX offers only as a switch of the process that has to be set before the first array exists.
"""

import jax

from homodyne.physics.compiling import keep_programs

jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]
keep_programs()
