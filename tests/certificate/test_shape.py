"""Proposals that follow bent shapes, and their adaptation to a posterior: normalised, right, planted bugs."""

import numpy as np
import pytest
from scipy.special import logsumexp

from homodyne.certificate import bend, shape
from homodyne.certificate.adaptation import Until, adapt, tempered
from homodyne.certificate.agreement import MEAN
from homodyne.certificate.importance import smoothed
from homodyne.certificate.proposal import Mixture, Normal, around
from homodyne.certificate.shape import Joined, Separation, fitted, in_parts

EVEN = np.full(4000, 1 / 4000)


def ridge(x):
    """Normal in x0, x1 - x0² / 2 and x2 - x0 x1 / 3, of widths 1, 0.2 and 0.1: normalised."""
    parts = (x[:, 0], (x[:, 1] - 0.5 * x[:, 0] ** 2) / 0.2, (x[:, 2] - x[:, 0] * x[:, 1] / 3.0) / 0.1)
    return -0.5 * np.square(parts).sum(axis=0) - 1.5 * np.log(2 * np.pi) - np.log(0.2 * 0.1)


def on_ridge(n, seed):
    u = np.random.default_rng(seed).normal(size=(n, 3))
    second = 0.2 * u[:, 1] + 0.5 * u[:, 0] ** 2
    return np.stack([u[:, 0], second, 0.1 * u[:, 2] + u[:, 0] * second / 3.0], axis=1)


def share_of(proposal, rng, n=4000):
    points = proposal.draw(n, rng)
    return smoothed(ridge(points) - proposal.log_density(points)).ess / n


def test_bending_is_undone_and_keeps_volumes():
    bend = fitted(on_ridge(4000, 0), EVEN, np.random.default_rng(0)).bend
    u = 3.0 * np.random.default_rng(1).normal(size=(50, 3))
    x = bend.bent(u)
    assert bend.unbent(x) == pytest.approx(u, rel=1e-8, abs=1e-8)
    for point in u[:5]:
        steps = 1e-6 * np.concatenate([np.eye(3), -np.eye(3)])
        ends = bend.bent(point + steps)
        slopes = (ends[:3] - ends[3:]).T / 2e-6
        assert np.log(abs(np.linalg.det(slopes))) == pytest.approx(bend.log_scale, abs=1e-5)


@pytest.mark.slow
def test_densities_are_normalised():
    """Under the mean of weights against a wide normal distribution, to four Monte Carlo errors."""
    rng = np.random.default_rng(0)
    kept = fitted(on_ridge(4000, 0), EVEN, rng)
    proposals = (
        kept,
        kept.widened(1.3),
        Joined((kept, around(Normal.of(np.zeros(3), np.eye(3)), [], ridge)), (0.7, 0.3)),
    )
    wide = Mixture(np.ones(1), np.zeros((1, 3)), 3.0 * np.eye(3)[None])
    points = wide.draw(200_000, rng)
    for proposal in proposals:
        ratio = np.exp(proposal.log_density(points) - wide.log_density(points))
        assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std() / np.sqrt(len(ratio))


@pytest.mark.slow
def test_a_bent_ridge_is_followed_and_without_bends_it_is_not(monkeypatch):
    """With one component, as where few points are effective; twenty follow this one without bends too."""
    monkeypatch.setattr(shape, "LARGEST", 1)
    rng = np.random.default_rng(0)
    points = on_ridge(4000, 0)
    followed = share_of(fitted(points, EVEN, rng), rng)
    monkeypatch.setattr(bend, "POINTS_TERM", np.inf)  # planted: no term is fitted
    assert followed > 2.0 * share_of(fitted(points, EVEN, rng), rng)


