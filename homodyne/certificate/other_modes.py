"""Modes that a merge has passed over, looked for from draws of the shards."""

import numpy as np

from homodyne.arrays import Points, Values
from homodyne.certificate.density import Evaluate
from homodyne.certificate.polish import Polished, polish

EXCESS = 3.0  # log density above what the known modes explain
APART = 3.0  # posterior sd between two modes
MOST = 2  # ascents, at most


def other_modes(evaluate: Evaluate, known: Polished, draws: Points) -> list[Polished]:
    """Ascend from draws (n, d) of shards where the density is higher than around known modes.

    A merge of shards that have found different modes lies on one of them or between them, and exact weights of
    points around one mode see nothing of another. Returns the modes that are new, the highest start first.
    """
    points = np.concatenate([known.mean[None], draws])
    values = np.array(evaluate(points))
    modes, heights, found = [known], [float(values[0])], []
    for _ in range(MOST):
        expected = np.max(
            [height - 0.5 * _distance(points, mode) ** 2 for mode, height in zip(modes, heights, strict=True)], axis=0
        )
        far = np.min([_distance(points, mode) for mode in modes], axis=0) > APART
        surplus = np.where(far & np.isfinite(values) & (values > expected + EXCESS), values, -np.inf)
        best = int(np.argmax(surplus))
        if not np.isfinite(surplus[best]):
            break
        new = polish(evaluate, points[best], known.covariance)
        values[best] = -np.inf
        if not new.arrived:
            continue
        if min(float(_distance(new.mean[None], mode)[0]) for mode in modes) < APART:
            break
        modes.append(new)
        heights.append(float(evaluate(new.mean[None])[0]))
        found.append(new)
    return found


def _distance(points: Points, mode: Polished) -> Values:
    """Distance of points (n, d) from a mode in its posterior sd, (n,)."""
    white = np.linalg.solve(np.linalg.cholesky(mode.covariance), (points - mode.mean).T)
    return np.asarray(np.linalg.norm(white, axis=0))
