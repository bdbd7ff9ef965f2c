"""Posteriors on which a merge of shards fails, or must be mended: rare events, edges, modes, ridges, bad shards.

Each function draws one case from a seed, which fixes sizes, positions and number of shards; the exact posterior is
known in closed form or by quadrature. Shapes and models repeat from seed to seed, so that compiled programs do too.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from homodyne.errors import ConvergenceError, ExecutionError, HomodyneWarning
from homodyne.optimization.cmc.backends.base import BackendOptions
from homodyne.optimization.cmc.coordinator import sample_consensus
from homodyne.optimization.cmc.models.adapters import LogDensityModel
from homodyne.optimization.cmc.types import ShardResult, ShardTask
from homodyne.optimization.cmc.worker import run_shard
from homodyne.result.record import MCMCResult

Array = npt.NDArray[np.float64]
Run = Callable[[ShardTask], ShardResult | Array]

WIDE = 5.0  # standard deviation of normal priors
SHIFT, STRETCH = 0.3, 0.25  # posterior sd, and relative error of a width, that draws in use may be off
LUCK = 3.0  # Monte Carlo errors that they may be off besides


@dataclass(frozen=True, eq=False)
class HardCase:
    """A model with data, and what a consensus run must say about it.

    Attributes
    ----------
    model
        Its coordinates are what is drawn.
    data
        Arrays by name; rows are in the order of the shards.
    num_shards
        Shards, cut from consecutive rows.
    mean, sd
        Exact moments of the posterior of all data, (d,) each.
    refusal
        What the reason of a refusal must hold; empty where a refusal has to be about weights or modes.
    named
        What the warnings must hold whatever the verdict; may be empty.
    run
        What a worker does with a task.
    """

    model: LogDensityModel
    data: dict[str, npt.NDArray[Any]]
    num_shards: int
    mean: Array
    sd: Array
    refusal: str = ""
    named: str = ""
    run: Run = run_shard


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    ``shift`` and ``stretch`` are errors of the means, in exact standard deviations, and of the widths, relative, both
    less their Monte Carlo errors. ``fault`` says what is not as it must be; empty when all is well.
    """

    verdict: str
    reason: str
    shift: float
    stretch: float
    fault: str


