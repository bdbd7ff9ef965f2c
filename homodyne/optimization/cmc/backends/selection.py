"""Which backend runs the shards, and why."""

from dataclasses import replace

from homodyne.arguments import shown
from homodyne.device.config import HardwareConfig
from homodyne.errors import InputError
from homodyne.optimization.cmc.backends.base import BackendOptions, CMCBackend
from homodyne.registries import BACKENDS


def select_backend(
    hardware: HardwareConfig,
    requested: str | None = None,
    *,
    num_shards: int | None = None,
    pure_jax: bool = False,
    options: BackendOptions | None = None,
    importing: bool = True,
) -> CMCBackend:
    """Make the backend that was asked for, or the one that suits the machine.

    Parameters
    ----------
    hardware
        What this process may use; its cores are the number of workers when the options name none.
    requested
        Name of a backend, or ``module:Class``; None or "auto" lets the machine decide, see `choose_backend`.
    num_shards
        Shards to run, when known.
    pure_jax
        Whether the model runs on accelerators; see `homodyne.optimization.cmc.backends.pjit.is_pure_jax`.
    options
        Limits and attempts.
    importing
        Whether ``module:Class`` may be imported; false where the name comes from a store.

    Returns
    -------
    CMCBackend
        Its `reason` tells why it was taken.

    Raises
    ------
    InputError
        The name is not known; the message lists those that are.
    """
    name, reason = choose_backend(hardware, requested, num_shards=num_shards, pure_jax=pure_jax)
    options = options or BackendOptions()
    if options.num_workers is None:
        options = replace(options, num_workers=hardware.cores)
    made = BACKENDS.find(name, importing=importing)
    try:
        backend = made(options)
    except TypeError as error:
        raise InputError(f"the backend {name!r} cannot be made from BackendOptions: {error}") from error
    if not isinstance(backend, CMCBackend):
        raise InputError(f"the backend {name!r} made {shown(backend)}; expected a CMCBackend")
    backend.reason = reason
    return backend


def choose_backend(
    hardware: HardwareConfig, requested: str | None = None, *, num_shards: int | None = None, pure_jax: bool = False
) -> tuple[str, str]:
    """Name of the backend and the reason for it; arguments as in `select_backend`.

    For one shard there is nothing to choose. Accelerators are taken for a model that is nothing but JAX, and worker
    processes otherwise when there are cores for them. A scheduler and other nodes cost somebody's budget: they are
    never taken unasked, the reason only mentions them.
    """
    if requested is not None and requested != "auto":
        return requested, f"{requested}: asked for"
    if num_shards == 1:
        return "sequential", "sequential: there is one shard"
    if hardware.gpus and pure_jax:
        return "pjit", f"pjit: JAX sees {', '.join(hardware.gpus)}{_elsewhere(hardware)}"
    idle = "; the model is computed on the host, accelerators stay idle" if hardware.gpus else ""
    if hardware.cores == 1:
        return "sequential", f"sequential: there is one core{idle}{_elsewhere(hardware)}"
    shards = "" if num_shards is None else f" and {num_shards} shards"
    reason = f"multiprocessing: there are {hardware.cores} cores{shards}{idle}{_elsewhere(hardware)}"
    return "multiprocessing", reason


def _elsewhere(hardware: HardwareConfig) -> str:
    """Mention what could be asked for beyond this machine."""
    if hardware.nodes > 1:
        return f"; the other {hardware.nodes - 1} nodes of this job are idle, dask, parsl or ray would use them"
    if hardware.scheduler is None and hardware.batch_system is not None:
        return f"; {hardware.batch_system} is here too: ask for that backend to run the shards as jobs"
    return ""
