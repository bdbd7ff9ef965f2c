"""How often the certificate and the tests between shards are wrong, either way."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np

from benchmarks.validation.hard_cases import CASES, run_case
from homodyne.certificate.certify import certify
from homodyne.optimization.cmc.backends.base import BackendOptions
from homodyne.optimization.cmc.coordinator import sample_consensus
from homodyne.optimization.cmc.heterogeneity import ShardMoments, compare_shards
from homodyne.testing import conjugate, densities

Array = np.ndarray[Any, np.dtype[Any]]

DRAWS, POINTS = 1000, 400  # of a certificate
ALARM = 0.01  # nominal rate of false alarms between shards

PROBLEMS: dict[str, Callable[[], densities.Problem]] = {
    "normal, 3 dimensions": lambda: densities.gaussian(densities.random_covariance(3, 0)),
    "normal, 7 dimensions": lambda: densities.gaussian(densities.random_covariance(7, 0)),
    "skewed": densities.skewed,
    "banana": lambda: densities.banana(3, bend=0.5),
}
DEFECTS: dict[str, Callable[[Array, Array], Array]] = {
    "exact draws": lambda x, sd: x,
    "mean 0.5 sd off": lambda x, sd: x + 0.5 * sd * np.eye(x.shape[1])[0],
    "widths 30 % too small": lambda x, sd: x.mean(axis=0) + 0.7 * (x - x.mean(axis=0)),
    "widths 40 % too large": lambda x, sd: x.mean(axis=0) + 1.4 * (x - x.mean(axis=0)),
    "upper tail cut": lambda x, sd: x[x[:, 0] < x[:, 0].mean() + sd[0]],
}
"""What is done to exact draws (n, d) with standard deviations (d,)."""

SHARDS = {f"{count} shards, {d} parameters": (count, d) for count in (2, 8, 32) for d in (3, 7)}
_SHARD_DRAWS = 200


@cache
def _problem(name: str) -> tuple[densities.Problem, Callable[[Array], Array]]:
    """A problem with its density at many points."""
    problem = PROBLEMS[name]()
    return problem, jax.jit(jax.vmap(problem.log_density))


def certificate(name: str, seed: int) -> dict[str, str]:
    """Verdicts on draws with every defect."""
    problem, density = _problem(name)
    found = {}
    for k, (defect, spoil) in enumerate(DEFECTS.items()):
        draws = spoil(problem.draw(DRAWS, 1000 * seed + k), problem.sd)
        judged = certify(
            lambda points: np.asarray(density(points)), draws, names=problem.names, num_points=POINTS, seed=seed
        )
        found[defect] = judged.certificate.verdict
    return found


def agreement(name: str, seed: int) -> dict[str, Any]:
    """P-values of the tests between healthy shards, and whether a bad one is named.

    Shards are normal with unit covariance; the last one is then moved by six of its standard deviations.
    """
    count, d = SHARDS[name]
    rng = np.random.default_rng([seed, count, d])
    draws = rng.standard_normal((count, 1, d)) + rng.standard_normal((count, _SHARD_DRAWS, d))
    healthy = compare_shards(_moments(draws), ALARM)
    draws[-1, :, 0] += 6.0 * np.sqrt(1.0 + 1.0 / max(count - 1, 1))
    sick = compare_shards(_moments(draws), ALARM)
    return {
        "p": healthy.overall.p,
        "p_parameters": float(healthy.p_parameters.min()),
        "named": len(healthy.outliers),
        "identical": len(healthy.identical),
        "sick p": sick.overall.p,
        "sick named": count - 1 in sick.outliers,
    }


def _moments(draws: Array) -> ShardMoments:
    """Moments of independent draws (shard, draw, d)."""
    count, size, d = draws.shape
    covariances = np.array([np.cov(own, rowvar=False) for own in draws])
    return ShardMoments(draws.mean(axis=1), covariances, np.full((count, d), float(size)), np.full(count, float(size)))


def hard_case(name: str, seed: int) -> dict[str, Any]:
    """Verdict and fault of a consensus run that is hard to merge."""
    outcome = run_case(CASES[name](seed), seed)
    return {"verdict": outcome.verdict, "fault": outcome.fault, "reason": outcome.reason}


def healthy_case(name: str, seed: int) -> dict[str, Any]:
    """Verdict of a consensus run with nothing wrong, and the error of its means in exact standard deviations."""
    problem = conjugate.PROBLEMS[name](seed=seed)
    found = sample_consensus(
        problem.model, problem.data, num_shards=4, backend="sequential", options=BackendOptions(), seed=seed
    )
    return {"verdict": found.verdict, "reason": found.certificate.reason if found.certificate else ""}
