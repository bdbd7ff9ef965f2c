"""Tasks from shards that are in memory, and plain mappings from what has come of them.

`CMCBackend.run_parallel_mcmc` needs both; a consensus run makes its tasks from its store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homodyne.arguments import Faults, require_mappings, shown
from homodyne.arguments import as_mapping as given_mapping
from homodyne.arrays import AnyArray, as_array, covariance_array
from homodyne.optimization.cmc.models.adapters import as_model
from homodyne.optimization.cmc.store.files import NUMBERS
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
    progress: object,
) -> list[ShardTask]:
    """Write the arrays of every shard below `folder` and return one task for each; see `run_parallel_mcmc`."""
    with Faults() as faults:
        faults.of(require_mappings, "shards", shards, "mappings of arrays by name")
        if not faults.found:
            arrays = faults.of(lambda: [_arrays(shard) for shard in shards])
        usable = not faults.found
        faults.function("progress", progress)
        settings = faults.of(_settings, mcmc_config)
        faults.integer("seed", seed)
        if model is None:
            faults.add(
                "model is missing: a backend samples any model and knows none; give model=..., a LogDensityModel or a "
                "NumPyro model function. For two-time maps with the models of this package use CMCCoordinator"
            )
        elif usable:
            made = faults.of(as_model, model, _example(arrays))
            if made is not None:
                init = faults.of(_initialization, init_params, inv_mass_matrix, made.names)
    tasks = []
    for k, shard in enumerate(arrays):
        place = write_arrays(folder / f"{k}", shard)
        tasks.append(ShardTask(k, made, place, 1.0 / len(shards), settings, init, seed))
    return tasks


def as_mapping(outcome: ShardResult | ShardFailure) -> dict[str, Any]:
    """Fields by name; `converged` is false for a failure, whose ``reason`` says what went wrong."""
    values = {field.name: getattr(outcome, field.name) for field in fields(outcome)}
    return {"converged": False, **values}


def _arrays(shard: Mapping[str, Any]) -> dict[str, AnyArray]:
    """Arrays of a shard by name; an InputError for what is no array of numbers."""
    arrays = {name: as_array(f"{name!s} of a shard", value) for name, value in shard.items() if name != "indices"}
    arrays = {name: values for name, values in arrays.items() if values.ndim}
    with Faults() as faults:
        for name, values in arrays.items():
            if not isinstance(name, str) or values.dtype.kind not in NUMBERS:
                faults.add(f"a shard holds {shown(name)}: {shown(values)}; expected arrays of numbers by name")
    return arrays


def _example(shards: Sequence[dict[str, AnyArray]]) -> dict[str, AnyArray]:
    """Arrays on which a model function is tried: of the first shard that is finite, where one is."""
    finite = (shard for shard in shards if all(np.isfinite(values).all() for values in shard.values()))
    return next(finite, shards[0])


def _settings(mcmc_config: Mapping[str, Any]) -> NutsSettings:
    mcmc_config = given_mapping("mcmc_config", mcmc_config, "values of NutsSettings by name")
    known = [field.name for field in fields(NutsSettings)]
    with Faults() as faults:
        for name in mcmc_config:
            if name not in known:
                faults.add(f"mcmc_config holds {name!r}; known: {', '.join(known)}")
        return faults.of(NutsSettings, **{name: value for name, value in mcmc_config.items() if name in known})


def _initialization(
    init_params: Mapping[str, float], inv_mass_matrix: npt.ArrayLike, names: tuple[str, ...]
) -> Initialization:
    with Faults() as faults:
        center = faults.of(named_point, init_params, names)
        matrix = faults.of(covariance_array, "inv_mass_matrix", inv_mass_matrix, len(names))
    return Initialization(center, matrix, "identity" if np.array_equal(matrix, np.eye(len(names))) else "svi")
