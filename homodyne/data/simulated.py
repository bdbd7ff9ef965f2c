"""Simulated measurements in the same record as measured ones; start with :func:`simulate`."""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from homodyne.core.simulate import Seed, SimulatedMaps, TrueModel, simulate_maps
from homodyne.data.twotime import MIN_FRAMES, TwoTimeData, assemble
from homodyne.errors import InputError


def simulate(
    params: Mapping[str, float],
    *,
    q: ArrayLike,
    gap: float | None = None,
    num_frames: int,
    dt: float,
    phi: ArrayLike,
    contrast: ArrayLike,
    offset: ArrayLike = 1.0,
    kind: Literal["speckle", "parametric", "independent"] = "speckle",
    pixels: ArrayLike | None = None,
    mean_counts: ArrayLike | None = None,
    sigma: ArrayLike | None = None,
    seed: Seed = 0,
    shear_convention: str = "he2024",
    age_origin: float = 0.0,
) -> TwoTimeData:
    """Simulate a measurement of known truth.

    Parameters
    ----------
    params : mapping
        D0, alpha, D_offset and, for laminar flow, gamma_dot_0, beta, gamma_dot_offset, phi0.
    q : float or array, (n_q,)
        1/Å; every q has a map at every angle, one q after the other: n_maps = n_q n_phi.
    gap : float, optional
        Distance between the plates in Å; needed with shear parameters.
    num_frames : int
        Number of frames, at least 3.
    dt : float
        Time between frames in s; frame k has the age age_origin + k dt, k = 1, 2, ...
    phi : array, (n_phi,)
        Angles in degrees.
    contrast, offset : float or (n_maps,)
        c2 = offset + contrast * g.
    kind : {"speckle", "parametric", "independent"}
        Noise: simulated detector frames, their second moments only, or white noise; see
        :mod:`homodyne.core.simulate`.
    pixels : int or (n_maps,), optional
        Pixels per map (not for "independent"); 2000 by default.
    mean_counts : float or (n_maps,), optional
        Counts per pixel and frame (not for "independent"); 1 by default, ``inf`` for no counting noise.
    sigma : float or (n_maps,), optional
        Standard deviation of c2; needed for "independent" and only there.
    seed : int, SeedSequence or Generator
        The same seed gives the same data.
    shear_convention : {"he2024", "legacy"}
        Meaning of the shear rate.
    age_origin : float
        Age of the sample just before the first frame in s, > -dt.

    Returns
    -------
    TwoTimeData
        With the raw diagonal, pixels and counts where the kind has them.

    Raises
    ------
    InputError
        A value is impossible or has no meaning for this kind; the message names it.
    """
    if num_frames < MIN_FRAMES:
        raise InputError(f"num_frames is {num_frames}: expected at least {MIN_FRAMES}")
    if not (math.isfinite(dt) and dt > 0):
        raise InputError(f"dt is {dt}: expected a positive time in s")
    t = age_origin + dt * np.arange(1, num_frames + 1, dtype=np.float64)
    angles, waves = (np.atleast_1d(np.asarray(values, dtype=np.float64)) for values in (phi, q))
    each_phi, each_q = np.tile(angles, waves.size), np.repeat(waves, angles.size)
    model = TrueModel(params, t, each_phi, each_q, gap, contrast, offset, shear_convention)
    given = {"pixels": pixels, "mean_counts": mean_counts, "sigma": sigma}
    settings = {name: value for name, value in given.items() if value is not None}
    maps = simulate_maps(model, kind, settings, seed=seed)
    return from_maps(maps, q=each_q, gap=gap, dt=dt, age_origin=age_origin, kind=kind)


def from_maps(
    maps: SimulatedMaps, *, q: ArrayLike, gap: float | None, dt: float, age_origin: float, kind: str
) -> TwoTimeData:
    """Make the record from simulated maps, also from spoilt ones; arguments as in :func:`simulate`."""
    counts = maps.mean_counts
    return assemble(
        maps.c2,
        t=maps.t,
        phi=maps.phi,
        q=q,
        gap=gap,
        dt=dt,
        age_origin=age_origin,
        diagonal=maps.diagonal,
        pixels=maps.pixels,
        mean_counts=counts if counts is None or np.all(np.isfinite(counts)) else None,
        source={"format": "simulated", "kind": kind},
    )
