"""Sources of the noise: a raw diagonal is told from one that a program has made, and what contradicts is named."""

import numpy as np
import pytest

import homodyne
from homodyne.noise import sources
from homodyne.noise.map_view import MapView
from homodyne.noise.sampling import sampled
from homodyne.noise.sources import (
    DIAGONAL,
    FILE,
    GIVEN,
    NEIGHBOURS,
    RESIDUALS,
    evidence,
    judged_counts,
    judged_variance,
)
from homodyne.noise.speckle_noise import CountingFacts

N, PIXELS, CONTRAST = 100, 2000, 0.3
TRUTH = {"D0": 2e4, "alpha": -0.5, "D_offset": 0.0}


def g(t1, t2):
    return np.exp(-4.0 * (np.sqrt(t2) - np.sqrt(t1)))


def measured(counts, seed, phi=(0.0,)):
    settings = {"q": 0.01, "num_frames": N, "dt": 0.1, "contrast": CONTRAST, "pixels": PIXELS, "mean_counts": counts}
    return homodyne.simulate(TRUTH, kind="speckle", phi=list(phi), seed=seed, **settings)


def design(t1, t2):
    return np.stack([np.ones_like(t1), g(t1, t2)])


class Looked:
    """Maps with the true model, as the judgement of sources sees them."""

    def __init__(self, data, offset=1.0):
        samples = [sampled(np.asarray(c2, float)) for c2 in data.c2]
        views = [MapView(data.t, one, design, g, offset, CONTRAST) for one in samples]
        self.seen = [evidence(view) for view in views]
        self.contrast, self.offset = np.full(len(views), CONTRAST), np.full(len(views), offset)
        self.known = np.full(len(views), True)
        self.white = np.array([one.crossed.square.sum() / one.crossed.pairs.sum() for one in self.seen])

    def counts(self, **facts):
        return judged_counts(self.contrast, self.offset, self.white, CountingFacts(**facts), self.seen, self.known)

    def pixels(self, share, **facts):
        return judged_variance(share, self.contrast, self.white, CountingFacts(**facts), self.seen, self.known)


def share(counts):
    return CONTRAST / (CONTRAST + 1 / counts)


