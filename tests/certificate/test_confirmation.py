"""Corrections that have to prove themselves: a tail that neither draws nor the first points reach."""

import numpy as np
import pytest

from homodyne.certificate import confirmation
from homodyne.certificate.certify import K_CERTIFIED, certify
from homodyne.certificate.confirmation import confirm
from homodyne.certificate.importance import smoothed
from homodyne.certificate.proposal import Normal, around
from homodyne.certificate.verdict import Verdict

NUM_POINTS = 400
NARROW = Normal.of([-2.85], [[0.4**2]])


def edge(z):
    """Logit of a rate whose measurement lies near zero: the density falls like exp(z) to the left."""
    rate = 1.0 / (1.0 + np.exp(-z[:, 0]))
    return -np.logaddexp(0.0, z[:, 0]) - np.logaddexp(0.0, -z[:, 0]) - 100.0 * ((rate - 0.0326) / 0.509) ** 2


def flat(z):
    """No distribution at all: every proposal is too narrow."""
    return np.zeros(len(z))


def exact():
    z = np.linspace(-60.0, 20.0, 200_001)
    mass = np.exp(edge(z[:, None]) - edge(z[:, None]).max())
    mean = mass @ z / mass.sum()
    return mean, np.sqrt(mass @ (z - mean) ** 2 / mass.sum())


def narrow_points(density, rng):
    """Points around draws that stay near the mode, with their weights."""
    proposal = around(NARROW, [], density)
    points = proposal.draw(NUM_POINTS, rng)
    return points, smoothed(density(points) - proposal.log_density(points))


def errors(points, weights):
    """Error of mean and width in exact standard deviations, with three Monte Carlo errors taken off."""
    mean, sd = exact()
    share, unit = np.exp(weights.log_weights), (points[:, 0] - mean) / sd
    square = share @ unit**2
    luck = 3.0 * np.sqrt([np.sum((share * (unit - share @ unit)) ** 2), np.sum((share * (unit**2 - square)) ** 2)])
    return np.abs([share @ unit, square - 1.0]) - luck


@pytest.mark.slow
def test_a_long_tail_is_reached_in_the_end():
    """The first points are wrong by much more than their weights say: what would be used without confirmation."""
    wrong = 0
    for seed in range(16):
        rng = np.random.default_rng(seed)
        points, weights = narrow_points(edge, rng)
        wrong += bool(errors(points, weights).max() > 0.2) and weights.k_hat < K_CERTIFIED
        found = confirm(edge, points, weights, (NARROW, []), ["z"], K_CERTIFIED, rng)
        assert found.complaint is None
        assert errors(found.points, found.weights).max() < 0.15
    assert wrong >= 2, "planted bug: no confirmation"


def test_a_tail_without_end_is_refused():
    rng = np.random.default_rng(1)
    points, weights = narrow_points(flat, rng)
    assert confirm(flat, points, weights, (NARROW, []), ["z"], K_CERTIFIED, rng).complaint is not None


def test_what_is_normal_is_confirmed_at_once():
    calls = []

    def normal(z):
        calls.append(len(z))
        return -0.5 * np.square(z[:, 0] + 2.85)

    rng = np.random.default_rng(2)
    points, weights = narrow_points(normal, rng)
    calls.clear()
    assert confirm(normal, points, weights, (NARROW, []), ["z"], K_CERTIFIED, rng).complaint is None
    assert calls == [NUM_POINTS]


@pytest.mark.parametrize("seed", range(4))
def test_corrected_draws_of_a_certificate_have_the_tail(seed):
    draws = np.random.default_rng(seed).normal(-2.85, 0.4, (1000, 1))
    judged = certify(edge, draws, names=["z"], num_points=NUM_POINTS, seed=seed)
    assert judged.certificate.verdict in (Verdict.CORRECTED, Verdict.REFUSED)
    if judged.certificate.verdict == Verdict.CORRECTED:
        mean, sd = exact()
        used = judged.resample(4000, seed)[:, 0]
        assert abs(used.mean() - mean) < (0.15 + 3.0 / np.sqrt(judged.certificate.ess)) * sd
        assert judged.certificate.width_ratio[0] == pytest.approx(used.std() / draws.std(), rel=0.1)


def two_peaks(z):
    """Equal peaks at -1 and 1, fifty widths from each other."""
    return np.logaddexp(*(-0.5 * np.square((z[:, 0] - centre) / 0.04) for centre in (-1.0, 1.0)))


def test_peaks_stay_apart_and_keep_their_shares(monkeypatch):
    """One wide component over both, and no shape, the planted bug, has hardly a point in either."""
    peaks = [Normal.of([centre], [[0.04**2]]) for centre in (-1.0, 1.0)]
    proposal = around(peaks[0], peaks[1:], two_peaks)
    kept, planted, wide = [], [], Normal.of([0.0], [[1.0]])
    for seed in range(8):
        rng = np.random.default_rng(seed)
        points = proposal.draw(NUM_POINTS, rng)
        weights = smoothed(two_peaks(points) - proposal.log_density(points))
        found = confirm(two_peaks, points, weights, (peaks[0], peaks), ["z"], K_CERTIFIED, rng)
        kept.append(found.weights.ess)
        share = np.exp(found.weights.log_weights)[found.points[:, 0] > 0.0].sum()
        assert found.complaint is None
        assert abs(share - 0.5) < 4.0 * 0.5 / np.sqrt(found.weights.ess)
        with monkeypatch.context() as patch:
            patch.setattr(confirmation, "in_parts", lambda *given: around(Normal.of([0.0], [[1.0]]), [], two_peaks))
            found = confirm(two_peaks, points, weights, (wide, []), ["z"], K_CERTIFIED, rng)
        planted.append(found.weights.ess if found.complaint is None else 0.0)
    assert min(kept) > 0.5 * NUM_POINTS > 4.0 * max(planted)


def test_a_correction_of_one_point_is_none():
    """It has no covariance, and made the comparison fail."""
    points = np.random.default_rng(0).standard_normal((NUM_POINTS, 3))
    ratios = np.zeros(NUM_POINTS)
    ratios[7] = 16_000.0
    found = confirm(flat, points, smoothed(ratios), (Normal.of(np.zeros(3), np.eye(3)), []), list("abc"), K_CERTIFIED,
                    np.random.default_rng(1))  # fmt: skip
    assert found.complaint == "only 1.0 points are effective"


def test_weights_beside_a_point_that_has_all_are_numbers_with_an_endless_tail():
    ratios = np.random.default_rng(0).standard_normal(800)
    ratios[7] += 16_000.0
    weights = smoothed(ratios)
    assert weights.k_hat == np.inf
    assert weights.ess == pytest.approx(1.0)
    assert np.argmax(weights.log_weights) == 7
