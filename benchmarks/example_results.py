"""Simulated measurements with the posterior that a good fit would return, made in a moment and without a fit.

For tests of whatever reads results: tables, files, figures, reports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from homodyne.certificate.certify import Certificate
from homodyne.certificate.verdict import Verdict
from homodyne.data.twotime import TwoTimeData, from_cube
from homodyne.physics.model import CorrelationModel, find_model, reference_of
from homodyne.physics.space import ParameterSpace, parameter_space
from homodyne.result.curves import g_of
from homodyne.result.record import MCMCResult

Array = NDArray[np.float64]

TRUTH: Mapping[str, float] = {
    "D0": 6.0e4,
    "alpha": -0.9,
    "D_offset": 1500.0,
    "gamma_dot_0": 4.0e-3,
    "beta": -0.25,
    "gamma_dot_offset": -3.0e-4,
    "phi0": 2.0,
}
Q, GAP, CONTRAST, OFFSET = 0.0054, 2.0e6, 0.25, 1.05
_REASONS = {
    "CERTIFIED": "importance weights on all data keep 98 % of the draws (k-hat 0.12)",
    "CORRECTED": "the draws were reweighted by the exact posterior (k-hat 0.61)",
    "REFUSED": "the draws miss a second mode at phi0 = 92 (k-hat 1.7)",
}
_SPARE = 3  # draws made for each that is kept: the Gaussian reaches beyond the support


@dataclass(frozen=True)
class Example:
    """A posterior, the data it belongs to, and the physical parameters behind both."""

    result: MCMCResult
    data: TwoTimeData
    truth: dict[str, float]


def example_result(
    model: str | CorrelationModel = "laminar_flow",
    *,
    q: float | Sequence[float] = Q,
    phi: Sequence[float] = (0.0, 45.0, 90.0),
    num_frames: int = 120,
    dt: float = 0.1,
    sigma: float = 0.03,
    bad_frames: Sequence[int] = (),
    fixed: Sequence[str] = (),
    truth: Mapping[str, float] = TRUTH,
    shape: tuple[int, int] = (4, 500),
    method: str = "nuts",
    uncertainty: str = "calibrated",
    verdict: str = Verdict.CERTIFIED,
    seed: int = 0,
) -> Example:
    """Data with independent noise, and draws from the Gaussian posterior that the Fisher matrix predicts.

    Parameters
    ----------
    model : str or CorrelationModel
        What the sample does.
    q, phi : sequence of float
        Wave vector (1/Å) and angle (degrees) of each map; a single q is that of all maps.
    num_frames, dt, sigma, bad_frames
        Frames, time between frames (s), noise of c2, frames without data (0-based).
    fixed : sequence of str
        Parameters held at their true value.
    truth : mapping
        Values of the model's parameters, and perhaps of others.
    shape : tuple of int
        Chains and draws per chain; the draws are independent.
    method, uncertainty, verdict
        What the result says of itself.
    seed : int
        Of noise and draws.
    """
    chosen = find_model(model) if isinstance(model, str) else model
    values = {name: truth[name] for name in chosen.parameter_names}
    t = np.asarray(dt * np.arange(1, num_frames + 1), dtype=np.float64)
    data = _measured(chosen, values, t, q, np.asarray(phi, float), sigma, bad_frames, np.random.default_rng([seed, 1]))
    space = parameter_space(chosen, t, fixed={name: values[name] for name in fixed})
    samples, lp = _posterior_draws(data, space, values, sigma, shape, np.random.default_rng([seed, 2]))
    rng = np.random.default_rng([seed, 3])
    healthy = {name: 1.0 + 0.002 * rng.random() for name in space.free_names}
    result = MCMCResult(
        samples=samples,
        sample_stats={"lp": lp, "diverging": np.zeros(shape, bool)},
        parameter_names=chosen.parameter_names,
        analysis_mode=reference_of(chosen),
        model_class=type(chosen),
        model_options=chosen.options,
        method=method,
        uncertainty=uncertainty,
        verdict=Verdict(verdict),
        certificate=_certificate(verdict, space.free_names),
        num_points=data.num_pairs,
        seed=seed,
        units=chosen.units,
        fixed=dict(space.fixed),
        diagnostics={
            "rhat": healthy | {"contrast": [1.001] * len(phi), "offset": [1.002] * len(phi)},
            "ess_bulk": {name: 0.9 * np.prod(shape) for name in healthy},
            "divergences": 0,
            "warnings": [],
        },
        t=data.t,
        q=np.broadcast_to(data.q, data.phi.shape),
        phi=data.phi,
        sigma=np.full(len(phi), sigma),
        gap=GAP,
        bad_frames=tuple(data.bad_frames),
        noise_inflation=dict.fromkeys(healthy, 1.5) if uncertainty == "calibrated" else None,
    )
    return Example(result, data, values)


def _certificate(verdict: str, names: Sequence[str]) -> Certificate | None:
    if verdict not in _REASONS:
        return None
    return Certificate(
        verdict=Verdict(verdict),
        reason=_REASONS[verdict],
        stage="gaussian",
        k_hat=0.12,
        ess=980.0,
        ess_ceiling=990.0,
        ess_ceiling_error=2.0,
        num_points=1000,
        shift=(0.01,) * len(names),
        width_ratio=(1.0,) * len(names),
        names=tuple(names),
    )


def _measured(
    model: CorrelationModel,
    truth: Mapping[str, float],
    t: Array,
    q: float | Sequence[float],
    phi: Array,
    sigma: float,
    bad_frames: Sequence[int],
    rng: np.random.Generator,
) -> TwoTimeData:
    """Symmetric maps; their diagonal is the mean of its neighbours, as software writes it."""
    waves = np.broadcast_to(np.asarray(q, float), phi.shape)
    g = np.asarray(g_of(model, dict(truth), t[:, None], t, waves[:, None, None], phi[:, None, None], GAP))
    c2 = np.triu(OFFSET + CONTRAST * g + sigma * rng.standard_normal(g.shape), 1)
    c2 += c2.transpose(0, 2, 1)
    for one in c2:
        above = np.diagonal(one, 1)
        np.fill_diagonal(one, (np.append(above, above[-1]) + np.insert(above, 0, above[0])) / 2)
    c2[:, list(bad_frames), :] = np.nan
    c2[:, :, list(bad_frames)] = np.nan
    if np.ndim(q) == 0:
        return from_cube(c2, t, phi, float(waves[0]), GAP)
    return replace(from_cube(c2, t, np.arange(phi.size), float(waves[0]), GAP), phi=phi, q=waves)


def _posterior_draws(
    data: TwoTimeData,
    space: ParameterSpace,
    truth: Mapping[str, float],
    sigma: float,
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[dict[str, Array], Array]:
    """Draws by name in physical parameters, and their log density up to a constant.

    Gaussian in the coordinates of the model, in which a posterior is nearly Gaussian, as far as the model allows; the
    centre is one draw away from the truth, as in a real measurement. The Fisher matrix is that of every few pairs,
    scaled up, and of the prior.
    """
    maps, dim = data.phi.size, space.dim
    center = np.concatenate([space.coordinates(truth), np.repeat([CONTRAST, OFFSET], maps)])
    i, j = np.triu_indices(data.num_frames, 1)
    every = max(i.size // 1500, 1)
    t1, t2 = data.t[i[::every]], data.t[j[::every]]
    waves = np.broadcast_to(data.q, data.phi.shape)[:, None]

    def curves(z: jax.Array) -> jax.Array:
        contrast, offset = z[dim:].reshape(2, maps, 1)
        c2 = offset + contrast * space.model.g(space.physical(z[:dim]), t1, t2, waves, data.phi[:, None], GAP)
        flat: jax.Array = c2.ravel()
        return flat

    jacobian, curvature = jax.jit(lambda z: (jax.jacfwd(curves)(z), jax.hessian(space.log_prior)(z[:dim])))(
        jnp.asarray(center)
    )
    scaled = np.asarray(jacobian) / sigma
    fisher = scaled.T @ scaled * (i.size / t1.size)
    fisher[:dim, :dim] -= np.asarray(curvature)
    root = np.linalg.inv(np.linalg.cholesky(fisher)).T
    count = shape[0] * shape[1]
    noise = rng.standard_normal((_SPARE * count + 1, center.size))
    draws = center + (noise[:-1] + noise[-1]) @ root.T
    values, allowed = space.parameters_at(draws), space.supported_at(draws)
    kept = np.flatnonzero(allowed)[:count]
    if kept.size < count:
        raise ValueError(f"{kept.size} of {count} draws are possible: give data that say more of the parameters")
    samples: dict[str, Any] = {name: np.asarray(values[name])[kept].reshape(shape) for name in space.free_names}
    contrast, offset = np.split(draws[kept, dim:], 2, axis=1)
    samples |= {"contrast": contrast.reshape(*shape, maps), "offset": offset.reshape(*shape, maps)}
    lp: Array = -0.5 * np.sum(noise[kept] ** 2, axis=1).reshape(shape)
    return samples, lp
