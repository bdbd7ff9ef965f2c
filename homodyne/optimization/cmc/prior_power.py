"""Whether the share of the prior that a shard gets, its power 1/M, can still be normalised.

Powers make tails heavier: a Cauchy density to the power 1/2 falls like 1/|z| and has no finite integral, and a shard
whose data say little about z would have no posterior. The test follows the prior far out along every coordinate and
integrates the others out by Laplace's method, because a parent and its children (a scale and the effects it
governs) can be improper together though each alone is not.

It is numerical, in the unconstrained coordinates in which priors are raised to powers: a half-Cauchy scale passes,
since the density of its logarithm falls exponentially. Only tails along coordinates are seen.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from homodyne.errors import HomodyneWarning, InputError
from homodyne.optimization.cmc.mode import Expansion, climb, expansion
from homodyne.optimization.cmc.model import Model
from homodyne.optimization.cmc.numpyro_model import NumPyroModel

Array = npt.NDArray[np.float64]

RUNGS = 2.0 ** np.arange(2, 41)  # distances from the middle, in widths
FASTER = 1.3  # growth of the exponent per doubling of the distance, above which no power law is falling
COUPLED = 1e-9  # scaled mixed derivative above which two coordinates are not independent
WORST = 1e-12  # smallest eigenvalue of a correlation matrix that Laplace's method is trusted with


def check_prior_power(model: Model, power: float) -> None:
    """Refuse a prior whose power has no finite integral.

    A power of 1 changes nothing and is not tested. Coordinates whose tails cannot be followed numerically are named
    in a `HomodyneWarning`.

    Parameters
    ----------
    model
        Any model whose `log_prior` has second derivatives.
    power
        1 / number of shards, in (0, 1].

    Raises
    ------
    InputError
        When the power lies outside (0, 1], or makes the prior improper; the message names coordinate and exponent.
    """
    if not 0.0 < power <= 1.0:
        raise InputError(f"the power of the prior is {power}, expected 1 / number of shards, in (0, 1]")
    if power == 1.0:
        return
    expand = expansion(model.log_prior)
    center = _middle(expand, len(model.names))
    unknown = list(model.names) if center is None else _follow(model, power, expand, center)
    if unknown:
        warnings.warn(
            f"the tails of the prior of {', '.join(unknown)} could not be followed far enough to say whether its "
            f"power {power:g} can be normalised",
            HomodyneWarning,
            stacklevel=2,
        )


def _middle(expand: Expansion, d: int) -> Array | None:
    """Find a mode of the prior, or a point near one; None when the density is not finite at any start."""
    rng = np.random.default_rng(0)
    for start in [np.zeros(d), *(10.0**k * rng.standard_normal(d) for k in range(-2, 7) for _ in range(8))]:
        value, gradient, _ = expand(start)
        if np.isfinite(value) and np.isfinite(gradient).all():
            mode = climb(expand, start)
            return mode.point if mode.converged else start  # funnels have no mode
    return None


def _follow(model: Model, power: float, expand: Expansion, center: Array) -> list[str]:
    """Check both tails of every coordinate; return the names of those that nothing can be said about."""
    curvature = np.diag(expand(center)[2])
    usable = np.isfinite(curvature) & (curvature > 0.0)
    width = 1.0 / np.sqrt(np.where(usable, curvature, 1.0))
    density = jax.jit(jax.vmap(model.log_prior))
    unknown = []
    for block in _blocks(expand, center, width):
        for k in block:
            for sign in (-1.0, 1.0):
                if len(block) == 1:
                    points = center + sign * RUNGS[:, None] * width[k] * np.eye(len(center))[k]
                    tail = power * np.asarray(density(jnp.asarray(points)))
                    ends = bool(np.isneginf(tail).any()) and not np.isnan(tail[: np.argmax(np.isneginf(tail))]).any()
                else:
                    tail, ends = _marginal(expand, center, width, k, block, sign, power), False
                exponent = np.inf if ends else _exponent(tail)
                if np.isnan(exponent):
                    unknown.append(model.names[k])
                elif exponent <= 1.001:
                    raise InputError(_message(model, k, power, exponent, len(block) == 1))
    return list(dict.fromkeys(unknown))


def _blocks(expand: Expansion, center: Array, width: Array) -> list[npt.NDArray[np.intp]]:
    """Split the coordinates into sets that are independent in the prior, by mixed derivatives at random points."""
    from scipy.sparse.csgraph import connected_components

    rng = np.random.default_rng(1)
    coupled = np.zeros((len(center), len(center)), dtype=bool)
    for _ in range(3):
        scaled = expand(center + width * rng.standard_normal(len(center)))[2] * np.outer(width, width)
        coupled |= ~(np.abs(scaled) <= COUPLED * np.maximum(1.0, np.abs(np.diag(scaled)).max()))
    count, label = connected_components(coupled, directed=False)
    return [np.flatnonzero(label == k) for k in range(count)]


def _marginal(
    expand: Expansion, center: Array, width: Array, k: int, block: npt.NDArray[np.intp], sign: float, power: float
) -> Array:
    """Log of the tempered prior at growing distances along k, with the rest of the block integrated out."""
    others = block[block != k]
    z, values = center, []
    for rung in RUNGS:
        z = z.copy()
        z[k] = center[k] + sign * rung * width[k]
        mode = climb(expand, z, others)
        precision = power * mode.precision[np.ix_(others, others)]
        diagonal = np.diag(precision)
        if not (mode.converged and np.isfinite(precision).all() and (diagonal > 0.0).all()):
            break
        size = np.sqrt(diagonal)
        correlation = np.linalg.eigvalsh(precision / size / size[:, None])
        if correlation[0] < WORST:
            break
        values.append(power * mode.value - 0.5 * (np.log(diagonal).sum() + np.log(correlation).sum()))
        z = mode.point
    return np.array(values)


def _exponent(tail: Array) -> float:
    """Return a where the last values fall like distance^-a: inf when faster, nan when there are too few of them."""
    finite = np.isfinite(tail)
    tail = tail if finite.all() else tail[: int(np.argmin(finite))]
    if len(tail) > 2 and np.ptp(tail) == 0.0:
        return 0.0
    while len(tail) > 1 and tail[-1] == tail[-2]:  # rounding: a logarithm cannot fall below that of the least number
        tail = tail[tail != tail[-1]]
    if len(tail) < 3:
        return float("nan")
    before, last = -np.diff(tail[-3:]) / np.log(2.0)
    if last > 0.0 and last > FASTER * before:
        return float("inf")
    return float(last)


def _message(model: Model, k: int, power: float, exponent: float, alone: bool) -> str:
    name = model.names[k]
    kind = f" ({model.distribution(k)})" if isinstance(model, NumPyroModel) else ""
    fall = "does not fall at all" if exponent <= 0.0 else f"falls like |z|^-{exponent:.3g} only"
    advice = "give it a prior with lighter tails, such as a normal or (for scales) a half-normal one"
    largest = int(np.ceil(exponent / power * 0.999)) - 1
    if alone and largest >= 1:
        advice += f", or use at most {largest} shards"
    return (
        f"the prior of {name}{kind} cannot be shared by {1.0 / power:.0f} shards: its power {power:.3g} {fall} along "
        f"{name}, and has no finite integral; {advice}"
    )
