"""One map as the noise sees it: frames with data, values, and a model with its derivatives at any pair of ages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class MapView:
    """One map with a model.

    Attributes
    ----------
    t : (n,) array
        Ages of the usable frames in s.
    values : (n, n) float32
        c2 between these frames; only i < j is read; may be a view.
    present : (n, n) bool or None
        Pairs that were measured; None for all.
    design : callable
        ``design(t1, t2)`` gives the derivatives of c2 at a contrast of one along d directions, then 1, then g:
        (d + 2, *shape), for ages t1 <= t2 of one shape.
    offset, contrast : float
        Of the model: c2 = offset + contrast * g.
    """

    t: Array
    values: Array
    present: Array | None
    design: Callable[[Any, Any], Any]
    offset: float
    contrast: float
