"""Consensus Monte Carlo: data split over shards, one posterior from all of them, and a verdict on it.

Worker processes import this package before they may load JAX, so its names are found when they are first used.
"""

from typing import TYPE_CHECKING

from homodyne.lazy import attributes as _attributes

if TYPE_CHECKING:
    from homodyne.optimization.cmc.combination import combine_subposteriors
    from homodyne.optimization.cmc.coordinator import CMCCoordinator, sample_consensus
    from homodyne.optimization.cmc.diagnostics import validate_cmc_results
    from homodyne.optimization.cmc.models.adapters import LogDensityModel
    from homodyne.optimization.cmc.models.numpyro_model import NumPyroModel
    from homodyne.optimization.cmc.sharding import shard_data_stratified, shard_data_time_stratified, validate_shards
    from homodyne.optimization.cmc.svi_init import pool_samples_from_shards, run_svi_initialization
    from homodyne.result.record import MCMCResult

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
    "models.adapters": ("LogDensityModel",),
    "combination": ("combine_subposteriors",),
    "coordinator": ("CMCCoordinator", "sample_consensus"),
    "diagnostics": ("validate_cmc_results",),
    "models.numpyro_model": ("NumPyroModel",),
    "homodyne.result.record": ("MCMCResult",),
    "sharding": ("shard_data_stratified", "shard_data_time_stratified", "validate_shards"),
    "svi_init": ("pool_samples_from_shards", "run_svi_initialization"),
}

__getattr__, __dir__ = _attributes(__name__, _HOME)
