"""Backends by name, of this package, of installed ones (entry points), and one's own; nothing heavy is imported.

A configuration names a backend before anything of the engine is loaded, so the names stand here.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from homodyne.errors import InputError
from homodyne.references import import_reference

ENTRY_POINTS = "homodyne.backends"
"""Group of entry points of other packages: a name, and the class or function that makes the backend."""

_HOME = "homodyne.optimization.cmc.backends"

BackendFactory = Callable[[Any], Any]
"""Called with `BackendOptions`, returns a `CMCBackend`; a class of one will do."""


def _imported(module: str, name: str) -> BackendFactory:
    """Factory whose module is imported when it is called."""

    def make(options: Any) -> Any:
        return getattr(import_module(f"{_HOME}.{module}"), name)(options)

    return make


BACKENDS: dict[str, BackendFactory | str] = {
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
"""Every backend by name: what makes it, or where that is, as "module:name" or "module.name"."""


def register_backend(name: str, factory: BackendFactory | str) -> None:
    """Make a backend known under a name, for Python and for configurations.

    Raises
    ------
    InputError
        The name is taken, or "auto".
    """
    if name == "auto" or name in BACKENDS:
        raise InputError(f"the name {name!r} of a backend is taken; known: {', '.join(known_backends())}")
    BACKENDS[name] = factory


def known_backends() -> list[str]:
    """Names that may be given, "auto" and those of entry points among them."""
    return sorted({"auto", *BACKENDS, *entry_points(group=ENTRY_POINTS).names})


def find_backend(name: str, *, importing: bool = True) -> BackendFactory:
    """What makes the backend of a name, or of ``module:Class``.

    Parameters
    ----------
    name
        In the registry, of an entry point, or where the class is.
    importing
        Whether a module named in `name` may be imported: only where a person has named it. What stands in a store is
        found when its module is imported already.

    Raises
    ------
    InputError
        There is none.
    """
    found: Any = BACKENDS.get(name)
    if found is None and ":" not in name:
        for one in entry_points(group=ENTRY_POINTS, name=name):
            found = one.load()
        if found is None:
            raise InputError(
                f"unknown backend {name!r}; expected one of {', '.join(known_backends())}, or 'module:Class'"
            )
    elif found is None or isinstance(found, str):
        importing = importing or found is not None  # a registry that this process has filled
        reference = found or name
        reference = reference if ":" in reference else ":".join(reference.rsplit(".", 1))
        module, _, attribute = reference.partition(":")
        if not importing and module not in sys.modules:
            raise InputError(f"the backend {name!r} is not one of this package: import {module} before")
        found = import_reference(reference, "backend") if importing else vars(sys.modules[module]).get(attribute)
    if not callable(found):
        raise InputError(f"the backend {name!r} is {found!r}; expected a class or function that takes BackendOptions")
    factory: BackendFactory = found
    return factory
