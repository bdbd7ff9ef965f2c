"""Figures of measured maps and of posteriors; each function takes data and axes and returns artists.

:func:`save_figures` makes and saves the standard set of a fit, :func:`inspect_figure` shows maps
before any fit. Figures stand apart from pyplot: no global state, no choice of a backend.
"""

from homodyne.viz.comparison import comparison_figure
from homodyne.viz.cuts import cut_figure
from homodyne.viz.figures import save_figures
from homodyne.viz.inspection import inspect_figure
from homodyne.viz.maps import map_figure
from homodyne.viz.misfit import misfit_figure
from homodyne.viz.posterior import corner_figure, trace_figure
from homodyne.viz.rates import rate_figure

__all__ = [
    "comparison_figure",
    "corner_figure",
    "cut_figure",
    "inspect_figure",
    "map_figure",
    "misfit_figure",
    "rate_figure",
    "save_figures",
    "trace_figure",
]
