"""Sums over pairs and traces of products of maps, against whole maps in double precision."""

import dense
import numpy as np
import pytest

from homodyne.noise import traces
from homodyne.noise.traces import pair_sums

N, LARGEST = 240, 100  # two grids: every frame, and every third
T = np.arange(1.0, N + 1)
SHARES = (0.05, 0.5, 1.0)


def decay(lifetime, exponent=-0.3):
    """Parameters of a static decay with this lifetime in the middle of the record."""
    return [np.log(0.8 / lifetime) - exponent * np.log(N / 2), exponent, np.log(0.2 / lifetime)]


def flow(lifetime, period):
    return [*decay(lifetime), np.log(2.8 / period), -0.1, np.log(0.05), 0.5]


REGIMES = {
    **{f"static {lifetime:g}": (dense.static, decay(lifetime)) for lifetime in (0.5, 1, 5, 20, 60, 240, 2400)},
    **{f"ageing {lifetime:g}": (dense.static, decay(lifetime, -0.8)) for lifetime in (2, 60, 240, 2400)},
    **{f"stretched {lifetime:g}": (dense.stretched, [-np.log(2 * lifetime), 0.4, 0.01]) for lifetime in (1, 60, 2400)},
    **{f"flow {a:g} {b:g}": (dense.laminar, flow(a, b)) for a, b in ((5, 10), (60, 10), (60, 40), (2400, 120))},
    "beats 10": (dense.beating, [-np.log(700), -np.log(240), np.log(2 * np.pi / 10), 0.4]),
    "compressed": (dense.stretched, [-np.log(60), 1.5, 0.01]),
}


def covariances(sums):
    """Information of z and offset and contrast without and with correlated noise, for several shares of speckle in it.

    A fit with contrast over noise of ten, and a prior where the data say nothing.
    """
    size = len(sums.information)
    back = np.eye(size)
    back[:-2, -2:] = -sums.elimination.T
    prior = np.diag([0.25] * (size - 2) + [0.0, 0.0])
    for share in SHARES:
        parts = np.tensordot([(1 - share) ** 2, 2 * share * (1 - share), share**2], sums.powers, 1)
        yield 100 * sums.information + prior, back @ (200 * parts + prior) @ back.T


def errors(got, expected):
    """Largest relative errors of standard deviations: of the coordinates, and of any combination of them."""
    own, any_of_them = [], []
    for (h, truth), (other, found) in zip(covariances(expected), covariances(got), strict=True):
        sandwiches = [np.linalg.solve(a, np.linalg.solve(a, b).T) for a, b in ((h, truth), (other, found))]
        own.append(np.abs(np.sqrt(np.diag(sandwiches[1]) / np.diag(sandwiches[0])) - 1).max())
        root = np.linalg.inv(np.linalg.cholesky(truth))
        any_of_them.append(np.abs(np.sqrt(np.maximum(np.linalg.eigvalsh(root @ found @ root.T), 0)) - 1).max())
    return max(own), max(any_of_them)


@pytest.mark.parametrize("regime", REGIMES)
def test_long_records_have_the_sandwich_of_whole_maps(regime):
    """Decays within a frame and far beyond the record, fast early and slow late, with slow and fast oscillations."""
    design = dense.functions(*REGIMES[regime])[1]
    own, any_of_them = errors(pair_sums(T, design, largest=LARGEST), dense.dense_sums(T, design))
    assert own < 0.005
    assert any_of_them < 0.02


def test_more_than_two_grids():
    t = np.arange(1.0, 601)
    design = dense.functions(dense.static, decay(30.0, -0.6))[1]
    assert max(errors(pair_sums(t, design, largest=150), dense.dense_sums(t, design))) < 0.01


@pytest.mark.parametrize(
    ("regime", "name", "bug"),
    [
        ("static 1", "_banded_traces", lambda band, counts: np.zeros((2, len(band) - 1, len(band) - 1))),
        ("static 1", "_row_sums", lambda band, counts: 0.0 * band[..., 0]),
        ("beats 10", "_taper", lambda lag: (lag < 8).astype(float)),
        ("static 240", "_KEPT", 0),
    ],
)
def test_planted_bugs_are_seen(regime, name, bug, monkeypatch):
    """A coarse grid alone; rows without their sums; a taper that jumps; no frames kept at the ends."""
    design = dense.functions(*REGIMES[regime])[1]
    expected = dense.dense_sums(T, design)
    assert max(errors(pair_sums(T, design, largest=LARGEST), expected)) < 0.002
    monkeypatch.setattr(traces, name, bug)
    assert max(errors(pair_sums(T, design, largest=LARGEST), expected)) > 0.02


