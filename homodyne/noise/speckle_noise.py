"""How the noise of a two-time map is correlated: shot noise, pixels, and where each of them is known from.

Intensities of N pixels with mean counts n̄ have the covariance contrast * g(t, t') + δ/n̄, from which

    Cov[c2(1, 2), c2(3, 4)] = variance * (K13 K24 + K14 K23),   K = share * g + (1 - share) * δ,

with variance = (contrast + 1/n̄)²/N, that of an element far from the diagonal, and share = contrast/(contrast + 1/n̄),
what of it is speckle: 0 for white noise, 1 without shot noise. `homodyne.noise.sources` judges what is known of both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Real

from homodyne.arguments import Json
from homodyne.arrays import AnyArray, PerMap


@dataclass(frozen=True, eq=False)
class CountingFacts:
    """What is known of photons and pixels before the noise is looked at; None where it is not.

    Attributes
    ----------
    diagonal : (n_maps, n) array or None
        Raw c2(t, t), NaN where missing.
    pixels, mean_counts : (n_maps,) array or None
        As the file states them: pixels per map, counts per pixel and frame.
    given_pixels, given_counts : float or None
        As the user states them, which overrules all else.
    """

    diagonal: Float[AnyArray, "maps frames"] | None = None
    pixels: Real[AnyArray, "maps"] | None = None
    mean_counts: Real[AnyArray, "maps"] | None = None
    given_pixels: float | None = None
    given_counts: float | None = None


@dataclass(frozen=True, eq=False)
class SpeckleNoise:
    """The noise of every angle, and what was said of it.

    Attributes
    ----------
    share : (n_maps,) array
        Correlated part, contrast/(contrast + 1/n̄), from 0 to 1.
    variance : (n_maps,) array
        Of an element far from the diagonal.
    contrast : (n_maps,) array
    counts_source, pixels_source : str
        Where n̄ and N come from, see `homodyne.noise.sources`.
    notes : tuple of str
        Sources that were left out and why, and contradictions.
    contradicted : tuple of str
        Of ``mean_counts`` and ``pixels``, those on which sources contradict each other.
    sources : dict
        Plain values: counts per pixel and frame, and pixels, as every source that is possible gives them, with errors.
    """

    share: PerMap
    variance: PerMap
    contrast: PerMap
    counts_source: str
    pixels_source: str
    notes: tuple[str, ...] = ()
    contradicted: tuple[str, ...] = ()
    sources: Mapping[str, Json] = field(default_factory=dict)

    @property
    def mean_counts(self) -> PerMap:
        """Counts per pixel and frame; infinite without shot noise."""
        with np.errstate(divide="ignore"):
            return np.asarray(self.share / (self.contrast * (1.0 - self.share)))

    @property
    def pixels(self) -> PerMap:
        """Effective number of independent pixels; infinite where the noise is white."""
        with np.errstate(divide="ignore"):
            return np.asarray((self.contrast / self.share) ** 2 / self.variance)
