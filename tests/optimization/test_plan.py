"""Planned precision against simulated measurements, and what cannot be planned."""

from dataclasses import replace

import numpy as np
import pytest

from homodyne.errors import InputError
from homodyne.optimization.plan import Measurement, expected_precision

PLAN = Measurement(
    {"D0": 2e4, "alpha": -0.5, "D_offset": 100.0},
    q=0.0054,
    gap=None,
    frames=60,
    angles=2,
    pixels=1000,
    counts=1.0,
    fixed=("D_offset",),
)
SIMULATIONS = 60


@pytest.fixture(scope="module")
def planned():
    return expected_precision(PLAN, SIMULATIONS, seed=3)


@pytest.mark.slow
def test_formula_agrees_with_simulated_measurements(planned):
    """Half the central 68 % of normal draws has a relative Monte Carlo error of 0.93/sqrt(count).

    Third and fourth cumulants of the intensities, which the formula leaves out, add up to 15 %. What independent
    noise would promise is far off.
    """
    error = 0.93 / np.sqrt(SIMULATIONS)
    for name in ("D0", "alpha"):
        ratio = planned.simulated[name] / planned.true[name]
        assert 1 - 3 * error < ratio < 1.15 + 3 * error, (name, ratio)
        assert planned.simulated[name] / planned.independent[name] > 1.15 + 3 * error


def test_pixels_count_by_their_root(planned):
    """Four times the pixels halve every width; so do they for independent noise."""
    more = expected_precision(replace(PLAN, pixels=4000))
    for name in ("D0", "alpha"):
        assert more.true[name] == pytest.approx(0.5 * planned.true[name], rel=0.02)
        assert more.independent[name] == pytest.approx(0.5 * planned.independent[name], rel=0.02)
    assert more.simulated == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": 0.0}, "counts is 0.0: expected a positive number"),
        ({"frames": -3}, "frames is -3: expected a positive number"),
        ({"fixed": ("beta",)}, "beta cannot be fixed: expected names among D0, alpha, D_offset"),
    ],
)
def test_impossible_measurements(change, message):
    with pytest.raises(InputError, match=message):
        expected_precision(replace(PLAN, **change))
