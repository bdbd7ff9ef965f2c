"""Where shards are run: a registry of backends by name.

``BACKENDS[name](options)`` makes one; `homodyne.optimization.cmc.backends.selection.select_backend` chooses.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from homodyne.errors import InputError

if TYPE_CHECKING:
    from homodyne.optimization.cmc.backends.base import BackendOptions, CMCBackend

BackendFactory = Callable[["BackendOptions"], "CMCBackend"]


def _sequential(options: "BackendOptions") -> "CMCBackend":
    from homodyne.optimization.cmc.backends.base import SequentialBackend

    return SequentialBackend(options)


def _multiprocessing(options: "BackendOptions") -> "CMCBackend":
    from homodyne.optimization.cmc.backends.multiprocessing import MultiprocessingBackend

    return MultiprocessingBackend(options)


BACKENDS: dict[str, BackendFactory] = {"sequential": _sequential, "multiprocessing": _multiprocessing}
"""Every backend by name."""


def register_backend(name: str, factory: BackendFactory) -> None:
    """Make a backend known under a name.

    Raises
    ------
    InputError
        The name is taken, or "auto".
    """
    if name == "auto" or name in BACKENDS:
        raise InputError(f"the name {name!r} of a backend is taken; known: {', '.join(sorted(BACKENDS))}, auto")
    BACKENDS[name] = factory
