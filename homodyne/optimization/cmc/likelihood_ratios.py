"""Do the shards contradict each other? The likelihood of every shard at its own best point and at that of all data.

The tests between moments of shards take subposteriors for normal. Twice the logarithm of a likelihood ratio needs no
shape: it is about chi-square distributed (Wilks, Ann. Math. Stat. 9, 60, 1938), and in a family with one parameter
exceeds t with a probability of at most 2 exp(-t / 2) even where a shard has seen a single event. That holds for large
shards of smooth models; where observations can be exchanged, shards that are dealt anew say what is usual of these data
(`unusual`): two clusters in the tails of a heavy-tailed model are no contradiction, however few see both.
"""

import numpy as np
from scipy.special import chdtrc

from homodyne.arrays import Array

FALSE_ALARM = 0.0025  # probability that shards of a healthy run are named, and that they disagree as a whole
NEXT = 0.5  # share of the largest ratio below which a shard is not named: the worst one pulls all data away from it


def contradictions(own: Array, common: Array, dimension: int, names: list[int]) -> list[str]:
    """Sentences on shards whose likelihood has its mode elsewhere, the worst first; at best on all shards together.

    Parameters
    ----------
    own : (M,) array
        Log likelihood of every shard at the best point that its draws know; NaN where there are none.
    common : (M,) array
        At the best point of all data.
    dimension
        Parameters.
    names
        Numbers of the shards.
    """
    count = len(own)
    if count < 2:
        return []
    ratios = np.nan_to_num(2.0 * (own - common), nan=0.0, posinf=np.inf)
    # a shard is part of all data, which takes the share 1 / M of its deviance
    p = count * chdtrc(dimension, ratios * count / (count - 1))
    said = [
        f"shard {names[m]} disagrees with all data: its log likelihood is lower by {0.5 * ratios[m]:.3g} there than at "
        f"its own mode (p = {p[m]:.1g})"
        for m in np.argsort(-ratios, kind="stable")
        if p[m] < FALSE_ALARM and ratios[m] >= NEXT * ratios.max()
    ]
    total, expected = float(ratios.sum()), (count - 1) * dimension
    if not said and (together := chdtrc(expected, total)) < FALSE_ALARM:
        said.append(
            f"the shards disagree as a whole, none of them in particular: their likelihood ratios add up to "
            f"{total:.4g}, where {expected} at most is expected (p = {together:.1g}); either the noise is "
            f"{np.sqrt(total / expected):.2f} times larger, or the model does not fit all of the data"
        )
    return said


def unusual(gains: Array, dealt_anew: list[Array]) -> bool:
    """Whether the largest gain of a shard exceeds that of all others with the same observations.

    Parameters
    ----------
    gains : (M,) array
        What the log likelihood of every shard gains from the best point of all data to its own.
    dealt_anew : list of (M,) arrays
        Gains of shards that were dealt anew at random.
    """
    return float(np.nanmax(gains)) > max(float(np.nanmax(other)) for other in dealt_anew)
