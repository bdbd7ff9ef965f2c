"""Consensus Monte Carlo: data split over shards, one posterior from all of them, and a verdict on it.

Worker processes import this package before they may load JAX, so its names are found when they are first used.
"""

from typing import TYPE_CHECKING

from homodyne.lazy import attributes as _attributes

if TYPE_CHECKING:
    from homodyne.optimization.cmc.adapters import LogDensityModel
    from homodyne.optimization.cmc.combination import combine_subposteriors
    from homodyne.optimization.cmc.coordinator import CMCCoordinator, sample_consensus
    from homodyne.optimization.cmc.diagnostics import validate_cmc_results
    from homodyne.optimization.cmc.numpyro_model import NumPyroModel
    from homodyne.optimization.cmc.result import MCMCResult
    from homodyne.optimization.cmc.sharding import shard_data_stratified, shard_data_time_stratified, validate_shards
    from homodyne.optimization.cmc.svi_init import pool_samples_from_shards, run_svi_initialization

__all__ = [
    "CMCCoordinator",
    "LogDensityModel",
    "MCMCResult",
    "NumPyroModel",
    "combine_subposteriors",
    "pool_samples_from_shards",
    "run_svi_initialization",
    "sample_consensus",
    "shard_data_stratified",
    "shard_data_time_stratified",
    "validate_cmc_results",
    "validate_shards",
]

_HOME = {
    "CMCCoordinator": "homodyne.optimization.cmc.coordinator",
    "LogDensityModel": "homodyne.optimization.cmc.adapters",
    "MCMCResult": "homodyne.optimization.cmc.result",
    "NumPyroModel": "homodyne.optimization.cmc.numpyro_model",
    "combine_subposteriors": "homodyne.optimization.cmc.combination",
    "pool_samples_from_shards": "homodyne.optimization.cmc.svi_init",
    "run_svi_initialization": "homodyne.optimization.cmc.svi_init",
    "sample_consensus": "homodyne.optimization.cmc.coordinator",
    "shard_data_stratified": "homodyne.optimization.cmc.sharding",
    "shard_data_time_stratified": "homodyne.optimization.cmc.sharding",
    "validate_cmc_results": "homodyne.optimization.cmc.diagnostics",
    "validate_shards": "homodyne.optimization.cmc.sharding",
}

__getattr__ = _attributes(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
