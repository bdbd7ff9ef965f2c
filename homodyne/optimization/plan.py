"""How precise would a measurement be? By the sandwich formula without data (`expected_precision`), or by simulation.

What is given is the scatter of the least-squares estimate: what the data alone say, without a prior.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from homodyne.arguments import Json
from homodyne.arrays import AnyArray
from homodyne.config.io import load_config
from homodyne.data.simulated import simulate
from homodyne.data.twotime import TwoTimeData
from homodyne.errors import ConvergenceError, InputError
from homodyne.likelihood.posterior import score_many
from homodyne.likelihood.reduction import Accuracy
from homodyne.noise.sandwich import Sandwich, sandwich
from homodyne.noise.speckle_noise import CountingFacts
from homodyne.optimization.calibration import local, map_views
from homodyne.optimization.pilot import Mode, Pilot
from homodyne.optimization.problem import Problem, build_problem
from homodyne.physics.model import model_for, reference_of

_STEPS = 30  # of Fisher scoring per simulated measurement
_CLOSE = 0.01  # length of the last step, in standard deviations


@dataclass(frozen=True)
class Measurement:
    """A measurement that could be made.

    Attributes
    ----------
    params : mapping
        Parameters of the model by name.
    q, gap : float
        1/Å, and Å or None.
    dt : float
        Seconds between frames.
    frames, angles : int
        Angles are spread evenly over 180 degrees.
    pixels, counts : float
        Independent pixels per angle; mean counts per pixel and frame.
    contrast : float
    fixed : tuple of str
        Parameters that are known.
    model : str or None
        Name of the model; by default the smallest that has these parameters.
    """

    params: Mapping[str, float]
    q: float
    gap: float | None
    dt: float = 0.1
    frames: int = 300
    angles: int = 8
    pixels: int = 4000
    counts: float = 0.1
    contrast: float = 0.3
    fixed: tuple[str, ...] = ()
    model: str | None = None

    @property
    def mode(self) -> str:
        """Name of the model."""
        return self.model or reference_of(model_for(self.params))

    @property
    def sigma(self) -> float:
        """Standard deviation of an element of the map far from the diagonal."""
        return float((self.contrast + 1.0 / self.counts) / np.sqrt(self.pixels))

    def data(self, kind: Any, seed: int) -> TwoTimeData:
        """Simulated data; "independent" noise has the same standard deviation as the others."""
        white = kind == "independent"
        noise: dict[str, Json] = {"sigma": self.sigma} if white else {"pixels": self.pixels, "mean_counts": self.counts}
        return simulate(
            self.params,
            model=self.mode,
            q=self.q,
            gap=self.gap,
            num_frames=self.frames,
            dt=self.dt,
            phi=np.arange(self.angles) * 180.0 / self.angles,
            contrast=self.contrast,
            kind=kind,
            seed=seed,
            **noise,
        )


@dataclass(frozen=True)
class Precision:
    """Standard deviations of the free parameters, in their units, by name.

    Attributes
    ----------
    true, independent : mapping
        With the noise that speckle has, and if points of the map had independent noise.
    simulated : mapping
        Half of the central 68 % of estimates from simulated measurements; empty where none were made.
    """

    true: Mapping[str, float]
    independent: Mapping[str, float]
    simulated: Mapping[str, float] = field(default_factory=dict)


def expected_precision(
    measurement: Measurement, simulations: int = 0, seed: int = 0, progress: Callable[[int], None] = lambda done: None
) -> Precision:
    """Precision of a measurement by the sandwich formula and, where asked for, by simulation.

    Parameters
    ----------
    measurement : Measurement
    simulations : int
        Measurements to simulate with speckle and photons, and to fit.
    seed : int
        Of the simulations.
    progress : callable
        Called with the simulations that are done.

    Raises
    ------
    InputError
        Something about the measurement is impossible, or it says nothing of a parameter.
    ConvergenceError
        Fits of simulated measurements do not converge.
    """
    _check(measurement)
    fixed = {name: {"fixed": measurement.params[name]} for name in measurement.fixed}
    config = load_config({"analysis_mode": measurement.mode, "parameters": fixed})
    problem = build_problem(measurement.data("independent", seed), config)
    z = np.asarray(problem.space.coordinates(dict(measurement.params)))
    found = _sandwich(problem, z, measurement)
    slopes = local(z, problem.space).slopes

    def widths(covariance: AnyArray) -> dict[str, float]:
        return {name: float(np.sqrt(slopes[name] @ covariance @ slopes[name])) for name in problem.space.free_names}

    simulated = {}
    if simulations:
        seeds = range(seed, seed + simulations)
        draws = _estimates(problem, z, found.independent, measurement, seeds, progress)
        low, high = np.quantile(draws, (0.1587, 0.8413), axis=0)
        simulated = dict(zip(problem.space.free_names, (0.5 * (high - low)).tolist(), strict=True))
    return Precision(widths(found.covariance), widths(found.independent), simulated)


def _check(measurement: Measurement) -> None:
    for name in ("frames", "angles", "pixels", "counts", "contrast"):
        value = getattr(measurement, name)
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}: expected a positive number")
    unknown = [name for name in measurement.fixed if name not in measurement.params]
    if unknown:
        raise InputError(f"{', '.join(unknown)} cannot be fixed: expected names among {', '.join(measurement.params)}")


def _pilot(problem: Problem, z: AnyArray, measurement: Measurement) -> Pilot:
    """The truth in place of a pilot fit."""
    sigma = np.full(measurement.angles, measurement.sigma)
    signal = float(np.sqrt(problem.num_pairs)) * measurement.contrast / measurement.sigma
    grid = problem.grid({name: np.array([value]) for name, value in measurement.params.items()}, Accuracy(), signal)
    posterior = problem.posterior(problem.reduced(grid), sigma)
    mode = Mode(z, 0.0, np.eye(z.size), 0.0)
    return Pilot(problem, posterior, grid, None, (mode,), sigma, 0, 0, (), z[None])


def _sandwich(problem: Problem, z: AnyArray, measurement: Measurement) -> Sandwich:
    """Sandwich at the truth, in coordinates that a first pass has whitened."""
    pilot, root = _pilot(problem, z, measurement), np.asarray(np.eye(z.size))
    facts = CountingFacts(given_pixels=measurement.pixels, given_counts=measurement.counts)
    squares = pilot.sigma**2 * np.asarray(pilot.posterior.nodes.sums)[:, 0]
    held = np.asarray(problem.scaling.precision_at(np.tile([1.0, measurement.contrast], (measurement.angles, 1))))
    for _ in range(2):
        views = [replace(one, offset=1.0, contrast=measurement.contrast) for one in map_views(pilot, z, root)]
        try:
            found = sandwich(views, pilot.sigma, facts, root, held, squares)
            root = np.asarray(np.linalg.cholesky(found.independent), float)
        except np.linalg.LinAlgError:
            raise InputError(
                "such a measurement does not determine all parameters: fix one (--fix), or change frames, angles or dt"
            ) from None
    return found


def _estimates(
    problem: Problem,
    z: AnyArray,
    covariance: AnyArray,
    measurement: Measurement,
    seeds: Sequence[int],
    progress: Callable[[int], None],
) -> AnyArray:
    """Free parameters, (len(seeds), d), at the maximum of the likelihood of simulated measurements.

    From the truth by Fisher scoring: steps along the gradient times the inverse of the information.
    """
    inverse, found = np.linalg.inv(covariance), []
    config = load_config({"analysis_mode": measurement.mode})
    for done, seed in enumerate(seeds, 1):
        passes = build_problem(measurement.data("speckle", seed), config).passes
        posterior, point = _pilot(replace(problem, passes=passes), z, measurement).posterior, z
        for _ in range(_STEPS):
            gradient = score_many(point[None], posterior).gradient[0] - local(point, problem.space).gradient
            step = covariance @ gradient
            length = float(np.sqrt(step @ inverse @ step))
            point = point + step
            if not length > _CLOSE:
                break
        if not length <= _CLOSE:
            raise ConvergenceError(
                f"the fit of simulated measurement {done} does not converge from the truth: the data are too weak for "
                "these parameters; fix one (--fix), or measure more"
            )
        values = problem.space.physical(jnp.asarray(point))
        found.append([float(values[name]) for name in problem.space.free_names])
        progress(done)
    return np.array(found)
