"""Sums and traces over pairs in grids of frames, against products of whole matrices."""

import numpy as np
import pytest

from homodyne.noise import traces
from homodyne.noise.traces import pair_sums

N = 120
COARSE = 80  # `largest` for which 120 frames need a second grid, 60 of 120 frames
T = np.arange(1.0, N + 1)
DEAD = np.delete(np.arange(N), [17, 60, 61, 62, 100])


def power_law(rate, alpha=-0.4):
    """D(t) = D0 t^alpha + D_offset: derivatives by log D0, alpha and D_offset / D0."""

    def design(t1, t2):
        a, b = 1.0 + alpha, 0.05
        grown = (t2**a - t1**a) / a
        by_alpha = (t2**a * np.log(t2) - t1**a * np.log(t1)) / a - grown / a
        g = np.exp(-rate * (grown + b * (t2 - t1)))
        return -rate * g * np.stack([grown + b * (t2 - t1), by_alpha, t2 - t1, -1 / (rate * g), 0 * g - 1 / rate])

    return design


def laminar_flow(rate, phase):
    """Diffusion and a shear that slows down, t^-0.3: derivatives by log D0, log of the shear, and its exponent."""

    def design(t1, t2):
        strain, lag = (t2**0.7 - t1**0.7) / 0.7, t2 - t1
        by_beta = (t2**0.7 * np.log(t2) - t1**0.7 * np.log(t1)) / 0.7 - strain / 0.7
        x = phase * strain / np.pi
        decay, sinc = np.exp(-rate * lag), np.sinc(x)
        turn = np.where(x > 1e-6, (np.cos(np.pi * x) - sinc) / np.maximum(x, 1e-6), 0.0) * 2 * sinc
        g = decay * sinc**2
        return np.stack([-rate * lag * g, decay * turn * x, decay * turn * phase * by_beta / np.pi, 0 * g + 1, g])

    return design


def stretched(rate, exponent=0.6):
    """exp(-(rate lag)^k): derivatives by log rate and by k."""

    def design(t1, t2):
        x = np.maximum(rate * (t2 - t1), 1e-12)
        power = x**exponent
        g = np.exp(-power)
        return np.stack([-exponent * power * g, -power * np.log(x) * g, 0 * g + 1, g])

    return design


def dense(t, design, weight=None):
    """The same sums from whole matrices, element by element as they are defined."""
    first, last = np.minimum(t[:, None], t), np.maximum(t[:, None], t)
    values = np.asarray(design(first, last))
    g = np.where(np.eye(len(t)) > 0, 1.0, values[-1])
    upper = np.triu(np.ones(g.shape), 1) * (1.0 if weight is None else weight)
    information = np.einsum("aij,ij,bij->ab", values, upper, values)
    scores = values * (upper + upper.T)
    passed = scores @ g
    pairs = ((scores, scores), (passed, scores), (passed, passed))
    return information, np.stack([np.tensordot(one, two, ((1, 2), (2, 1))) for one, two in pairs])


def deviations(information, powers, share):
    """Standard deviations from H^-1 J H^-1, noise of variance one whose share is speckle."""
    white = 1.0 - share
    variability = 0.5 * np.tensordot([white**2, 2 * share * white, share**2], powers, 1)
    inverse = np.linalg.inv(information)
    return np.sqrt(np.diag(inverse @ variability @ inverse))


def largest_error(t, design, weight=None, largest=COARSE):
    """Largest relative error of a standard deviation, for white noise, some shot noise and none."""
    found, expected = pair_sums(t, design, weight, largest), dense(t, design, weight)
    return max(np.max(np.abs(deviations(*found, s) / deviations(*expected, s) - 1)) for s in (0.0, 0.5, 1.0))


MODELS = {
    f"{name}, {frames:g} frames": make(1 / frames)
    for name, make in {
        "power law": power_law,
        "laminar flow": lambda rate: laminar_flow(rate, 10 * rate**0.5 / N**0.5),
        "stretched": stretched,
    }.items()
    for frames in (0.5, 3.0, 30.0, 10.0 * N)
}


@pytest.mark.parametrize("name", MODELS)
def test_coarse_grids_against_whole_matrices(name):
    assert len(traces._grids(N, COARSE)) == 2
    assert largest_error(T, MODELS[name]) < 0.02


def test_three_grids():
    assert len(traces._grids(360, 120)) == 3
    t = np.arange(1.0, 361)
    for name in ("power law, 3 frames", "stretched, 30 frames"):
        assert largest_error(t, MODELS[name], largest=120) < 0.02


def test_short_records_are_exact():
    """Also for weights of any kind and frames that are left out."""
    weight = np.random.default_rng(0).uniform(0.0, 2.0, (N, N))
    for name in ("laminar flow, 3 frames", "stretched, 0.5 frames"):
        record = T[DEAD], MODELS[name], weight[np.ix_(DEAD, DEAD)]
        for one, two in zip(pair_sums(*record), dense(*record), strict=True):
            assert np.allclose(one, two, rtol=1e-9, atol=1e-9 * np.abs(two).max())


def missing(kind):
    """Which pairs were measured."""
    rng, lag = np.random.default_rng(1), np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
    return {
        "a tenth at random": rng.random((N, N)) > 0.1,
        "small lags": lag > 2,
        "large lags": lag < 70,
        "frames": ~np.isin(np.arange(N), [40, 41, 90])[:, None] & ~np.isin(np.arange(N), [40, 41, 90]),
        "weights": rng.uniform(0.5, 1.5, (N, N)),
    }[kind]


@pytest.mark.parametrize("kind", ["a tenth at random", "small lags", "large lags", "frames", "weights"])
def test_missing_pairs_in_coarse_grids(kind):
    for name in ("power law, 3 frames", "stretched, 30 frames"):
        assert largest_error(T, MODELS[name], missing(kind).astype(np.float32)) < 0.02


def test_frames_that_are_left_out():
    for name in ("power law, 3 frames", "stretched, 30 frames"):
        assert largest_error(T[DEAD], MODELS[name]) < 0.02


def test_leaving_out_what_is_near_the_diagonal_is_seen(monkeypatch):
    """Planted: the traces of N, which is all that is done in the fine grid, are nought."""
    monkeypatch.setattr(traces, "_banded_traces", lambda band, counts: np.zeros((2, *[band.shape[0] - 1] * 2)))
    for name in ("power law, 0.5 frames", "laminar flow, 3 frames"):
        assert largest_error(T, MODELS[name]) > 0.05
