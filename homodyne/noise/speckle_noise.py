"""How the noise of a two-time map is correlated: shot noise, pixels, and where each of them is known from.

Intensities of N pixels with mean counts n̄ have the covariance contrast * g(t, t') + δ/n̄, from which

    Cov[c2(1, 2), c2(3, 4)] = variance * (K13 K24 + K14 K23),   K = share * g + (1 - share) * δ,

with variance = (contrast + 1/n̄)²/N, that of an element far from the diagonal, and share = contrast/(contrast + 1/n̄),
what of it is speckle: 0 for white noise, 1 without shot noise. Both are estimated for every angle from whatever is
known, and sources that contradict each other are reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

GIVEN, DIAGONAL, FILE, RESIDUALS = "given", "raw diagonal", "file", "residuals"
COUNT_SOURCES = (GIVEN, DIAGONAL, FILE, RESIDUALS)
"""Sources of the mean counts, the first that is there is used."""
PIXEL_SOURCES = (GIVEN, RESIDUALS, FILE)
"""Sources of the pixels; residuals count what is independent, the file also pixels that see the same speckle."""

_COUNTS_APART = 1.5  # ratio of 1 + contrast * counts between two sources that is reported
_PIXELS_APART = 1.5  # ratio of pixels between two sources that is reported


@dataclass(frozen=True, eq=False)
class CountingFacts:
    """What is known of photons and pixels before the noise is looked at; None where it is not.

    Attributes
    ----------
    diagonal : (n_phi, n) array or None
        Raw c2(t, t), NaN where missing.
    pixels, mean_counts : (n_phi,) array or None
        As the file states them: pixels per map, counts per pixel and frame.
    given_pixels, given_counts : float or None
        As the user states them, which overrules all else.
    """

    diagonal: Array | None = None
    pixels: Array | None = None
    mean_counts: Array | None = None
    given_pixels: float | None = None
    given_counts: float | None = None


@dataclass(frozen=True, eq=False)
class SpeckleNoise:
    """The noise of every angle, and what was said of it.

    Attributes
    ----------
    share : (n_phi,) array
        Correlated part, contrast/(contrast + 1/n̄), from 0 to 1.
    variance : (n_phi,) array
        Of an element far from the diagonal.
    contrast : (n_phi,) array
    counts_source, pixels_source : str
        Where n̄ and N come from: "given", "raw diagonal", "file", "residuals".
    notes : tuple of str
        Contradictions, and what was replaced.
    """

    share: Array
    variance: Array
    contrast: Array
    counts_source: str
    pixels_source: str
    notes: tuple[str, ...] = ()

    @property
    def mean_counts(self) -> Array:
        """Counts per pixel and frame; infinite without shot noise."""
        with np.errstate(divide="ignore"):
            return np.asarray(self.share / (self.contrast * (1.0 - self.share)))

    @property
    def pixels(self) -> Array:
        """Effective number of independent pixels; infinite where the noise is white."""
        with np.errstate(divide="ignore"):
            return np.asarray((self.contrast / self.share) ** 2 / self.variance)


def shares(contrast: Array, offset: Array, facts: CountingFacts, measured: Array) -> dict[str, Array]:
    """Correlated part of the noise (n_phi,) by every source that exists.

    Parameters
    ----------
    contrast, offset : (n_phi,) arrays
        Of the fit.
    facts : CountingFacts
    measured : (n_phi,) array
        `residual_share` of every angle. A slow decay is partly taken up by the fit, with its noise, so the median of
        1/n̄ over the angles is used.
    """
    found: dict[str, Array] = {}
    if facts.given_counts is not None:
        found[GIVEN] = _share(contrast, np.full(len(contrast), 1.0 / facts.given_counts))
    if facts.diagonal is not None and np.isfinite(facts.diagonal).any(axis=1).all():
        found[DIAGONAL] = _share(contrast, np.nanmean(facts.diagonal, axis=1) - offset - contrast)
    if facts.mean_counts is not None and np.all(facts.mean_counts > 0):
        found[FILE] = _share(contrast, 1.0 / facts.mean_counts)
    seen = np.isfinite(measured) & (contrast > 0)
    if seen.any():
        with np.errstate(divide="ignore"):
            shot = np.median(contrast[seen] * (1.0 / np.clip(measured[seen], 0.0, 1.0) - 1.0))
        found[RESIDUALS] = _share(contrast, np.full(len(contrast), shot))
    return found


def _share(contrast: Array, shot: Array) -> Array:
    """Share from the shot noise 1/n̄, which by rounding and noise may come out a little below 0; 0 without contrast."""
    positive = np.maximum(contrast, 0.0)
    return np.where(positive > 0, positive / np.where(positive > 0, positive + np.maximum(shot, 0.0), 1.0), 0.0)


def residual_share(g: Array, g_rows: Array, residual: Array) -> float:
    """Correlated part of the noise from residuals that share a frame.

    E[r_ij r_ik] = variance (share g_jk + share² g_ij g_ik), summed over some rows i and all j, k with weight g_jk and
    divided by the mean square of the residuals.

    Parameters
    ----------
    g : (m, m) array
        Model correlation between the frames of some columns.
    g_rows, residual : (rows, m) arrays
        Model correlation between rows and columns, and data minus model, NaN where there is no pair.

    Returns
    -------
    float
        NaN where no two pairs share a frame.
    """
    off = g.astype(np.float32)
    np.fill_diagonal(off, 0.0)
    present = np.isfinite(residual)
    found, r = present.astype(np.float32), np.where(present, residual, 0.0).astype(np.float32)
    near = found * g_rows.astype(np.float32)
    measured, first, second = (
        float(np.sum((x @ y) * x, dtype=float)) for x, y in ((r, off), (found, off**2), (near, off))
    )
    if not first > 0:
        return float("nan")
    pairs, itself = float(found.sum(dtype=float)), float(np.sum(near**2, dtype=float))
    target = measured / float(np.vdot(r, r))
    # target = (share first + share^2 second) / (pairs + share^2 itself)
    a, b, c = float(second) - target * itself, float(first), -target * pairs
    root = b * b - 4.0 * a * c
    return float(-2.0 * c / (b + np.sqrt(root))) if root >= 0 else 1.0


def pixels_by_source(share: Array, contrast: Array, variance: Array, facts: CountingFacts) -> dict[str, Array]:
    """Number of pixels by every source that exists; `variance` (n_phi,) is that of the residuals."""
    with np.errstate(divide="ignore"):
        found = {RESIDUALS: (contrast / share) ** 2 / variance}
    if facts.given_pixels is not None:
        found[GIVEN] = np.full(len(share), facts.given_pixels)
    if facts.pixels is not None and np.all(facts.pixels > 0):
        found[FILE] = facts.pixels
    return found


def first_of(order: tuple[str, ...], found: Mapping[str, Array]) -> str:
    """Name of the first source that exists."""
    return next(name for name in order if name in found)


def count_notes(contrast: Array, found: Mapping[str, Array]) -> list[str]:
    """Say which sources of the mean counts contradict the one that is used."""
    used = first_of(COUNT_SOURCES, found)
    notes = []
    for name, share in found.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.median((1.0 - found[used]) / (1.0 - share))
        if not 1 / _COUNTS_APART < ratio < _COUNTS_APART:
            notes.append(
                f"speckle noise: {used} gives {_counts(contrast, found[used])} counts per pixel and frame, "
                f"{name} {_counts(contrast, share)}; the first is used"
            )
    if used == RESIDUALS:
        notes.append(
            f"speckle noise: no raw diagonal; {_counts(contrast, found[used])} counts per pixel and frame follow from "
            "the correlation of residuals that share a frame"
        )
    return notes


def pixel_notes(used: str, found: Mapping[str, Array]) -> list[str]:
    """Say which sources of the pixels contradict the one that is used."""
    here = np.median(found[used])
    return [
        f"speckle noise: {used} gives {here:.4g} independent pixels, {name} {np.median(pixels):.4g}; the first is used"
        for name, pixels in found.items()
        if np.isfinite(here) and not 1 / _PIXELS_APART < np.median(pixels) / here < _PIXELS_APART
    ]


def _counts(contrast: Array, share: Array) -> str:
    with np.errstate(divide="ignore", invalid="ignore"):
        counts = np.median(share / (contrast * (1.0 - share)))
    return "no limit on the" if np.isinf(counts) else f"{counts:.3g}"
