"""Passes over maps as jobs of a scheduler: the numbers of this process, from maps that jobs open or make."""

import os
from dataclasses import replace
from pathlib import Path

import made_maps
import numpy as np
import pytest

from homodyne.config.io import load_config
from homodyne.likelihood.maps import Maps
from homodyne.likelihood.reduction import Accuracy, find_cells
from homodyne.optimization.cmc.backends.arrays import Pace
from homodyne.optimization.passes import Passes
from homodyne.physics.model import find_model

MODEL = find_model("static")
PARAMS = {"D0": np.array([2e4, 3e4]), "alpha": np.array([-0.5, -0.4]), "D_offset": np.array([300.0, 200.0])}
I, J = np.array([0, 3, 20]), np.array([1, 40, 59])  # noqa: E741


def everything(passes):
    nodes = passes.reduce(find_cells(MODEL, PARAMS, passes.maps, Accuracy(4, 1e-3)))
    return [*passes.pairs(I, J), *nodes, *passes.direct(MODEL, PARAMS, nodes)]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_jobs_give_the_numbers_of_this_process(scheduler, elsewhere, tmp_path, monkeypatch):
    tests, folder = Path(__file__).parent.parent / "optimization", tmp_path / "made_maps"
    folder.mkdir()
    monkeypatch.setenv("MADE_MAPS", str(folder))
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "XLA_FLAGS", "MADE_MAPS")
    environment = {"PYTHONPATH": str(tests), **{name: os.environ[name] for name in names if name in os.environ}}
    jobs = {"environment": environment, "memory_gb": 0.7, "walltime": "00:10:00"}
    monkeypatch.setattr(Pace, "__init__", fast(Pace.__init__))

    def settings(backend, store):
        reduction = {"backend": backend, "store": str(tmp_path / store)}
        backends = {"num_workers": 1, "max_attempts": 1, "jobs": jobs}
        return load_config(
            {"analysis_mode": "static", "reduction": reduction, "optimization": {"cmc": {"backend": backends}}}
        )

    values = np.array([made_maps.make(k) for k in range(2)])
    maps = Maps(values, np.ones((2, 60), bool), made_maps.T, np.full(2, 0.01), np.array([0.0, 90.0]), None)
    expected = everything(Passes(maps, settings(None, "here")))
    more = [{"arguments": {"k": k}} for k in range(2)], "made_maps:make"
    where = (replace(maps, values=()), settings(scheduler.name, "jobs"), *more) if elsewhere else None
    with Passes(*(where or (maps, settings(scheduler.name, "jobs")))) as passes:
        found = everything(passes)
    assert len(list((tmp_path / "jobs" / "runs").glob("*/jobs/*.sh"))) == 3
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def fast(init):
    """Shorter pauses than users have."""
    return lambda self, *given: init(self, *(given or (0.2, 0.5, 20.0, 0.5)))
