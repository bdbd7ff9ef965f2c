"""Fits of weighted maps: pairs of unequal noise, by every method, and what the result says of it."""

import numpy as np
import pytest

import homodyne
from homodyne.optimization.mcmc import fit_mcmc_jax
from homodyne.physics.model import find_model

N, TRUTH = 50, {"D0": 2e4, "alpha": -0.5, "D_offset": 300.0}
T = 0.1 * np.arange(1, N + 1)
SIGMA = 0.01
FRAMES = np.where((np.arange(N) > 10) & (np.arange(N) < 30), 0.1, 1.0)
"""Weights of frames: pairs of the others have ten, or a hundred, times the precision."""


@pytest.fixture(scope="module")
def data():
    clean = homodyne.simulate(
        TRUTH, q=0.01, num_frames=N, dt=0.1, phi=[0.0, 90.0], contrast=0.3, kind="independent", sigma=1e-9
    )
    noise = np.random.default_rng(0).standard_normal(clean.c2.shape) * SIGMA / np.sqrt(np.outer(FRAMES, FRAMES))
    noisy = np.where(np.triu(np.ones((N, N), bool), 1), clean.c2 + noise, np.nan)
    return homodyne.from_cube(noisy, clean.t, clean.phi, 0.01)


def fitted(data, method="laplace", uncertainty="independent", **more):
    config = {"speckle": {"mean_counts": 1.0} if uncertainty == "calibrated" else {}, **more}
    return homodyne.fit(data, mode="static", method=method, uncertainty=uncertainty, seed=1, config=config)


def table(result):
    draws = np.stack([result.samples[name].ravel() for name in ("D0", "alpha", "D_offset")])
    return draws.mean(axis=1), draws.std(axis=1)


@pytest.fixture(scope="module")
def weighted(data):
    return fitted(data.weighted(frame_weights=FRAMES))


@pytest.mark.slow
def test_the_noise_is_that_of_a_pair_of_the_mean_weight(data, weighted):
    mean = np.outer(FRAMES, FRAMES)[np.triu_indices(N, 1)].mean()
    np.testing.assert_allclose(weighted.sigma, SIGMA / np.sqrt(mean), rtol=0.05)
    middle, sd = table(weighted)
    assert np.abs((middle - list(TRUTH.values())) / sd).max() < 3.5
    assert np.all(np.abs(fitted(data).sigma * np.sqrt(mean) / SIGMA - 1) > 0.2)  # planted: weights are forgotten


def test_the_scale_of_weights_has_no_meaning(data, weighted):
    again = fitted(data.weighted(1024.0 * np.outer(FRAMES, FRAMES)))
    for name, draws in weighted.samples.items():
        np.testing.assert_allclose(again.samples[name], draws, rtol=0, atol=1e-5 * draws.std())


def test_the_door_for_flat_arrays_takes_them(data, weighted):
    k, i, j = (x.ravel() for x in np.indices(data.c2.shape))
    flat = np.array(data.c2)[k, i, j], T[i], T[j], np.array(data.phi)[k], 0.01
    config = {"uncertainty": "independent"}
    given = {"analysis_mode": "static", "method": "laplace", "cmc_config": config, "seed": 1}
    found = fit_mcmc_jax(*flat, **given, frame_weights=FRAMES)
    for name, draws in weighted.samples.items():
        np.testing.assert_array_equal(found.samples[name], draws)


def test_shards_are_the_same_posterior(data, weighted):
    cmc = {"sharding": {"num_shards": 2}, "backend": {"name": "sequential"}}
    found = fitted(data.weighted(frame_weights=FRAMES), "cmc", optimization={"cmc": cmc})
    assert found.verdict in ("CERTIFIED", "CORRECTED")
    (one, width), (other, _) = table(found), table(weighted)
    assert np.all(np.abs(one - other) < 0.3 * width)


def test_the_summary_says_that_weights_were_used(data, weighted):
    line = data.weighted(frame_weights=FRAMES).weight_line()
    assert line.startswith("pairs have weights, ")
    assert line in str(weighted.summary())
    assert "pairs have weights" not in str(fitted(data).summary())


@pytest.mark.slow
def test_correlated_noise_with_weights(data):
    """Weights of one are none; widths and the tests of the fit follow from residuals of equal variance."""
    truth = homodyne.simulate(
        TRUTH, q=0.01, num_frames=N, dt=0.1, phi=[0.0, 90.0], contrast=0.3, pixels=2000, mean_counts=0.5, seed=2
    )
    plain, ones = (fitted(one, uncertainty="calibrated") for one in (truth, truth.weighted(np.ones((N, N)))))
    for name, draws in plain.samples.items():
        np.testing.assert_allclose(ones.samples[name], draws, rtol=0, atol=1e-5 * draws.std())
    model = np.array([1 + 0.3 * one for one in correlation(truth)])
    spread = model + (np.array(truth.c2) - model) / np.sqrt(np.outer(FRAMES, FRAMES))
    spread = np.where(np.triu(np.ones((N, N), bool), 1), spread, np.nan)
    weighted = homodyne.from_cube(spread, T, truth.phi, 0.01, frame_weights=FRAMES)
    found = fitted(weighted, uncertainty="calibrated")
    assert not found.diagnostics["checks"]["alarms"]
    middle, sd = table(found)
    assert np.abs((middle - list(TRUTH.values())) / sd).max() < 3.5
    ratio = [np.array(one.noise_inflation[name]) for name in ("D0", "alpha") for one in (found, plain)]
    np.testing.assert_allclose(ratio[::2], ratio[1::2], rtol=0.4)


def correlation(data):
    i, j = np.indices((N, N))
    first, last = T[np.minimum(i, j)], T[np.maximum(i, j)]
    places = zip(data.q, data.phi, strict=True)
    return [np.asarray(find_model("static").g(TRUTH, first, last, q, phi, np.nan)) for q, phi in places]
