"""What a worker on another machine needs, as files in the store: one folder for each round of tasks.

    rounds/sampling/task.json   what the tasks of the round share; draws go to results/ of the store
    rounds/3f0c.../task.json    the same for a round that evaluates statistics; named by a digest of its inputs
    rounds/3f0c.../points.npy   where it evaluates
    rounds/3f0c.../0007.npz     statistics of a shard, sealed
    rounds/NAME/0007.json       why the last attempt at a shard came to nothing

Nothing is pickled. The model is not among them: it is built again from what the manifest says.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from homodyne.arguments import Json
from homodyne.arrays import Array
from homodyne.errors import InputError
from homodyne.files import OWN, make_folder, replacing, write_atomically
from homodyne.optimization.cmc.backends.child import Failed, find_function
from homodyne.optimization.cmc.models.model import Model
from homodyne.optimization.cmc.store import files as store_files
from homodyne.optimization.cmc.store.shards import ShardStore
from homodyne.optimization.cmc.types import Initialization, ShardResult, ShardTask
from homodyne.optimization.nuts import NutsSettings

SAMPLING = "sampling"
"""Name of the round that draws; every other round evaluates."""

REBUILT = ("model", "config")
"""Entries of a manifest's set-up of which one must be there for the model to be built again elsewhere."""

Outcome = ShardResult | Array


@dataclass(frozen=True, eq=False)
class Round:
    """Tasks that differ in their shard only.

    Attributes
    ----------
    store : ShardStore
    name : str
    shared : mapping
        Plain values: run, operation, power, seed, threads, settings, init.
    points : (S, d) array, optional
        Where statistics are evaluated.
    """

    store: ShardStore
    name: str
    shared: Mapping[str, Json]
    points: Array | None

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.store.path / "rounds" / self.name

    @classmethod
    def write(cls, tasks: Sequence[ShardTask], run: object) -> "Round":
        """Write down what tasks of one store share.

        Raises
        ------
        InputError
            They do not lie in a store that is kept, or its model cannot be built again elsewhere.
        """
        first, store = tasks[0], _store_of(tasks[0])
        if not isinstance(run, str):
            raise InputError(f"run is {run!r}; workers elsewhere need it as 'module:function'")
        shared = {
            "fingerprint": store.manifest.fingerprint, "run": run, "power": first.power, "seed": first.seed,
            "threads": first.threads, "operation": first.operation, "settings": asdict(first.settings),
            "init": first.init.to_list(),
        }  # fmt: skip
        points = first.points
        made = cls(store, _name(shared, points), shared, points)
        make_folder(made.folder)
        if points is not None:
            with replacing(made.folder / "points.npy", OWN) as sink:
                np.lib.format.write_array(sink, np.ascontiguousarray(points), allow_pickle=False)
            shared["points"] = store_files.array_entry(made.folder / "points.npy")
        store_files.write_json(made.folder / "task.json", shared)
        return made

    @classmethod
    def read(cls, store: ShardStore, name: str) -> "Round":
        """Read a round back.

        Raises
        ------
        InputError
            There is none of this name, or it belongs to another run.
        """
        if not name.isalnum():
            raise InputError(f"{name!r} is not the name of a round")
        file = store.path / "rounds" / name / "task.json"
        shared = store_files.read_json(file)
        if shared.get("fingerprint") != store.manifest.fingerprint:
            raise InputError(f"{os.fspath(file)!r} belongs to another run; start the fit again with --resume")
        points = None
        if "points" in shared:
            points = np.array(store_files.memory_map(file.with_name("points.npy"), shared["points"]))
        return cls(store, name, shared, points)

    def work(self, model: Model, shard_id: int, attempt: int, caution: int) -> Outcome:
        """Do the task of one shard.

        Parameters
        ----------
        model
            That of the run.
        shard_id
            Which shard.
        attempt
            Attempts before this one.
        caution
            How many of these the sampler itself has spoilt: it takes smaller steps after each.
        """
        shared = self.shared
        task = ShardTask(
            shard_id=shard_id, model=model, data=self.store.shard_path(shard_id), power=shared["power"],
            settings=NutsSettings(**shared["settings"]), seed=shared["seed"], threads=shared["threads"],
            init=Initialization.of_list(shared["init"]),
            points=self.points, attempt=attempt, caution=caution, operation=shared.get("operation", ""),
        )  # fmt: skip
        outcome: Outcome = find_function(shared["run"])(task)
        return outcome

    def keep(self, shard_id: int, outcome: Outcome) -> None:
        """Write what has come of a shard."""
        if isinstance(outcome, ShardResult):
            self.store.write_result(outcome)
        else:
            arrays = {"statistics": outcome, "shard_id": np.array(shard_id)}
            write_atomically(self._file(shard_id, "npz"), store_files.seal(arrays), OWN)

    def result(self, shard_id: int) -> Outcome | None:
        """What has come of a shard; None when there is nothing that can be used."""
        if self.points is None:
            return self.store.read_result(shard_id)
        try:
            arrays = store_files.unseal(self._file(shard_id, "npz"))
        except InputError:  # damaged: it is written again
            return None
        if not arrays or {"statistics", "shard_id"} - arrays.keys() or arrays["shard_id"] != shard_id:
            return None
        rows = arrays["statistics"]  # one for each point, unless an operation gives something else
        return rows if self.shared.get("operation") or len(rows) == len(self.points) else None

    def keep_failure(self, shard_id: int, attempt: int, failed: Failed) -> None:
        """Note why an attempt at a shard came to nothing."""
        store_files.write_json(self._file(shard_id, "json"), {"attempt": attempt, **asdict(failed)})

    def failure(self, shard_id: int, attempt: int) -> Failed | None:
        """What a worker has noted about this attempt at a shard."""
        file = self._file(shard_id, "json")
        if not file.exists():
            return None
        entry = store_files.read_json(file)
        if entry.get("attempt") != attempt:
            return None
        return Failed(str(entry["reason"]), bool(entry["retry"]), bool(entry.get("caution")))

    def forget_failure(self, shard_id: int) -> None:
        """Remove what was noted about an attempt at a shard, before it is tried anew."""
        self._file(shard_id, "json").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder of a round that evaluates: its statistics have been handed over."""
        if self.points is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, shard_id: int, ending: str) -> Path:
        return self.folder / f"{self.store.shard_path(shard_id).name}.{ending}"


def _name(shared: Mapping[str, object], points: Array | None) -> str:
    """What a round is called: one that evaluates by its inputs."""
    if points is None:
        return SAMPLING
    content = json.dumps(shared, sort_keys=True).encode()
    return store_files.digest(content, *store_files.pieces({"points": points}))[:32]


def _store_of(task: ShardTask) -> ShardStore:
    """Find the store that a task's data lie in."""
    store = None
    with suppress(InputError):
        store = ShardStore.open(task.data.resolve().parent.parent)
    if store is None or store.shard_path(task.shard_id) != task.data.resolve():
        raise InputError(
            f"the data of shard {task.shard_id} are in {os.fspath(task.data)!r}, which is no store; jobs of a "
            "scheduler need one: use sample_consensus(..., store=FOLDER) or a fit with checkpoints"
        )
    if not any(store.manifest.setup.get(name) for name in REBUILT):
        raise InputError(
            "this model lives in the memory of this process only, jobs of a scheduler cannot build it; give it as "
            "'module:name' (a model at the top level of a module that the jobs can import too), or use one of the "
            "backends sequential, multiprocessing and executor"
        )
    return store
