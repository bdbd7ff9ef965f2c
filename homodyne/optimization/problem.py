"""What is fitted: the maps of a measurement, a model with priors, and reduced data at every stage of a fit."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from homodyne.arrays import AnyArray, evenly
from homodyne.config.physics import initial_of, model_of, scaling_of, space_of
from homodyne.config.schema import Config
from homodyne.data.files import require_selected
from homodyne.data.references import references_of
from homodyne.data.twotime import TwoTimeData
from homodyne.errors import InputError
from homodyne.likelihood.maps import Maps
from homodyne.likelihood.nodes import Nodes, padded
from homodyne.likelihood.posterior import Posterior
from homodyne.likelihood.reduction import Accuracy, Grid, find_cells
from homodyne.likelihood.scaling import ScalingPrior
from homodyne.noise.adjustment import uncalibrated
from homodyne.optimization.passes import Passes
from homodyne.physics.space import ParameterSpace

TYPICAL_SIGNAL = 2.0e4
"""Signal for which the tolerance of the reduction is meant: the root of the pairs times contrast over noise."""

WIDEST_TOLERANCE = 2.0
"""Factor of the tolerance of weak or small data, at most."""

MOST_THINNED = 1000
"""Pairs of frames of a map in thinned data, at most."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Maps and parameters of a fit.

    Attributes
    ----------
    passes : Passes
        The maps, and the operations that read them.
    space : ParameterSpace
    scaling : ScalingPrior
    initial : (dim,) array or None
        Where the user wants the search to start.
    """

    passes: Passes
    space: ParameterSpace
    scaling: ScalingPrior
    initial: AnyArray | None

    @property
    def maps(self) -> Maps:
        """The maps."""
        return self.passes.maps

    def posterior(self, nodes: Nodes, sigma: object) -> Posterior:
        """Posterior of reduced data, for independent pairs.

        There are at least as many nodes as in thinned data, so that small data have one compiled program.
        """
        dim, count = self.space.dim, self.maps.num_maps
        return Posterior(self.space, self.padded(nodes), self.scaling, sigma, uncalibrated(dim, count))

    def padded(self, nodes: Nodes) -> Nodes:
        """Nodes filled up to one of few numbers, at least that of thinned data."""
        n = self.maps.num_frames
        return padded(nodes, min(MOST_THINNED, n * (n - 1) // 2))

    def thinned(self, points: int) -> Nodes:
        """About `points` pairs over all maps as nodes: every age, every scale of lag."""
        return self.passes.reduce_pairs(*thinned_pairs(self.maps, min(points, MOST_THINNED * self.maps.num_maps)))

    @property
    def num_pairs(self) -> int:
        """Pairs of frames of all maps, missing ones too."""
        return self.maps.num_maps * self.maps.num_frames * (self.maps.num_frames - 1) // 2

    def grid(self, params: Mapping[str, AnyArray], accuracy: Accuracy, signal: float) -> Grid:
        """Cells in which g is smooth at points (P,) of the parameter space.

        The log density takes an error of g times the signal: the root of the number of pairs, times contrast over
        noise. The tolerance is that for a signal of 20 000. That of weaker data is not much wider: cells are few then.
        """
        tolerance = accuracy.tolerance * min(TYPICAL_SIGNAL / max(signal, 1.0), WIDEST_TOLERANCE)
        return find_cells(self.space.model, dict(params), self.maps, accuracy._replace(tolerance=tolerance))

    def reduced(self, grid: Grid) -> Nodes:
        """All pairs as nodes of a grid."""
        return self.passes.reduce(grid)


def build_problem(data: TwoTimeData, config: Config) -> Problem:
    """Bring data and configuration together.

    Raises
    ------
    InputError
        When the model needs a gap that nobody gives, a prior, bound or starting value does not fit, or the data are not
        those that `experimental_data` describes.
    """
    wanted, model = config.experimental_data, model_of(config)
    require_selected(data, **wanted.selection)
    gap = wanted.gap if data.gap is None else data.gap
    if model.needs_gap and gap is None:
        raise InputError(
            f"{model.name} needs the distance between the plates: give gap in Å (2e6 Å = 200 µm), or use mode static"
        )
    space = space_of(config, data.t)
    gap, weights = gap if model.needs_gap else None, data.relative_weights()
    maps = Maps(data.c2, data.alive, data.t, data.q, data.phi, gap, weights)
    return Problem(Passes(maps, config, references_of(data)), space, scaling_of(config), initial_of(config, space))


def thinned_pairs(maps: Maps, points: int) -> tuple[AnyArray, AnyArray]:
    """Pairs (i, j) of frames, the same of all maps, about `points` over all: rows over all ages, columns at all lags.

    Rows lie evenly over the usable frames; columns are the rows and, behind each, frames at lags that grow by half, so
    that a fast decay is seen as well as a slow one. All pairs are taken where there are fewer.
    """
    frames, share = np.flatnonzero(maps.alive.any(axis=0)), points / maps.num_maps
    n = frames.size
    if n * (n - 1) // 2 <= share:
        i, j = np.triu_indices(n, 1)
        return frames[i], frames[j]
    lags = np.unique(np.round(1.5 ** np.arange(np.log(n) / np.log(1.5))).astype(np.int64))
    num_rows = max(12, int(share / (2 * lags.size)))
    rows = evenly(n - 1, num_rows)
    i = np.repeat(rows, lags.size)
    j = i + np.tile(lags, rows.size)
    coarse = rows[:: max(1, int(np.ceil(rows.size / np.sqrt(max(share, 4)))))]  # pairs at long lags, evenly
    more_i, more_j = (x.ravel() for x in np.meshgrid(coarse, coarse, indexing="ij"))
    i, j = np.concatenate([i, more_i]), np.concatenate([j, more_j])
    keep = (i < j) & (j < n)
    both = np.unique(i[keep] * n + j[keep])
    return frames[both // n], frames[both % n]


def sampled_pairs(maps: Maps, points: int) -> tuple[AnyArray, AnyArray]:
    """Pairs of frames, the same of all maps, evenly spread over all: at most `points`."""
    frames = np.flatnonzero(maps.alive.any(axis=0))
    n = frames.size
    total = n * (n - 1) // 2
    which = evenly(total, points)
    starts = np.concatenate([[0], np.cumsum(np.arange(n - 1, 0, -1))])
    i = np.searchsorted(starts, which, side="right") - 1
    return frames[i], frames[which - starts[i] + i + 1]
