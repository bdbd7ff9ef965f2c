"""From a merged posterior to the exact one: damped Newton steps with the density of all data.

A product of subposteriors is biased by about M / sqrt(N) posterior standard deviations, and far more along weakly
identified directions. Newton steps remove that: gradient and Hessian are central differences of the exact log density
in whitened coordinates, 1 + d + d^2 points that every shard evaluates in one round.
"""

from dataclasses import dataclass

import numpy as np

from homodyne.arrays import Matrix, Points, Values, Vector
from homodyne.certificate.density import Evaluate
from homodyne.certificate.mode import definite

STEP = 0.3  # of the differences, in posterior sd: rounding of a density near 1e8 is then 1e-7 of the curvature
ARRIVED = 0.05  # length of the Newton step, in posterior sd, that ends the polish
LONGEST = 10.0  # posterior sd that one step may go
MAX_ROUNDS = 12


@dataclass(frozen=True, eq=False)
class Polished:
    """Where the Newton steps have led.

    Attributes
    ----------
    mean : (d,) array
        Mode of the exact density, or the last point reached.
    covariance : (d, d) array
        Inverse of minus its Hessian there; where that is not negative definite, of the last one that was, or that
        of the merge.
    steps : tuple of float
        Lengths of the Newton steps, in posterior sd; the last one is not taken.
    shift : float
        Distance from the start, in posterior sd.
    arrived : bool
        Whether the last step is below `ARRIVED`.
    """

    mean: Vector
    covariance: Matrix
    steps: tuple[float, ...]
    shift: float
    arrived: bool


def polish(evaluate: Evaluate, mean: Vector, covariance: Matrix) -> Polished:
    """Climb to the mode of an exact log density from a merged normal approximation.

    Parameters
    ----------
    evaluate
        Exact log densities (S,) of points (S, d).
    mean, covariance
        Of the merge, (d,) and (d, d).
    """
    start, merged, d = mean, covariance, len(mean)
    steps: list[float] = []
    for _ in range(MAX_ROUNDS):
        root = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        values = evaluate(mean + stencil(d) @ root.T)
        concave = _concave(values, root)
        if concave is None:
            if steps and not np.isfinite(steps[-1]):
                covariance = merged
                break
            steps.append(np.inf)
            covariance = covariance / 4.0  # look again from nearer by, once
            continue
        step, length, covariance = concave
        steps.append(length)
        merged = covariance
        if length < ARRIVED:
            break
        move = root @ step * min(1.0, LONGEST / length)
        trials = mean + np.outer(0.5 ** np.arange(5), move)
        heights = evaluate(trials)
        if not heights.max() > values[0]:
            break
        mean = trials[int(np.argmax(heights))]
    arrived = bool(steps) and steps[-1] < ARRIVED
    shift = float(np.linalg.norm(np.linalg.solve(np.linalg.cholesky(covariance), mean - start)))
    return Polished(mean, covariance, tuple(steps), shift, arrived)


def _concave(values: Values, root: Matrix) -> tuple[Vector, float, Matrix] | None:
    """Whitened Newton step (d,), its length in posterior sd, and covariance (d, d) from the values at the stencil.

    None where there is no maximum to step to, or a direction so flat that the covariance is singular to rounding.
    """
    if not np.isfinite(values).all():
        return None
    gradient, negative = derivatives(values, len(root))
    if not definite(negative):
        return None
    step = np.asarray(np.linalg.solve(negative, gradient), dtype=np.float64)
    factor = np.linalg.cholesky(np.linalg.inv(negative))
    covariance = np.asarray(root @ factor @ (root @ factor).T, dtype=np.float64)
    return (step, float(np.linalg.norm(np.linalg.solve(factor, step))), covariance) if definite(covariance) else None


def stencil(d: int) -> Points:
    """Points (1 + d + d^2, d): the middle, both sides of every axis, both ends of every pair's diagonal."""
    unit = STEP * np.eye(d)
    pairs = [unit[i] + unit[j] for i in range(d) for j in range(i)]
    rows = [np.zeros(d), *unit, *(-unit), *pairs, *(-pair for pair in pairs)]
    return np.array(rows)


def derivatives(values: Values, d: int) -> tuple[Vector, Matrix]:
    """Gradient (d,) and minus Hessian (d, d) from the values at the stencil."""
    middle, ahead, behind = values[0], values[1 : d + 1], values[d + 1 : 2 * d + 1]
    count = d * (d - 1) // 2
    plus, minus = values[2 * d + 1 : 2 * d + 1 + count], values[2 * d + 1 + count :]
    negative = np.diag(-(ahead - 2 * middle + behind) / STEP**2)
    row, column = np.tril_indices(d, -1)
    curved = plus + minus + 2 * middle - ahead[row] - ahead[column] - behind[row] - behind[column]
    negative[row, column] = negative[column, row] = -curved / (2 * STEP**2)
    return (ahead - behind) / (2 * STEP), negative
