"""Two-time correlation maps to physical parameters with error bars that can be believed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from homodyne.data import from_arrays, from_cube, load
    from homodyne.data.simulated import simulate
    from homodyne.optimization.cmc.result import MCMCResult, load_result
    from homodyne.optimization.mcmc import fit

__version__ = "0.1.0"

__all__ = ["MCMCResult", "__version__", "fit", "from_arrays", "from_cube", "load", "load_result", "simulate"]

_HOME = {
    "MCMCResult": "homodyne.optimization.cmc.result",
    "fit": "homodyne.optimization.mcmc",
    "from_arrays": "homodyne.data",
    "from_cube": "homodyne.data",
    "load": "homodyne.data",
    "load_result": "homodyne.optimization.cmc.result",
    "simulate": "homodyne.data.simulated",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import homodyne`` stays cheap."""
    if name not in _HOME:
        raise AttributeError(f"module 'homodyne' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
