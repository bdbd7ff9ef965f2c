"""From subposteriors to the posterior: M sets of draws go in, one comes out.

Start with `combine_subposteriors`; `homodyne.registries.COMBINERS` lists the ways, and takes more. One is a function of
`Subposteriors`, whose draws are whitened by the product of all shards' normal approximations, and of a `Request`.

Scott et al., Int. J. Manag. Sci. Eng. Manag. 11, 78 (2016); Neiswanger, Wang and Xing, UAI (2014); Vyner, Nemeth and
Sherlock, Stat 12, e523 (2023).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from homodyne.arguments import Faults, shown
from homodyne.arrays import Array, covariance_array, finite_array
from homodyne.errors import ExecutionError, HomodyneWarning, InputError
from homodyne.optimization.cmc.shard_records import finished_and_failed
from homodyne.optimization.cmc.subposteriors import Merged, Shard, Subposteriors, collect, equations, triangulated
from homodyne.registries import COMBINERS, Combiner

__all__ = ["CombinedPosterior", "Combiner", "Merged", "Request", "Subposteriors", "combine_subposteriors"]

Indices = npt.NDArray[np.intp]

ROUGH = 10  # effective draws per parameter below which the precision of a shard is called rough
STEPS, TOLERANCE = 50, 1e-10  # Newton steps to a mode, and the length of the last one in posterior widths
BEYOND = "the skewness of the shards is too large for a correction by third cumulants"


@dataclass(frozen=True, eq=False)
class CombinedPosterior:
    """Draws from the combined posterior; fields can also be read by key, ``combined["samples"]``.

    Attributes
    ----------
    samples : (n, d) array
    mean, cov : (d,) and (d, d) arrays
        Moments of the combined posterior, without the Monte Carlo error of `samples`.
    method : str
        The method that was really used.
    notes : tuple of str
        Why a fallback happened, and what else a user should know.
    """

    samples: Array
    mean: Array
    cov: Array
    method: str
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in self.__dataclass_fields__


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of a method: number of draws, source of random numbers, levels of a hierarchy."""

    num_samples: int
    rng: np.random.Generator
    tree_depth: int


def combine_subposteriors(
    shard_results: Sequence[object],
    method: str = "weighted",
    *,
    fallback_enabled: bool = True,
    num_samples: int | None = None,
    tree_depth: int = 2,
    seed: int = 0,
    cavity: tuple[Array, Array] | None = None,
    groups: Sequence[Sequence[int]] = (),
) -> CombinedPosterior:
    """Combine draws from M subposteriors into draws from their product.

    Draws of a single shard come back unchanged.

    Parameters
    ----------
    shard_results
        One mapping or record per shard: ``samples`` (S, d) or (chain, draw, d) in coordinates without bounds;
        optionally ``ess``, their effective number (or ``ess_bulk``, whose least counts; S by default, and at most),
        ``shard_id`` for messages, and ``names``, equal in all shards. One with a ``reason`` and no draws has failed, as
        `run_parallel_mcmc` returns it: it is left out, with a warning.
    method
        A name in `homodyne.registries.COMBINERS`, or ``module:name`` in a module that is imported.
    fallback_enabled
        Whether to pool the draws by ``average`` when the method cannot be applied, with a warning.
    num_samples
        Draws to return; by default those of the shard that has fewest.
    tree_depth
        Levels of the hierarchy, for ``hierarchical``.
    seed
        Fixes the result.
    cavity : mean (k,) and covariance (k, k), optional
        Of a normal density of the first k coordinates that every shard was sampled times; it is divided out, once for
        every shard (expectation propagation on partitioned data: Vehtari et al., JMLR 21(17), 2020, section 3).
    groups
        Groups of the last coordinates that are independent of each other given the first ones, as far as that is known:
        fewer numbers have to be estimated.

    Raises
    ------
    InputError
        When the method is unknown, or the shards do not fit together, are not finite, or have fewer than d + 3 draws.
    ExecutionError
        When every shard has failed, or the method cannot be applied, for draws that do not vary in all directions for
        example, and ``fallback_enabled`` is false.
    """
    with Faults() as faults:
        combiner, name = faults.of(find_combiner, method), COMBINERS.name_of(method)
        faults.integer("tree_depth", tree_depth, 1)
        faults.integer("seed", seed)
        if num_samples is not None:
            faults.integer("num_samples", num_samples, 1)
        faults.kind("fallback_enabled", fallback_enabled, bool, np.bool_)
        finished, failures = finished_and_failed(shard_results)
        shards = faults.of(collect, finished, groups) if finished or not failures else []
        if shards and cavity is not None:
            cavity = faults.of(_cavity, cavity, shards[0].samples.shape[1])
    notes: tuple[str, ...] = ()
    if failures:
        lost = "; ".join(f"shard {number}: {reason}" for number, reason in failures.items())
        if not shards:
            raise ExecutionError(f"no shard has draws to combine ({lost})")
        notes = (
            f"{len(failures)} of {len(shard_results)} shards failed and are left out, with what their data say and "
            f"their share of the prior ({lost})",
        )
        warnings.warn(notes[0], HomodyneWarning, stacklevel=2)
    count = min(len(shard.samples) for shard in shards) if num_samples is None else num_samples
    request = Request(count, np.random.default_rng(seed), tree_depth)
    try:
        merged = _applied(combiner, name, shards, request)
        merged = _without(cavity, len(shards), merged) if combiner.is_product else merged
    except (ExecutionError, np.linalg.LinAlgError) as error:
        reason = f"the shards cannot be combined by {name}: {error}"
        if not (combiner.is_product and fallback_enabled):
            raise ExecutionError(f"{reason}. Sample the named shards again, or choose another method.") from error
        name, notes = "average", (*notes, f"{reason}; average was used instead")
        warnings.warn(notes[-1], HomodyneWarning, stacklevel=2)
        merged = _applied(AVERAGE, name, shards, request)
    return CombinedPosterior(*merged[:3], name, notes + merged.notes)


