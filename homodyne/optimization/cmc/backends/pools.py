"""Ready executors for `ExecutorBackend`: worker processes of the standard library, Dask, Parsl."""

import importlib
import multiprocessing
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from homodyne.device.config import detect_hardware
from homodyne.errors import InputError
from homodyne.files import temporary_folder
from homodyne.optimization.cmc.backends import child
from homodyne.optimization.cmc.backends.base import BackendOptions
from homodyne.optimization.cmc.backends.executor import ClusterExecutor, ExecutorBackend
from homodyne.optimization.cmc.backends.multiprocessing import worker_environment

T = TypeVar("T")


def process_pool_backend(options: BackendOptions) -> ExecutorBackend:
    """Worker processes by `concurrent.futures.ProcessPoolExecutor`, in fresh interpreters."""
    count = num_workers_of(options)

    def pool() -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
        return ProcessPoolExecutor(count, context, child.set_environment, (environment_changes(),))

    return ExecutorBackend(pool, options, in_flight=count)


def dask_backend(options: BackendOptions) -> ExecutorBackend:
    """Dask: the cluster behind DASK_SCHEDULER_ADDRESS, or else worker processes of this machine, on loopback only.

    Raises
    ------
    InputError
        Dask is not installed.
    """
    dask, distributed = require("dask", "dask"), require("distributed", "dask")

    @contextmanager
    def executor() -> Iterator[Executor]:
        address = dask.config.get("scheduler-address", None)
        if address is not None:
            with distributed.Client(address) as client:
                yield _DaskExecutor(client, own=False)
            return
        # A lost task is tried again by the agenda, and one that has only waited at that worker is not to blame.
        own = {"distributed.scheduler.allowed-failures": 0, "distributed.scheduler.worker-saturation": 1.0}
        with (
            dask.config.set(own),
            distributed.LocalCluster(
                n_workers=num_workers_of(options), threads_per_worker=1, host="127.0.0.1",
                dashboard_address="127.0.0.1:0", worker_dashboard_address="127.0.0.1:0",
                env=environment_changes(), memory_limit=0,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):  # fmt: skip
            yield _DaskExecutor(client, own=True)

    return ExecutorBackend(executor, options, name="dask")


class _DaskExecutor(ClusterExecutor):
    """Dask's own executor leaves a future open for ever when a worker dies with a result that nobody has fetched."""

    def __init__(self, client: Any, own: bool) -> None:
        self._client, self.own = client, own

    def num_workers(self) -> int:
        """Workers that the scheduler knows."""
        return len(self._client.nthreads())

    def submit(self, fn: Callable[..., T], /, *args: object, **kwargs: object) -> "Future[T]":
        """Submit a call to the cluster."""
        own: Future[T] = Future()

        def relay(remote: Any) -> None:
            values = [] if remote.cancelled() else self._client.gather([remote], errors="skip")
            if own.cancelled():
                return
            if values:
                own.set_result(values[0])
            elif remote.cancelled():
                own.cancel()
            else:
                own.set_exception(remote.exception())

        remote = self._client.submit(fn, *args, pure=False, **kwargs)
        own.add_done_callback(lambda _: remote.cancel() if own.cancelled() else remote.release())
        remote.add_done_callback(relay)
        return own


def parsl_backend(options: BackendOptions, config: Any = None) -> ExecutorBackend:
    """Parsl: worker processes of this machine, or what a `parsl.Config` says (pilot blocks on Slurm, PBS, ...).

    The workers of a node share one queue for what they answer. One that is killed while it writes there leaves half
    an answer and a closed lock, and the node never answers again, so the work is done in a process beside each worker.

    Parameters
    ----------
    options
        Limits and attempts.
    config
        A `parsl.Config`; one with the local provider by default.

    Raises
    ------
    InputError
        Parsl is not installed.
    """
    parsl, concurrent = require("parsl", "parsl"), require("parsl.concurrent", "parsl")

    @contextmanager
    def executor() -> Iterator[Executor]:
        # Its programs need not be on the PATH, which is put back when the run ends; `worker_init` is for the nodes.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        with temporary_folder() as folder, starting_programs():
            own = config or _local_parsl(parsl, num_workers_of(options), options.silence, str(folder))
            pool = concurrent.ParslPoolExecutor(own)
            known = all(hasattr(one, "connected_managers") for one in own.executors)
            try:
                yield _ParslExecutor(pool, own.executors, own=config is None) if known else pool
            finally:
                pool.shutdown(wait=False)  # tasks that are still running would be waited for

    return ExecutorBackend(executor, options, name="parsl", beside=True)


class _ParslExecutor(ClusterExecutor):
    """Parsl's pool, and what its executors know of their workers."""

    def __init__(self, pool: Executor, executors: Any, own: bool) -> None:
        self._pool, self._executors, self.own = pool, executors, own

    def submit(self, fn: Callable[..., T], /, *args: object, **kwargs: object) -> "Future[T]":
        """Submit a call to the pool."""
        return self._pool.submit(fn, *args, **kwargs)

    def num_workers(self) -> int:
        """Workers of the managers that are connected."""
        managers = [manager for one in self._executors for manager in one.connected_managers()]
        return sum(manager["worker_count"] for manager in managers if manager["active"])


def require(module: str, extra: str) -> Any:
    """Import a module of an optional dependency.

    Raises
    ------
    InputError
        It is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise InputError(
            f"the backend {extra!r} needs the package {error.name}, which is not installed; "
            f"run: pip install 'homodyne[{extra}]'"
        ) from error


@contextmanager
def starting_programs() -> Iterator[None]:
    """Silence JAX's warning of a fork: libraries that start programs fork as well, but only until the exec."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        yield


def _local_parsl(parsl: ModuleType, count: int, silence: float, folder: str) -> Any:
    providers, executors = require("parsl.providers", "parsl"), require("parsl.executors", "parsl")
    changes = {"PATH": os.environ["PATH"], **environment_changes()}
    exports = "; ".join(f"export {name}={shlex.quote(value)}" for name, value in changes.items())
    workers = executors.HighThroughputExecutor(
        label="homodyne", address="127.0.0.1", encrypted=True, max_workers_per_node=count, cores_per_worker=1e-6,
        heartbeat_period=2, heartbeat_threshold=max(10, round(silence)),  # a lost worker is noticed within a period
        provider=providers.LocalProvider(worker_init=exports, init_blocks=1, min_blocks=1, max_blocks=1),
    )  # fmt: skip
    return parsl.Config(executors=[workers], run_dir=folder, initialize_logging=False)


def num_workers_of(options: BackendOptions) -> int:
    """Processes to start on this machine."""
    return options.num_workers or detect_hardware().cores


def environment_changes() -> dict[str, str]:
    """What the environment of a worker with one thread has in addition to that of this process."""
    return {name: value for name, value in worker_environment(1).items() if os.environ.get(name) != value}
