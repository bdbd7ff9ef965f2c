"""A report of one result or of several: one HTML file that holds its pictures and needs no network.

:func:`report` returns its bytes. What it shows is prepared here and laid out by the template ``report.html``, which
escapes every text; all of it may come from files of somebody else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files

import numpy as np
from matplotlib.figure import Figure
from pydantic import ValidationError

from homodyne.certificate.verdict import Verdict
from homodyne.config import yaml
from homodyne.config.schema import ParameterConfig
from homodyne.data.twotime import TwoTimeData
from homodyne.errors import InputError
from homodyne.files import REPORT
from homodyne.physics.priors import make_prior
from homodyne.result.comparison import compare
from homodyne.result.record import MCMCResult
from homodyne.result.summary import SummaryRow, format_number, map_labels, run_facts, span_text
from homodyne.versions import used_versions
from homodyne.viz.cuts import cut_figure
from homodyne.viz.figures import address_of, caption_of, check_belongs, figure_bytes, figure_makers, without_caption
from homodyne.viz.maps import map_figure
from homodyne.viz.model import chosen_maps

MOST_BYTES = 10_000_000
"""Size of a report, which can be sent by mail."""

MOST_MAPS, CELLS, DPI = 6, 200, 110
"""Maps that are shown, of all results together; cells along each side of one; its dots per inch."""

_TITLES = {
    "misfit": "Where the model misses the data",
    "rates": "Rates over age",
    "corner": "Parameters against each other",
    "traces": "Chains",
    "shards": "Shards",
    "shard_divergence": "How far shards differ",
    "shard_agreement": "Do shards agree?",
}
_STRIP = 160.0  # width of the drawing of prior and posterior in a row of the table
_COLOURS = {Verdict.CERTIFIED: "good", Verdict.CORRECTED: "good", Verdict.REFUSED: "bad"}


@dataclass(frozen=True)
class Reported:
    """A result and what belongs to it.

    Attributes
    ----------
    name : str
        What it is called.
    result : MCMCResult
    data : TwoTimeData or None
        The maps that were fitted.
    missing : str
        Why there are none.
    truth : mapping or None
        Parameters of simulated data.
    drawn : mapping
        Figures that are drawn already, each with its PNG file, by name.
    """

    name: str
    result: MCMCResult
    data: TwoTimeData | None = None
    missing: str = ""
    truth: Mapping[str, float] | None = None
    drawn: Mapping[str, tuple[Figure, bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """An image in a page: its address, which holds all of it, what it shows, and a title."""

    uri: str
    caption: str
    title: str


def report(results: Sequence[Reported], *, figures: bool = True) -> bytes:
    """The page on some results, below 10 MB; of two and more with a table side by side.

    Parameters
    ----------
    results
        One or more, of different names.
    figures
        Whether pictures are drawn.

    Raises
    ------
    InputError
        No result; data that do not belong to theirs; pictures that are too large however few maps are shown.
    """
    import jinja2

    if not results:
        raise InputError("a report needs a result; none is given")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(files("homodyne.viz").joinpath("report.html").read_text(encoding="utf-8"))
    side_by_side = compare({one.name: one.result for one in results}) if len(results) > 1 else None
    drawn = [_pictures(one) if figures else {} for one in results]
    most = max(MOST_MAPS // len(results), 1)
    while True:
        shown = [
            _section(k, one, pictures, _maps(one, most) if figures else [])
            for k, (one, pictures) in enumerate(zip(results, drawn, strict=True))
        ]
        page = template.render(
            mark=REPORT.mark.decode(), results=shown, comparison=side_by_side, versions=used_versions()
        ).encode()
        if len(page) < MOST_BYTES:
            return page
        if most == 1:
            raise InputError(
                f"the report would take {len(page) / 1e6:.0f} MB, limit {MOST_BYTES / 1e6:.0f}; report fewer results"
            )
        most = max(most // 2, 1)


def _section(
    k: int, one: Reported, pictures: Mapping[str, Picture], maps: Sequence[tuple[str, Picture, Picture]]
) -> dict[str, object]:
    """What the template says of a result; ``key`` makes the names of its parts differ from those of others."""
    result, table = one.result, one.result.summary()
    total = 0 if result.phi is None else result.phi.size
    some = f"{len(maps)} of {total} maps are shown, spread over wave vectors and angles"
    missing = one.missing or result.missing_model if result.t is not None else "this result does not come from maps"
    return {
        "key": f"r{k}",
        "name": one.name,
        "verdict": result.verdict,
        "colour": _COLOURS.get(result.verdict, "open"),
        "words": result.words,
        "reason": table.reason,
        "fitted": _fitted(one),
        "rates": [row.cells for row in table.rates],
        "age": f"{table.rates[0].t:.3g} s" if table.rates else "",
        "parameters": [_parameter(row, result, table.undetermined) for row in table.rows],
        "maps": maps,
        "left_out": some if len(maps) < total else "",
        "missing": missing,
        "pictures": list(pictures.values()),
        "noise": _noise(result),
        "checks": _checks(result),
        "warnings": table.warnings,
        "run": _run(result),
        "settings": yaml.dump(dict(result.config)) if result.config else "",
        "versions": dict(result.versions),
    }  # fmt: skip


def _pictures(one: Reported) -> dict[str, Picture]:
    """All pictures but those of single maps."""
    found = {}
    for name, make in figure_makers(one.result, None, one.truth).items():
        if name in one.drawn:
            figure, content = one.drawn[name]
        else:
            figure = make()
            content = bytes(figure_bytes(figure))
        found[name] = _as_picture(without_caption(figure, content), caption_of(figure), _TITLES[name])
    return found


def _maps(one: Reported, most: int) -> list[tuple[str, Picture, Picture]]:
    """Name of some maps, with a picture of data, model and residual, and one of cuts."""
    if one.data is None or one.result.model is None:
        return []
    check_belongs(one.result, one.data)
    labels = map_labels(one.data.q, one.data.phi)
    return [
        (
            labels[k],
            _picture(partial(map_figure, one.result, one.data, max_cells=CELLS, maps=[k]), labels[k]),
            _picture(partial(cut_figure, one.result, one.data, maps=[k]), f"Cuts, {labels[k]}"),
        )
        for k in chosen_maps(one.data.q, one.data.phi, most)
    ]


def _picture(make: Callable[[], Figure], title: str) -> Picture:
    """A picture of single maps."""
    figure = make()
    caption = caption_of(figure)
    figure.supxlabel("")  # stands below it in the page
    return _as_picture(figure_bytes(figure, "png", DPI), caption, title)


def _as_picture(content: bytes | memoryview, caption: str, title: str) -> Picture:
    return Picture(address_of(content), caption, title)


def _fitted(one: Reported) -> list[tuple[str, str]]:
    """What was fitted, line by line."""
    result, given = one.result, one.result.config.get("experimental_data") or {}
    lines = [("File", str(given.get("file_path") or "data in memory"))]
    if result.q is not None and result.phi is not None and result.t is not None:
        left_out = f", {len(result.bad_frames)} of them bad" if result.bad_frames else ""
        lines += [
            ("Wave vectors", f"{span_text(result.q)} 1/Å"),
            ("Angles", f"{span_text(result.phi, '°')} ({result.phi.size} maps)"),
            ("Frames", f"{result.t.size}{left_out}"),
            ("Ages", f"{result.t[0]:.4g} to {result.t[-1]:.4g} s"),
            ("Gap", "not given" if result.gap is None else f"{result.gap:.4g} Å ({result.gap / 1e4:.4g} µm)"),
        ]
    lines.append(("Model", " ".join([result.analysis_mode, *(f"{k}={v}" for k, v in result.model_options.items())])))
    lines.append(("Points", f"{result.num_points:,}"))
    return lines + [("Left out", str(text)) for text in result.diagnostics.get("left_out") or ()]


def _parameter(row: SummaryRow, result: MCMCResult, undetermined: Sequence[str]) -> dict[str, object]:
    """Cells of a parameter: value, intervals of 90 %, prior in words, and both as bars."""
    size = max(abs(row.mean), row.sd)
    number = partial(format_number, sd=row.sd, size=size)
    words, prior = ("", None) if row.fixed else _prior(row.name, result)
    share = ((result.diagnostics.get("prior") or {}).get("shares") or {}).get(row.name)
    return {
        "name": f"{row.name}, {row.label}" if row.label else row.name,
        "unit": row.unit,
        "value": f"{row.mean:.6g}" if row.fixed else f"{number(row.mean)} ± {number(row.sd)}",
        "interval": "fixed" if row.fixed else f"{number(row.q05)} to {number(row.q95)}",
        "prior": words,
        "prior_interval": f"{prior[0]:.3g} to {prior[1]:.3g}" if prior else "",
        "held": "" if share is None else f"{100 * share:.0f} %",
        "open": row.name in undetermined,
        "bars": _bars(prior, (row.q05, row.q95)) if prior else None,
    }


def _bars(prior: tuple[float, float], posterior: tuple[float, float]) -> dict[str, float]:
    """Place and width of both intervals on a line, logarithmic where the prior spans decades."""
    ends = np.array([*prior, *posterior])
    if prior[0] > 0 and ends.min() > 0 and prior[1] > 30 * prior[0]:
        ends = np.log(ends)
    low, span = ends.min(), np.ptp(ends) or 1.0
    x = (ends - low) / span * _STRIP
    return {"prior": x[0], "prior_width": x[1] - x[0], "posterior": x[2], "posterior_width": max(x[3] - x[2], 2.0)}


def _prior(name: str, result: MCMCResult) -> tuple[str, tuple[float, float] | None]:
    """Prior of a parameter as the settings tell it, and what 90 % of it cover, where it is one of the value itself."""
    try:
        given = ParameterConfig.model_validate((result.config.get("parameters") or {}).get(name) or {})
        if given.prior is None:
            return "", None
        arguments = given.prior.model_dump(exclude={"type"})
        words = f"{given.prior.type}({', '.join(f'{key} {value:g}' for key, value in arguments.items())})"
        words += f" within {given.bounds[0]:g} to {given.bounds[1]:g}" if given.bounds else ""
        if given.prior.type == "share":
            return f"{words} of the law in the rate", None
        found = make_prior(given.prior.type, arguments, given.bounds, name=name)
    except (ValidationError, InputError, AttributeError):  # settings that this version does not know
        return "not given in settings that this version knows", None
    low, high = (float(x) for x in found.quantile(np.array([0.05, 0.95])))
    return words, (low, high)


def _noise(result: MCMCResult) -> list[tuple[str, str]]:
    """Factor by which correlated noise widens each error bar."""
    found = result.noise_inflation or {}
    return [
        (name, span_text(np.atleast_1d(np.asarray(factor, dtype=float))))
        for name, factor in found.items()
        if np.size(factor)
    ]


def _checks(result: MCMCResult) -> list[tuple[str, str]]:
    """Tests of the fit: what was asked, and the answer."""
    checks = result.diagnostics.get("checks") or {}
    lines = [("Alarm", str(text)) for text in checks.get("alarms", ())]
    if not checks:
        return [("Model against data", "not tested")] if result.t is not None else []
    if "frames" in checks:
        lines.append(("Blocks of frames agree", f"p = {checks['frames']['speckle']['p']:.2g}"))
    angles = checks.get("angles", ())
    lines += [(f"φ = {one['phi']:g}° agrees with the others", f"p = {one['p']:.2g}") for one in angles]
    return [("Model against data", f"p = {checks['misfit']['p']:.2g}"), *lines]


def _run(result: MCMCResult) -> list[tuple[str, str]]:
    """Method, draws, certificate, shards and times."""
    one, shards = result.certificate, result.per_shard_diagnostics or ()
    rhat = [x for values in (result.diagnostics.get("rhat") or {}).values() for x in np.ravel(values) if x is not None]
    failed = [str(shard.get("shard", k)) for k, shard in enumerate(shards) if shard.get("failed")]
    lines = {
        "Run": run_facts(result),
        "Certificate": one and f"k-hat {one.k_hat:.2f}, {one.ess:.0f} effective of {one.num_points} points",
        "Methods tried": ", ".join(map(str, result.diagnostics.get("methods") or ())),
        "R-hat, largest": rhat and f"{max(rhat):.3f}",
        "Shards": shards and f"{result.num_shards}, failed: {', '.join(failed) or 'none'}",
        "Seconds": ", ".join(f"{name} {seconds:.3g}" for name, seconds in result.timings.items()) or "not noted",
    }
    return [(name, str(text)) for name, text in lines.items() if text]
