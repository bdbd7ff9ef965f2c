"""Simulated two-time maps whose truth is known, for tests and for planning a measurement.

Describe the sample with :class:`TrueModel`, then draw maps with one of three noises:

- :func:`speckle`: fields of independent pixels and modes with covariance c1, Poisson counts, division by the frame
  mean: what an experiment does;
- :func:`parametric`: the same second moments without the pixels: the covariance of the noise is exact;
- :func:`independent`: white Gaussian noise, equal on both sides of the diagonal.

:func:`simulate_maps` chooses by name.
Arrays in, arrays out; the same seed gives the same maps.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Num
from numpy.typing import ArrayLike, NDArray

from homodyne.arguments import Faults, shown
from homodyne.arrays import Ages, AnyArray, Array, Map, PerMap, real_array
from homodyne.errors import InputError
from homodyne.physics.model import CorrelationModel, Params, complete_params, supported

Seed: TypeAlias = int | np.random.SeedSequence | np.random.Generator
_BATCH_ELEMENTS = 2_000_000
"""Random numbers held at once; pixels are processed in batches of this size."""


@dataclass(frozen=True, eq=False)
class TrueModel:
    """The truth behind simulated maps.

    Attributes
    ----------
    model : CorrelationModel
        The law.
    params : mapping
        Its parameters by name; those that it fixes by default may be left out.
    t : ndarray, (n,)
        Ages of the frames in s, > 0 and increasing.
    phi : ndarray, (n_maps,)
        Angle of each map in degrees.
    q : ndarray, (n_maps,)
        Wave vector of each map in 1/Å; a number is taken for all.
    gap : float or None
        Å; for models that need it.
    contrast, offset : ndarray, (n_maps,)
        c2 = offset + contrast * g; numbers are taken for all maps.
    """

    model: CorrelationModel
    params: Mapping[str, float]
    t: Ages
    phi: PerMap
    q: ArrayLike
    gap: float | None = None
    contrast: ArrayLike = 0.3
    offset: ArrayLike = 1.0

    def __post_init__(self) -> None:
        t, phi = real_array("t", self.t), np.atleast_1d(real_array("phi", self.phi))
        if t.ndim != 1 or len(t) < 2 or not (t[0] > 0 and np.all(np.diff(t) > 0) and np.isfinite(t[-1])):
            raise InputError("t: expected a row of increasing times > 0 in s; check dt and age_origin")
        if phi.ndim != 1 or phi.size == 0 or not np.all(np.isfinite(phi)):
            raise InputError(f"phi is {shown(self.phi)}: expected one or more angles in degrees")
        if self.gap is not None:
            with Faults() as faults:
                faults.number("gap", self.gap, above=0.0)
            object.__setattr__(self, "gap", float(self.gap))
        if self.model.needs_gap and self.gap is None:
            raise InputError(f"gap is missing: {self.model.name} needs the distance between the plates in Å")
        derived = {
            "params": complete_params(self.model, self.params),
            "t": t,
            "phi": phi,
            "q": _per_map("q", self.q, phi, positive=True),
            "contrast": _per_map("contrast", self.contrast, phi, positive=True),
            "offset": _per_map("offset", self.offset, phi),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        self._require_support()

    def _require_support(self) -> None:
        t, params = self.t, self.params
        if bool(supported(self.model, params, t[0], t[-1])):
            return
        rates = {one.symbol: np.asarray(one.value(params, t)) for one in self.model.rates()}
        negative = [f"{name} is not positive" for name, values in rates.items() if np.any(values <= 0)]
        raise InputError(
            f"{self.model.name} does not allow these parameters from {t[0]:g} to {t[-1]:g} s"
            + "".join(f"; {one}" for one in negative)
            + f": change {', '.join(params)}"
        )

    def correlations(self) -> Iterator[Map]:
        """Matrices g(t_i, t_j), (n, n), map by map."""
        return self._matrices("g")

    def fields(self) -> Iterator[Num[AnyArray, "frames frames"]]:
        """Hermitian matrices c1(t_i, t_j), (n, n), real or complex, map by map: covariances of the scattered field."""
        return self._matrices("field")

    def _matrices(self, method: str) -> Iterator[Num[AnyArray, "frames frames"]]:
        gap = np.nan if self.gap is None else self.gap
        for q, phi in zip(np.asarray(self.q), self.phi, strict=True):
            yield np.asarray(_matrix(self.model, method, self.params, self.t, q, phi, gap))


@partial(jax.jit, static_argnums=(0, 1))
def _matrix(
    model: CorrelationModel, method: str, params: Params, t: jax.Array, q: jax.Array, phi: jax.Array, gap: jax.Array
) -> Num[jax.Array, "frames frames"]:
    """Values of a method at all pairs of times, (n, n), Hermitian."""
    rows, columns = t[:, None], t[None, :]
    values = getattr(model, method)(params, jnp.minimum(rows, columns), jnp.maximum(rows, columns), q, phi, gap)
    values = jnp.broadcast_to(values, (t.size, t.size))
    return jnp.where(rows <= columns, values, values.conj())


@dataclass(frozen=True, eq=False)
class SimulatedMaps:
    """Maps as a correlator would write them.

    Attributes
    ----------
    c2 : ndarray, (n_maps, n, n) float32
        Symmetric maps, with the raw diagonal where there is one.
    t : ndarray, (n,)
        Times of the frames in s as the file states them.
    phi, q : ndarray, (n_maps,)
        Angle in degrees and wave vector in 1/Å of each map.
    diagonal : ndarray (n_maps, n) or None
        Raw diagonal; None when it holds no counting statistics.
    pixels : ndarray (n_maps,) or None
        Pixels per map.
    mean_counts : ndarray (n_maps,) or None
        Counts per pixel and frame; infinite without counting noise.
    """

    c2: Float[NDArray[np.float32], "maps frames frames"]
    t: Ages
    phi: PerMap
    q: PerMap
    diagonal: Float[Array, "maps frames"] | None
    pixels: Int[NDArray[np.int64], "maps"] | None
    mean_counts: PerMap | None


def speckle(
    model: TrueModel, *, pixels: ArrayLike = 2000, mean_counts: ArrayLike = 1.0, seed: Seed = 0
) -> SimulatedMaps:
    """Correlate simulated detector frames.

    Every pixel sees the incoherent sum of a few speckle modes (:func:`mode_weights`), each a complex
    Gaussian field with covariance c1; counts are Poisson, frames are divided by their mean over the pixels,
    c2 = I I'/N. Its baseline is 1; another `offset` is added as a constant. The work grows with 1/contrast.

    Parameters
    ----------
    model : TrueModel
        Contrast up to 1.
    pixels : int or (n_maps,)
        Pixels N in each map.
    mean_counts : float or (n_maps,)
        Mean counts n̄ per pixel and frame; ``inf`` leaves out counting noise.
    seed : int, SeedSequence or Generator
        Source of randomness.

    Returns
    -------
    SimulatedMaps
        With the raw diagonal and the counts that were recorded.
    """
    rates, numbers = _counting(model, pixels, mean_counts)
    maps, recorded = _empty_maps(model), rates.copy()
    for a, (rng, c1) in enumerate(zip(_streams(seed, model), model.fields(), strict=True)):
        weights = mode_weights(float(np.asarray(model.contrast)[a]))
        factor = covariance_factor(c1)
        factor = factor.astype(np.complex64 if np.iscomplexobj(factor) else np.float32)
        parts = factor.view(np.float32)
        parts[np.abs(parts) < 1e-30] = 0.0  # products with denormal numbers would take ten times longer
        products, totals = np.zeros(c1.shape), np.zeros(len(c1))
        for count in _batches(int(numbers[a]), len(c1)):
            intensity = _intensities(rng, factor, weights, count)
            counts = rng.poisson(rates[a] * intensity) if np.isfinite(rates[a]) else intensity
            counts = counts.astype(float)
            products += counts @ counts.T
            totals += counts.sum(axis=1)
        if np.any(totals == 0):
            few = f"mean_counts {rates[a]:g} with {numbers[a]} pixels"
            raise InputError(f"{few} leaves frames without a single count: raise one of them")
        mean = totals / numbers[a]
        maps[a] = products / numbers[a] / np.outer(mean, mean) + (np.asarray(model.offset)[a] - 1.0)
        if np.isfinite(rates[a]):
            recorded[a] = mean.mean()
    return SimulatedMaps(maps, model.t, model.phi, np.asarray(model.q), raw_diagonal(maps), numbers, recorded)


def parametric(
    model: TrueModel, *, pixels: ArrayLike = 2000, mean_counts: ArrayLike = 1.0, seed: Seed = 0
) -> SimulatedMaps:
    """Draw maps with the exact mean and the exact covariance of the noise.

    N real Gaussian vectors X with covariance K = contrast * g + δ/n̄ give c2 = offset + X X'/N, so that
    E[c2] = offset + contrast * g off the diagonal (1/n̄ more on it) and
    Cov[c2(1,2), c2(3,4)] = (K13 K24 + K14 K23)/N without approximation.

    Parameters and result are those of :func:`speckle`; the contrast may exceed 1.
    """
    rates, numbers = _counting(model, pixels, mean_counts)
    maps = _empty_maps(model)
    for a, (rng, g) in enumerate(zip(_streams(seed, model), model.correlations(), strict=True)):
        covariance = np.asarray(model.contrast)[a] * g
        covariance[np.diag_indices_from(covariance)] += 1.0 / rates[a]
        factor = covariance_factor(covariance)
        products = np.zeros(g.shape)
        for count in _batches(int(numbers[a]), len(g)):
            draws = factor @ rng.standard_normal((len(g), count))
            products += draws @ draws.T
        maps[a] = np.asarray(model.offset)[a] + products / numbers[a]
    return SimulatedMaps(maps, model.t, model.phi, np.asarray(model.q), raw_diagonal(maps), numbers, rates)


def independent(model: TrueModel, *, sigma: ArrayLike, seed: Seed = 0) -> SimulatedMaps:
    """Draw maps with independent Gaussian noise of one standard deviation per map.

    Each pair i < j has its own error, mirrored below the diagonal. There are no pixels and no counts; the
    diagonal is the mean of its neighbours.

    Parameters
    ----------
    model : TrueModel
        The truth.
    sigma : float or (n_maps,)
        Standard deviation of c2, >= 0.
    seed : int, SeedSequence or Generator
        Source of randomness.
    """
    width = _per_map("sigma", sigma, model.phi)
    if np.any(width < 0):
        raise InputError(f"sigma is {width.min():g}: expected a standard deviation >= 0")
    maps = _empty_maps(model)
    for a, (rng, g) in enumerate(zip(_streams(seed, model), model.correlations(), strict=True)):
        noise = np.triu(rng.standard_normal(g.shape, dtype=np.float32), 1)
        noise *= np.float32(width[a])
        np.add(noise, noise.T, out=maps[a])
        maps[a] += np.asarray(model.offset)[a] + np.asarray(model.contrast)[a] * g
        _overwrite_diagonal(maps[a])
    return SimulatedMaps(maps, model.t, model.phi, np.asarray(model.q), None, None, None)


SIMULATORS: Mapping[str, tuple[Callable[..., SimulatedMaps], tuple[str, ...]]] = {
    "speckle": (speckle, ("pixels", "mean_counts")),
    "parametric": (parametric, ("pixels", "mean_counts")),
    "independent": (independent, ("sigma",)),
}
"""Ways to draw maps, and the names of their settings."""


def simulate_maps(model: TrueModel, kind: str, settings: Mapping[str, ArrayLike], *, seed: Seed = 0) -> SimulatedMaps:
    """Draw maps of the named kind; a setting that the kind does not know is refused."""
    with Faults() as faults:
        faults.choice("kind", kind, SIMULATORS)
    draw, known = SIMULATORS[kind]
    unused = [name for name in settings if name not in known]
    if unused:
        raise InputError(f"{', '.join(unused)} has no meaning for kind {kind!r}: leave it out")
    if "sigma" in known and "sigma" not in settings:
        raise InputError(f"sigma is missing: kind {kind!r} needs the standard deviation of c2")
    return draw(model, seed=seed, **settings)


def mode_weights(contrast: float) -> Float[Array, "modes"]:
    """Weights of incoherent speckle modes: they add to 1, their squares to the contrast.

    M = ceil(1/contrast) modes; all equal when 1/contrast is whole, otherwise one is stronger than the
    others, as for a beam that is partially coherent.

    Raises
    ------
    InputError
        `contrast` is not in (0, 1].
    """
    if not 0 < contrast <= 1:
        raise InputError(f"contrast is {contrast}: speckle has a contrast above 0 and up to 1")
    modes = math.ceil(1.0 / contrast - 1e-9)
    strong = (1.0 + math.sqrt(max(0.0, (modes - 1) * (modes * contrast - 1.0)))) / modes
    weights = np.full(modes, (1.0 - strong) / max(1, modes - 1))
    weights[0] = strong
    return weights


def covariance_factor(covariance: Num[AnyArray, "frames frames"]) -> Num[AnyArray, "frames frames"]:
    """A with A A^H = covariance, real or complex as that is, without adding anything to the diagonal.

    Cholesky does it for every diffusing sample: exp(-|F_i - F_j|/2) is rough, its smallest eigenvalue is about
    a quarter of the smallest step in F, and neither shear nor counting noise can lower it. When frames are
    equal to rounding (a frozen sample, or a smooth decay), the symmetric eigenvalue factor is used, with eigenvalues
    that are negative by rounding set to zero: a change of the covariance by at most that rounding.

    Raises
    ------
    InputError
        The matrix has an eigenvalue that is negative beyond rounding.
    """
    try:
        return np.asarray(np.linalg.cholesky(covariance))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
    rounding = 10.0 * len(values) * np.finfo(float).eps * values[-1]
    if values[0] < -rounding:
        raise InputError(
            f"not a covariance matrix: smallest eigenvalue {values[0]:g}, largest {values[-1]:g}; no field has this "
            "correlation"
        )
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def raw_diagonal(c2: Float[NDArray[np.float32], "maps frames frames"]) -> Float[Array, "maps frames"]:
    """Diagonals of maps, (n_maps, n)."""
    return np.diagonal(c2, axis1=1, axis2=2).astype(float)


def _intensities(
    rng: np.random.Generator, factor: Num[AnyArray, "frames frames"], weights: Float[Array, "modes"], count: int
) -> Float[NDArray[np.float32], "frames pixels"]:
    """Intensities (n, count) of mean 1: squares of circular Gaussian fields, mode by mode."""
    total = np.zeros((len(factor), count), dtype=np.float32)
    for weight in (weights / 2.0).astype(np.float32):
        parts = (rng.standard_normal(total.shape, dtype=np.float32) for _ in range(2))
        if np.iscomplexobj(factor):
            real, imaginary = parts
            total += weight * np.square(np.abs(factor @ (real + 1j * imaginary)))
        else:  # real and imaginary part in turn
            for part in parts:
                field = factor @ part
                total += weight * np.square(field, out=field)
    return total


def _overwrite_diagonal(one: Float[NDArray[np.float32], "frames frames"]) -> None:
    """Replace the diagonal by the mean of its neighbours, as reduction software does."""
    beside = np.diagonal(one, 1)
    np.fill_diagonal(one, 0.5 * (np.append(beside[0], beside) + np.append(beside, beside[-1])))


def _empty_maps(model: TrueModel) -> Float[NDArray[np.float32], "maps frames frames"]:
    return np.empty((len(model.phi), len(model.t), len(model.t)), dtype=np.float32)


def _streams(seed: Seed, model: TrueModel) -> list[np.random.Generator]:
    if not isinstance(seed, np.random.SeedSequence | np.random.Generator):
        with Faults() as faults:
            faults.integer("seed", seed)
    return np.random.default_rng(seed).spawn(len(model.phi))


def _batches(total: int, elements_each: int) -> Iterator[int]:
    """Sizes of batches that add to `total` and keep each within the memory bound."""
    size = max(1, _BATCH_ELEMENTS // elements_each)
    for start in range(0, total, size):
        yield min(size, total - start)


def _counting(
    model: TrueModel, pixels: ArrayLike, mean_counts: ArrayLike
) -> tuple[PerMap, Int[NDArray[np.int64], "maps"]]:
    rates = _per_map("mean_counts", mean_counts, model.phi, positive=True, finite=False)
    numbers = _per_map("pixels", pixels, model.phi, positive=True)
    if np.any(numbers != np.round(numbers)):
        raise InputError(f"pixels is {numbers}: expected whole numbers")
    return rates, numbers.astype(np.int64)


def _per_map(name: str, value: ArrayLike, phi: PerMap, *, positive: bool = False, finite: bool = True) -> PerMap:
    values = real_array(name, value)
    if values.ndim > 1 or values.size not in (1, len(phi)):
        raise InputError(f"{name} has shape {values.shape}: expected a number or one per map ({len(phi)})")
    if np.any(np.isnan(values)) or (finite and np.any(np.isinf(values))) or (positive and np.any(values <= 0)):
        raise InputError(f"{name} is {values}: expected {'positive ' * positive}{'finite ' * finite}numbers")
    return np.broadcast_to(values, (len(phi),)).copy()
