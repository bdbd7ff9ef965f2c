"""``homodyne simulate``: a measurement with known parameters, written like a file of the beamline."""

from pathlib import Path
from typing import Annotated

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


def simulate(
    file: Annotated[Path, typer.Argument(help="HDF5 file to write, in the layout of APS-U.")],
    mode: Annotated[str, typer.Option(help="static or laminar_flow.")] = "laminar_flow",
    kind: Annotated[
        str,
        typer.Option(help="speckle (fields and photons), parametric or independent (noise on the model)."),
    ] = "speckle",
    frames: Annotated[int, typer.Option(min=3, help="Frames.")] = 300,
    dt: Annotated[float, typer.Option(help="Seconds between frames.")] = 0.1,
    angles: Annotated[int, typer.Option(min=1, help="Angles, spread evenly over 360 degrees.")] = 8,
    pixels: Annotated[int, typer.Option(min=1, help="Pixels per angle.")] = 2000,
    counts: Annotated[float, typer.Option(help="Mean counts per pixel and frame.")] = 0.1,
    contrast: Annotated[float, typer.Option(help="Speckle contrast.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random number.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Simulate a measurement with the parameters of a published fit."""
    import numpy as np

    from homodyne import simulate as simulate_data
    from homodyne.data.writers import write_aps_u
    from homodyne.errors import InputError

    if mode not in TRUTHS:
        raise InputError(f"--mode {mode}: expected one of {', '.join(TRUTHS)}")
    if file.exists() and not overwrite:
        raise InputError(f"{file} exists; choose another name or replace it (--overwrite)")
    sheared = mode == "laminar_flow"
    data = simulate_data(
        TRUTHS[mode],
        q=Q,
        gap=GAP if sheared else None,
        num_frames=frames,
        dt=dt,
        phi=np.arange(angles) * 360.0 / angles,
        contrast=contrast,
        kind=kind,
        pixels=pixels,
        mean_counts=counts,
        seed=seed,
    )
    write_aps_u(file, data)
    print(f"wrote {file}: {data}")
    print("truth: " + ", ".join(f"{name}={value:g}" for name, value in TRUTHS[mode].items()))
    print(f"next:  homodyne fit {file} --mode {mode}" + (f" --gap {GAP:g}" if sheared else ""))
