"""The JAX devices of this host: every device samples shards of its own.

A thread for each place on a device drives the sampler there. The shards are not stacked into one batch: batched
no-U-turn chains all wait for the longest trajectory, shards would have to have equal shapes, and draws would differ in
the last digits, and soon in all, from those of the other backends. Shards of equal shape on one device share what is
compiled there; others compile their own, and none is padded or left out.
"""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp

from homodyne.certificate.density import Progress
from homodyne.errors import InputError
from homodyne.optimization.cmc.backends.base import RUN_SHARD, BackendOptions, OnResult
from homodyne.optimization.cmc.backends.child import attempt
from homodyne.optimization.cmc.backends.executor import ExecutorBackend
from homodyne.optimization.cmc.models.model import Model
from homodyne.optimization.cmc.store.shards import read_arrays
from homodyne.optimization.cmc.types import ShardFailure, ShardTask


class PjitBackend(ExecutorBackend):
    """Runs shards on the JAX devices of this process, for models that are nothing but JAX.

    Parameters
    ----------
    options
        Limits and attempts; the number of workers is that of the devices.
    devices
        JAX devices; all by default. ``--xla_force_host_platform_device_count=8`` in XLA_FLAGS makes 8 of a CPU.
    shards_per_device : int
        Shards that share a device: more than one keeps a device busy that small shards leave idle.
    """

    def __init__(
        self,
        options: BackendOptions | None = None,
        devices: Sequence[jax.Device] | None = None,
        shards_per_device: int = 1,
    ) -> None:
        if shards_per_device < 1:
            raise InputError(f"shards_per_device is {shards_per_device}, must be at least 1")
        self.devices = tuple(jax.local_devices() if devices is None else devices)
        count = shards_per_device * len(self.devices)

        def threads() -> ThreadPoolExecutor:
            places = itertools.cycle(self.devices)
            return ThreadPoolExecutor(count, initializer=lambda: _use(next(places)))

        super().__init__(threads, options, name="pjit", in_flight=count, keeps_time=False)

    def run(
        self, tasks: Sequence[ShardTask], *, on_result: OnResult, progress: Progress | None = None
    ) -> list[ShardFailure]:
        """Run every task on a device.

        Raises
        ------
        InputError
            The model calls back to the host, or keeps its data where compiled programs do not get them as arguments.
        """
        if self.options.run == RUN_SHARD and tasks:
            _check_pure(tasks)
        return super().run(tasks, on_result=on_result, progress=progress)


def is_pure_jax(model: Model, shard: object, power: float) -> bool:
    """Whether the log likelihood of a loaded shard is JAX only: no callback to the host, the data as arguments."""
    argument = model.argument(shard)
    if not jax.tree.leaves(argument):
        return False
    program = jax.make_jaxpr(lambda z, given: model.log_likelihood(z, given, power))
    return "callback[" not in str(program(jnp.zeros(len(model.names)), argument))


def _check_pure(tasks: Sequence[ShardTask]) -> None:
    """Refuse a model that cannot run on a device, judged by the first shard that can be read."""
    for task in tasks:
        pure = attempt(lambda: is_pure_jax(task.model, task.model.load(read_arrays(task.data)), task.power))  # noqa: B023
        if pure is False:
            raise InputError(
                f"the backend 'pjit' cannot run {type(task.model).__name__}: its likelihood is computed on the "
                "host, not by JAX; use the backend 'multiprocessing'"
            )
        if pure is True:
            return


def _use(device: jax.Device) -> None:
    """Make a device the default of this thread, as long as it lives."""
    jax.default_device(device).__enter__()