def test_short_records_are_exact_with_weights_of_any_kind():
    t, roots = T[:60], np.sqrt(np.random.default_rng(0).uniform(0, 4, (60, 60)))
    roots[3:5, 10:40] = roots[20, 30:] = 0.0
    design = dense.functions(dense.laminar, flow(20.0, 15.0))[1]
    got, expected = pair_sums(t, design, roots), dense.dense_sums(t, design, roots)
    np.testing.assert_allclose(got.pairs, expected.pairs, rtol=1e-9)
    for a, b in zip((got.information, *got.powers), (expected.information, *expected.powers), strict=True):
        scale = np.sqrt(np.outer(np.diag(b), np.diag(b)))
        assert np.allclose(a / scale, b / scale, rtol=0, atol=1e-5)


def missing(kind, n):
    rng, weight, frame = np.random.default_rng(1), np.ones((n, n)), np.arange(n)
    if kind == "at random":
        weight[rng.random((n, n)) < 0.1] = 0.0
    elif kind == "rows in part":
        weight[40:43, :250] = weight[100:102, 280:] = 0.0
    elif kind == "near the diagonal":
        weight[np.abs(frame[:, None] - frame) <= 2] = 0.0
    else:
        weight[: n // 3, -n // 3 :] = 0.0
    return weight


@pytest.mark.parametrize("kind", ["at random", "rows in part", "near the diagonal", "a corner"])
def test_missing_pairs_of_long_records(kind):
    """That a pair has more weight with itself than with others, where a tenth is missing at random, matters."""
    t = np.arange(1.0, 401)
    weight = missing(kind, len(t))
    for lifetime in (4.0, 400.0):
        design = dense.functions(dense.static, decay(lifetime))[1]
        expected = dense.dense_sums(t, design, weight)
        assert errors(pair_sums(t, design, weight, largest=160), expected)[0] < 0.02
    if kind == "at random":
        design = dense.functions(dense.static, decay(4.0))[1]
        full = pair_sums(t, design, largest=160)
        forgotten = full._replace(information=0.9 * full.information, powers=0.81 * full.powers)
        assert errors(forgotten, dense.dense_sums(t, design, weight))[0] > 0.03


def uneven(kind, n):
    rng = np.random.default_rng(1)
    if kind == "pairs at random":
        return rng.uniform(0.2, 3.0, (n, n))
    frames = {
        "frames at random": rng.uniform(0.1, 1.0, n),
        "waves": 1.0 + 0.8 * np.sin(np.arange(n) / 40),
        "half of the record": np.where(np.arange(n) < n // 2, 1.0, 0.1),
    }[kind]
    return np.outer(frames, frames)


@pytest.mark.parametrize("kind", ["pairs at random", "frames at random", "waves", "half of the record"])
def test_weights_in_long_records(kind):
    """A residual times the root of its weight has the noise of all: weights in place of their roots are wrong."""
    t = np.arange(1.0, 401)
    weight = uneven(kind, len(t))
    for lifetime in (4.0, 60.0):
        design = dense.functions(dense.static, decay(lifetime))[1]
        expected = dense.dense_sums(t, design, np.sqrt(weight))
        found = pair_sums(t, design, np.sqrt(weight), largest=160)
        assert errors(found, expected)[0] < 0.03
        np.testing.assert_allclose(found.pairs, expected.pairs, rtol=1e-4)
        assert errors(pair_sums(t, design, weight, largest=160), expected)[0] > 0.08  # planted


def test_a_slow_decay_keeps_its_digits():
    """It is nearly a straight line, as a change of offset and contrast is."""
    design, t = dense.functions(dense.static, [-7.0, -0.7, -11.0])[1], T[:200]

    got, expected = pair_sums(t, design).powers, dense.dense_sums(t, design).powers
    scale = np.sqrt(np.diagonal(expected, axis1=1, axis2=2))
    assert np.abs((got - expected) / (scale[:, :, None] * scale[:, None])).max() < 1e-3


def test_what_does_not_decay_in_the_noise_is_no_part_of_the_fit():
    """The noise of a decay over a baseline above one, in one grid and in several."""
    design, t = dense.functions(dense.static, [3.0, 0.3, -1.0])[1], T[:300]
    for largest in (LARGEST, 150):
        found, expected = pair_sums(t, design, None, 0.4, largest), dense.dense_sums(t, design, resting=0.4)
        assert max(errors(found, expected)) < 0.01
        assert max(errors(pair_sums(t, design, largest=largest), expected)) > 0.1  # planted: the noise of the fit
