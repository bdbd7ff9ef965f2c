"""Where shards are run: a registry of backends by name.

``BACKENDS[name](options)`` makes one; `select_backend` chooses.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from homodyne.errors import InputError
from homodyne.lazy import attributes as _attributes

if TYPE_CHECKING:
    from homodyne.optimization.cmc.backends.base import BackendOptions, CMCBackend, SequentialBackend
    from homodyne.optimization.cmc.backends.multiprocessing import MultiprocessingBackend
    from homodyne.optimization.cmc.backends.pbs import PBSBackend, TorqueBackend
    from homodyne.optimization.cmc.backends.selection import select_backend
    from homodyne.optimization.cmc.backends.slurm import SlurmBackend

__all__ = [
    "BACKENDS",
    "BackendFactory",
    "BackendOptions",
    "CMCBackend",
    "MultiprocessingBackend",
    "PBSBackend",
    "SequentialBackend",
    "SlurmBackend",
    "TorqueBackend",
    "register_backend",
    "select_backend",
]

# a worker process imports this package before it may load anything heavy
_HOME = {
    "base": ("BackendOptions", "CMCBackend", "SequentialBackend"),
    "multiprocessing": ("MultiprocessingBackend",),
    "pbs": ("PBSBackend", "TorqueBackend"),
    "selection": ("select_backend",),
    "slurm": ("SlurmBackend",),
}

__getattr__, _ = _attributes(__name__, _HOME)

BackendFactory = Callable[["BackendOptions"], "CMCBackend"]


def _imported(module: str, name: str) -> BackendFactory:
    """Factory whose module is imported when it is called."""

    def make(options: "BackendOptions") -> "CMCBackend":
        made: CMCBackend = getattr(import_module(f"{__name__}.{module}"), name)(options)
        return made

    return make


BACKENDS: dict[str, BackendFactory] = {
    "sequential": _imported("base", "SequentialBackend"),
    "multiprocessing": _imported("multiprocessing", "MultiprocessingBackend"),
    "executor": _imported("pools", "process_pool_backend"),
    "dask": _imported("pools", "dask_backend"),
    "parsl": _imported("pools", "parsl_backend"),
    "pjit": _imported("pjit", "PjitBackend"),
    "ray": _imported("ray", "RayBackend"),
    "slurm": _imported("slurm", "SlurmBackend"),
    "pbs": _imported("pbs", "PBSBackend"),
    "torque": _imported("pbs", "TorqueBackend"),
}
"""Every backend by name."""


def register_backend(name: str, factory: BackendFactory) -> None:
    """Make a backend known under a name, for Python and for configurations.

    Raises
    ------
    InputError
        The name is taken, or "auto".
    """
    if name == "auto" or name in BACKENDS:
        raise InputError(f"the name {name!r} of a backend is taken; known: {', '.join(sorted(BACKENDS))}, auto")
    from homodyne.config.schema import BACKEND_NAMES

    BACKENDS[name] = factory
    BACKEND_NAMES.add(name)


def __dir__() -> list[str]:
    return sorted(__all__)
