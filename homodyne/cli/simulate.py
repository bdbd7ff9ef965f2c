"""``homodyne simulate``: a measurement with known parameters, written like a file of the beamline."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Q = 0.0054  # 1/Å
GAP = 2e6  # Å

# Fits of real measurements. The shear rates were published with the older equation of the shear factor;
# multiplied by 2.2, the equation used here decays equally fast.
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
}


# Few counts, so that elements of the map have nearly independent noise.
NOISE: dict[str, dict[str, float]] = {
    "speckle": {"pixels": 4000, "mean_counts": 0.1},
    "parametric": {"pixels": 4000, "mean_counts": 0.1},
    "independent": {"sigma": 0.15},
}


def simulate(
    file: Annotated[Path, typer.Argument(help="HDF5 file to write, in the layout of APS-U.")],
    mode: Annotated[
        Literal["static", "laminar_flow"], typer.Option(help="Sample at rest or under shear.")
    ] = "laminar_flow",
    kind: Annotated[
        Literal["speckle", "parametric", "independent"],
        typer.Option(help="Noise: fields and photons, their second moments only, or white."),
    ] = "speckle",
    q: Annotated[
        str, typer.Option("--q", help="Wavevectors in 1/Å with commas between them; each has all angles.")
    ] = f"{Q}",
    frames: Annotated[int, typer.Option(min=3, help="Frames.")] = 300,
    dt: Annotated[float, typer.Option(help="Seconds between frames.")] = 0.1,
    angles: Annotated[int, typer.Option(min=1, help="Angles, spread evenly over 180 degrees.")] = 8,
    contrast: Annotated[float, typer.Option(help="Speckle contrast.")] = 0.3,
    pixels: Annotated[int | None, typer.Option(help="Pixels per angle [default: 4000].")] = None,
    counts: Annotated[float | None, typer.Option(help="Mean counts per pixel and frame [default: 0.1].")] = None,
    sigma: Annotated[
        float | None, typer.Option(help="Standard deviation of independent noise [default: 0.15].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Simulate a measurement with the parameters of a published fit."""
    import numpy as np

    from homodyne import simulate as simulate_data
    from homodyne.data import write_aps_u
    from homodyne.errors import InputError

    if file.exists() and not overwrite:
        raise InputError(f"{file} exists; choose another name or replace it (--overwrite)")
    try:
        waves = [float(number) for number in q.split(",")]
    except ValueError:
        raise InputError(f"--q {q}: expected numbers with commas between them, such as 0.004,0.006") from None
    gap = GAP if mode == "laminar_flow" else None
    given = {"pixels": pixels, "mean_counts": counts, "sigma": sigma}
    noise: dict[str, Any] = NOISE[kind] | {name: value for name, value in given.items() if value is not None}
    data = simulate_data(
        TRUTHS[mode],
        q=waves,
        gap=gap,
        num_frames=frames,
        dt=dt,
        phi=np.arange(angles) * 180.0 / angles,
        contrast=contrast,
        kind=kind,
        seed=seed,
        **noise,
    )
    write_aps_u(file, data)
    print(f"wrote {file}: {data}")
    print("truth: " + ", ".join(f"{name}={value:g}" for name, value in TRUTHS[mode].items()))
    print(
        f"next:  homodyne fit {file} --mode {mode}"
        + (f" --gap {gap:g}" if gap else "")
        + (" --q all" if len(waves) > 1 else "")
    )
