"""Combine and certify again what a consensus run of two-time maps has left in its store; the data are not needed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homodyne.certificate.density import Progress
from homodyne.certificate.proposal import Mode
from homodyne.config.io import load_config, resolve, to_mapping
from homodyne.config.physics import model_of
from homodyne.config.schema import Config
from homodyne.device.config import detect_hardware
from homodyne.errors import ConfigError, ExecutionError
from homodyne.optimization.assembly import Run, consensus_result
from homodyne.optimization.cmc.consensus import run_consensus
from homodyne.optimization.cmc.models.adapters import as_model
from homodyne.optimization.cmc.models.deviations import Block, Deviations
from homodyne.optimization.cmc.models.numpyro_model import NumPyroModel
from homodyne.optimization.cmc.models.splitting import ArrayModel
from homodyne.optimization.cmc.store.shards import ShardStore, flatten
from homodyne.optimization.cmc.types import Initialization
from homodyne.optimization.passes import MapWork
from homodyne.optimization.xpcs import XpcsModel, consensus_settings, placed, reopen
from homodyne.registries import STRATEGIES
from homodyne.result.record import MCMCResult
from homodyne.threads import one_blas_thread
from homodyne.versions import used_versions

FREE = (
    "optimization.cmc.combination.",
    "optimization.cmc.validation.",
    "optimization.cmc.backend.",
    "reduction.backend",
    "reduction.store",
    "certificate.",
    "output.",
)
"""Beginnings of the keys that may be changed after the shards were sampled."""


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A consensus run as its store tells it.

    Attributes
    ----------
    store : ShardStore
    model : XpcsModel
    config : Config
        That of the run, with the changes that were asked for.
    init : Initialization
        Where the chains of the shards start.
    modes : list
        (mode, covariance) of the full posterior.
    """

    store: ShardStore
    model: XpcsModel
    config: Config
    init: Initialization
    modes: list[Mode]

    @one_blas_thread()
    def finish(self, *, sample_missing: bool = False, progress: Progress | None = None) -> MCMCResult:
        """Combine the shards, polish and certify.

        Parameters
        ----------
        sample_missing
            Sample the shards that have no result first.
        progress
            Called with (step, done, total).

        Raises
        ------
        ExecutionError
            Shards have no result and `sample_missing` is false, too few could be sampled, or another process uses
            the store.
        """
        with self.store.lock():
            missing = self.store.pending()
            if missing and not sample_missing:
                raise ExecutionError(_incomplete(self.store, missing))
            cmc, count = self.config.optimization.cmc, self.store.manifest.num_shards
            backend = placed(cmc, count, detect_hardware(gpus=True))
            found = run_consensus(
                self.model, self.store, self.init, consensus_settings(self.config), backend,
                modes=self.modes, progress=progress,
            )  # fmt: skip
        return consensus_result(self._run(), found)

    def _run(self) -> Run:
        manifest = self.store.manifest
        here, noise = used_versions(), manifest.setup.get("noise") or {}
        warnings = [str(note) for note in manifest.setup.get("notes", ())]
        warnings += [
            f"the run was set up with {library} {manifest.versions.get(library)}, it was combined with {number}"
            for library, number in here.items()
            if manifest.versions.get(library) != number
        ]
        return Run(
            model=self.model,
            config=self.config,
            num_points=sum(manifest.points),
            bad_frames=tuple(int(k) for k in manifest.setup.get("bad_frames", ())),
            facts={
                "methods": [f"cmc: combined from the store {self.store.path}"],
                "left_out": [str(line) for line in manifest.setup.get("left_out", ())],
                "weights": str(manifest.setup.get("weights", "")),
                "noise": noise.get("facts", {}),
                "checks": noise.get("checks", {}),
                "prior": noise.get("prior", {}),
            },
            warnings=tuple(warnings),
            noise_inflation=noise.get("inflation"),
        )


def open_stored(path: str | Path, changes: Iterable[str | tuple[str, object]] = ()) -> StoredRun:
    """Read the store of a consensus run of two-time maps.

    Parameters
    ----------
    path
        Directory of the store.
    changes
        Of the configuration, as of `load_config`; only those that come after the sampling of the shards (`FREE`).

    Raises
    ------
    InputError
        There is no such store, or it holds another model.
    ConfigError
        A change cannot be used, or would need other draws of the shards.
    """
    store = ShardStore.open(path)
    model, before, init, modes = reopen(store)
    place = ("optimization.cmc.backend.checkpoint_dir", str(store.path))
    config = load_config(before, [*changes, place], importing=False)
    if late := decisive_changes(to_mapping(resolve(before)), to_mapping(resolve(config))):
        raise ConfigError(
            f"{', '.join(late)}: decides about the draws of the shards, which are sampled already; change only keys "
            f"that start with {', '.join(FREE)} or fit the data again"
        )
    return StoredRun(store, model, config, init, modes)


def decisive_changes(
    before: Mapping[str, object], after: Mapping[str, object], free: tuple[str, ...] = FREE
) -> list[str]:
    """Dotted keys in which two resolved configurations differ, but for those that begin as `free` says."""
    old, new = flatten(before), flatten(after)
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and not key.startswith(free))


def stored_model(store: ShardStore, maps: str | None = None) -> Any:
    """Build again the model of any run whose store says how; `maps` is the function that makes the maps of a pass.

    Raises
    ------
    InputError
        It does not, or the model cannot be imported here.
    """
    setup = store.manifest.setup
    if setup.get("passes"):
        config = load_config(setup["config"], importing=False)
        strategy = STRATEGIES.find(config.optimization.cmc.sharding.strategy, importing=False)
        return MapWork(model_of(config), maps, strategy)
    reference = setup.get("model")
    if reference is None:
        return reopen(store)[0]
    model = as_model(str(reference), store.read_shard(0), setup.get("prior_sites"))
    if setup.get("block") and isinstance(model, ArrayModel):
        return Deviations(model, Block.of_record(setup["block"]))
    if not isinstance(model, NumPyroModel):
        return model
    return model.centred(setup.get("centred", model.names))  # in stores of versions before 0.3 all are


def _incomplete(store: ShardStore, missing: list[int]) -> str:
    """Say which shards have no result, and why where that is known."""
    shown = ", ".join(map(str, missing[:20])) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
    reasons = [f"shard {failure.shard_id}: {failure.reason}" for failure in store.failures()[:3]]
    why = f" ({'; '.join(reasons)})" if reasons else ""
    return (
        f"{len(missing)} of {store.manifest.num_shards} shards in {str(store.path)!r} have no result: {shown}{why}; "
        "sample them first (--run)"
    )