def test_a_proposal_is_adapted_from_a_normal_one():
    """Fresh points give the mean of a narrow ridge to the tolerance of the certificate, which its tails decide."""
    rng = np.random.default_rng(0)
    first = around(Normal.of([0.0, 0.0, 0.0], np.diag([1.0, 0.04, 0.01])), [], ridge)
    points = first.draw(1000, rng)
    assert share_of(first, rng) < 0.1

    def shift(proposal):
        fresh = proposal.draw(8000, rng)
        log_ratios = ridge(fresh) - proposal.log_density(fresh)
        weights = np.exp(log_ratios - logsumexp(log_ratios))
        off = weights @ fresh[:, 1] - 0.5
        return abs(off) / np.sqrt(0.2**2 + 0.5), 3.0 * np.sqrt(np.square(weights).sum())

    off, luck = shift(adapt(ridge, first, first, (points, ridge(points)), 1000, rng))
    assert off < MEAN + luck < 0.2
    few = [adapt(ridge, first, first, (points, ridge(points)), 1000, rng, Until(rounds=1)) for _ in range(9)]
    off = np.median([shift(proposal)[0] for proposal in few])  # planted: too few rounds, which one lucky one may hide
    assert off > MEAN


FAR = np.array([3.0, 20.0, 20.0])
NARROW = np.diag([1.0, 0.04, 0.01])


def two_ridges(x):
    """Two thirds of the mass on the ridge, one third on a mirrored one far from it."""
    return logsumexp([ridge(x) + np.log(2 / 3), ridge((x - FAR) * [1.0, -1.0, 1.0]) + np.log(1 / 3)], axis=0)


@pytest.mark.slow
def test_modes_far_from_each_other_have_shapes_of_their_own():
    """One shape for both has no bends that fit: a third as many of its points are effective."""
    modes = [Normal.of(np.zeros(3), NARROW), Normal.of(FAR, NARROW)]
    shares, masses = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        first = around(modes[0], modes[1:], two_ridges)
        points = first.draw(2000, rng)
        for known in (modes, ()):  # the other is planted: nothing is known of the second mode
            proposal = adapt(two_ridges, first, first, (points, two_ridges(points)), 2000, rng, modes=known)
            fresh = proposal.draw(4000, rng)
            found = smoothed(two_ridges(fresh) - proposal.log_density(fresh))
            shares.append(found.ess / 4000)
            masses.append(np.exp(found.log_weights)[fresh[:, 1] < 10].sum())
    assert np.median(shares[::2]) > 2.0 * np.median(shares[1::2])
    assert masses[::2] == pytest.approx([2 / 3] * 4, abs=4 * np.sqrt(2 / 9 / (4000 * min(shares[::2]))))


def test_modes_are_grouped_by_their_distance_in_widths():
    near, far, wide = (Normal.of([x], [[sd**2]]) for x, sd in ((5.0, 1.0), (40.0, 1.0), (150.0, 20.0)))
    separation = Separation.of([Normal.of([0.0], [[1.0]]), near, far, wide])
    assert separation.group.tolist() == [0, 0, 1, 1]
    assert separation.of_points(np.array([[2.0], [8.0], [39.0], [200.0]])).tolist() == [0, 0, 1, 1]
    assert Separation.of([]).count == 0


def test_a_group_without_effective_points_keeps_its_modes():
    rng = np.random.default_rng(0)
    modes = Separation.of([Normal.of(np.zeros(3), NARROW), Normal.of(FAR, NARROW)])
    points = np.concatenate([on_ridge(4000, 0), FAR[None]])
    proposal = in_parts(points, np.append(np.full(4000, 0.9 / 4000), 0.1), modes, rng)
    drawn = proposal.draw(4000, rng)
    there = drawn[drawn[:, 1] > 10]
    assert len(there) == pytest.approx(400, abs=1)
    assert there.mean(axis=0) == pytest.approx(FAR, abs=4.0 * 1.2 / np.sqrt(400))


def test_weights_are_tempered_until_enough_points_count():
    log_ratios = np.append(np.linspace(-50.0, 0.0, 200), -np.inf)
    assert 1.0 / np.square(tempered(log_ratios, 1.0)).sum() < 10
    weights = tempered(log_ratios, 60.0)
    assert weights.sum() == pytest.approx(1.0)
    assert 60.0 <= 1.0 / np.square(weights).sum() < 90.0
    assert weights[-1] == 0.0