def find_combiner(method: str) -> Combiner:
    """Return the way to combine of a name; modules are not imported for it."""
    return COMBINERS.find(method, importing=False)


def _cavity(given: object, most: int) -> tuple[Array, Array]:
    """Mean (k,) and covariance (k, k) of at most so many coordinates; an InputError for anything else."""
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise InputError(f"cavity is {shown(given)}; expected a mean (k,) and a covariance (k, k)")
    with Faults() as faults:
        mean = faults.of(finite_array, "the mean of the cavity", given[0])
        if mean is not None and (mean.ndim != 1 or not 0 < mean.size <= most):
            faults.add(f"the mean of the cavity has shape {mean.shape}; expected (k,) with k from 1 to {most}")
        elif mean is not None:
            covariance = faults.of(covariance_array, "the covariance of the cavity", given[1], mean.size)
    return mean, covariance


def _applied(combiner: Combiner, name: str, shards: list[Shard], request: Request) -> Merged:
    problems = [shard.problem for shard in shards if shard.problem and combiner.is_product]
    if problems:
        raise ExecutionError("; ".join(problems))
    if len(shards) == 1:
        return _unchanged(shards[0].samples, request.num_samples)
    merged: Merged = combiner.combine(Subposteriors.of(shards), request)
    if not all(np.isfinite(part).all() for part in merged[:3]):
        raise ExecutionError(f"{name} gave numbers that are not finite")
    return merged._replace(notes=merged.notes + _rough(shards)) if combiner.is_product else merged


def _without(cavity: tuple[Array, Array] | None, times: int, merged: Merged) -> Merged:
    """Divide a normal density of the first coordinates, to a power, out of a merge; draws move affinely."""
    if cavity is None:
        return merged
    root = np.linalg.cholesky(merged.cov)  # in y = root^-1 (x - mean) the merge is N(0, 1)
    precision = np.zeros_like(merged.cov)
    k = len(cavity[0])
    precision[:k, :k] = times * np.linalg.inv(cavity[1])
    away = np.zeros(len(merged.mean))
    away[:k] = cavity[0] - merged.mean[:k]
    left = np.eye(len(root)) - root.T @ precision @ root
    if not (least := np.linalg.eigvalsh(left)[0]) > 0.0:
        raise ExecutionError(
            "after division by the cavity the merge has no width in some direction (its precision there is "
            f"{least:.2g} of what it was): the shards have too few effective draws for a cavity of this strength"
        )
    mean = merged.mean - root @ np.linalg.solve(left, root.T @ (precision @ away))
    stretched = root @ np.linalg.inv(np.linalg.cholesky(left)).T
    y = np.linalg.solve(root, (merged.samples - merged.mean).T)
    return merged._replace(samples=mean + (stretched @ y).T, mean=mean, cov=stretched @ stretched.T)


def _weighted(shards: Subposteriors, request: Request) -> Merged:
    """Product of normal distributions (Scott et al., section 3; Neiswanger, Wang and Xing, section 3.1)."""
    return _drawn(shards, triangulated(equations(shards.means, shards.roots)), request)


