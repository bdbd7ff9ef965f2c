"""Tests of a fit against its data: silent for a right model, with names for what is wrong."""

from dataclasses import replace

import numpy as np
import pytest

from homodyne.config.io import load_config
from homodyne.core.simulate import TrueModel, simulate_maps
from homodyne.noise.speckle_noise import SpeckleNoise
from homodyne.data.simulated import from_maps
from homodyne.optimization.crosscheck import cross_check
from homodyne.optimization.target import build_target
from known_answers.artefacts import beam_jumps, blank_frames, static_speckle

N, PIXELS, CONTRAST, Q, DT = 64, 1000, 0.3, 0.0054, 0.1
PHI = np.array([0.0, 60.0, 180.0])
T = DT * np.arange(1, N + 1)
PARAMS = {"D0": 8e3, "alpha": -0.3, "D_offset": 100.0}
CONFIG = load_config({"analysis_mode": "static"})


def speckle(counts, seed):
    model = TrueModel(PARAMS, T, PHI, Q, None, CONTRAST, 1.0)
    return simulate_maps(model, "speckle", {"pixels": PIXELS, "mean_counts": counts}, seed=seed)


def check(maps, counts, share=None):
    """All tests at the truth; the step that the parameters take makes that as good as the mode."""
    data = from_maps(maps, q=Q, gap=None, dt=DT, age_origin=0.0, kind="speckle")
    likelihood = build_target(data, CONFIG).likelihood
    each, shot = np.ones(len(PHI)), 1 / counts
    share = CONTRAST / (CONTRAST + shot) if share is None else share
    noise = SpeckleNoise(each * share, each * (CONTRAST + shot) ** 2 / PIXELS, each * CONTRAST, "given", "given")
    scaling = np.column_stack([each, CONTRAST * each])
    return cross_check(likelihood, likelihood.space.coordinates(PARAMS), scaling, noise)


@pytest.mark.parametrize("counts", [0.1, 1.0, 10.0])
def test_a_right_model_is_not_accused(counts):
    """Neither by few photons nor by many, nor for dead frames."""
    for seed in range(2):
        found = check(blank_frames(speckle(counts, seed), [5, 30, 31]), counts)
        assert not found["alarms"]
        assert found["frames"]["speckle"]["chi2"] < 2.5 * found["frames"]["speckle"]["dof"]
        assert len(found["angles"]) == 3
        assert [one["phi"] for one in found["replicates"]] == [[0.0, 180.0]]
    if counts == 10.0:  # blocks of frames disagree wildly where points are taken as independent
        assert found["frames"]["independent"]["chi2"] > 5 * found["frames"]["independent"]["dof"]
        assert found["frames"]["independent"]["p"] < 1e-6


def stretched(maps):
    """A decay with another shape; the parameters can follow only a part of it."""
    lag = np.abs(T[:, None] - T)
    rate = Q**2 * 8e3
    shift = np.exp(-((rate * lag) ** 0.6)) - np.exp(-rate * lag)
    return replace(maps, c2=(maps.c2 + CONTRAST * shift).astype(np.float32))


def test_a_decay_of_another_shape_is_seen_along_the_lag():
    found = check(stretched(speckle(1.0, 1)), 1.0)
    assert found["misfit"]["p"] < 1e-6
    assert found["misfit"]["tests"]["lag"]["p"] < found["misfit"]["tests"]["age"]["p"]
    assert 0.003 < found["misfit"]["size"] < 0.5
    assert found["alarms"][0].startswith("the model misses the data along the lag by about")


def test_a_jump_of_the_beam_is_seen_and_dated():
    found = check(beam_jumps(speckle(1.0, 1), [48], [1.2]), 1.0)
    assert found["misfit"]["p"] < 1e-6
    assert found["frames"]["speckle"]["p"] < 1e-6
    (sentence,) = (text for text in found["alarms"] if text.startswith("blocks of frames disagree"))
    assert np.argmin(found["frames"]["p"]) == 3, found["frames"]
    assert f"to {T[-1]:.4g} s" in sentence


def test_one_angle_that_differs_is_named():
    maps = speckle(1.0, 1)
    c2, lag = maps.c2.copy(), np.abs(T[:, None] - T)
    c2[2] += CONTRAST * (np.exp(-2 * lag * Q**2 * 8e3) - np.exp(-lag * Q**2 * 8e3))
    found = check(replace(maps, c2=c2), 1.0)
    assert np.argmin([one["p"] for one in found["angles"]]) == 2
    assert found["replicates"][0]["p"] < 1e-3
    assert any("phi = 0 and 180 deg disagree with each other" in text for text in found["alarms"])


def test_static_speckle_looks_like_contrast_and_offset():
    """It changes nothing else, so no test of the shape can see it."""
    assert check(static_speckle(speckle(1.0, 1), 0.3, CONTRAST), 1.0)["misfit"]["p"] > 1e-3


def test_noise_that_is_not_as_stated_is_seen():
    """Bright maps whose noise is said to be white."""
    found = check(speckle(10.0, 1), 10.0, share=0.0)
    assert found["rows"]["measured"] > 0.5
    assert any(text.startswith("neighbours in a row correlate by 0.") for text in found["alarms"])
    assert found["misfit"]["p"] < 1e-6


def test_an_angle_of_which_little_was_measured():
    """It has no tiles, and the others are tested without it."""
    maps = speckle(1.0, 1)
    c2 = maps.c2.copy()
    c2[1, 4:] = c2[1, :, 4:] = np.nan
    found = check(replace(maps, c2=c2, diagonal=None), 1.0)
    assert not found["alarms"]
    assert found["tiles"]["sd"][1] == []
    assert found["angles"][1] == {"phi": 60.0, "p": 1.0}


def test_short_records_are_not_tested():
    maps = speckle(1.0, 1)
    short = replace(maps, c2=maps.c2[:, :15, :15], t=T[:15], diagonal=maps.diagonal[:, :15])
    assert check(short, 1.0) == {}
