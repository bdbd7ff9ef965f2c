"""Where shards are run: a registry of backends by name.

``find_backend(name)(options)`` makes one; `select_backend` chooses.
"""

from typing import TYPE_CHECKING

from homodyne.backend_registry import BACKENDS, BackendFactory, find_backend, register_backend
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
    "find_backend",
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

_BACKEND_REGISTRY = BACKENDS  # as the developer guide calls it


def __dir__() -> list[str]:
    return sorted(__all__)
