"""What passes between coordinator, backends and workers: tasks go out, results or failures come back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from homodyne.arguments import Json
from homodyne.arrays import AnyArray, Array
from homodyne.optimization.cmc.models.model import Model
from homodyne.optimization.nuts import NutsSettings

CHEAPEST = "cheapest"
"""Operation of a task that samples by whatever is exact and costs least, not by Markov chains at any rate."""


@dataclass(frozen=True, eq=False)
class Initialization:
    """Where the chains of every shard start, and in which coordinates they move.

    Attributes
    ----------
    center : (d,) array
        Middle of the starting points.
    covariance : (d, d) array
        Covariance of the posterior of one shard: it whitens the coordinates.
    method : str
        The method that was really used: "nlsq", "svi" or "identity".
    notes : tuple of str
        Fallbacks and what a user should know.
    cavity : float
        Every shard is sampled times a normal density around `center` with covariance / cavity, which stands for what
        the other shards know and is divided out of the merge; 0 for none.
    names : tuple of str
        Of the coordinates, where `run_svi_initialization` has made it.
    """

    center: Array
    covariance: Array
    method: Literal["nlsq", "svi", "identity"]
    notes: tuple[str, ...] = ()
    cavity: float = 0.0
    names: tuple[str, ...] = ()

    def to_list(self) -> list[object]:
        """Plain values, as of JSON."""
        return [self.center.tolist(), self.covariance.tolist(), self.method, list(self.notes), self.cavity]

    @classmethod
    def of_list(cls, values: Sequence[Json]) -> "Initialization":
        """Read what `to_list` has made; a ValueError or TypeError for anything else."""
        center, covariance, method, notes, cavity = values
        return cls(np.array(center), np.array(covariance), method, tuple(notes), cavity)

    def __iter__(self) -> Iterator[Any]:
        """Yield the starting point by name and the inverse mass matrix, as `run_parallel_mcmc` takes them."""
        yield dict(zip(self.names, self.center.tolist(), strict=True))
        yield self.covariance


@dataclass(frozen=True, eq=False)
class ShardTask:
    """Sample one shard, or evaluate the model's statistics on it at given points.

    Attributes
    ----------
    shard_id : int
    model : Model
        Small: knows how to read a shard, holds no data of one.
    data : Path
        Folder with the shard's arrays, one ``.npy`` file each; read by memory map.
    power : float
        Exponent of the prior, 1 / number of shards.
    settings : NutsSettings
    init : Initialization
    seed : int
        Base seed; the shard's key is ``fold_in(key(seed), shard_id)``.
    points : (S, d) array, optional
        Evaluate here instead of sampling.
    threads : int
        Threads that the worker may use.
    attempt : int
        0 for the first.
    caution : int
        How many attempts the sampler itself has spoilt: it takes smaller steps after each.
    operation : str
        What to do, for a function that does several things.
    """

    shard_id: int
    model: Model
    data: Path
    power: float
    settings: NutsSettings
    init: Initialization
    seed: int
    points: Array | None = None
    threads: int = 1
    attempt: int = 0
    caution: int = 0
    operation: str = ""


@dataclass(frozen=True, eq=False)
class ShardResult:
    """Draws from one subposterior, and whether its chains can be believed.

    Attributes
    ----------
    shard_id : int
    samples : (chain, draw, D) array
        Joint coordinates.
    names : tuple of str
        Their D names.
    stats : dict of (chain, draw) arrays
        lp; of Markov chains also diverging, energy, num_steps, acceptance_rate, tree_depth.
    num_points : int
        Observations in the shard.
    converged : bool
        Whether `problems` is empty.
    problems : tuple of str
        One sentence for every test that the chains fail.
    rhat, ess_bulk, ess_tail : (D,) arrays
    divergences : int
    ebfmi : (chain,) array
    num_gradients : int
        Evaluations of the density, with its gradient in chains.
    attempts : int
        Runs that it took, 1 when the first one was good.
    seconds : float
    """

    shard_id: int
    samples: Array
    names: tuple[str, ...]
    stats: dict[str, AnyArray] = field(repr=False)
    num_points: int
    converged: bool
    problems: tuple[str, ...]
    rhat: Array = field(repr=False)
    ess_bulk: Array = field(repr=False)
    ess_tail: Array = field(repr=False)
    divergences: int
    ebfmi: Array = field(repr=False)
    num_gradients: int
    attempts: int
    seconds: float


@dataclass(frozen=True)
class ShardFailure:
    """A shard that could not be run, and why."""

    shard_id: int
    reason: str
    attempts: int
