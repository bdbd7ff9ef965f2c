"""Two-time correlation maps to physical parameters with error bars that can be believed."""

from homodyne.lazy import attributes as _attributes

TYPE_CHECKING = False  # as type checkers know it; to import it would take most of the time of an import of this package
if TYPE_CHECKING:
    from homodyne.data import from_arrays, from_cube, from_xarray, load
    from homodyne.data.simulated import simulate
    from homodyne.optimization.cmc.coordinator import sample_consensus
    from homodyne.optimization.mcmc import fit
    from homodyne.result.comparison import compare
    from homodyne.result.record import MCMCResult, load_result
    from homodyne.versions import __version__

__all__ = [
    "MCMCResult",
    "__version__",
    "compare",
    "fit",
    "from_arrays",
    "from_cube",
    "from_xarray",
    "load",
    "load_result",
    "sample_consensus",
    "simulate",
]

_HOME = {
    "data": ("from_arrays", "from_cube", "from_xarray", "load"),
    "data.simulated": ("simulate",),
    "optimization.cmc.coordinator": ("sample_consensus",),
    "optimization.mcmc": ("fit",),
    "result.comparison": ("compare",),
    "result.record": ("MCMCResult", "load_result"),
    "versions": ("__version__",),
}

__getattr__, __dir__ = _attributes(__name__, _HOME)
