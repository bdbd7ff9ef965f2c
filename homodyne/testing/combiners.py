"""What every product of subposteriors has to pass: `check_combiner`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from homodyne.arrays import Array
from homodyne.optimization.cmc.combination import combine_subposteriors
from homodyne.testing.densities import random_covariance
from homodyne.testing.statistics import LUCK, assert_covariance, assert_mean

Part = tuple[Array, Array]
"""Mean (d,) and covariance (d, d) of a normal density."""

SCALES = (1e4, 1e-8, 1.0, 1e-3)
_DRAWS = 2000


def check_combiner(method: str, counts: Sequence[int] = (1, 4, 16)) -> None:
    """Assert that a way to combine multiplies the densities of shards, takes any units, and depends on its seed alone.

    Draws of normal subposteriors in four coordinates, whose units differ by twelve orders of magnitude, are combined;
    means and covariance have to be those of the product, which is known, within Monte Carlo error.

    Parameters
    ----------
    method
        Name in `homodyne.registries.COMBINERS`.
    counts
        Numbers of shards.

    Raises
    ------
    AssertionError
        The answer is not the product, or not what the draws that come with it have.
    """
    for count in counts:
        parts, exact = split_normal(count)
        shards = drawn(parts, _DRAWS)
        combined = combine_subposteriors(shards, method, seed=1, fallback_enabled=False)
        if count > 1:
            assert_product(combined.mean, combined.cov, parts, _DRAWS, exact)
            assert_mean(combined.samples, combined.mean)
            assert_covariance(combined.samples, combined.mean, combined.cov)
        again = combine_subposteriors(shards, method, seed=1, fallback_enabled=False)
        np.testing.assert_array_equal(again.samples, combined.samples)


def assert_product(mean: Array, cov: Array, parts: Sequence[Part], num_draws: int, exact: Part | None = None) -> None:
    """Assert that mean and covariance are those of the product of normal ``parts``, within Monte Carlo error.

    The errors follow from the delta method: S draws of every shard estimate its mean to precision / S, and its
    precision with the noise of a Wishart matrix. ``exact`` replaces mean and covariance of the product.
    """
    from scipy.stats import norm

    from_parts = exact or product(parts)
    factor = np.linalg.cholesky(from_parts[1])
    d = len(factor)
    effective = num_draws - d - 4.0
    mean_noise, precision_noise = np.zeros((d, d)), np.zeros((d, d))
    for part_mean, part_cov in parts:
        root = np.linalg.solve(np.linalg.cholesky(part_cov), factor)
        offset = root @ np.linalg.solve(factor, part_mean - from_parts[0])
        middle = (1.0 + offset @ offset) * np.eye(d) + np.outer(offset, offset)
        mean_noise += root.T @ middle @ root / effective
        precision = root.T @ root
        precision_noise += (np.outer(np.diag(precision), np.diag(precision)) + precision**2) / effective
    shift = np.linalg.solve(factor, mean - from_parts[0])
    white = np.linalg.solve(factor, np.linalg.solve(factor, cov).T)
    scores = np.concatenate(
        [shift / np.sqrt(np.diag(mean_noise)), ((np.linalg.inv(white) - np.eye(d)) / np.sqrt(precision_noise)).ravel()]
    )
    limit = norm.isf(0.5 * LUCK / scores.size)
    worst = int(np.abs(scores).argmax())
    assert np.abs(scores[worst]) < limit, f"score {worst} of {d} means and {d * d} precisions is {scores[worst]:.1f}"


def product(parts: Sequence[Part]) -> Part:
    """Product of normal densities, in units of the first one's widths."""
    scale = np.sqrt(np.diag(parts[0][1]))
    precisions = [np.linalg.inv(cov / np.outer(scale, scale)) for _, cov in parts]
    cov = np.linalg.inv(np.sum(precisions, axis=0))
    mean = cov @ np.sum([p @ (mean / scale) for p, (mean, _) in zip(precisions, parts, strict=True)], axis=0)
    return scale * mean, cov * np.outer(scale, scale)


def drawn(parts: Sequence[Part], num_draws: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draws of normal subposteriors, as `combine_subposteriors` takes them."""
    rng = np.random.default_rng(seed)
    return [
        {"samples": mean + rng.standard_normal((num_draws, len(mean))) @ np.linalg.cholesky(cov).T}
        for mean, cov in parts
    ]


def split_normal(
    num_shards: int, d: int = 4, scales: Sequence[float] = SCALES, seed: int = 0, tempered: bool = True
) -> tuple[list[Part], Part]:
    """Normal data with a strong normal prior: subposteriors, and the posterior."""
    rng = np.random.default_rng(seed)
    noise = random_covariance(d, seed, scales=scales)
    root, precision = np.linalg.cholesky(noise), np.linalg.inv(noise)
    prior_mean, prior = root @ np.ones(d), 0.25 * num_shards * precision
    power = 1.0 / num_shards if tempered else 1.0
    parts, total, pull = [], prior.copy(), prior @ prior_mean
    for size in rng.integers(1, 6, num_shards):
        data = root @ (3.0 + rng.standard_normal(d) / np.sqrt(size))  # the mean of `size` observations
        cov = np.linalg.inv(size * precision + power * prior)
        parts.append((cov @ (size * precision @ data + power * prior @ prior_mean), 0.5 * (cov + cov.T)))
        total, pull = total + size * precision, pull + size * precision @ data
    cov = np.linalg.inv(total)
    return parts, (cov @ pull, 0.5 * (cov + cov.T))