def _hierarchical(shards: Subposteriors, request: Request) -> Merged:
    """The same product, taken in clusters of M^(1 / depth) shards, recursively; draws are made once, at the end."""
    rows = equations(shards.means, shards.roots)
    size = max(2, int(np.ceil(len(rows) ** (1.0 / request.tree_depth) - 1e-9)))
    while len(rows) > 1:
        rows = np.array([triangulated(rows[at : at + size]) for at in range(0, len(rows), size)])
    return _drawn(shards, rows[0], request)


def _consensus(shards: Subposteriors, request: Request) -> Merged:
    """Precision-weighted averages of draws, one of each shard (Scott et al., section 3).

    Draws of every shard are permuted first: neighbours in a chain, and the starts of chains, must not meet.
    """
    n, d = request.num_samples, len(shards.center)
    notes: tuple[str, ...] = ()
    total = np.zeros((n, d))
    for m, root in enumerate(shards.roots):
        picked = _picked(len(shards.raw[m]), n, request.rng)
        total += shards.draws(m)[picked] @ (root.T @ root)
    if n > (fewest := min(len(x) for x in shards.raw)):
        notes = (f"{n} combined draws were asked for, but a shard has {fewest}: draws were used more than once",)
    return shards.merged(total, np.zeros(d), np.eye(d), notes)


def _semiparametric(shards: Subposteriors, request: Request) -> Merged:
    """Product of normal distributions times a correction estimated from the draws.

    Neiswanger, Wang and Xing (section 3.3) estimate the correction by kernels and draw from the product by a Markov
    chain over its S^M components. Here it is the leading term of its Hermite series (Edgeworth): the third cumulants
    of the shards. Log densities then are cubic polynomials and add up in closed form; no kernels are lost in many
    dimensions, and no chain has to mix. The draws follow the cubic around its mode by Cornish and Fisher's expansion
    (1938).
    """
    d = len(shards.center)
    slope, third, kept = _cubic(shards)
    mode = np.zeros(d)
    for _ in range(STEPS):
        root = _curvature_root(third, mode)
        step = root @ (root.T @ (slope + 0.5 * (third @ mode) @ mode - mode))
        mode = mode + step
        if np.linalg.norm(step) < TOLERANCE:
            break
    else:
        raise ExecutionError(BEYOND)
    root = _curvature_root(third, mode)
    skew = np.einsum("ai,bj,ck,abc->ijk", root, root, root, third, optimize=True)
    shift = 0.5 * np.einsum("ijj->i", skew)
    z = request.rng.standard_normal((request.num_samples, d))
    bent = z + shift + (np.einsum("ijk,sj,sk->si", skew, z, z, optimize=True) - 2.0 * shift) / 6.0
    cov = root @ (np.eye(d) + np.einsum("ijk,ljk->il", skew, skew) / 18.0) @ root.T
    mean = mode + root @ shift
    note = (
        f"skewness of the shards moved the mean by {np.linalg.norm(mean):.2g} posterior widths; {100.0 * kept:.0f} % "
        "of what was estimated, the rest may be Monte Carlo noise"
    )
    return shards.merged(mode + bent @ root.T, mean, cov, (note,))


def _cubic(shards: Subposteriors) -> tuple[Array, Array, float]:
    """Slope (d,) at 0 and third derivative (d, d, d) of the summed log density less its normal part, in y.

    Third cumulants are noisy. Both terms are multiplied by the share of the resulting shift of the mean that its
    Monte Carlo noise does not explain (James and Stein 1961, positive part), the third thing returned.
    """
    d = len(shards.center)
    slope, third, shift, noise = np.zeros(d), np.zeros((d, d, d)), np.zeros(d), 0.0
    for m, root in enumerate(shards.roots):
        u = shards.standard(m)
        v, along = u @ root, u @ (root @ shards.means[m])
        tilt = 0.5 * (np.square(along) - np.square(u).sum(axis=1))[:, None] * v
        pull = tilt + 0.5 * np.square(v).sum(axis=1)[:, None] * v
        slope += tilt.mean(axis=0)
        shift += pull.mean(axis=0)
        # the means are estimated from the same draws, which takes the linear part of the noise away
        residual = pull - pull.mean(axis=0) - u @ (u.T @ pull / len(u))
        noise += np.square(residual).sum() / len(u) / shards.ess[m]
        for k in range(d):  # one of the six equal corners
            third[k, : k + 1, : k + 1] += (v[:, : k + 1] * v[:, k, None]).T @ v[:, : k + 1] / len(v)
    low, middle, high = np.sort(np.indices(third.shape), axis=0)
    third = third[high, middle, low]
    energy = float(shift @ shift)
    kept = max(0.0, 1.0 - noise / energy) if energy > 0.0 else 0.0
    return kept * slope, kept * third, kept


