"""Data at the ends of what there is, without noise, without signal, with hardly a pair: a verdict, or one sentence."""

import numpy as np
import pytest

import homodyne
from homodyne.config.io import load_config
from homodyne.errors import DataError
from homodyne.optimization import calibration
from homodyne.optimization.pilot import pilot_fit
from homodyne.optimization.problem import build_problem

pytestmark = pytest.mark.slow

N = 100
T = 0.1 * np.arange(1, N + 1)
STEPS = 4e4 * np.sqrt(T)
G = np.exp(-1e-4 * np.abs(STEPS[:, None] - STEPS))
FIXED = {"D_offset": {"fixed": 0.0}}


def white(sd, seed=0, n=N):
    noise = np.triu(sd * np.random.default_rng(seed).standard_normal((n, n)), 1)
    return noise + noise.T


def fitted(c2, parameters=FIXED, **more):
    """Fit of maps at angles 30 degrees apart."""
    c2 = np.asarray(c2)
    c2 = c2 if c2.ndim == 3 else c2[None]
    data = homodyne.from_cube(c2, T[: c2.shape[1]], 30.0 * np.arange(len(c2)), q=0.01, gap=2e6)
    return homodyne.fit(data, **{"mode": "static", "config": {"parameters": parameters}, "seed": 0, **more})


@pytest.mark.parametrize("uncertainty", ["calibrated", "independent"])
@pytest.mark.parametrize(
    ("c2", "more"),
    [
        (1 + 0.3 * G, {}),
        ((1 + 0.3 * G).astype(np.float32), {}),
        ((1 + 0.3 * G).astype(np.float32), {"parameters": {}}),
        (np.repeat((1 + 0.3 * G)[None], 3, axis=0), {}),
        (np.repeat((1 + 0.3 * G)[None], 3, axis=0), {"mode": "laminar_flow", "parameters": {}}),
        (np.full((N, N), 1.2) + white(1e-8), {}),
    ],
    ids=["double", "single", "three parameters", "three angles", "flow", "constant"],
)
def test_data_without_noise_cannot_be_given_error_bars(c2, more, uncertainty):
    with pytest.raises(DataError, match="data without noise cannot be given error bars: .* deg do not scatter"):
        fitted(c2, **more, uncertainty=uncertainty)


def test_a_signal_a_million_times_the_noise_has_its_error_bars():
    """White noise of known size: the width is that of the Fisher information."""
    result = fitted(1 + 0.3 * G + white(1e-6))
    assert result.verdict in ("CERTIFIED", "CORRECTED")
    d0, alpha = (np.ravel(result.samples[name]) for name in ("D0", "alpha"))
    i, j = np.triu_indices(N, 1)

    def model(d0, alpha, offset=1.0, contrast=0.3):
        a = 1 + alpha
        return offset + contrast * np.exp(-1e-4 * d0 * np.abs(T[i] ** a - T[j] ** a) / a)

    center = (2e4, -0.5, 1.0, 0.3)
    steps = np.diag([1.0, 1e-5, 1e-5, 1e-5])
    slopes = [(model(*(center + s)) - model(*(center - s))) / (2 * s.max()) for s in steps]
    expected = np.sqrt(np.diag(np.linalg.inv(np.array(slopes) @ np.array(slopes).T)))[:2] * 1e-6
    np.testing.assert_allclose([d0.std(), alpha.std()], expected, rtol=0.15)
    assert abs(d0.mean() - 2e4) < 4 * expected[0]
    assert abs(alpha.mean() + 0.5) < 4 * expected[1]


def test_squares_without_digits_are_not_used(monkeypatch):
    """Planted: sums of squares from the reduced data, which are negative or thousands of times too large."""
    data = homodyne.from_cube((1 + 0.3 * G + white(1e-6))[None], T, [0.0], q=0.01)
    config = load_config({"analysis_mode": "static", "parameters": FIXED})
    pilot = pilot_fit(build_problem(data, config), np.random.default_rng(0))
    at = calibration._independent(pilot, pilot.mode.z)
    expected = N * (N - 1) / 2 * 1e-12
    np.testing.assert_allclose(calibration._squares(at, pilot.sigma), expected, rtol=0.1)
    monkeypatch.setattr(calibration, "_LIGHTEST", -np.inf)
    assert abs(calibration._squares(at, pilot.sigma)[0] / expected - 1) > 1


@pytest.mark.parametrize(
    ("c2", "parameters"),
    [
        (1 + white(0.03), FIXED),
        (1 + white(0.03), {}),
        (1 + np.stack([white(0.03, seed) for seed in range(3)]), {}),
        (1.3 + white(0.02), {}),
        (1 + 0.3 * np.eye(N) + white(0.02), {}),
        (1 - 0.3 * G + white(0.02), FIXED),
        ((1 + 0.3 * G + white(0.02))[:5, :5], FIXED),
    ],
    ids=["no signal", "three parameters", "three angles", "no decay", "within a frame", "negative", "five frames"],
)
def test_data_that_say_little_end_in_a_verdict(c2, parameters):
    result = fitted(c2, parameters)
    assert result.verdict in ("CERTIFIED", "CORRECTED", "REFUSED")
    assert not result.diagnostics["prior"].get("alarm")


def test_pairs_that_leave_no_noise_are_too_few():
    with pytest.raises(DataError, match=r"^3 pairs of frames for 2 parameters, and contrast and offset of 1 map\(s\)"):
        fitted((1 + 0.3 * G + white(0.01))[:3, :3])
