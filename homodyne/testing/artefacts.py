"""What goes wrong in real files, applied to simulated maps.

Every function takes :class:`homodyne.physics.simulate.SimulatedMaps` and returns changed ones; the raw diagonal follows
the maps.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from homodyne.errors import InputError
from homodyne.physics.simulate import SimulatedMaps, raw_diagonal


def blank_frames(maps: SimulatedMaps, frames: Sequence[int], value: float = 0.0) -> SimulatedMaps:
    """Set rows and columns of the given frames (0-based): to 0 for dead frames, to NaN for missing ones."""
    c2, index = maps.c2.copy(), list(frames)
    c2[:, index, :] = value
    c2[:, :, index] = value
    return _changed(maps, c2)


def beam_jumps(maps: SimulatedMaps, frames: Sequence[int], factors: Sequence[float]) -> SimulatedMaps:
    """Intensity that jumps by a factor at each given frame while all frames are divided by one mean."""
    intensity = np.ones(len(maps.t))
    for frame, factor in zip(frames, factors, strict=True):
        intensity[frame:] *= factor
    intensity /= intensity.mean()
    return _changed(maps, maps.c2 * np.outer(intensity, intensity).astype(np.float32))


def static_speckle(maps: SimulatedMaps, fraction: float, contrast: float) -> SimulatedMaps:
    """Replace a fraction f of the intensity by speckle that does not move.

    c2 becomes 1 + (1-f)² (c2 - 1) + f² contrast, noise included. Apply it before frames are blanked.

    Raises
    ------
    InputError
        `fraction` is not in [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise InputError(f"fraction is {fraction}: expected the static share of the intensity, 0 to 1")
    c2 = 1.0 + (1.0 - fraction) ** 2 * (maps.c2 - 1.0) + fraction**2 * contrast
    return _changed(maps, c2.astype(np.float32))


def empty_bins(maps: SimulatedMaps, angles: Sequence[int], value: float = float("nan")) -> SimulatedMaps:
    """Make the maps of the given angles (0-based) those of a bin without pixels: `value` throughout."""
    c2, index = maps.c2.copy(), list(angles)
    c2[index] = value
    pixels, counts = maps.pixels, maps.mean_counts
    if pixels is not None and counts is not None:
        pixels, counts = pixels.copy(), counts.copy()
        pixels[index], counts[index] = 0, 0.0
    return replace(_changed(maps, c2), pixels=pixels, mean_counts=counts)


def _changed(maps: SimulatedMaps, c2: NDArray[np.float32]) -> SimulatedMaps:
    return replace(maps, c2=c2, diagonal=None if maps.diagonal is None else raw_diagonal(c2))
