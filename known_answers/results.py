"""Simulated measurements with the posterior that a good fit would return, made in a moment and without a fit.

For tests and documentation of whatever reads results: tables, files, figures, reports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from homodyne.core.parameters import UNITS
from homodyne.data.twotime import TwoTimeData, from_cube
from homodyne.optimization.cmc.certificate import Certificate
from homodyne.optimization.cmc.result import MCMCResult
from homodyne.physics import simulate
from homodyne.physics.model import find_model
from homodyne.physics.space import ParameterSpace, parameter_space

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


@dataclass(frozen=True)
class Example:
    """A posterior, the data it belongs to, and the physical parameters behind both."""

    result: MCMCResult
    data: TwoTimeData
    truth: dict[str, float]


def example_result(
    mode: str = "laminar_flow",
    *,
    phi: Sequence[float] = (0.0, 45.0, 90.0),
    num_frames: int = 120,
    dt: float = 0.1,
    sigma: float = 0.03,
    bad_frames: Sequence[int] = (),
    fixed: Sequence[str] = (),
    shape: tuple[int, int] = (4, 500),
    method: str = "nuts",
    uncertainty: str = "calibrated",
    verdict: str = "CERTIFIED",
    seed: int = 0,
) -> Example:
    """Data with independent noise, and draws from the Gaussian posterior that the Fisher matrix predicts.

    Parameters
    ----------
    mode : {"static", "laminar_flow"}
        Three or seven parameters, true values from TRUTH.
    phi, num_frames, dt, sigma, bad_frames
        Angles (degrees), frames, time between frames (s), noise of c2, frames without data (0-based).
    fixed : sequence of {"alpha", "beta", "phi0"}
        Parameters held at their true value.
    shape : tuple of int
        Chains and draws per chain; the draws are independent.
    method, uncertainty, verdict
        What the result says of itself.
    seed : int
        Of noise and draws.
    """
    law = find_model(mode)
    names = law.parameter_names
    truth = {name: TRUTH[name] for name in names}
    t = np.asarray(dt * np.arange(1, num_frames + 1), dtype=np.float64)
    c2 = simulate.independent(
        simulate.TrueModel(law, truth, t, np.asarray(phi, float), Q, GAP, CONTRAST, OFFSET), sigma=sigma, seed=seed
    ).c2
    c2[:, list(bad_frames), :] = np.nan
    c2[:, :, list(bad_frames)] = np.nan
    data = from_cube(c2, t, np.asarray(phi, float), Q, GAP)
    space = parameter_space(law, data.t, fixed={name: truth[name] for name in fixed})
    samples, lp = _posterior_draws(data, space, truth, sigma, shape, seed)
    rng = np.random.default_rng(seed)
    certificate = None
    if verdict in _REASONS:
        d = len(names) - len(fixed)
        certificate = Certificate(
            verdict=verdict,
            reason=_REASONS[verdict],
            rung="gaussian",
            k_hat=0.12,
            ess=980.0,
            ess_ceiling=990.0,
            ess_ceiling_error=2.0,
            num_points=1000,
            shift=(0.01,) * d,
            width_ratio=(1.0,) * d,
            names=tuple(name for name in names if name not in fixed),
        )
    healthy = {name: 1.0 + 0.002 * rng.random() for name in names if name not in fixed}
    result = MCMCResult(
        samples=samples,
        sample_stats={"lp": lp, "diverging": np.zeros(shape, bool)},
        parameter_names=names,
        analysis_mode=mode,
        method=method,
        uncertainty=uncertainty,
        verdict=verdict,
        certificate=certificate,
        num_points=data.num_pairs,
        seed=seed,
        units=UNITS,
        fixed={name: truth[name] for name in fixed},
        diagnostics={
            "rhat": healthy | {"contrast": [1.001] * len(phi), "offset": [1.002] * len(phi)},
            "ess_bulk": {name: 0.9 * np.prod(shape) for name in healthy},
            "divergences": 0,
            "warnings": [],
        },
        q=Q,
        gap=GAP,
        t=data.t,
        phi=data.phi,
        sigma=np.full(len(phi), sigma),
        bad_frames=tuple(data.bad_frames),
        noise_inflation=dict.fromkeys(healthy, 1.5) if uncertainty == "calibrated" else None,
    )
    return Example(result, data, truth)


def _posterior_draws(
    data: TwoTimeData,
    space: ParameterSpace,
    truth: Mapping[str, float],
    sigma: float,
    shape: tuple[int, int],
    seed: int,
) -> tuple[dict[str, Array], Array]:
    """Draws by name in physical parameters, and their log density up to a constant.

    Gaussian in the coordinates of the space, where laminar flow is nearly Gaussian; the centre is one draw away from
    the truth, as in a real measurement. The Fisher matrix is that of every few pairs, scaled up.
    """
    linear = np.repeat([CONTRAST, OFFSET], data.num_maps)
    center = np.concatenate([space.coordinates(truth), linear])
    i, j = np.triu_indices(data.num_frames, 1)
    every = max(i.size // 1500, 1)
    t1, t2 = data.t[i[::every]], data.t[j[::every]]

    def curves(z: jax.Array) -> jax.Array:
        split = z.size - 2 * data.num_maps
        contrast, offset = z[split:].reshape(2, data.num_maps, 1)
        g = space.model.g(space.physical(z[:split]), t1, t2, Q, data.phi[:, None], GAP)
        c2: jax.Array = (offset + contrast * g).ravel()
        return c2

    jacobian = np.asarray(jax.jit(jax.jacfwd(curves))(jnp.asarray(center))) / sigma
    fisher = jacobian.T @ jacobian * (i.size / t1.size)
    root = np.linalg.inv(np.linalg.cholesky(fisher)).T
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((shape[0] * shape[1] + 1, center.size))
    draws = center + (noise[:-1] + noise[-1]) @ root.T
    split = center.size - 2 * data.num_maps
    values = jax.vmap(space.physical)(jnp.asarray(draws[:, :split]))
    samples = {name: np.array(values[name]).reshape(shape) for name in space.free_names}
    for k, name in enumerate(("contrast", "offset")):
        block = draws[:, split + k * data.num_maps :][:, : data.num_maps]
        samples[name] = block.reshape(*shape, data.num_maps)
    log_density: Array = -0.5 * np.sum(noise[:-1] ** 2, axis=1).reshape(shape)
    return samples, log_density
