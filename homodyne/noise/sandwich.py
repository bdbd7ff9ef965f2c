"""The sandwich covariance: what the scatter of the estimate is when points that share frames share noise.

The fit takes the points as independent, so its information H is not the inverse of its covariance. A residual times the
root of its weight has the covariance of `homodyne.noise.speckle_noise`, whatever the weights are. With the score of
every parameter written as a symmetric map G_a = sqrt(weight) * dc2/dx_a / (2 sigma²) of these, zero on the diagonal,

    J_ab = 2 variance Σ_maps tr(G_a K G_b K),      Cov = H^-1 J H^-1,

over x = (z, offset and contrast of every map); offset and contrast are eliminated map by map. (Godambe, Ann.
Math. Stat. 31, 1208 (1960); Varin, Reid and Firth, Stat. Sinica 21, 5 (2011).)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from homodyne.arrays import AnyArray, Matrix, PerMap, Vector
from homodyne.errors import InputError
from homodyne.noise.map_view import MapView
from homodyne.noise.sources import (
    RESIDUALS,
    Judgement,
    MapEvidence,
    counts_of,
    evidence,
    judged_counts,
    judged_variance,
)
from homodyne.noise.speckle_noise import CountingFacts, SpeckleNoise
from homodyne.noise.traces import definite, pair_sums
from homodyne.threads import in_threads

_LEFT = 0.01  # share of the squares of the noise that a fit leaves, at least
_KNOWN = 0.3  # standard error of a contrast, over itself, with which it is known


@dataclass(frozen=True, eq=False)
class Sandwich:
    """Information, variability and the covariance that follows; no prior is in these three.

    (offset, contrast) are given along the columns of the lower Cholesky root of their information: as the level
    of c2 at the mean correlation, and the contrast, each in units of what independent points leave open of it.

    Attributes
    ----------
    information : (d, d) array
        Fisher matrix H of z for independent points, offset and contrast eliminated.
    variability : (d, d) array
        Covariance J of the score, eliminated likewise.
    prior_information : (d, d) array
        What the prior of offset and contrast adds to the information, for independent points.
    scaling_information : (n_maps, 2, 2) array
        Fisher matrix of (offset, contrast) given z.
    elimination, scaling_slope : (n_maps, 2, d) array
        Regression of the pair on z for independent points, and with correlated noise.
    scaling_spread : (n_maps, 2, 2) array
        Covariance of the pair given z: one for independent points.
    noise : SpeckleNoise
    """

    information: Matrix
    variability: Matrix
    prior_information: Matrix
    scaling_information: Float[AnyArray, "maps 2 2"]
    elimination: Float[AnyArray, "maps 2 coordinates"]
    scaling_slope: Float[AnyArray, "maps 2 coordinates"]
    scaling_spread: Float[AnyArray, "maps 2 2"]
    noise: SpeckleNoise

    @property
    def independent(self) -> Matrix:
        """Covariance of z that independent points would have."""
        return np.asarray(np.linalg.inv(self.information))

    @property
    def covariance(self) -> Matrix:
        """Covariance of z, H^-1 J H^-1."""
        inverse = self.independent
        return np.asarray(inverse @ self.variability @ inverse)

    @property
    def inflation(self) -> Vector:
        """Factor between the standard deviations of z with correlated and with independent noise, (d,)."""
        return np.asarray(np.sqrt(np.diag(self.covariance) / np.diag(self.independent)))


@dataclass(frozen=True, eq=False)
class _Map:
    """Sums of one map over x = (z along the directions, offset, contrast).

    `elimination` (2, d) is the change of (offset, contrast) with z that keeps their score at zero. `powers` are traces
    of scores, from which the variability follows for any share, by z while offset and contrast follow it.
    """

    information: Float[AnyArray, "derivatives derivatives"]
    elimination: Float[AnyArray, "2 coordinates"]
    powers: Float[AnyArray, "3 derivatives derivatives"]
    pairs: tuple[float, float]  # sums over pairs of 1 and g², g being that of the intensities
    squares: float  # sum over pairs of w times squared residual

    def variability(self, share: float) -> Float[AnyArray, "derivatives derivatives"]:
        """Variability of the score, that of z with offset and contrast eliminated, when the variance is one."""
        white = 1.0 - share
        return np.asarray(2.0 * np.tensordot([white**2, 2.0 * share * white, share**2], self.powers, 1))

    def expected(self, share: float) -> float:
        """Sum of weighted squares that noise with a variance of one has."""
        return float(self.pairs[0] + share**2 * self.pairs[1])

    @property
    def scaling(self) -> Float[AnyArray, "2 2"]:
        """Information of (offset, contrast), (2, 2)."""
        return definite(self.information[-2:, -2:])

    def prior_information(self, prior: Float[AnyArray, "2 2"]) -> Matrix:
        """Information of z that a prior of (offset, contrast) adds, (d, d); `prior` (2, 2) is its precision."""
        left = np.linalg.solve(self.scaling, prior) @ np.linalg.inv(self.scaling + prior)
        across = self.information[:-2, -2:]
        return np.asarray(across @ left @ across.T)

    def marginal(self, share: float) -> Matrix:
        """Variability of the score of z once that of (offset, contrast) is eliminated, (d, d)."""
        return self.variability(share)[:-2, :-2]

    def contrast_sd(self, inverse: Matrix, prior: Float[AnyArray, "2"]) -> float:
        """Standard error of the contrast for independent pairs; `inverse` is the covariance of z."""
        own = np.linalg.inv(self.scaling + np.diag(prior))
        slope = own[1] @ self.information[-2:, :-2]
        return float(np.sqrt(own[1, 1] + slope @ inverse @ slope))

    def taken_up(self, share: float, inverse: Matrix) -> float:
        """Weighted squares of noise (variance one) that the fit takes up, over sigma²; `inverse` is that of H."""
        taken = np.linalg.solve(self.scaling, self.variability(share)[-2:, -2:])
        return float(np.trace(taken) + np.trace(inverse @ self.marginal(share)))


def sandwich(
    views: Sequence[MapView],
    sigma: PerMap,
    facts: CountingFacts,
    root: Matrix,
    scaling_prior: Float[AnyArray, "maps 2"],
    squares: PerMap,
    prior: Matrix | None = None,
    workers: int = 2,
) -> Sandwich:
    """Covariance of the least-squares estimate under correlated noise.

    Parameters
    ----------
    views : sequence of MapView
        All maps, with derivatives along the columns of `root`.
    sigma : (n_maps,) array
        Standard deviation of a pair that the fit assumed.
    facts : CountingFacts
    root : (d, d) array
        Its columns are about the widths of the posterior in z: whitening, for accuracy only.
    scaling_prior : (n_maps, 2) array
        Precision of the prior of offset and contrast.
    squares : (n_maps,) array
        Sums over pairs of weighted squared residuals.
    prior : (d, d) array, optional
        Precision of the prior of z, for directions that the data do not determine.
    workers : int
        Threads.
    """
    white_prior = np.zeros_like(root) if prior is None else root.T @ prior @ root
    intensities = [view.as_intensities() for view in views]
    contrast, offset = (np.array([getattr(view, name) for view in intensities]) for name in ("contrast", "offset"))
    fitted = np.array([view.contrast for view in views])
    maps = zip(views, sigma, squares, strict=True)
    parts = in_threads(lambda one: _sums(*one), maps, workers)
    seen = in_threads(evidence, intensities, workers)
    both = list(zip(parts, scaling_prior, strict=True))
    known_scaling = np.sum([part.prior_information(np.diag(own)) for part, own in both], axis=0)
    white = np.array([part.squares / part.pairs[0] for part in parts])
    inverse = np.linalg.inv(_information(parts) + white_prior + known_scaling)
    known = fitted > np.array([part.contrast_sd(inverse, own) for part, own in both]) / _KNOWN
    counts = judged_counts(contrast, offset, white, facts, seen, known)
    if counts is None:
        raise InputError(
            "no two pairs of a map share a frame, so the correlation of their noise cannot be seen: give "
            "speckle.mean_counts, or use uncertainty: independent"
        )
    noise = _noise(parts, counts, contrast, sigma, facts, seen, known, inverse)
    return _assemble(parts, noise, np.asarray(np.linalg.inv(root), float), white_prior, known_scaling)


def _sums(view: MapView, sigma: float, squares: float) -> _Map:
    """Sums over the pairs of one map."""
    roots, resting = view.roots, view.resting
    found = pair_sums(view.t, view.design, None if roots is None else roots.astype(np.float32), resting)
    size, (ones, once, twice) = len(found.information), found.pairs
    units = np.append(np.full(size - 2, view.contrast), [1.0, 1.0])
    scale = np.outer(units, units)
    return _Map(
        scale * found.information / sigma**2,
        view.contrast * found.elimination,
        scale * found.powers / (4.0 * sigma**4),
        (ones, resting**2 * ones + 2 * resting * (1 - resting) * once + (1 - resting) ** 2 * twice),
        squares,
    )


def _noise(
    parts: list[_Map],
    counts: Judgement,
    contrast: PerMap,
    sigma: PerMap,
    facts: CountingFacts,
    seen: list[MapEvidence],
    known: Bool[AnyArray, "maps"],
    inverse: Matrix,
) -> SpeckleNoise:
    """Noise of every map; the squares of the residuals are too small by what the fit has taken up.

    `inverse` is the covariance of z for independent pairs.
    """
    share = counts.values
    taken = [v**2 * part.taken_up(s, inverse) for part, s, v in zip(parts, share, sigma, strict=True)]
    expected = [part.expected(s) for part, s in zip(parts, share, strict=True)]
    left = np.maximum(np.array(expected) - np.array(taken), _LEFT * np.array(expected))
    variance = np.array([part.squares for part in parts]) / left
    pixels = judged_variance(share, contrast, variance, facts, seen, known)
    if pixels.used != RESIDUALS:  # without a correlated part the pixels say nothing
        correlated = share > 0
        variance[correlated] = (contrast[correlated] / share[correlated]) ** 2 / pixels.values[correlated]
    sources = {
        "mean_counts": {name: counts_of(contrast, one) for name, one in counts.found.items()},
        "pixels": {name: _with_error(one.middle, one.error) for name, one in pixels.found.items()},
    }
    notes = (*counts.notes, *pixels.notes)
    judged = {"mean_counts": counts, "pixels": pixels}
    contradicted = tuple(name for name, one in judged.items() if one.contradicted)
    return SpeckleNoise(share, variance, contrast, counts.used, pixels.used, notes, contradicted, sources)


def _with_error(value: float, relative: float) -> tuple[float | None, float | None]:
    finite = np.isfinite(value) and np.isfinite(relative)
    return (value, value * relative) if finite else (value if np.isfinite(value) else None, None)


def _information(parts: list[_Map]) -> Matrix:
    """Information of z over all angles, offset and contrast eliminated."""
    d = len(parts[0].information) - 2
    return np.asarray(sum(p.information[:d, :d] + p.information[:d, d:] @ p.elimination for p in parts))


def _assemble(
    parts: list[_Map], noise: SpeckleNoise, to_white: Matrix, prior: Matrix, prior_information: Matrix
) -> Sandwich:
    """Eliminate offset and contrast, and go back from whitened coordinates to z."""
    information, known = _information(parts), prior + prior_information
    angles = list(zip(parts, noise.share, noise.variance, strict=True))
    variability = np.sum([v * part.marginal(s) for part, s, v in angles], axis=0)
    scatter = np.linalg.inv(variability + known)
    back_from_score = scatter @ (information + known) @ to_white
    eliminations, slopes, spreads, d = [], [], [], len(information)
    for part, s, v in angles:
        own, inverse_root = v * part.variability(s)[d:], np.linalg.inv(np.linalg.cholesky(part.scaling))
        across = inverse_root @ own[:, :d]
        eliminations.append(-inverse_root @ part.information[d:, :d] @ to_white)
        slopes.append(eliminations[-1] + across @ back_from_score)
        vague = part.scaling - part.information[d:, d:]
        spreads.append(inverse_root @ (own[:, d:] + vague) @ inverse_root.T - across @ scatter @ across.T)
    return Sandwich(
        information=to_white.T @ information @ to_white,
        variability=to_white.T @ variability @ to_white,
        prior_information=to_white.T @ prior_information @ to_white,
        scaling_information=np.array([part.scaling for part in parts]),
        elimination=np.array(eliminations),
        scaling_slope=np.array(slopes),
        scaling_spread=np.array(spreads),
        noise=noise,
    )
