"""One measured map with the model that was fitted to it, as the noise and the tests of a fit see it: `MapView`."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from homodyne.arrays import Ages, AnyArray, Map
from homodyne.noise.sampling import MapSample
from homodyne.noise.traces import Design


@dataclass(frozen=True, eq=False)
class MapView:
    """Data and model of one map.

    Attributes
    ----------
    t : (n,) array
        Ages of the usable frames in s, ascending.
    sample : MapSample
        Of the data.
    design : callable
        Of ages t1 <= t2 of one shape: derivatives of c2, (D, *shape), at a contrast of one along the d coordinates,
        then 1 (offset) and g (contrast).
    correlation : callable
        Of the same ages: g alone, (*shape).
    offset, contrast : float
        Of the fit.
    scaling : (2, k) array
        Directions of (offset, contrast), in its columns, that the data determine.
    weights : (n, n) array or None
        Weights of pairs i < j; None where all count alike.
    """

    t: Ages
    sample: MapSample
    design: Design
    correlation: Design
    offset: float
    contrast: float
    scaling: Float[AnyArray, "2 determined"] = field(default_factory=lambda: np.eye(2))
    weights: Map | None = None

    @property
    def roots(self) -> Num[AnyArray, "frames frames"] | Bool[AnyArray, "frames frames"] | None:
        """Roots of the weights of pairs i < j, 0 where one is missing, (n, n); None where all pairs count alike."""
        present = self.sample.present(len(self.t))
        if self.weights is None:
            return present
        roots = np.triu(np.sqrt(self.weights), 1)
        return roots if present is None else roots * present

    def whitened(
        self, residual: Float[AnyArray, "*pairs"], i: Int[AnyArray, "*#pairs"], j: Int[AnyArray, "*#pairs"]
    ) -> Float[AnyArray, "*pairs"]:
        """Residuals of pairs (i, j) of frames, i <= j, times the roots of their weights: all of one variance."""
        return residual if self.weights is None else residual * np.sqrt(self.weights[i, j])

    @property
    def resting(self) -> float:
        """Share of the correlation of the intensities that does not decay: what the baseline has above one."""
        above = max(self.offset - 1.0, 0.0)
        return above / (above + self.contrast) if above + self.contrast > 0 else 0.0

    def as_intensities(self) -> "MapView":
        """The same c2 as one and the correlation of the intensities, whose noise it has.

        c2 - 1 is that correlation, what lies in a baseline above one included: a slow decay may be fitted as a fast one
        of less contrast over a higher baseline, and scatters as much.
        """
        above, resting = max(self.offset - 1.0, 0.0), self.resting
        if not above:
            return self

        def correlation(t1: AnyArray, t2: AnyArray) -> Any:
            return resting + (1.0 - resting) * self.correlation(t1, t2)

        return replace(self, offset=1.0, contrast=self.contrast + above, correlation=correlation)
