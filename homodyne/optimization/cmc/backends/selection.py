"""Which backend runs the shards, and why."""

from dataclasses import replace

from homodyne.device.config import HardwareConfig
from homodyne.errors import InputError
from homodyne.optimization.cmc.backends import BACKENDS
from homodyne.optimization.cmc.backends.base import BackendOptions, CMCBackend


def select_backend(
    hardware: HardwareConfig,
    requested: str | None = None,
    *,
    num_shards: int | None = None,
    options: BackendOptions | None = None,
) -> CMCBackend:
    """Make the backend that was asked for, or the one that suits the machine.

    Parameters
    ----------
    hardware
        What this process may use; its cores are the number of workers when the options name none.
    requested
        Name of a backend; None or "auto" lets the machine decide: worker processes when there is more than one core
        and more than one shard.
    num_shards
        Shards to run, when known.
    options
        Limits and attempts.

    Returns
    -------
    CMCBackend
        Its `reason` tells why it was taken.

    Raises
    ------
    InputError
        The name is not known; the message lists those that are.
    """
    name, reason = _choose(hardware, requested, num_shards)
    options = options or BackendOptions()
    if options.num_workers is None:
        options = replace(options, num_workers=hardware.cores)
    backend = BACKENDS[name](options)
    backend.reason = reason
    return backend


def _choose(hardware: HardwareConfig, requested: str | None, num_shards: int | None) -> tuple[str, str]:
    """Name of the backend and the reason for it."""
    if requested is not None and requested != "auto":
        if requested not in BACKENDS:
            raise InputError(f"unknown backend {requested!r}; known: auto, {', '.join(sorted(BACKENDS))}")
        return requested, f"{requested}: asked for"
    if num_shards == 1:
        return "sequential", "sequential: there is one shard"
    if hardware.cores == 1:
        return "sequential", "sequential: there is one core"
    shards = "" if num_shards is None else f" and {num_shards} shards"
    return "multiprocessing", f"multiprocessing: there are {hardware.cores} cores{shards}"