def normal_variance(contrast, shot, g):
    """Planted: that of normal variables, which photons are not."""
    return 2 * ((contrast + shot) ** 2 - (contrast * g) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("counts", [0.1, 1.0, 10.0])
def test_scatter_of_a_raw_diagonal_belongs_to_its_level(counts):
    """Mean square steps of 12 raw diagonals; their relative error is 0.05 for each formula."""
    next_g = np.mean(g(0.1 * np.arange(1, N), 0.1 * np.arange(2, N + 1)))
    steps = [0.5 * np.mean(np.diff(measured(counts, seed).diagonal) ** 2) for seed in range(12)]
    arguments = (np.full(1, CONTRAST), np.full(1, 1 / counts), np.full(1, next_g))
    ratio = np.mean(steps) * PIXELS / sources.diagonal_variance(*arguments)[0]
    assert abs(ratio - 1) < 4 * 0.05
    planted = np.mean(steps) * PIXELS / normal_variance(*arguments)[0]
    assert counts > 0.1 or planted > 2


@pytest.mark.parametrize("counts", [0.1, 1.0, 10.0])
def test_a_raw_diagonal_is_believed(counts):
    for seed in range(4):
        data = measured(counts, seed)
        found = Looked(data).counts(diagonal=data.diagonal)
        assert found.used == DIAGONAL
        assert not found.notes
        assert not found.contradicted
        assert abs(found.values[0] - share(counts)) < 5 * found.found[DIAGONAL].error + 0.01 * share(counts)


def local(c2, around, reach):
    """Some mean of the elements of every row next to the diagonal."""
    near = [[j for j in range(max(0, i - reach), min(N, i + reach + 1)) if j != i] for i in range(N)]
    return np.array([around(c2[i, j]) for i, j in enumerate(near)])


MADE = {
    "local median": lambda c2, raw: local(c2, np.median, 3),
    "local mean": lambda c2, raw: local(c2, np.mean, 2),
    "first off-diagonal, rounded": lambda c2, raw: np.round(np.append(np.diag(c2, 1), c2[-2, -1]), 4),
    "extrapolated": lambda c2, raw: np.append(2 * np.diag(c2, 1)[:-1] - np.diag(c2, 2), [c2[-2, -1], c2[-2, -1]]),
    "nearly constant": lambda c2, raw: raw.mean() + 1e-6 * np.arange(N),
    "nearly one": lambda c2, raw: 1 + 1e-3 * np.cos(np.arange(N)),
    "clipped": lambda c2, raw: np.minimum(raw, np.quantile(raw, 0.1)),
    "smoothed": lambda c2, raw: np.convolve(np.pad(raw, 3, mode="edge"), np.ones(7) / 7, "valid"),
    "half": lambda c2, raw: 0.5 * raw,
    "root": lambda c2, raw: np.sqrt(raw),
    "without shot noise": lambda c2, raw: raw - (raw.mean() - 1 - CONTRAST),
}


@pytest.mark.slow
@pytest.mark.parametrize("counts", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("kind", MADE)
def test_a_diagonal_that_a_program_made_is_left_out(kind, counts):
    """The noise is then the one without a diagonal, and a sentence says why."""
    for seed in range(3):
        data = measured(counts, seed)
        looked = Looked(data)
        made = MADE[kind](np.asarray(data.c2[0], float), data.diagonal[0])[None]
        found, without = looked.counts(diagonal=made), looked.counts()
        if kind == "half" and counts == 0.1:  # one with twice the counts is hardly to be told from it, nor matters
            continue
        assert DIAGONAL not in found.found
        assert found.used == without.used
        np.testing.assert_array_equal(found.values, without.values)
        assert found.notes[0].startswith("speckle noise: the diagonal is left out: its ")


def test_planted_bugs_let_made_diagonals_pass(monkeypatch):
    """Without the test of the level a median passes for a detector without shot noise, without that of the scatter
    a smoothed diagonal for a raw one."""
    data = measured(1.0, 0)
    looked, c2, raw = Looked(data), np.asarray(data.c2[0], float), data.diagonal[0]
    monkeypatch.setattr(sources, "_SCATTER", np.inf)
    assert looked.counts(diagonal=MADE["smoothed"](c2, raw)[None]).used == DIAGONAL
    monkeypatch.setattr(sources, "_LIMIT", -np.inf)
    assert looked.counts(diagonal=MADE["local median"](c2, raw)[None]).found[DIAGONAL].middle == 1.0


def test_a_raw_diagonal_is_not_blamed_for_a_model_that_misses():
    """The scatter of the map is then larger than its noise; differences of neighbours are not."""
    data = measured(1.0, 0)
    looked = Looked(data, offset=1.05)
    assert looked.white[0] > 1.8 * (CONTRAST + 1) ** 2 / PIXELS
    assert DIAGONAL in looked.counts(diagonal=data.diagonal + 0.05).found


def test_contradictions_carry_both_and_the_wider_is_used():
    """A file that states the counts of another measurement, say; what the user gives is used nevertheless."""
    data = measured(1.0, 0)
    found = Looked(data).counts(mean_counts=np.full(1, 0.03))
    assert {FILE, RESIDUALS, NEIGHBOURS} == set(found.found)
    assert found.used in (RESIDUALS, NEIGHBOURS)
    assert found.values[0] > 10 * found.found[FILE].middle
    assert "file gives 0.03 counts" in found.notes[0]
    assert found.contradicted
    assert "contradict each other" in found.notes[0]
    given = Looked(data).counts(given_counts=0.03)
    assert given.used == GIVEN
    assert given.notes[0].endswith("the first is used, because it was given")


@pytest.mark.parametrize("seed", range(3))
def test_a_raw_diagonal_without_shot_noise_is_believed_where_residuals_have_none(seed):
    data = measured(np.inf, seed)
    looked = Looked(data)
    assert looked.counts(diagonal=data.diagonal).used == DIAGONAL
    median = MADE["local median"](np.asarray(data.c2[0], float), data.diagonal[0])[None]
    assert looked.counts(diagonal=median).used != DIAGONAL


def test_counts_that_need_more_pixels_than_there_are_are_impossible():
    data = measured(1.0, 0)
    found = Looked(data).counts(mean_counts=np.full(1, 0.1), pixels=np.full(1, float(PIXELS)))
    assert FILE not in found.found
    assert "file is left out: with 0.1 counts" in found.notes[0]
    assert Looked(data).counts(mean_counts=np.full(1, 1.0), pixels=np.full(1, float(PIXELS))).used == FILE


def test_pixels_by_every_source():
    """Far pairs, neighbours and the scatter between angles say the same; a common misfit moves the first alone."""
    data = measured(1.0, 1, phi=(0.0, 60.0, 120.0))
    found = Looked(data).pixels(np.full(3, share(1.0)))
    assert not found.notes
    for name in (RESIDUALS, NEIGHBOURS, sources.ANGLES):
        assert abs(np.log(found.found[name].middle / PIXELS)) < 0.15, name
    missed = Looked(data, offset=1.05).pixels(np.full(3, share(1.0)))
    assert missed.used == RESIDUALS
    assert missed.found[RESIDUALS].middle < 0.6 * PIXELS
    assert {text.split("independent pixels, ")[1].split(" ")[0] for text in missed.notes} == {"neighbours", "scatter"}


@pytest.mark.slow
def test_errors_of_the_share_are_those_of_its_scatter():
    """Of 24 maps; the mean square of 24 normal deviates is within 0.35 and 2.1 in 999 of 1000 cases."""
    deviations = {RESIDUALS: [], NEIGHBOURS: []}
    for seed in range(24):
        found = Looked(measured(1.0, seed)).counts().found
        for name, values in deviations.items():
            values.append((found[name].middle - share(1.0)) / found[name].error)
    for name, values in deviations.items():
        assert 0.35 < np.mean(np.square(values)) < 2.1, name
