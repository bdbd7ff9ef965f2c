"""Where shards are run: a registry of backends by name.

``BACKENDS[name](options)`` makes one; `select_backend` chooses.
"""

from collections.abc import Callable
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

_HOME = {
    "BackendOptions": "homodyne.optimization.cmc.backends.base",
    "CMCBackend": "homodyne.optimization.cmc.backends.base",
    "MultiprocessingBackend": "homodyne.optimization.cmc.backends.multiprocessing",
    "PBSBackend": "homodyne.optimization.cmc.backends.pbs",
    "SequentialBackend": "homodyne.optimization.cmc.backends.base",
    "SlurmBackend": "homodyne.optimization.cmc.backends.slurm",
    "TorqueBackend": "homodyne.optimization.cmc.backends.pbs",
    "select_backend": "homodyne.optimization.cmc.backends.selection",
}

__getattr__ = _attributes(__name__, _HOME)  # a worker process imports this package before it may load anything heavy

BackendFactory = Callable[["BackendOptions"], "CMCBackend"]


def _sequential(options: "BackendOptions") -> "CMCBackend":
    from homodyne.optimization.cmc.backends.base import SequentialBackend

    return SequentialBackend(options)


def _multiprocessing(options: "BackendOptions") -> "CMCBackend":
    from homodyne.optimization.cmc.backends.multiprocessing import MultiprocessingBackend

    return MultiprocessingBackend(options)


def _executor(options: "BackendOptions") -> "CMCBackend":
    from homodyne.optimization.cmc.backends.pools import process_pool_backend

    return process_pool_backend(options)


def _dask(options: "BackendOptions") -> "CMCBackend":
    from homodyne.optimization.cmc.backends.pools import dask_backend

    return dask_backend(options)


def _parsl(options: "BackendOptions") -> "CMCBackend":
    from homodyne.optimization.cmc.backends.pools import parsl_backend

    return parsl_backend(options)


def _slurm(options: "BackendOptions") -> "CMCBackend":
    from homodyne.optimization.cmc.backends.slurm import SlurmBackend

    return SlurmBackend(options)


def _pbs(options: "BackendOptions") -> "CMCBackend":
    from homodyne.optimization.cmc.backends.pbs import PBSBackend

    return PBSBackend(options)


def _torque(options: "BackendOptions") -> "CMCBackend":
    from homodyne.optimization.cmc.backends.pbs import TorqueBackend

    return TorqueBackend(options)


def _pjit(options: "BackendOptions") -> "CMCBackend":
    from homodyne.optimization.cmc.backends.pjit import PjitBackend

    return PjitBackend(options)


def _ray(options: "BackendOptions") -> "CMCBackend":
    from homodyne.optimization.cmc.backends.ray import RayBackend

    return RayBackend(options)


BACKENDS: dict[str, BackendFactory] = {
    "sequential": _sequential,
    "multiprocessing": _multiprocessing,
    "executor": _executor,
    "dask": _dask,
    "parsl": _parsl,
    "pjit": _pjit,
    "ray": _ray,
    "slurm": _slurm,
    "pbs": _pbs,
    "torque": _torque,
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