def run_case(case: HardCase, seed: int) -> Outcome:
    """Sample a case in this process and judge the result; a run that ends with too few shards has the verdict ERROR."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HomodyneWarning)
            found = sample_consensus(
                case.model,
                case.data,
                num_shards=case.num_shards,
                strategy="contiguous",
                backend="sequential",
                options=BackendOptions(run=case.run),
                seed=seed,
            )
    except ExecutionError as error:
        known = case.named and case.named in str(error)
        return Outcome("ERROR", str(error), 0.0, 0.0, "" if known else "no result")
    return judge(case, found)


def judge(case: HardCase, found: MCMCResult) -> Outcome:
    """Compare a result with the exact posterior, and its reason and warnings with what they must hold."""
    assert found.certificate is not None
    draws = np.stack([found.samples[name].ravel() for name in case.model.names], axis=1)
    reason = found.certificate.reason
    count = found.certificate.worth(len(draws)) if found.certificate.weighted else len(draws)
    unit = (draws - case.mean) / case.sd
    ratio = unit.std(axis=0)
    kurtosis = np.mean(((unit - unit.mean(axis=0)) / ratio) ** 4, axis=0)
    shift = float(np.max(np.abs(unit.mean(axis=0)) - LUCK * ratio / np.sqrt(count)))
    stretch = float(np.max(np.abs(ratio - 1.0) - LUCK * ratio * np.sqrt((kurtosis - 1.0) / (4.0 * count))))
    fault = ""
    if found.verdict == "REFUSED":
        wrong = case.refusal not in reason if case.refusal else "shard" in reason
        fault = "wrong reason" if wrong else ""
    elif case.refusal:
        fault = "must be refused"
    elif shift > SHIFT or stretch > STRETCH:
        fault = "wrong draws"
    if not any(case.named in text for text in (reason, *found.diagnostics["warnings"])):
        fault = fault or f"{case.named} is not named"
    return Outcome(found.verdict, reason, max(shift, 0.0), max(stretch, 0.0), fault)


def rare_success(seed: int) -> HardCase:
    """One to three successes in thousands of trials, spread over 100 shards: most shards have seen none."""
    from scipy.special import digamma, polygamma

    rng = np.random.default_rng([seed, 1])
    count, shards = int(rng.integers(1, 4)), 100
    y = np.zeros(shards * int(rng.choice([10, 40])), dtype=np.int64)
    y[rng.choice(len(y), count, replace=False)] = 1
    a, b = 1.0 + count, 1.0 + len(y) - count
    mean, variance = digamma(a) - digamma(b), polygamma(1, a) + polygamma(1, b)
    model = LogDensityModel(["z"], _uniform_prior, _bernoulli)
    return HardCase(model, {"y": y}, shards, np.array([mean]), np.sqrt([variance]))


def truth_on_the_edge(seed: int) -> HardCase:
    """A uniform prior with the truth on one of its bounds: the shards pile up there, at infinity of the logit."""
    rng = np.random.default_rng([seed, 2])
    shards, truth, sigma = int(rng.choice([4, 16])), float(rng.integers(0, 2)), float(rng.uniform(0.1, 3.0))
    y = truth + sigma * rng.standard_normal(shards * 50)
    z = np.linspace(-60.0, 60.0, 240_001)
    theta = 1.0 / (1.0 + np.exp(-z))
    log_density = -np.logaddexp(0.0, z) - np.logaddexp(0.0, -z) - 0.5 * len(y) * ((theta - y.mean()) / sigma) ** 2
    model = LogDensityModel(["z"], _uniform_prior, _logistic)
    data = {"y": y, "sigma": np.full(len(y), sigma)}
    return HardCase(model, data, shards, *_moments(log_density, z[:, None]))


def two_modes(seed: int) -> HardCase:
    """Only ``z^2 + tilt z`` is measured: two modes of different mass, from overlapping to far apart."""
    rng = np.random.default_rng([seed, 3])
    shards, height, tilt = int(rng.choice([1, 4, 16])), float(rng.uniform(0.0, 4.0)), float(rng.uniform(-2.0, 2.0))
    y = height + rng.standard_normal(shards * int(rng.choice([10, 50])))
    z = np.linspace(-12.0, 12.0, 240_001)
    log_density = -0.5 * (z / WIDE) ** 2 - 0.5 * len(y) * (z**2 + tilt * z - y.mean()) ** 2
    model = LogDensityModel(["z"], _wide_prior, _squared)
    data = {"y": y, "tilt": np.full(len(y), tilt)}
    return HardCase(model, data, shards, *_moments(log_density, z[:, None]))


def banana(seed: int) -> HardCase:
    """Only ``z1 + bend z0^2`` is measured: a curved ridge in every shard, cut to length by the prior."""
    rng = np.random.default_rng([seed, 4])
    shards, bend = int(rng.choice([1, 4, 16])), float(rng.uniform(0.02, 0.5))
    y = float(rng.uniform(-2.0, 2.0)) + rng.standard_normal(shards * 20)
    z0, level = np.meshgrid(np.linspace(-40.0, 40.0, 2001), y.mean() + np.linspace(-10.0, 10.0, 801) / len(y) ** 0.5)
    z = np.stack([z0.ravel(), (level - bend * z0**2).ravel()], axis=1)
    log_density = -0.5 * np.square(z / WIDE).sum(axis=1) - 0.5 * len(y) * (level.ravel() - y.mean()) ** 2
    model = LogDensityModel(["z0", "z1"], _wide_prior, _bent)
    data = {"y": y, "bend": np.full(len(y), bend)}
    return HardCase(model, data, shards, *_moments(log_density, z))


def corrupted_shard(seed: int) -> HardCase:
    """The values of one shard are shifted by six to a thousand standard errors of their mean."""
    case, rng = _normal_case(seed), np.random.default_rng([seed, 5])
    bad, size = int(rng.integers(case.num_shards)), len(case.data["y"]) // case.num_shards
    shift = rng.choice([-1.0, 1.0]) * 6.0 * 10.0 ** rng.uniform(0.0, 2.2) / size**0.5
    case.data["y"][bad * size : (bad + 1) * size, rng.integers(2)] += shift
    return replace(_refreshed(case), refusal=f"shard {bad} disagrees")


def duplicated_shard(seed: int) -> HardCase:
    """One shard holds the data of another."""
    case, rng = _normal_case(seed), np.random.default_rng([seed, 6])
    first, second = sorted(rng.choice(case.num_shards, 2, replace=False).tolist())
    rows = case.data["y"].reshape(case.num_shards, -1, 2)
    rows[second] = rows[first]
    return replace(_refreshed(case), refusal=f"shards {first} and {second} ")


def stuck_chain(seed: int) -> HardCase:
    """One chain of one shard is stuck: at once, in every attempt, or so that it creeps about where it started."""
    case, rng = _normal_case(seed), np.random.default_rng([seed, 7])
    bad, how = int(rng.integers(case.num_shards)), str(rng.choice(["first", "always", "creeps", "silent"]))
    named = "" if how == "first" else f"shard {bad}"
    return replace(case, named=named, run=partial(run_stuck, shard_id=bad, how=how))


CASES: dict[str, Callable[[int], HardCase]] = {
    "rare success": rare_success,
    "truth on the edge": truth_on_the_edge,
    "two modes": two_modes,
    "banana": banana,
    "corrupted shard": corrupted_shard,
    "duplicated shard": duplicated_shard,
    "stuck chain": stuck_chain,
}
"""Every case by name."""


def run_stuck(task: ShardTask, shard_id: int, how: str) -> ShardResult | Array:
    """Do what a worker does, with a stuck chain in one shard."""
    if task.points is not None or task.shard_id != shard_id:
        return run_shard(task)
    if how == "always" or (how == "first" and task.attempt == 0):
        raise ConvergenceError(f"shard {shard_id}: z0 never moved in chain 0")
    found = run_shard(task)
    if not isinstance(found, ShardResult) or how == "first":
        return found
    width = 0.01 if how == "creeps" else 0.0
    samples, sd = found.samples.copy(), found.samples.std(axis=(0, 1))
    samples[0] = samples[0, 0] + sd * (3.0 + width * np.random.default_rng(0).standard_normal(samples[0].shape))
    return replace(found, samples=samples, rhat=np.full(samples.shape[2], 2.0))


def _normal_case(seed: int) -> HardCase:
    """Means of normal pairs with unit variance, nothing wrong."""
    rng = np.random.default_rng([seed, 0])
    shards = int(rng.choice([4, 16]))
    y = rng.uniform(-3.0, 3.0, 2) + rng.standard_normal((shards * 50, 2))
    return _refreshed(HardCase(LogDensityModel(["z0", "z1"], _wide_prior, _pairs), {"y": y}, shards, y[0], y[0]))


def _refreshed(case: HardCase) -> HardCase:
    """The case with the posterior of its present data."""
    y = case.data["y"]
    precision = len(y) + WIDE**-2
    return replace(case, mean=y.sum(axis=0) / precision, sd=np.full(2, precision**-0.5))


def _moments(log_density: Array, z: Array) -> tuple[Array, Array]:
    """Mean and standard deviation (d,) on a regular grid (n, d)."""
    mass = np.exp(log_density - log_density.max())
    mean = mass @ z / mass.sum()
    return mean, np.sqrt(mass @ np.square(z - mean) / mass.sum())


def _uniform_prior(z: jax.Array) -> jax.Array:
    return -jnp.sum(jax.nn.softplus(z) + jax.nn.softplus(-z))


def _wide_prior(z: jax.Array) -> jax.Array:
    return -0.5 * jnp.sum((z / WIDE) ** 2)


def _bernoulli(z: jax.Array, data: Any) -> jax.Array:
    return jnp.sum(data["y"] * z[0] - jax.nn.softplus(z[0]))


def _logistic(z: jax.Array, data: Any) -> jax.Array:
    return -0.5 * jnp.sum(((jax.nn.sigmoid(z[0]) - data["y"]) / data["sigma"]) ** 2)


def _squared(z: jax.Array, data: Any) -> jax.Array:
    return -0.5 * jnp.sum((z[0] ** 2 + data["tilt"] * z[0] - data["y"]) ** 2)


def _bent(z: jax.Array, data: Any) -> jax.Array:
    return -0.5 * jnp.sum((z[1] + data["bend"] * z[0] ** 2 - data["y"]) ** 2)


def _pairs(z: jax.Array, data: Any) -> jax.Array:
    return -0.5 * jnp.sum((z - data["y"]) ** 2)
