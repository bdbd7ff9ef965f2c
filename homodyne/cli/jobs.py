"""``homodyne status``, ``cancel`` and ``unlock``: a run that somebody, somewhere, has started."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homodyne.cli.terminal import say
from homodyne.device.config import detect_hardware
from homodyne.errors import HomodyneError, InputError

if TYPE_CHECKING:
    from homodyne.config.schema import Config
    from homodyne.data.twotime import TwoTimeData
    from homodyne.optimization.cmc.backends.jobs import Job

Store = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the shards of a run.")]


def status(store: Store) -> None:
    """Show how far a run is: its shards, why some failed, and its jobs."""
    from homodyne.optimization.cmc.backends.jobs import recorded
    from homodyne.optimization.cmc.store.shards import ShardStore

    held = ShardStore.open(store)
    pending, count = set(held.pending()), held.manifest.num_shards
    failures = [failure for failure in held.failures() if failure.shard_id in pending]
    say(f"shards     {count}: {count - len(pending)} done, {len(pending)} without a result")
    for failure in failures:
        say(f"failed     shard {failure.shard_id}: {failure.reason}")
    for job in recorded(held.path):
        say(f"job        {job.job or job.name} ({job.scheduler}, {job.round}): {_states(job)}")


def cancel(store: Store) -> None:
    """End every job of a run; shards that are finished are kept."""
    from homodyne.optimization.cmc.backends.arrays import cancel as end
    from homodyne.optimization.cmc.store.shards import ShardStore

    ended = end(ShardStore.open(store).path)
    say("\n".join(f"cancelled job {job.job} of {job.scheduler}" for job in ended) or "no job is running or waiting")


def unlock(store: Store) -> None:
    """Let a run go on here whose coordinator has died on another machine; refused while it gives signs of life."""
    from homodyne.optimization.cmc.store.lock import release
    from homodyne.optimization.cmc.store.shards import ShardStore

    holder = release(ShardStore.open(store).path / "lock")
    say(f"the lock of {holder} is given up" if holder else "nobody holds this store")


def show_script(data: "TwoTimeData", config: "Config") -> str:
    """Script of the job that a fit would submit first.

    Raises
    ------
    InputError
        The backend of the configuration submits no jobs.
    """
    from homodyne.optimization.cmc.backends.arrays import ArrayBackend
    from homodyne.optimization.cmc.backends.jobs import job_script, worker_options
    from homodyne.optimization.cmc.backends.selection import select_backend
    from homodyne.optimization.cmc.store.rounds import SAMPLING
    from homodyne.optimization.problem import build_problem
    from homodyne.optimization.xpcs import backend_options, count_shards, most_shards, require_shards

    cmc, hardware = config.optimization.cmc, detect_hardware()
    backend = select_backend(hardware, cmc.backend.name, options=backend_options(cmc))
    if not isinstance(backend, ArrayBackend) or cmc.backend.checkpoint_dir is None:
        raise InputError(
            "--dry-run shows the job of a scheduler: give --method cmc and optimization.cmc.backend.name=slurm or pbs "
            f"(now {config.optimization.method} and {backend.get_backend_name()}), and keep checkpoints enabled"
        )
    maps = build_problem(data, config).maps
    require_shards(config, maps)
    shards, _ = count_shards(maps.num_pairs, most_shards(config, maps), cmc, hardware)
    count = min(shards, backend.jobs.max_array_size)
    folder, named = Path(cmc.backend.checkpoint_dir).resolve(), [config.analysis_mode, cmc.sharding.strategy]
    return job_script(backend.dialect, backend.jobs, folder, SAMPLING, 0, count, worker_options(named))


def _states(job: "Job") -> str:
    """Say how many elements of a job are in which state."""
    from homodyne.optimization.cmc.backends.arrays import Pace, dialect_of
    from homodyne.optimization.cmc.backends.jobs import UNKNOWN

    dialect = dialect_of(job)
    try:
        states = dialect.status(job.job, len(job.elements), Pace.command) if job.job else [UNKNOWN] * len(job.elements)
    except HomodyneError as error:
        return str(error)
    counts = Counter(state.phase for state in states)
    said = ", ".join(f"{counts[phase]} {phase}" for phase in ("queued", "running", "ended", "unknown") if counts[phase])
    why = ", ".join(sorted({state.reason for state in states if state.phase == "queued" and state.reason}))
    return said + (", cancelled" if job.cancelled else "") + (f" ({why})" if why else "")
