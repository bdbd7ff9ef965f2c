"""Value and gradient of the marginal log posterior against a plain per-point implementation.

The reference is what a straightforward author writes: one gather per point, float64, JAX's own derivatives.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measurement import SIGMA, TRUTH, laminar_flow
from homodyne.config.schema import Config
from homodyne.core.moments import Moments
from homodyne.core.posterior import Posterior
from homodyne.core.sandwich import sandwich
from homodyne.noise.speckle_noise import CountingFacts
from homodyne.optimization.target import build_target


def reference(posterior: Posterior) -> Callable[[Any], Any]:
    """Per-point value and gradient of the same log density."""
    likelihood = posterior.likelihood
    angle, i, j = (jnp.asarray(x, jnp.int32) for x in likelihood.slot.block.point_frames())
    y = jnp.asarray(likelihood.slot.block.values, float)
    sums = jnp.asarray(likelihood.slot.sums)

    def log_density(z: Any, angle: Any, i: Any, j: Any, y: Any) -> Any:
        decay, (h, strain) = likelihood.curves(z)
        x = h[angle] * (strain[j] - strain[i])
        near = jnp.abs(x) < 1e-3
        safe = jnp.where(near, 1.0, x)
        g = jnp.exp(decay[i] - decay[j]) * jnp.where(near, 1.0 - x**2 / 6.0, jnp.sin(safe) / safe) ** 2
        per_point = jnp.stack([g, g * g, g * (y - sums[angle, 2])], axis=1)
        totals = jax.ops.segment_sum(per_point, angle, len(likelihood.phi), indices_are_sorted=True)
        m = Moments(*sums.T, *totals.T)
        return posterior.log_prior(z) + likelihood.from_moments(m, z, jnp.asarray(posterior.sigma)).sum()

    program = jax.jit(jax.value_and_grad(log_density))
    return lambda z: program(z, angle, i, j, y)


def seconds(call: Callable[[], Any], runs: int) -> float:
    """Median time of a call after one warm-up."""
    jax.block_until_ready(call())
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def run() -> None:
    """Print nanoseconds per pair of both and their ratio, at 10 million pairs, and what a sandwich covariance costs."""
    data = laminar_flow(1000, 20)
    likelihood = build_target(data, Config()).likelihood
    posterior = Posterior(likelihood, np.full(data.num_angles, SIGMA))
    z = likelihood.space.coordinates(TRUTH)
    ours, plain = jax.jit(jax.value_and_grad(posterior.log_density)), reference(posterior)
    a, b = ours(z), plain(z)
    np.testing.assert_allclose(a[0], b[0], rtol=1e-9)
    np.testing.assert_allclose(a[1], b[1], rtol=1e-6, atol=1e-6 * np.abs(b[1]).max())
    pairs = data.num_pairs
    value = seconds(lambda: likelihood.evaluate(z, posterior.sigma), 9)
    rows = [
        ("value", value),
        ("value and gradient", seconds(lambda: ours(z), 9)),
        ("reference", seconds(lambda: plain(z), 3)),
    ]
    print(f"{pairs:,} pairs, laminar flow")
    for name, time_ in rows:
        print(f"  {name:20s} {1e3 * time_:8.1f} ms  {1e9 * time_ / pairs:7.2f} ns per pair")
    print(f"  reference / value and gradient: {rows[2][1] / rows[1][1]:.0f}")

    scaling, facts = np.asarray(likelihood.evaluate(z, posterior.sigma).scaling_mean), CountingFacts(given_counts=2.0)

    def covariance() -> None:
        sandwich(likelihood, z, scaling, posterior.sigma, facts, np.eye(z.size))

    each = seconds(covariance, 3) / data.num_angles
    print(f"  sandwich covariance: {each:.2f} s per angle, as much as {each / rows[1][1]:.1f} values and gradients")
