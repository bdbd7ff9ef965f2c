"""Do the shards agree about the mode of all data? Rao's score test for every shard.

The tests between the moments of shards take subposteriors for normal, and lose their meaning where these are not and
the merge is far from the mode. Gradients of the shards' log likelihoods at the mode of all data need no shape: they
are sums over many observations, with the shard's curvature as covariance (Rao, Proc. Camb. Phil. Soc. 44, 50, 1948).
"""

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

Array = npt.NDArray[np.float64]

FALSE_ALARM = 0.0025  # probability that a healthy run has an outlier
UNSEEN = 0.01  # curvature, relative to that of an average shard, below which a shard says nothing of a direction


def score_outliers(gradients: Array, curvatures: Array) -> dict[int, float]:
    """Shards whose gradient at the mode is too large, with their p-values corrected for the number of shards.

    Parameters
    ----------
    gradients : (M, d) array
        Of the shards' log likelihoods at the mode, in coordinates that whiten the curvature of all data.
    curvatures : (M, d, d) array
        Minus their Hessians; they add up to about the identity. A gradient has the covariance c - c^2, less than c
        because the mode is fitted to it.
    """
    outliers, count = {}, len(gradients)
    for m, (gradient, curvature) in enumerate(zip(gradients, curvatures, strict=True)):
        if not (np.isfinite(gradient).all() and np.isfinite(curvature).all()):
            continue
        sizes, vectors = np.linalg.eigh(curvature)
        seen = (sizes > UNSEEN / count) & (sizes < 1.0 - UNSEEN)
        squares = np.square(vectors.T @ gradient)[seen] / (sizes * (1.0 - sizes))[seen]
        p = count * float(chi2.sf(squares.sum(), max(int(seen.sum()), 1)))
        if seen.any() and p < FALSE_ALARM:
            outliers[m] = p
    return outliers
