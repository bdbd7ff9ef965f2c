"""Tests of a fit against its data: silent for a right model, with names for what is wrong."""

from dataclasses import replace

import numpy as np
import pytest

from homodyne.noise import tile_table
from homodyne.noise.crosscheck import cross_check
from homodyne.noise.map_view import MapView
from homodyne.noise.sampling import sampled
from homodyne.noise.speckle_noise import SpeckleNoise

N, PIXELS, MODES, Q, DT = 64, 1000, 3, 0.0054, 0.1
CONTRAST = 1 / MODES
PHI = np.array([0.0, 60.0, 180.0])
T = DT * np.arange(1, N + 1)
RATE, ALPHA = 0.25, -0.3


def design(t1, t2):
    """g = exp(-RATE ∫ (t^ALPHA + 0.01) dt): derivatives by the log of the first term, by ALPHA and by the second."""
    a, lag = 1 + ALPHA, t2 - t1
    grown = (t2**a - t1**a) / a
    by_alpha = (t2**a * np.log(t2) - t1**a * np.log(t1)) / a - grown / a
    g = np.exp(-RATE * (grown + 0.01 * lag))
    return np.stack([-RATE * g * grown, -RATE * g * by_alpha, -RATE * g * lag, np.ones_like(g), g])


def g(t1, t2):
    return design(t1, t2)[-1]


def correlation(t):
    return g(np.minimum(t[:, None], t), np.maximum(t[:, None], t))


def speckle(counts, seed, maps=3, t=T, pixels=PIXELS):
    """Photons of pixels that see `MODES` fields of the right correlation; every frame is divided by its mean."""
    rng, c2 = np.random.default_rng(seed), []
    root = np.linalg.cholesky(np.sqrt(correlation(t))).astype(np.float32)
    for _ in range(maps):
        intensity = np.zeros((t.size, pixels), np.float32)
        for _ in range(2 * MODES):
            intensity += (root @ rng.standard_normal(intensity.shape, dtype=np.float32)) ** 2
        photons = rng.poisson(counts * intensity / (2 * MODES)).astype(np.float32)
        mean = photons.mean(axis=1)
        c2.append(photons @ photons.T / pixels / np.outer(mean, mean))
    return np.array(c2)


def views(c2, t=T, present=None, shortest=None):
    """Maps under the truth; the step that the parameters take makes that as good as the mode."""
    measured = c2 if present is None else np.where(present, c2, np.nan)
    return [MapView(t, sampled(one, shortest), design, g, 1.0, CONTRAST) for one in measured]


def check(maps, counts, share=None, q=Q, phi=PHI, t=T, pixels=PIXELS):
    each, shot = np.ones(len(maps)), 1 / counts
    share = CONTRAST / (CONTRAST + shot) if share is None else share
    noise = SpeckleNoise(each * share, each * (CONTRAST + shot) ** 2 / pixels, each * CONTRAST, "given", "given")
    return cross_check(maps, noise, each * q, phi, t)


@pytest.mark.parametrize("counts", [0.1, 1.0, 10.0])
def test_a_right_model_is_not_accused(counts):
    """Neither by few photons nor by many, nor for dead frames."""
    alive, squares = np.delete(np.arange(N), [5, 30, 31]), []
    for seed in range(2):
        c2 = speckle(counts, seed)[:, alive[:, None], alive]
        found = check(views(c2, T[alive]), counts)
        assert not found["alarms"]
        assert found["frames"]["speckle"]["chi2"] < 2.5 * found["frames"]["speckle"]["dof"]
        assert len(found["angles"]) == 3
        assert [one["phi"] for one in found["replicates"]] == [[0.0, 180.0]]
        squares.append(found["frames"]["independent"]["chi2"] / found["frames"]["independent"]["dof"])
    if counts == 10.0:  # blocks of frames disagree wildly where points are taken as independent
        assert np.mean(squares) > 5