def _swiss(shards: Subposteriors, request: Request) -> Merged:
    """Draws of all shards, each shard moved and stretched to the mean and covariance of the product (Vyner et al.).

    The square root is the symmetric one in whitened coordinates, so that units do not matter. The shape of the
    shards is kept: skewness that the product of many shards would not have any more stays.
    """
    d = len(shards.center)
    parts = []
    for m, picked in enumerate(_shares(shards, request)):
        _, values, vectors = np.linalg.svd(shards.roots[m])
        stretch = (vectors.T * values) @ vectors
        parts.append((shards.draws(m)[picked] - shards.means[m]) @ stretch)
    return shards.merged(request.rng.permutation(np.concatenate(parts)), np.zeros(d), np.eye(d))


def _average(shards: Subposteriors, request: Request) -> Merged:
    """Pool draws of all shards, equally many of each: a mixture of the subposteriors, not their product."""
    parts = [x[picked] for x, picked in zip(shards.raw, _shares(shards, request), strict=True)]
    means = np.array([x.mean(axis=0) for x in shards.raw])
    within = np.mean([np.cov(x, rowvar=False, ddof=1).reshape(2 * x.shape[1:]) for x in shards.raw], axis=0)
    mean = means.mean(axis=0)
    between = (means - mean).T @ (means - mean) / len(means)
    note = (
        f"average pools the draws of {len(means)} shards, it does not multiply their densities: widths are about "
        f"{np.sqrt(len(means)):.2g} times too large"
    )
    return Merged(request.rng.permutation(np.concatenate(parts)), mean, within + between, (note,))


WEIGHTED = Combiner(_weighted, is_normal=True)
CONSENSUS = Combiner(_consensus)
HIERARCHICAL = Combiner(_hierarchical, is_normal=True)
SEMIPARAMETRIC = Combiner(_semiparametric)
SWISS = Combiner(_swiss)
AVERAGE = Combiner(_average, is_product=False)
"""The ways of the package, as `homodyne.registries.COMBINERS` names them."""


def _drawn(shards: Subposteriors, triangle: Array, request: Request) -> Merged:
    """Draw from the normal distribution that triangular equations (d, d + 1) describe."""
    d = len(triangle)
    inverse = np.linalg.inv(triangle[:, :d])
    mean = inverse @ triangle[:, d]
    samples = mean + request.rng.standard_normal((request.num_samples, d)) @ inverse.T
    return shards.merged(samples, mean, inverse @ inverse.T)


def _curvature_root(third: Array, y: Array) -> Array:
    """Root (d, d) of the covariance at y: root @ root.T is the inverse of the curvature 1 - third y."""
    try:
        return np.asarray(np.linalg.inv(np.linalg.cholesky(np.eye(len(y)) - third @ y)).T)
    except np.linalg.LinAlgError as error:
        raise ExecutionError(BEYOND) from error


def _picked(count: int, n: int, rng: np.random.Generator) -> Indices:
    """Choose n of ``count`` draws in random order, none again before all others have had their turn."""
    return np.concatenate([rng.permutation(count) for _ in range(max(1, -(-n // count)))])[:n].astype(np.intp)


def _shares(shards: Subposteriors, request: Request) -> list[Indices]:
    """Which draws of each shard to pool so that all shards have the same share, n in all."""
    m, n = len(shards.raw), request.num_samples
    extra = request.rng.permutation(m) < n % m
    return [_picked(len(x), n // m + int(more), request.rng) for x, more in zip(shards.raw, extra, strict=True)]


def _unchanged(x: Array, num_samples: int) -> Merged:
    notes: tuple[str, ...] = ("there is one shard: its draws are the result, unchanged",)
    if num_samples != len(x):
        notes += (f"it has {len(x)} draws; the {num_samples} asked for were not made up",)
    return Merged(x.copy(), x.mean(axis=0), np.cov(x, rowvar=False).reshape(2 * x.shape[1:]), notes)


def _rough(shards: list[Shard]) -> tuple[str, ...]:
    d = shards[0].free
    rough = [shard for shard in shards if shard.ess < ROUGH * d]
    if not rough:
        return ()
    least = min(rough, key=lambda shard: shard.ess)
    return (
        f"{len(rough)} of {len(shards)} shards have fewer than {ROUGH} effective draws per parameter ({least.label}: "
        f"{least.ess:.0f} for {d}): their precisions are rough",
    )
