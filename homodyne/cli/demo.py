"""``homodyne demo``: every command once, on a simulated measurement and, when given, on a measured map."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homodyne.arguments import Json
from homodyne.cli.fit import fit_and_write
from homodyne.cli.inspect import inspect
from homodyne.cli.simulate import GAP, TRUTHS, simulate
from homodyne.cli.terminal import columns, say
from homodyne.files import make_folder

if TYPE_CHECKING:
    from homodyne.result.record import MCMCResult


def demo(
    directory: Annotated[Path, typer.Option(help="Folder for everything that is written.")] = Path("demo"),
    map_file: Annotated[
        Path | None, typer.Option("--map", help="Measured map (.npy, one frame per second, q = 0.01 1/Å).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 0,
) -> None:
    """Simulate a sheared sample, inspect the file, fit it and compare the posterior with the truth."""
    make_folder(directory)
    file = directory / "measurement.h5"
    _title(f"A measurement with known parameters: {file}")
    simulate(file, frames=400, pixels=10_000, seed=seed, overwrite=True)
    _title("What is in the file")
    inspect(file, figure=directory / "measurement.png")
    _title("Fit")
    truth = TRUTHS["laminar_flow"]
    flow = {"analysis_mode": "laminar_flow", "experimental_data": {"file_path": file, "gap": GAP}}
    result = _fit(flow, directory / "flow", seed, truth)
    _compare(result, truth)
    if map_file is not None:
        _title(f"A measured map, which comes without q, angle and frame time: {map_file}")
        say("It does not determine amplitude, exponent and offset together: D_offset is fixed at 0.\n")
        rest = {
            "analysis_mode": "static",
            "experimental_data": {"file_path": map_file, "q": 0.01, "phi": [0.0], "dt": 1.0},
            "parameters": {"D_offset": {"fixed": 0.0}},
        }
        _fit(rest, directory / "measured_map", seed)


def _fit(settings: dict[str, Json], directory: Path, seed: int, truth: dict[str, float] | None = None) -> "MCMCResult":
    from homodyne.cli.options import load_measurement
    from homodyne.config.io import load_config

    config = load_config({**settings, "output": {"directory": directory, "overwrite": True}, "seed": seed})
    return fit_and_write(load_measurement(config.experimental_data), config, truth)


def _compare(result: "MCMCResult", truth: dict[str, float]) -> None:
    """Print how far the posterior lies from the parameters that made the data."""
    from homodyne.result.summary import align_table

    lines = [("parameter", "truth", "mean", "sd", "(mean - truth) / sd")]
    for name, value in truth.items():
        mean, sd = result.mean[name], result.sd[name]
        lines.append((name, f"{value:.4g}", f"{mean:.4g}", f"{sd:.2g}", f"{(mean - value) / sd:.2f}"))
    say("\n".join(["", *align_table(lines, 1, width=columns())]))


def _title(text: str) -> None:
    say(f"\n== {text}")