def test_weights_say_how_pairs_scatter():
    """Frames with ten times the noise are no misfit where their weights say so, and are one where these are lost."""
    frames = np.where((np.arange(N) > 20) & (np.arange(N) < 45), 0.1, 1.5)
    weights = np.outer(frames, frames).astype(np.float32)
    model = 1 + CONTRAST * correlation(T)
    c2 = model + (speckle(1.0, 3) - model) / np.sqrt(weights)

    def seen(of_sample, of_view):
        maps = [MapView(T, sampled(one, None, of_sample), design, g, 1.0, CONTRAST, weights=of_view) for one in c2]
        return check(maps, 1.0)

    found = seen(weights, weights)
    assert not found["alarms"]
    assert found["misfit"]["p"] > 0.01
    assert found["frames"]["speckle"]["chi2"] < 2.5 * found["frames"]["speckle"]["dof"]
    assert seen(None, None)["misfit"]["p"] < 1e-5  # planted: weights are forgotten, or only in one place
    assert seen(None, weights)["misfit"]["p"] < 1e-5
    assert seen(weights, weights**2)["misfit"]["p"] < 1e-5
    c2 = stretched(c2)
    assert seen(weights, weights)["misfit"]["p"] < 1e-5  # a misfit is seen through weights


def stretched(c2):
    """A decay with another shape; the parameters can follow only a part of it."""
    lag = np.abs(T[:, None] - T)
    return c2 + CONTRAST * (np.exp(-((RATE * lag) ** 0.6)) - np.exp(-RATE * lag))


def test_a_decay_of_another_shape_is_seen_along_the_lag():
    found = check(views(stretched(speckle(1.0, 1))), 1.0)
    assert found["misfit"]["p"] < 1e-6
    assert found["misfit"]["tests"]["lag"]["p"] < found["misfit"]["tests"]["age"]["p"]
    assert 0.003 < found["misfit"]["size"] < 0.5
    assert found["alarms"][0].startswith("the model misses the data along the lag by about")


def test_a_jump_of_the_beam_is_seen_and_dated():
    intensity = np.where(np.arange(N) < 48, 1.0, 1.2)
    intensity /= intensity.mean()
    found = check(views(speckle(1.0, 1) * np.outer(intensity, intensity)), 1.0)
    assert found["misfit"]["p"] < 1e-6
    assert found["frames"]["speckle"]["p"] < 1e-6
    (sentence,) = (text for text in found["alarms"] if text.startswith("blocks of frames disagree"))
    assert np.argmin(found["frames"]["p"]) == 3, found["frames"]
    assert f"to {T[-1]:.4g} s" in sentence


def faster(c2, which, factor):
    """One map decays at another rate."""
    c2, lag = c2.copy(), np.abs(T[:, None] - T)
    c2[which] += CONTRAST * (np.exp(-factor * lag * RATE) - np.exp(-lag * RATE))
    return c2


def test_one_angle_that_differs_is_named():
    found = check(views(faster(speckle(1.0, 1), 2, 2)), 1.0)
    assert np.argmin([one["p"] for one in found["angles"]]) == 2
    assert found["replicates"][0]["p"] < 1e-3
    assert any("phi = 0 and 180 deg disagree with each other" in text for text in found["alarms"])


def test_maps_of_several_wave_vectors_are_named_by_both():
    """Angles 180 degrees apart are compared where they have one wave vector."""
    q, phi = np.array([1.0, 1.0, 1.5, 1.5]) * Q, np.array([30.0, -150.0, 30.0, 75.0])
    found = check(views(faster(speckle(1.0, 1, maps=4), 1, 3)), 1.0, q=q, phi=phi)
    assert [(one["q"], one["phi"]) for one in found["replicates"]] == [(Q, [30.0, -150.0])]
    assert found["angles"][1]["q"] == Q
    assert found["angles"][1]["phi"] == -150.0
    (sentence,) = (text for text in found["alarms"] if text.endswith("disagree with the others"))
    assert "q = 0.0054 1/Å, phi = -150 deg" in sentence.removesuffix(" disagree with the others").split("; ")
    assert "q = 0.0054 1/Å, phi = 30 and -150 deg disagree with each other" in found["alarms"]


