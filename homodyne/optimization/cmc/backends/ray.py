"""Ray: the cluster behind RAY_ADDRESS, or else a local instance that listens on loopback only.

Never start a cluster on an open network: whoever reaches its ports can run programs.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from types import ModuleType
from typing import TypeVar

from homodyne.errors import ExecutionError
from homodyne.optimization.cmc.backends.base import BackendOptions
from homodyne.optimization.cmc.backends.executor import ClusterExecutor, ExecutorBackend
from homodyne.optimization.cmc.backends.pools import environment_changes, num_workers_of, require, starting_programs

T = TypeVar("T")

LOOPBACK = "127.0.0.1"


class RayBackend(ExecutorBackend):
    """Runs shards as tasks of Ray, one core each; the workers see the same files as this process.

    Parameters
    ----------
    options
        Limits and attempts; the number of workers is that of a local instance.

    Raises
    ------
    InputError
        Ray is not installed.
    """

    def __init__(self, options: BackendOptions | None = None) -> None:
        ray, options = require("ray", "ray"), options or BackendOptions()

        @contextmanager
        def executor() -> Iterator[Executor]:
            # Set before a worker imports JAX: its flags are read then.
            given = {"runtime_env": {"env_vars": environment_changes()}, "log_to_driver": False}
            with starting_programs():
                if address := os.environ.get("RAY_ADDRESS"):
                    ray.init(address, **given)
                else:
                    _start_local(ray, num_workers_of(options), given)
                try:
                    yield _RayExecutor(ray, own=not address)
                finally:
                    ray.shutdown()

        super().__init__(executor, options, name="ray")


def _start_local(ray: ModuleType, count: int, given: dict[str, object]) -> None:
    """Start an instance on loopback.

    Ray turns 127.0.0.1 into the address of the machine, and then listens on every interface, unless it thinks that
    clusters are not supported. That is a constant made from an environment variable when Ray is imported.
    """
    constants = require("ray._private.ray_constants", "ray")
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        ray.init("local", num_cpus=count, include_dashboard=False, _node_ip_address=LOOPBACK, **given)
    finally:
        constants.ENABLE_RAY_CLUSTER = before
    if (found := ray.util.get_node_ip_address()) != LOOPBACK:
        ray.shutdown()
        raise ExecutionError(
            f"Ray {ray.__version__} started on {found} instead of loopback, open to the network; start a cluster "
            "yourself where that is safe, and set RAY_ADDRESS"
        )


class _RayExecutor(ClusterExecutor):
    """Tasks of Ray as futures. Ray does not try a lost task again: the agenda does, and counts it."""

    def __init__(self, ray: ModuleType, own: bool) -> None:
        self._ray, self.own = ray, own

    def num_workers(self) -> int:
        """Cores of the cluster: Ray starts a worker for each when it is needed."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    def submit(self, fn: Callable[..., T], /, *args: object, **kwargs: object) -> "Future[T]":
        """Submit a call to the cluster."""
        remote = self._ray.remote(num_cpus=1, max_retries=0)(fn)
        reference = remote.remote(*args, **kwargs)
        own: Future[T] = reference.future()
        own.add_done_callback(lambda _: self._ray.cancel(reference, force=True) if own.cancelled() else None)
        return own
