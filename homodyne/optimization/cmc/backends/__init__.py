"""Where shards are run: a registry of backends by name.

`homodyne.registries.BACKENDS` knows them by name; `select_backend` chooses, and makes one.
"""

from typing import TYPE_CHECKING

from homodyne.lazy import attributes as _attributes
from homodyne.registries import BACKENDS, BackendFactory

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

find_backend, register_backend = BACKENDS.find, BACKENDS.register
_BACKEND_REGISTRY = BACKENDS  # as the developer guide calls it


def __dir__() -> list[str]:
    return sorted(__all__)