def test_static_speckle_looks_like_contrast_and_offset():
    """It changes nothing else, so no test of the shape can see it."""
    c2 = 1 + 0.7**2 * (speckle(1.0, 1) - 1) + 0.3**2 * CONTRAST
    assert check(views(c2), 1.0)["misfit"]["p"] > 1e-3


def test_noise_that_is_not_as_stated_is_seen():
    """Bright maps whose noise is said to be white."""
    found = check(views(speckle(10.0, 1)), 10.0, share=0.0)
    assert found["rows"]["measured"] > 0.5
    assert any(text.startswith("neighbours in a row correlate by 0.") for text in found["alarms"])
    assert found["misfit"]["p"] < 1e-6


def test_a_map_of_which_little_was_measured():
    """It has no tiles, and the others are tested without it."""
    c2 = speckle(1.0, 1)
    maps = views(c2)
    present = np.ones((N, N), bool)
    present[4:] = present[:, 4:] = False
    maps[1] = replace(maps[1], sample=sampled(np.where(present, c2[1], np.nan)))
    few = replace(maps[0], sample=sampled(c2[0][:9, :9]), t=T[:9])
    found = check([*maps, few], 1.0, phi=np.append(PHI, 90.0))
    assert not found["alarms"]
    assert found["tiles"]["sd"][1] == found["tiles"]["sd"][3] == []
    assert found["angles"][1] == {"q": Q, "phi": 60.0, "p": 1.0}


def test_maps_with_frames_of_their_own():
    """Records whose usable frames differ have tiles of the same lags."""
    c2, maps = speckle(1.0, 2), []
    for one, dead in zip(c2, ([], [0, 1], range(40, 46)), strict=True):
        alive = np.delete(np.arange(N), dead)
        maps += views([one[np.ix_(alive, alive)]], T[alive], shortest=N - 6)
    found = check(maps, 1.0)
    assert not found["alarms"]
    assert len({max(families) for families in found["tiles"]["family"]}) == 1


def test_short_records_are_not_tested():
    assert check(views(speckle(1.0, 1)[:, :15, :15], T[:15]), 1.0) == {}


@pytest.mark.slow
@pytest.mark.parametrize("missing", [None, "a tenth", "large lags"])
def test_long_records_are_not_accused(missing):
    """Records for which correlation and model are interpolated."""
    n, pixels, counts = 420, 1500, 10.0
    t, lag, present = DT * np.arange(1, n + 1), np.abs(np.subtract.outer(np.arange(n), np.arange(n))), None
    if missing:
        present = np.random.default_rng(3).random((n, n)) > 0.1 if missing == "a tenth" else lag < 150
    c2 = speckle(counts, 4, maps=2, t=t, pixels=pixels)
    if missing:
        c2[:, ~present] = np.nan
    found = check(views(c2, t, present), counts, phi=PHI[:2], t=t, pixels=pixels)
    assert not found["alarms"]
    rest = found["misfit"]["tests"]["anywhere"]
    assert 0.7 < rest["chi2"] / rest["dof"] < 1.3


def test_model_means_are_those_of_all_pairs(monkeypatch):
    """Of a model that oscillates too fast for a few nodes in a tile; planted: nothing is looked at more closely."""
    n = 300
    t = np.arange(1.0, n + 1)

    def oscillating(t1, t2):
        g = np.exp(-(t2 - t1) / 100) * np.cos(0.5 * (t2 - t1))
        return np.stack([np.ones_like(g), g])

    g = oscillating(np.minimum(t[:, None], t), np.maximum(t[:, None], t))[-1]
    sample = sampled((1 + 0.3 * g).astype(np.float32))
    view = MapView(t, sample, oscillating, lambda t1, t2: oscillating(t1, t2)[-1], 1.0, 0.3)
    noise = SpeckleNoise(np.full(1, 0.5), np.full(1, 1e-5), np.full(1, 0.3), "given", "given")

    def worst():
        (tiles,) = tile_table.tile_table([view], noise)[1]
        return np.max(np.abs(tiles.mean) / np.sqrt(np.diag(tiles.speckle)))

    assert worst() < 0.2
    monkeypatch.setattr(tile_table, "_EXACT", np.inf)
    assert worst() > 1
