"""Tasks from shards that are in memory, and plain mappings from what has come of them.

`CMCBackend.run_parallel_mcmc` needs both; a consensus run makes its tasks from its store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homodyne.errors import InputError
from homodyne.optimization.cmc.model import Model
from homodyne.optimization.cmc.store import write_arrays
from homodyne.optimization.cmc.types import Initialization, ShardFailure, ShardResult, ShardTask
from homodyne.optimization.nuts import NutsSettings


def write_tasks(
    folder: Path,
    shards: Sequence[Mapping[str, Any]],
    mcmc_config: Mapping[str, Any],
    init_params: Mapping[str, float],
    inv_mass_matrix: npt.ArrayLike,
    model: Model,
    seed: int,
) -> list[ShardTask]:
    """Write the arrays of every shard below `folder` and return one task for each; see `run_parallel_mcmc`."""
    if not shards:
        raise InputError("there are no shards to sample")
    settings, init = _settings(mcmc_config), _initialization(init_params, inv_mass_matrix, model.names)
    tasks = []
    for k, shard in enumerate(shards):
        arrays = {name: value for name, value in shard.items() if name != "indices" and np.ndim(value) > 0}
        place = write_arrays(folder / f"{k}", arrays)
        tasks.append(ShardTask(k, model, place, 1.0 / len(shards), settings, init, seed))
    return tasks


def as_mapping(outcome: ShardResult | ShardFailure) -> dict[str, Any]:
    """Fields by name; `converged` is false for a failure, whose ``reason`` says what went wrong."""
    values = {field.name: getattr(outcome, field.name) for field in fields(outcome)}
    return {"converged": False, **values}


def _settings(mcmc_config: Mapping[str, Any]) -> NutsSettings:
    known = [field.name for field in fields(NutsSettings)]
    for name in mcmc_config:
        if name not in known:
            raise InputError(f"mcmc_config holds {name!r}; known: {', '.join(known)}")
    return NutsSettings(**mcmc_config)


def _initialization(
    init_params: Mapping[str, float], inv_mass_matrix: npt.ArrayLike, names: tuple[str, ...]
) -> Initialization:
    if set(init_params) != set(names):
        raise InputError(f"init_params holds {', '.join(init_params)}; the coordinates are {', '.join(names)}")
    center = np.array([init_params[name] for name in names], dtype=np.float64)
    matrix, d = np.array(inv_mass_matrix, dtype=np.float64), len(names)
    if matrix.shape != (d, d) or not np.isfinite(matrix).all() or not np.array_equal(matrix, matrix.T):
        raise InputError(f"inv_mass_matrix has shape {matrix.shape}; expected a symmetric matrix ({d}, {d}), finite")
    if not np.isfinite(center).all() or not np.linalg.eigvalsh(matrix).min() > 0.0:
        raise InputError(f"init_params {center} must be finite and inv_mass_matrix positive definite")
    return Initialization(center, matrix, "identity" if np.array_equal(matrix, np.eye(d)) else "svi")
