"""The measurement that every benchmark uses: laminar flow with independent noise."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import psutil

from homodyne.data.twotime import TwoTimeData, from_cube
from homodyne.physics.models.laminar_flow import LaminarFlow
from homodyne.physics.simulate import TrueModel, independent

TRUTH = {
    "D0": 68481.0,
    "alpha": -1.327,
    "D_offset": 1708.0,
    "gamma_dot_0": 4.4e-3,
    "beta": -0.212,
    "gamma_dot_offset": -1.3e-3,
    "phi0": 2.0,
}
STEADY = {**TRUTH, "D0": 2e4, "alpha": -0.5, "D_offset": 500.0}
"""A law that every part of a record tells of; with `TRUTH` only the first hundredth knows the exponent."""

_LOOK = 0.2  # seconds between two looks at the memory

Q, GAP, CONTRAST, SIGMA = 0.0054, 2e6, 0.3, 0.1


def laminar_flow(
    num_frames: int, num_angles: int, seed: int = 0, truth: Mapping[str, float] = TRUTH, phi: Any = None
) -> TwoTimeData:
    """Simulate maps with white noise; 2000 frames and 25 angles are 50 million pairs and 400 MB.

    Angles lie evenly between -85 and 85 degrees unless they are given.
    """
    t = 0.1 * np.arange(1, num_frames + 1)
    phi = np.linspace(-85.0, 85.0, num_angles) if phi is None else phi
    maps = independent(TrueModel(LaminarFlow(), truth, t, phi, Q, GAP, CONTRAST), sigma=SIGMA, seed=seed)
    return from_cube(maps.c2, t, phi, Q, gap=GAP)


class Memory:
    """Watches the memory of this process and its children together, pages that they share counted once."""

    def __enter__(self) -> "Memory":
        self.before, self._end = self._now(), threading.Event()
        self.peak = self.before
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._end.wait(_LOOK):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> int:
        me, total = psutil.Process(), 0
        for process in [me, *me.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.memory_full_info().pss
        return total

    @property
    def more(self) -> float:
        """GB at the peak beyond what was there before."""
        return (self.peak - self.before) / 2**30
