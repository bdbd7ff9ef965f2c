"""The sandwich covariance: what the scatter of the estimate is when points that share frames share noise.

The fit takes the points as independent, so its information H is not the inverse of its covariance. With the score of
every parameter written as a symmetric map G_a = weight * dc2/dx_a / (2 sigma²), zero on the diagonal, and the
covariance of `homodyne.noise.speckle_noise`,

    J_ab = 2 variance Σ_phi tr(G_a K G_b K),      Cov = H^-1 J H^-1,

over x = (z, offset and contrast of every angle); offset and contrast are eliminated angle by angle. (Godambe, Ann.
Math. Stat. 31, 1208 (1960); Varin, Reid and Firth, Stat. Sinica 21, 5 (2011).)
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from homodyne.core.likelihood import Likelihood
from homodyne.core.pair_maps import PairMaps, pair_maps, strips
from homodyne.noise.speckle_noise import (
    COUNT_SOURCES,
    PIXEL_SOURCES,
    RESIDUALS,
    CountingFacts,
    SpeckleNoise,
    count_notes,
    first_of,
    pixel_notes,
    pixels_by_source,
    residual_share,
    shares,
)
from homodyne.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

_COLUMNS = 128  # columns of a product that are worked on at once
_OPEN = 1e-10  # information, over that of the pair, that says nothing
_GONE = 25.0  # decay exponent beyond which a correlation of float32 digits is none


@dataclass(frozen=True, eq=False)
class Sandwich:
    """Information, variability and the covariance that follows; no prior is in these three.

    Pairs (offset, contrast) are given along the columns of the lower Cholesky root of their information: as the level
    of c2 at the mean correlation, and the contrast, each in units of what independent points leave open of it.

    Attributes
    ----------
    information : (d, d) array
        Fisher matrix H of z for independent points, offset and contrast eliminated.
    variability : (d, d) array
        Covariance J of the score, eliminated likewise.
    told : (d, d) array
        What the prior of offset and contrast adds to the information, for independent points.
    pair_information : (n_phi, 2, 2) array
        Fisher matrix of (offset, contrast) given z.
    elimination, pair_slope : (n_phi, 2, d) array
        Regression of the pair on z for independent points, and with correlated noise.
    pair_spread : (n_phi, 2, 2) array
        Covariance of the pair given z: one for independent points.
    noise : SpeckleNoise
    """

    information: Array
    variability: Array
    told: Array
    pair_information: Array
    elimination: Array
    pair_slope: Array
    pair_spread: Array
    noise: SpeckleNoise

    @property
    def independent(self) -> Array:
        """Covariance of z that independent points would have."""
        return np.asarray(np.linalg.inv(self.information))

    @property
    def covariance(self) -> Array:
        """Covariance of z, H^-1 J H^-1."""
        inverse = self.independent
        return np.asarray(inverse @ self.variability @ inverse)

    @property
    def inflation(self) -> Array:
        """Factor between the standard deviations of z with correlated and with independent noise, (d,)."""
        return np.asarray(np.sqrt(np.diag(self.covariance) / np.diag(self.independent)))


@dataclass(frozen=True, eq=False)
class _Angle:
    """Sums of one angle over x = (z along the directions, offset, contrast).

    `powers` are the traces of (G_a G_b, G_a g G_b, G_a g G_b g), from which the variability follows for any share.
    """

    information: Array
    powers: Array
    weights: tuple[float, float]  # sums over pairs of w and w g^2
    squares: float  # sum over pairs of w times squared residual

    def variability(self, share: float) -> Array:
        """Variability of the score when the variance is one."""
        white = 1.0 - share
        return np.asarray(2.0 * np.tensordot([white**2, 2.0 * share * white, share**2], self.powers, 1))

    def expected(self, share: float) -> float:
        """Sum of weighted squares that noise with a variance of one has."""
        return float(self.weights[0] + share**2 * self.weights[1])

    @property
    def pair(self) -> Array:
        """Information of (offset, contrast), (2, 2)."""
        return _definite(self.information[-2:, -2:])

    @property
    def elimination(self) -> Array:
        """Change of (offset, contrast) with z that keeps their score at zero, (2, d)."""
        return np.asarray(-np.linalg.solve(self.pair, self.information[-2:, :-2]))

    def told(self, prior: Array) -> Array:
        """Information of z that a prior of (offset, contrast) adds, (d, d); `prior` (2, 2) is its precision."""
        left = np.linalg.solve(self.pair, prior) @ np.linalg.inv(self.pair + prior)
        across = self.information[:-2, -2:]
        return np.asarray(across @ left @ across.T)

    def marginal(self, share: float) -> Array:
        """Variability of the score of z once that of (offset, contrast) is eliminated, (d, d)."""
        full, d = self.variability(share), len(self.information) - 2
        keep = np.concatenate([np.eye(d), self.elimination])
        return np.asarray(keep.T @ full @ keep)

    def taken_up(self, share: float, inverse: Array) -> float:
        """Weighted squares of noise (variance one) that the fit takes up, over sigma²; `inverse` is that of H."""
        pair = np.linalg.solve(self.pair, self.variability(share)[-2:, -2:])
        return float(np.trace(pair) + np.trace(inverse @ self.marginal(share)))


def sandwich(
    likelihood: Likelihood,
    z: Array,
    scaling: Array,
    sigma: Array,
    facts: CountingFacts,
    root: Array,
    prior: Array | None = None,
) -> Sandwich:
    """Covariance of the least-squares estimate under correlated noise.

    Parameters
    ----------
    likelihood : Likelihood
        With all data in its slot.
    z : (d,) array
        The mode.
    scaling : (n_phi, 2) array
        Offset and contrast at the mode.
    sigma : (n_phi,) array
        Standard deviation of a point that the fit assumed.
    facts : CountingFacts
    root : (d, d) array
        Its columns are about the widths of the posterior in z: whitening, for accuracy only.
    prior : (d, d) array, optional
        Precision of the prior of z, for directions that the data do not determine.
    """
    white_prior = np.zeros((len(z), len(z))) if prior is None else root.T @ prior @ root
    contrast, pair_prior = scaling[:, 1], np.diag(likelihood.scaling.table[1])
    parts, measured = [], []
    for k, maps in enumerate(pair_maps(likelihood, z, root)):
        residual = np.where(maps.weight > 0, maps.values - scaling[k, 0] - contrast[k] * maps.g, 0.0)
        measured.append(residual_share(maps.g, maps.weight, residual))
        parts.append(_angle(maps, residual, contrast[k], sigma[k]))
    told = np.sum([part.told(pair_prior) for part in parts], axis=0)
    known = shares(contrast, scaling[:, 0], facts, np.array(measured))
    if not known:
        raise InputError(
            "no two pairs of an angle share a frame, so the correlation of their noise cannot be seen: give "
            "speckle.mean_counts, or use uncertainty: independent"
        )
    noise = _noise(parts, known, contrast, sigma, facts, white_prior + told)
    return _assemble(parts, noise, np.linalg.inv(root), white_prior, told)


def _angle(maps: PairMaps, residual: Array, contrast: float, sigma: float) -> _Angle:
    """Sums over the pairs of one angle."""
    n, size = len(maps.g), len(maps.d_decay) + 2
    sums = np.zeros((size, size))
    for rows in strips(n):
        design = maps.design(rows)
        sums += (design * maps.weight[rows]).reshape(size, -1) @ design.reshape(size, -1).T
    units = np.append(np.full(size - 2, contrast), [1.0, 1.0])
    information = np.outer(units, units) * sums / (2.0 * sigma**2)
    apart = _apart(information)
    scores, scaled = np.empty((size, n, n), np.float32), apart * units / (2.0 * sigma**2)
    for rows in strips(n):
        combined = (scaled @ maps.design(rows).reshape(size, -1)).reshape(size, -1, n)
        np.multiply(combined, maps.weight[rows], out=scores[:, rows], casting="same_kind")
    back = np.linalg.inv(apart)
    powers = back @ _powers(scores, maps) @ back.T
    squares = 0.5 * float(np.vdot(maps.weight * residual, residual))
    return _Angle(information, powers, (0.5 * float(sums[-2, -2]), 0.5 * float(sums[-1, -1])), squares)


def _powers(scores: Array, maps: PairMaps) -> Array:
    """Traces of (G_a G_b, G_a g G_b, G_a g G_b g), (3, size, size), of symmetric float32 scores (size, n, n)."""
    size, n, _ = scores.shape
    passed = np.empty((size * n, n), np.float32)
    for columns in strips(n, _COLUMNS):
        ends = maps.decay[columns]
        seen = slice(*np.searchsorted(maps.decay, [ends[0] - _GONE, ends[-1] + _GONE]))
        near = np.where(maps.g[seen, columns] > np.exp(-_GONE), maps.g[seen, columns], 0.0).astype(np.float32)
        passed[:, columns] = scores.reshape(-1, n)[:, seen] @ near
    passed, powers = passed.reshape(scores.shape), np.zeros((3, size, size))
    for rows in strips(n):
        here, there = scores[:, rows].reshape(size, -1), passed[:, rows].reshape(size, -1)
        turned = passed[:, :, rows].transpose(0, 2, 1).reshape(size, -1)
        powers += [here @ here.T, there @ here.T, there @ turned.T]
    return powers


def _apart(information: Array) -> Array:
    """Combinations (rows) of the scores that are uncorrelated for independent points, z once the pair is eliminated.

    A slow decay looks much like a change of offset and contrast; the small difference must not be left to float32.
    """
    d = len(information) - 2
    pair, across = _definite(information[d:, d:]), information[:d, d:]
    eliminated = np.eye(d + 2)
    eliminated[:d, d:] = -np.linalg.solve(pair, across.T).T
    left = information[:d, :d] + across @ eliminated[:d, d:].T
    turn = np.zeros_like(information)
    turn[:d, :d], turn[d:, d:] = np.linalg.eigh(left)[1].T, np.linalg.eigh(pair)[1].T
    return np.asarray(turn @ eliminated)


def _noise(
    parts: list[_Angle], known: dict[str, Array], contrast: Array, sigma: Array, facts: CountingFacts, prior: Array
) -> SpeckleNoise:
    """Noise of every angle; the squares of the residuals are too small by what the fit has taken up."""
    counts = first_of(COUNT_SOURCES, known)
    share, inverse = known[counts], np.linalg.inv(_information(parts) + prior)
    taken = [v**2 * part.taken_up(s, inverse) for part, s, v in zip(parts, share, sigma, strict=True)]
    expected = [part.expected(s) for part, s in zip(parts, share, strict=True)]
    variance = np.array([part.squares for part in parts]) / (np.array(expected) - np.array(taken))
    pixels = pixels_by_source(share, contrast, variance, facts)
    used = first_of(PIXEL_SOURCES, pixels)
    if used != RESIDUALS:  # without a correlated part the pixels say nothing
        seen = share > 0
        variance[seen] = (contrast[seen] / share[seen]) ** 2 / pixels[used][seen]
    notes = (*count_notes(contrast, known), *pixel_notes(used, pixels))
    return SpeckleNoise(share, variance, contrast, counts, used, notes)


def _information(parts: list[_Angle]) -> Array:
    """Information of z over all angles, offset and contrast eliminated."""
    d = len(parts[0].information) - 2
    return np.asarray(sum(p.information[:d, :d] + p.information[:d, d:] @ p.elimination for p in parts))


def _definite(pair: Array) -> Array:
    """Information (2, 2) of (offset, contrast) with a little where the data say nothing."""
    return pair + _OPEN * np.diag(np.maximum(np.diag(pair), 1.0))


def _assemble(parts: list[_Angle], noise: SpeckleNoise, to_white: Array, prior: Array, told: Array) -> Sandwich:
    """Eliminate offset and contrast, and go back from whitened coordinates to z."""
    information, known = _information(parts), prior + told
    angles = list(zip(parts, noise.share, noise.variance, strict=True))
    variability = np.sum([v * part.marginal(s) for part, s, v in angles], axis=0)
    scatter = np.linalg.inv(variability + known)
    back_from_score = scatter @ (information + known) @ to_white
    eliminations, slopes, spreads, d = [], [], [], len(information)
    for part, s, v in angles:
        own, turn = v * part.variability(s)[d:], np.linalg.inv(np.linalg.cholesky(part.pair))
        across = turn @ (own[:, :d] + own[:, d:] @ part.elimination)
        eliminations.append(-turn @ part.information[d:, :d] @ to_white)
        slopes.append(eliminations[-1] + across @ back_from_score)
        vague = part.pair - part.information[d:, d:]
        spreads.append(turn @ (own[:, d:] + vague) @ turn.T - across @ scatter @ across.T)
    return Sandwich(
        information=to_white.T @ information @ to_white,
        variability=to_white.T @ variability @ to_white,
        told=to_white.T @ told @ to_white,
        pair_information=np.array([part.pair for part in parts]),
        elimination=np.array(eliminations),
        pair_slope=np.array(slopes),
        pair_spread=np.array(spreads),
        noise=noise,
    )
