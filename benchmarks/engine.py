"""What the no-U-turn sampler adds to the evaluations of the likelihood, on a shard of a million pairs."""

from collections.abc import Iterator

import jax

from benchmarks.likelihood import pilot_of, seconds, value_and_gradient
from benchmarks.measurement import STEADY
from benchmarks.page import Row
from homodyne.likelihood.posterior import log_density
from homodyne.optimization.nuts import Frame, NutsSettings, sample

SETTINGS = NutsSettings(num_warmup=50, num_samples=100, num_chains=4)


def run(small: bool = False) -> Iterator[Row]:
    """Rows of the table."""
    pilot = pilot_of(*((60, 3) if small else (500, 8)), truth=STEADY)
    posterior, mode = jax.device_put(pilot.posterior), pilot.mode
    alone = seconds(lambda: value_and_gradient(mode.z, posterior), 50)
    for round_number in range(2):  # programs are compiled in the first
        found = sample(log_density, posterior, Frame(mode.z, mode.covariance), SETTINGS, jax.random.key(round_number))
    inside = (found.timings["warmup"] + found.timings["sampling"]) / found.num_gradients
    yield Row("log density and gradient, alone", f"{1e3 * alone:.3f} ms")
    yield Row("the same in the sampler, 4 chains", f"{1e3 * inside:.3f} ms for each gradient of a chain")
