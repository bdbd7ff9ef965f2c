"""Fits of several measurements by a backend: each is a task, as shards are, and writes its own folder."""

import io
import json
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from homodyne.errors import ExecutionError, HomodyneError, InputError
from homodyne.files import make_folder

if TYPE_CHECKING:
    from homodyne.arrays import Array
    from homodyne.cli.many import Measurement
    from homodyne.optimization.cmc.types import ShardTask

Over = Callable[[int, str, str, int], None]
"""Called with the number of a fit that is over, what it has said, why it failed, if it did, and the exit code then."""


def fit_elsewhere(
    tasks: "Sequence[Measurement]", numbers: Sequence[int], folder: Path, over: Over, *, resume: bool
) -> None:
    """Let the backend that `optimization.cmc.backend.spread` names run the fits with these numbers.

    What a fit needs lies in a store, as the data of shards do. For jobs of a scheduler it is kept in `folder`: the same
    command finds jobs again that were sent before.

    Raises
    ------
    HomodyneError
        The backend cannot be used.
    """
    import numpy as np

    from homodyne.config.io import to_mapping, with_absolute_paths
    from homodyne.device.config import detect_hardware
    from homodyne.optimization.cmc.backends.arrays import ArrayBackend
    from homodyne.optimization.cmc.backends.base import BackendOptions
    from homodyne.optimization.cmc.backends.selection import select_backend
    from homodyne.optimization.cmc.models.model import Model
    from homodyne.optimization.cmc.store.files import digest
    from homodyne.optimization.cmc.store.shards import Manifest, opened
    from homodyne.optimization.cmc.types import Initialization, ShardTask
    from homodyne.optimization.nuts import NutsSettings
    from homodyne.optimization.passes import MapWork

    given = tasks[0].config.optimization.cmc.backend
    options = BackendOptions(
        num_workers=given.num_workers, max_attempts=given.max_attempts, early_stop=0, straggler=math.inf,
        run=f"{__name__}:run_fit", jobs=given.jobs.model_copy(update={"evaluate_in_jobs": True}),
        own_process=True,  # in workers of Dask, xarray asks the cluster for its locks
    )  # fmt: skip
    backend = select_backend(detect_hardware(), given.spread, options=options, importing=False)
    if backend.get_backend_name() == "pjit":
        raise InputError("spread: pjit runs shards on the devices of this process, and no fits; use multiprocessing")
    jobs = isinstance(backend, ArrayBackend)
    sent = [
        {
            "label": task.label,
            "inputs": [str(one.resolve()) for one in task.inputs],
            "config": to_mapping(with_absolute_paths(task.config)),
        }
        for task in tasks
    ]
    law = {name: value for name, value in to_mapping(tasks[0].config).items() if name in ("analysis_mode", "model")}
    manifest = Manifest(
        data=digest(json.dumps(sent).encode()), model="homodyne fits 1", configuration=law, names=("fit",),
        points=(1,) * len(tasks), seed=0, setup={"passes": True, "config": law},
    )  # fmt: skip
    place = make_folder(folder / "fits") / manifest.fingerprint[:32] if jobs else None
    failed = []

    def on_result(number: int, outcome: Any) -> None:
        told = json.loads(outcome.tobytes())
        failed.extend([number] if told["failure"] else [])
        over(number, told["said"], told["failure"], told["exit_code"])

    with opened(place, manifest) as store, backend:
        if not store.ready:
            for number, one in enumerate(sent):
                store.write_shard(
                    number, {"fit": np.frombuffer(json.dumps({**one, "resume": resume}).encode(), np.uint8)}
                )
            store.finish_setup()
        for stale in store.path.glob("rounds/*/*.npz"):  # what an earlier run has not heard of
            stale.unlink()
        nowhere = Initialization(np.empty(0), np.empty((0, 0)), "identity")
        threads = backend.jobs.cpus if isinstance(backend, ArrayBackend) else 1
        work = [
            ShardTask(
                shard_id=k, model=cast(Model, MapWork()), data=store.shard_path(k), power=1.0, init=nowhere, seed=0,
                settings=NutsSettings(), points=np.zeros((1, 1)), threads=threads, operation="fit",
            )
            for k in numbers
        ]  # fmt: skip
        failures = backend.run(work, on_result=on_result)
        for failure in failures:
            over(failure.shard_id, "", failure.reason, ExecutionError.exit_code)
    if place is not None and not failed and not failures:
        shutil.rmtree(place, ignore_errors=True)


def run_fit(task: "ShardTask") -> "Array":
    """JSON of what a fit has said and why it failed, as bytes; the result is in the folder of the fit."""
    import numpy as np

    from homodyne.cli.many import Measurement, fitted
    from homodyne.config.io import load_config
    from homodyne.optimization.cmc.store.shards import read_arrays

    sent = json.loads(read_arrays(task.data)["fit"].tobytes())
    config = load_config(sent["config"])
    if task.threads == 1 and config.optimization.cmc.backend.name == "auto":  # the others run beside this one
        config = load_config(config, [("optimization.cmc.backend.name", "sequential")])
    inputs, failure, code = tuple(map(Path, sent["inputs"])), "", 0
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(said):
        try:
            fitted(Measurement(sent["label"], inputs, config, {}), resume=sent["resume"])
        except HomodyneError as error:
            failure, code = str(error), error.exit_code
    told = {"said": said.getvalue(), "failure": failure, "exit_code": code}
    return np.frombuffer(json.dumps(told).encode(), np.uint8)
