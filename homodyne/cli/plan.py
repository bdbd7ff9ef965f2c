"""``homodyne plan``: how precise a measurement would be, before it is made."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homodyne.cli.output import require_figure, write_figure
from homodyne.cli.simulate import GAP, TRUTHS, Q, number
from homodyne.cli.terminal import columns, progress_bars, say
from homodyne.errors import InputError
from homodyne.files import PLAN, require_writable, write_atomically

if TYPE_CHECKING:
    from homodyne.optimization.plan import Measurement, Precision

VARIED = {"frames": int, "angles": int, "pixels": int, "counts": float}


def plan(
    values: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE", help="Parameters of the sample, such as D0=2e4.")
    ] = None,
    mode: Annotated[str, typer.Option(help="Correlation model, or module:Class of your own.")] = "laminar_flow",
    frames: Annotated[int, typer.Option(help="Frames.")] = 300,
    angles: Annotated[int, typer.Option(help="Angles, spread evenly over 180 degrees.")] = 8,
    pixels: Annotated[int, typer.Option(help="Independent pixels per angle.")] = 4000,
    counts: Annotated[float, typer.Option(help="Mean counts per pixel and frame.")] = 0.1,
    contrast: Annotated[float, typer.Option(help="Speckle contrast.")] = 0.3,
    dt: Annotated[float, typer.Option(help="Seconds between frames.")] = 0.1,
    q: Annotated[float, typer.Option("--q", help="Wavevector in 1/Å.")] = Q,
    gap: Annotated[float, typer.Option(help="Distance of the plates in Å.")] = GAP,
    fix: Annotated[str, typer.Option(metavar="NAMES", help="Parameters that are known, such as D_offset,phi0.")] = "",
    vary: Annotated[
        str | None, typer.Option(metavar="NAME=A,B,...", help="Compare frames, angles, pixels or counts.")
    ] = None,
    simulate: Annotated[int, typer.Option(min=0, help="Measurements to simulate and fit for each line.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Write the numbers into this file (.json or .yaml).")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw it into this picture (.png, .pdf, .svg).")] = None,
) -> None:
    """Tell how precisely the parameters of a sample would be measured."""
    from homodyne.optimization.plan import Measurement
    from homodyne.physics.model import complete_params, find_model

    model = find_model(mode)
    params = complete_params(model, _parameters(mode, model.parameter_names, values or []))
    fixed = tuple(name.strip() for name in fix.split(",") if name.strip())
    planned = Measurement(
        params, q, gap if model.needs_gap else None, dt, frames, angles, pixels, counts, contrast, fixed, mode
    )
    name, varied = _varied(vary, planned)
    from homodyne.viz.plan import relative_names

    _check_files(output, figure, len(varied))
    found = _precisions([replace(planned, **{name: value}) for value in varied], simulate, seed)
    _print_table(planned, name, varied, found, relative_names(model, params))
    if output is not None:
        _write_numbers(output, planned, name, varied, found)
    if figure is not None:
        from homodyne.viz.plan import plan_figure

        write_figure(figure, plan_figure(name, varied, found, params, model))


def _parameters(mode: str, names: Sequence[str], values: list[str]) -> dict[str, float]:
    params = dict(TRUTHS.get(mode, {}))
    for text in values:
        name, _, value = text.partition("=")
        if name not in names:
            raise InputError(f"{text!r}: expected NAME=VALUE with a name among {', '.join(names)} for {mode}")
        params[name] = number(text, value)
    return params


def _varied(vary: str | None, planned: "Measurement") -> tuple[str, list[Any]]:
    if vary is None:
        return "frames", [planned.frames]
    name, _, values = vary.partition("=")
    if name not in VARIED:
        raise InputError(f"--vary {vary}: expected NAME=A,B,... with a name among {', '.join(VARIED)}")
    return name, [number(f"--vary {vary}", value, VARIED[name]) for value in values.split(",")]


def _check_files(output: Path | None, figure: Path | None, lines: int) -> None:
    """Refuse before the work begins."""
    if output is not None and output.suffix not in (".json", ".yaml", ".yml"):
        raise InputError(f"--output {output}: expected a name that ends in .json or .yaml")
    if figure is not None and lines < 2:
        raise InputError("--figure draws a comparison: give two values or more to --vary, such as frames=100,300,1000")
    require_figure(figure)
    if output is not None:
        require_writable(output, PLAN)


def _precisions(measurements: "list[Measurement]", simulate: int, seed: int) -> "list[Precision]":
    from homodyne.optimization.plan import expected_precision

    found = []
    with progress_bars() as progress:
        for k, one in enumerate(measurements, 1):

            def tell(done: int, stage: str = f"simulations {k} of {len(measurements)}") -> None:
                progress(stage, done, simulate)

            found.append(expected_precision(one, simulate, seed, tell))
    return found


def _print_table(
    planned: "Measurement", name: str, varied: list[object], found: "list[Precision]", relative: Collection[str]
) -> None:
    """One line for each value; one column for each parameter."""
    from homodyne.result.summary import align_table

    free = list(found[0].true)
    lines = [(name, *(f"{parameter} = {planned.params[parameter]:.4g}" for parameter in free))]
    for value, one in zip(varied, found, strict=True):
        cells = []
        for parameter in free:
            kinds = filter(None, (one.true, one.independent, one.simulated))
            shown = [_shown(kind[parameter], planned.params[parameter], parameter in relative) for kind in kinds]
            cells.append("{} ({})".format(*shown) + "".join(f" [{simulated}]" for simulated in shown[2:]))
        lines.append((f"{value:g}", *cells))
    others = (f"{key} {getattr(planned, key):g}" for key in (*VARIED, "contrast", "dt", "q") if key != name)
    say(f"standard deviations, {', '.join(others)}")
    say("\n".join(align_table(lines, 0, width=columns())))
    brackets = "; in square brackets: scatter of simulated measurements" if found[0].simulated else ""
    say(f"in brackets: what independent noise would promise{brackets}; what the data alone say, without a prior")


def _shown(width: float, value: float, relative: bool) -> str:
    """In per cent of the value where that has a meaning."""
    return f"{100 * width / abs(value):.2g} %" if relative else f"{width:.2g}"


def _write_numbers(
    file: Path, planned: "Measurement", name: str, varied: list[object], found: "list[Precision]"
) -> None:
    import yaml

    settings = {key: value for key, value in asdict(planned).items() if key != name} | {"fixed": list(planned.fixed)}
    content = {
        "program": PLAN.mark.decode(),
        "measurement": settings,
        "varied": name,
        "precision": [{name: value, **asdict(one)} for value, one in zip(varied, found, strict=True)],
    }
    text = json.dumps(content, indent=1) if file.suffix == ".json" else yaml.safe_dump(content, sort_keys=False)
    write_atomically(file, text.encode(), PLAN)
    say(f"wrote {file}")
