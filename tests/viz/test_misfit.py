"""The figure of tiles."""

from dataclasses import replace

import numpy as np
import pytest

from homodyne.errors import InputError
from homodyne.viz import misfit_figure
from homodyne.viz.maps import cell_edges
from homodyne.viz.misfit import RANGE

CHECKS = {
    "tiles": {
        "lag": [0.1, 0.2, 0.4],
        "family": [[0, 0, 1, 1, 2]],
        "age": [[0, 2, 1, 3, 14]],
        "sd": [[0.5, -9.0, 1.0, 2.0, 3.0]],
    },
    "misfit": {"p": 1e-5, "tests": {"anywhere": {"p": 0.2}, "lag": {"p": 3e-6}, "age": {"p": 0.5}}},
    "alarms": ["the model misses the data along the lag"],
}


def test_edges_are_half_way():
    assert cell_edges(np.array([1.0, 3.0, 9.0])).tolist() == [0.0, 2.0, 6.0, 12.0]
    assert cell_edges(np.array([5.0])).tolist() == [4.0, 6.0]


def test_every_tile_has_its_place_and_colour(static):
    result = replace(static.result, diagnostics={**static.result.diagnostics, "checks": CHECKS})
    figure = misfit_figure(result)
    rows = figure.axes[0].collections
    assert [row.get_array().ravel().tolist() for row in rows] == [[0.5, -9.0], [1.0, 2.0], [3.0]]
    assert {row.get_clim() for row in rows} == {(-RANGE, RANGE)}
    first = rows[0].get_coordinates()
    assert first[0, 0, 1] == pytest.approx(np.sqrt(0.1 * 0.1 / 2))  # half a step in log lag below the first
    assert np.all(np.diff(first[0, :, 0]) > 0)
    words = figure.get_suptitle() + figure.get_supxlabel()
    assert words.startswith("the model misses the data")
    assert "lag 3e-06" in words


def test_tiles_of_many_wave_vectors_are_named(waves):
    tiles = {name: [rows[0]] * 12 for name, rows in CHECKS["tiles"].items() if name != "lag"}
    checks = CHECKS | {"tiles": tiles | {"lag": CHECKS["tiles"]["lag"]}}
    figure = misfit_figure(replace(waves.result, diagnostics={"checks": checks}))
    assert [ax.get_title() for ax in figure.axes[:2]] == [f"q = 0.004 1/Å\n$\\varphi$ = {phi}°" for phi in (0, 90)]


def test_results_without_tests_have_no_figure(static):
    with pytest.raises(InputError, match="holds no tests against its data"):
        misfit_figure(static.result)
