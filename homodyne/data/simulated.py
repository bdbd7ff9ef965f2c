"""Simulated measurements in the same record as measured ones; start with :func:`simulate`."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from homodyne.arguments import Faults, as_mapping
from homodyne.arrays import as_array
from homodyne.data.checks import per_map_if_given, real_vector
from homodyne.data.twotime import MIN_FRAMES, TwoTimeData, assemble
from homodyne.errors import InputError
from homodyne.physics.model import CorrelationModel, find_model, model_for
from homodyne.physics.simulate import Seed, SimulatedMaps, TrueModel, simulate_maps


def simulate(  # noqa: PLR0913  # a door for users
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
    model: str | CorrelationModel | None = None,
    options: Mapping[str, object] | None = None,
    shear_convention: str | None = None,
    age_origin: float = 0.0,
) -> TwoTimeData:
    """Simulate a measurement of known truth.

    Parameters
    ----------
    params : mapping
        Parameters of the model by name, such as D0, alpha, D_offset and, for laminar flow, gamma_dot_0, beta,
        gamma_dot_offset, phi0; those that the model fixes by default may be left out.
    q : float or array (n_q,)
        1/Å. Maps are made for every q at every angle, those of the first q first.
    gap : float, optional
        Distance between the plates in Å; for models that need it, such as laminar flow.
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
        `homodyne.physics.simulate`.
    pixels : int or (n_maps,), optional
        Pixels per map (not for "independent"); 2000 by default.
    mean_counts : float or (n_maps,), optional
        Counts per pixel and frame (not for "independent"); 1 by default, ``inf`` for no counting noise.
    sigma : float or (n_maps,), optional
        Standard deviation of c2; needed for "independent" and only there.
    seed : int, SeedSequence or Generator
        The same seed gives the same data.
    model : str or CorrelationModel, optional
        Name of a model, ``module:Class`` of your own, or a model; by default the one that has these parameters.
    options : mapping, optional
        Options of the model that is named.
    shear_convention : {"he2024", "legacy"}, optional
        The same option of laminar flow.
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
    with Faults() as faults:
        params = faults.of(as_mapping, "params", params, "values of parameters by name")
        faults.integer("num_frames", num_frames, MIN_FRAMES)
        faults.number("dt", dt, above=0.0)
        faults.number("age_origin", age_origin)
        waves, angles = (faults.of(_row, name, values) for name, values in {"q": q, "phi": phi}.items())
        given = dict(faults.of(as_mapping, "options", options) or {})
        if params is not None:
            chosen = faults.of(_chosen, params, model, given, shear_convention)
    t = age_origin + dt * np.arange(1, num_frames + 1, dtype=np.float64)
    truth = TrueModel(
        chosen,
        params,
        t,
        np.tile(angles, waves.size),
        np.repeat(waves, angles.size),
        gap,
        contrast,
        offset,
    )
    given = {"pixels": pixels, "mean_counts": mean_counts, "sigma": sigma}
    settings = {name: value for name, value in given.items() if value is not None}
    maps = simulate_maps(truth, kind, settings, seed=seed)
    return from_maps(maps, gap=gap, dt=dt, age_origin=age_origin, kind=kind)


def _row(name: str, values: ArrayLike) -> NDArray[np.float64]:
    return real_vector(name, np.atleast_1d(as_array(name, values)))


def _chosen(
    params: Mapping[str, float],
    model: str | CorrelationModel | None,
    options: dict[str, object],
    shear_convention: str | None,
) -> CorrelationModel:
    if shear_convention is not None:
        options["shear_convention"] = shear_convention
    if isinstance(model, CorrelationModel):
        if options:
            raise InputError(f"{model} has its options already: leave out {', '.join(options)}, or give its name")
        return model
    return find_model(model_for(params).name if model is None else model, options)


def from_maps(maps: SimulatedMaps, *, gap: float | None, dt: float, age_origin: float, kind: str) -> TwoTimeData:
    """Make the record from simulated maps, also from spoilt ones; arguments as in :func:`simulate`."""
    counts, alive = maps.mean_counts, np.ones((maps.phi.size, maps.t.size), dtype=bool)
    draft = TwoTimeData(
        c2=maps.c2,
        t=maps.t,
        phi=maps.phi,
        q=maps.q,
        gap=gap,
        dt=dt,
        alive=alive,
        diagonal=maps.diagonal,
        pixels=per_map_if_given("pixels", maps.pixels, maps.phi.size),
        mean_counts=counts if counts is None or np.all(np.isfinite(counts)) else None,
        age_origin=age_origin,
        frames=(1, maps.t.size),
        source={"format": "simulated", "kind": kind},
    )
    return assemble(draft)
