"""The standard set of figures of a fit, made and saved in one call: :func:`save_figures`."""

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from warnings import warn

import numpy as np
from matplotlib.figure import Figure

from homodyne.data.twotime import TwoTimeData
from homodyne.errors import HomodyneWarning, InputError
from homodyne.files import FIGURE, make_folder, write_atomically
from homodyne.optimization.cmc.result import MCMCResult
from homodyne.viz.consensus import agreement_figure, divergence_figure, shard_forest_figure
from homodyne.viz.cuts import cut_figure
from homodyne.viz.labels import notation_of
from homodyne.viz.maps import map_figure
from homodyne.viz.misfit import misfit_figure
from homodyne.viz.posterior import corner_figure, trace_figure
from homodyne.viz.rates import rate_figure

FORMATS = ("png", "pdf", "svg")


def save_figures(
    result: MCMCResult,
    data: TwoTimeData | None,
    directory: str | os.PathLike[str],
    format: str = "png",  # noqa: A002, the word of matplotlib's savefig
    *,
    truth: Mapping[str, float] | None = None,
) -> list[Path]:
    """Write maps, cuts, rates, corner and traces of a fit into ``directory``, and how well its shards agree.

    A result whose model is not known here has no maps, cuts and rates; a warning says so, and how to name the model.

    Parameters
    ----------
    result : MCMCResult
        The posterior.
    data : TwoTimeData or None
        The data that were fitted; None leaves out the figures that show data.
    directory : path
        Existing directory, or one that can be made in an existing directory.
    format : {"png", "pdf", "svg"}
        Kind of files.
    truth : mapping, optional
        Known physical parameters of simulated data, drawn into rates and corner plot.

    Returns
    -------
    list of Path
        The files, in the order in which they are meant to be looked at.

    Raises
    ------
    InputError
        Unknown format, data that do not belong to the result, or a directory that cannot be written.
    ExecutionError
        The disk is full; files that existed are intact.
    """
    if format not in FORMATS:
        raise InputError(f"figure format is {format!r}; expected one of {', '.join(FORMATS)}")
    if data is not None:
        _check_belongs(result, data)
    place = make_folder(Path(directory))
    return [
        write_atomically(place / f"{name}.{format}", figure_bytes(figure, format), FIGURE)
        for name, figure in standard_figures(result, data, truth)
    ]


def standard_figures(
    result: MCMCResult, data: TwoTimeData | None, truth: Mapping[str, float] | None = None
) -> Iterator[tuple[str, Figure]]:
    """Name and figure, one after the other; arguments as in :func:`save_figures`."""
    model = result.model
    if result.t is not None and model is None:
        warn(HomodyneWarning(f"figures of curves are left out: {result.missing_model}"), stacklevel=2)
    if model is not None and data is not None:
        yield "maps", map_figure(result, data)
        yield "cuts", cut_figure(result, data)
    if result.diagnostics.get("checks"):
        yield "misfit", misfit_figure(result)
    if model is not None and model.rates():
        yield "rates", rate_figure(result, truth)
    if result.free_names:
        yield "corner", corner_figure(result, truth)
        yield "traces", trace_figure(result)
    yield from _consensus_figures(result)


def _consensus_figures(result: MCMCResult) -> Iterator[tuple[str, Figure]]:
    """Do the shards agree? Nothing for other methods, and where fewer than two shards could be compared."""
    found = result.cmc_diagnostics
    if not found or found["between"] is None:
        return
    validation, notation = {**found, "per_shard": result.per_shard_diagnostics}, notation_of(result.model, result.units)
    yield "shards", shard_forest_figure(validation, notation)
    if found["between"]["kl"]["matrix"] is not None:
        yield "shard_divergence", divergence_figure(validation)
    yield "shard_agreement", agreement_figure(validation, notation)


def figure_format(file: str | os.PathLike[str]) -> str:
    """Kind of a picture file, by the end of its name; one of FORMATS.

    Raises
    ------
    InputError
        It ends otherwise.
    """
    kind = Path(file).suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise InputError(f"{os.fspath(file)}: expected a name that ends in .{', .'.join(FORMATS)}")
    return kind


def figure_bytes(figure: Figure, kind: str = "png") -> memoryview:
    """Content of the file of one figure; ``kind`` is one of FORMATS."""
    buffer = io.BytesIO()
    author = FIGURE.mark.decode()
    figure.savefig(buffer, format=kind, metadata={"Software" if kind == "png" else "Creator": author})
    return buffer.getbuffer()


def _check_belongs(result: MCMCResult, data: TwoTimeData) -> None:
    own = {"t": data.t, "phi": data.phi, "q": np.broadcast_to(np.atleast_1d(data.q), data.phi.shape)}
    for name, given in own.items():
        fitted = getattr(result, name)
        if fitted is None or fitted.shape != given.shape or not np.allclose(fitted, given, rtol=1e-9, atol=0):
            raise InputError(f"{name} of the data differs from the fit's; give the selection that was fitted")
