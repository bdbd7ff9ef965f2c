"""Importance weights: normalised, Pareto-smoothed, with their tail index and effective size."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Int
from scipy.special import logsumexp

from homodyne.arrays import Values
from homodyne.certificate.chains import array_stats

EVEN = 0.99  # share of effective weights above which they have no tail


@dataclass(frozen=True)
class Weights:
    """Weights of n points.

    Attributes
    ----------
    log_weights
        (n,) normalised and Pareto-smoothed; minus infinity where the target is zero.
    log_evidence
        Logarithm of the mean ratio: the target's normalisation.
    k_hat
        Tail index of the ratios; 0 where they are too even to have a tail, infinite where no tail could be fitted.
    ess
        Effective points, 1 / sum of squared weights.
    """

    log_weights: Values
    log_evidence: float
    k_hat: float
    ess: float


def smoothed(log_ratios: Values) -> Weights:
    """Smooth the tail of importance ratios (Vehtari, Simpson, Gelman, Yao and Gabry, JMLR 25, 72, 2024).

    Parameters
    ----------
    log_ratios
        (n,) log target minus log proposal, minus infinity allowed; at least 25 of them finite.
    """
    finite = np.isfinite(log_ratios)
    kept = log_ratios[finite]
    plain = kept - logsumexp(kept)
    largest = np.sort(kept)[-max(len(kept) // 5, 5) :]
    if effective(np.exp(plain))[0] > EVEN * len(kept) or np.ptp(largest) < 1e-6:
        smooth, k_hat = plain, 0.0  # the fitted index of such weights is noise
    else:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            smooth, k_hat = array_stats().psislw(-kept)
        if np.isnan(smooth).any():  # there is no tail beside ratios that are all of the sum
            smooth, k_hat = plain, np.inf
    log_weights = np.full(len(log_ratios), -np.inf)
    log_weights[finite] = smooth
    log_evidence = float(np.median(kept - smooth)) - np.log(len(log_ratios))
    tail = float(k_hat) if np.isfinite(k_hat) else np.inf
    return Weights(log_weights, log_evidence, tail, effective(np.exp(log_weights))[0])


def effective(weights: Values) -> tuple[float, float]:
    """Return the effective number of normalised weights (n,), and its Monte Carlo error by the delta method."""
    n, squares = len(weights), float(np.square(weights).sum())
    influence = 2.0 * n * weights - n * np.square(weights) / squares
    return 1.0 / squares, float(influence.std() / np.sqrt(n) / squares)


def systematic(weights: Values, n: int, rng: np.random.Generator) -> Int[npt.NDArray[np.intp], "draws"]:
    """Indices (n,) of weighted points, each as often as its weight says to within one draw, in the points' order.

    (Kitagawa, J. Comput. Graph. Stat. 5, 1, 1996.)
    """
    cumulative = np.cumsum(weights)
    ticks = (np.arange(n) + rng.random()) / n * cumulative[-1]
    return np.asarray(np.searchsorted(cumulative, ticks).clip(max=len(cumulative) - 1))


def worth(ess: float, n: int) -> float:
    """Independent draws that n draws, resampled from points of which `ess` are effective, are worth."""
    return 1.0 / (1.0 / ess + 1.0 / n)
