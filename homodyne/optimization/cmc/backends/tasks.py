"""Tasks from shards that are in memory, and plain mappings from what has come of them.

`CMCBackend.run_parallel_mcmc` needs both; a consensus run makes its tasks from its store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import PyTree

from homodyne.arguments import Faults
from homodyne.arrays import AnyArray
from homodyne.optimization.cmc.models.adapters import as_model
from homodyne.optimization.cmc.models.model import Model
from homodyne.optimization.cmc.store.shards import write_arrays
from homodyne.optimization.cmc.svi_init import named_point
from homodyne.optimization.cmc.types import Initialization, ShardFailure, ShardResult, ShardTask
from homodyne.optimization.nuts import NutsSettings


def write_tasks(
    folder: Path,
    shards: Sequence[Mapping[str, object]],
    mcmc_config: Mapping[str, object],
    init_params: Mapping[str, float],
    inv_mass_matrix: npt.ArrayLike,
    model: object,
    seed: int,
) -> list[ShardTask]:
    """Write the arrays of every shard below `folder` and return one task for each; see `run_parallel_mcmc`."""
    with Faults() as faults:
        if not shards:
            faults.add("there are no shards to sample")
        settings = faults.of(_settings, mcmc_config)
        faults.integer("seed", seed)
        if model is None:
            faults.add(
                "model is missing: a backend samples any model and knows none; give model=..., a LogDensityModel or a "
                "NumPyro model function. For two-time maps with the models of this package use CMCCoordinator"
            )
        elif shards:
            made = model if isinstance(model, Model) else faults.of(as_model, model, _example(shards))
            if made is not None:
                init = faults.of(_initialization, init_params, inv_mass_matrix, made.names)
    tasks = []
    for k, shard in enumerate(shards):
        place = write_arrays(folder / f"{k}", _arrays(shard))
        tasks.append(ShardTask(k, made, place, 1.0 / len(shards), settings, init, seed))
    return tasks


def as_mapping(outcome: ShardResult | ShardFailure) -> dict[str, Any]:
    """Fields by name; `converged` is false for a failure, whose ``reason`` says what went wrong."""
    values = {field.name: getattr(outcome, field.name) for field in fields(outcome)}
    return {"converged": False, **values}


def _arrays(shard: Mapping[str, PyTree]) -> dict[str, AnyArray]:
    return {name: value for name, value in shard.items() if name != "indices" and np.ndim(value) > 0}


def _example(shards: Sequence[Mapping[str, PyTree]]) -> dict[str, AnyArray]:
    """Arrays on which a model function is tried: of the first shard that is finite, where one is."""
    finite = (shard for shard in map(_arrays, shards) if all(np.isfinite(values).all() for values in shard.values()))
    return next(finite, _arrays(shards[0]))


def _settings(mcmc_config: Mapping[str, object]) -> NutsSettings:
    known = [field.name for field in fields(NutsSettings)]
    with Faults() as faults:
        for name in mcmc_config:
            if name not in known:
                faults.add(f"mcmc_config holds {name!r}; known: {', '.join(known)}")
        return faults.of(NutsSettings, **{name: value for name, value in mcmc_config.items() if name in known})


def _initialization(
    init_params: Mapping[str, float], inv_mass_matrix: npt.ArrayLike, names: tuple[str, ...]
) -> Initialization:
    matrix, d = np.array(inv_mass_matrix, dtype=np.float64), len(names)
    with Faults() as faults:
        center = faults.of(named_point, init_params, names)
        if matrix.shape != (d, d) or not np.isfinite(matrix).all() or not np.array_equal(matrix, matrix.T):
            faults.add(f"inv_mass_matrix has shape {matrix.shape}; expected a symmetric matrix ({d}, {d}), finite")
        elif not np.linalg.eigvalsh(matrix).min() > 0.0:
            faults.add("inv_mass_matrix is not positive definite")
    return Initialization(center, matrix, "identity" if np.array_equal(matrix, np.eye(d)) else "svi")
