"""What the sampler adds to the evaluations of the likelihood, on a shard of a million pairs and one thread."""

import jax
import numba
import numpy as np

from benchmarks.measurement import STEADY, laminar_flow
from benchmarks.primitive import seconds
from homodyne.config.schema import Config
from homodyne.core import moments_numba
from homodyne.optimization.nlsq import pilot_fit
from homodyne.optimization.nuts import NutsSettings, sample_posterior
from homodyne.optimization.target import build_target

ROUNDS = 5
SETTINGS = NutsSettings(num_warmup=50, num_samples=100, num_chains=2)


def run() -> None:
    """Print milliseconds of a gradient in the loops over the data, by itself and in the sampler, round by round."""
    numba.config.NUMBA_NUM_THREADS = 1
    target = build_target(laminar_flow(500, 8, truth=STEADY), Config())
    likelihood = target.likelihood
    start = likelihood.space.coordinates(STEADY)
    pilot = pilot_fit(likelihood, target.thin, np.random.default_rng(0), initial=start)
    program, z = jax.jit(jax.value_and_grad(pilot.posterior.log_density)), pilot.mode.z
    decay, shear = jax.tree.map(np.asarray, likelihood.curves(z))
    block, order, ones = likelihood.slot.block, likelihood.order, np.ones((len(likelihood.phi), 3))

    def loops() -> None:
        tables = moments_numba.tables_of(block, decay, shear, order)
        moments_numba.moments(block, decay, shear, order, tables)
        moments_numba.product(block, decay, shear, ones, order, tables)

    rows = []
    for k in range(ROUNDS):
        found = sample_posterior(pilot.posterior.log_density, z, pilot.mode.covariance, SETTINGS, jax.random.key(k))
        sampling = (found.timings["warmup"] + found.timings["sampling"]) / found.num_gradients
        rows.append([1e3 * x for x in (seconds(loops, 40), seconds(lambda: program(z), 40), sampling)])
        print("  loops {:.2f} ms, gradient {:.2f} ms, in the sampler {:.2f} ms".format(*rows[-1]), flush=True)
    loop, gradient, sampled = np.median(rows, axis=0)
    print(f"{block.values.size:,} pairs; beyond gradients {100 * (1 - gradient / sampled):.0f} % of the sampling,")
    print(f"  beyond the loops over the data {100 * (1 - loop / sampled):.0f} %")
