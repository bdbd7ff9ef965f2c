"""``homodyne simulate``: a measurement with known parameters, written like a file of the beamline."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from homodyne.arguments import Json
from homodyne.cli.terminal import say
from homodyne.errors import InputError
from homodyne.files import MEASUREMENT, require_writable

if TYPE_CHECKING:
    from homodyne.physics.model import CorrelationModel

Q = 0.0054  # 1/Å
GAP = 2e6  # Å

# The first two are fits of real measurements. The shear rates were published with the older equation of the shear
# factor; multiplied by 2.2, the equation used here decays equally fast.
TRUTHS = {
    "laminar_flow": {
        "D0": 68481.0,
        "alpha": -1.327,
        "D_offset": 1708.0,
        "gamma_dot_0": 2.2 * 1.99e-3,
        "beta": -0.212,
        "gamma_dot_offset": 2.2 * -6.1e-4,
        "phi0": 2.0,
    },
    "static": {"D0": 16918.0, "alpha": -1.572, "D_offset": 3.05},
    "stretched": {"Gamma_ref": 3.0, "mu": 0.4, "k": 0.7},
    "heterodyne": {
        "D0_ref": 4000.0, "alpha_ref": -0.3, "D_offset_ref": 0.0, "D0_sample": 12000.0, "alpha_sample": 0.0,
        "D_offset_sample": 0.0, "v0": 400.0, "beta": -0.2, "v_offset": 0.0, "f0": 0.4, "f1": -0.03, "f3": 0.2,
        "phi0": 5.0,
    },
}  # fmt: skip


# Few counts, so that elements of the map have nearly independent noise.
NOISE: dict[str, dict[str, float]] = {
    "speckle": {"pixels": 4000, "mean_counts": 0.1},
    "parametric": {"pixels": 4000, "mean_counts": 0.1},
    "independent": {"sigma": 0.15},
}


def simulate(
    file: Annotated[Path, typer.Argument(help="HDF5 file to write, in the layout of APS-U.")],
    model: Annotated[
        str, typer.Option("--model", "--mode", help="static, laminar_flow, stretched, heterodyne or module:Class.")
    ] = "laminar_flow",
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter or an option of the model; may come again."),
    ] = None,
    q: Annotated[str, typer.Option("--q", help="Wave vector in 1/Å, or several: 0.004,0.006.")] = f"{Q:g}",
    gap: Annotated[float, typer.Option(help="Distance of the plates in Å, where the model needs it.")] = GAP,
    kind: Annotated[
        Literal["speckle", "parametric", "independent"],
        typer.Option(help="Noise: fields and photons, their second moments only, or white."),
    ] = "speckle",
    frames: Annotated[int, typer.Option(min=3, help="Frames.")] = 300,
    dt: Annotated[float, typer.Option(help="Seconds between frames.")] = 0.1,
    angles: Annotated[int, typer.Option(min=1, help="Angles, spread evenly over 180 degrees.")] = 8,
    contrast: Annotated[float, typer.Option(help="Speckle contrast.")] = 0.3,
    pixels: Annotated[int | None, typer.Option(help="Pixels per angle; 4000 unless given.")] = None,
    counts: Annotated[float | None, typer.Option(help="Mean counts per pixel and frame; 0.1 unless given.")] = None,
    sigma: Annotated[
        float | None, typer.Option(help="Standard deviation of independent noise; 0.15 unless given.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Simulate a measurement, by default with the parameters of a published fit."""
    import numpy as np

    from homodyne import simulate as simulate_data
    from homodyne.data import write_aps_u
    from homodyne.physics.model import complete_params

    if file.exists() and not overwrite:
        raise InputError(f"{file} exists; choose another name or replace it (--overwrite)")
    require_writable(file, MEASUREMENT)
    law, params = chosen_law(model, values or [])
    used = gap if law.needs_gap else None
    given = {"pixels": pixels, "mean_counts": counts, "sigma": sigma}
    noise: dict[str, Json] = NOISE[kind] | {name: value for name, value in given.items() if value is not None}
    data = simulate_data(
        params,
        model=law,
        q=[number(f"--q {q}", one) for one in q.split(",")],
        gap=used,
        num_frames=frames,
        dt=dt,
        phi=np.arange(angles) * 180.0 / angles,
        contrast=contrast,
        kind=kind,
        seed=seed,
        **noise,
    )
    write_aps_u(file, data)
    say(f"wrote {file}: {data}")
    say("truth: " + ", ".join(f"{name}={value:g}" for name, value in complete_params(law, params).items()))
    several = " --q all" if "," in q else ""
    say(f"next:  homodyne fit {file} --mode {model}" + (f" --gap {used:g}" if used else "") + several)


def chosen_law(name: str, values: list[str]) -> "tuple[CorrelationModel, dict[str, float]]":
    """Model and parameters from NAME=VALUE, where a name is a parameter or an option; others as in `TRUTHS`."""
    from homodyne.config import yaml
    from homodyne.physics.model import find_model
    from homodyne.registries import suggestion

    plain = find_model(name)
    params, options = dict(TRUTHS.get(plain.name, {})), {}
    for text in values:
        key, _, value = text.partition("=")
        if key in plain.options:
            options[key] = yaml.parse(value, f"--set {text}")
        elif key in plain.parameter_names:
            params[key] = number(f"--set {text}", value)
        else:
            raise InputError(f"--set {text}: {suggestion(key, [*plain.parameter_names, *plain.options])}")
    return find_model(name, options), params


def number(where: str, text: str, kind: type[float] = float) -> float:
    """Read a number, of type int a whole one; `where` is what the message of the error begins with."""
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{where}: {text!r} is not {'a whole number' if kind is int else 'a number'}") from None
