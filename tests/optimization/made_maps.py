"""Maps that workers make, and a model of one's own."""

import os
from pathlib import Path

import numpy as np

T = 0.1 * np.arange(1, 61)


def make(k: int) -> np.ndarray:
    """Map k of 60 frames; refused, and counted, as files in the folder that MADE_MAPS names say."""
    folder = Path(os.environ["MADE_MAPS"])
    with (folder / "made").open("a") as log:
        log.write(f"{k}\n")
    if (folder / f"refuse-{k}").exists():
        raise ValueError(f"the detector lost map {k}")
    rng = np.random.default_rng(k)
    decay = np.exp(-(T[None, :] - T[:, None]) * (1 + 0.3 * k) / 2)
    values = 1 + 0.3 * decay + 0.03 * rng.standard_normal(decay.shape)
    values[5, 9 + k] = np.nan
    return np.asarray(values, np.float32)
