"""The calibrated likelihood: its curvature is the sandwich's, the rest of the posterior is as it was."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy import stats

from homodyne.core.adjustment import Adjustment, unadjusted
from homodyne.core.blocks import block_from_maps
from homodyne.core.calibration import adjusted_covariance, adjustment_to
from homodyne.core.likelihood import Likelihood, ScalingPrior
from homodyne.core.moments import BlockSlot
from homodyne.core.parameters import parameter_space
from homodyne.core.posterior import Posterior
from homodyne.core.sandwich import Sandwich, sandwich
from homodyne.core.simulate import TrueModel, independent
from homodyne.noise.speckle_noise import CountingFacts, SpeckleNoise

PARAMS = {"D0": 3e4, "alpha": -0.4, "D_offset": 1e3}
SIGMA = np.array([0.02, 0.02])


@pytest.fixture(scope="module")
def likelihood():
    t = 0.1 * np.arange(1, 31)
    maps = independent(TrueModel(PARAMS, t, np.array([0.0, 50.0]), 0.0054, None, 0.3, 1.0), sigma=0.02, seed=1)
    slot = BlockSlot(block_from_maps(maps.c2))
    return Likelihood(slot, parameter_space("static", t), t, maps.phi, 0.0054, None, ScalingPrior())


def made(seed=0, scale=9.0, d=3):
    """Random information and variability, of which the last direction is known by the prior alone."""
    rng = np.random.default_rng(seed)
    shape = rng.normal(size=(d, d))
    known = np.diag([1.0] * (d - 1) + [0.0])
    information = known @ (shape @ shape.T + np.eye(d)) @ known
    noise = rng.normal(size=(d, d))
    variability = scale * known @ (information + 0.3 * noise @ noise.T) @ known
    pairs = np.tile([[4.0, 1.0], [1.0, 3.0]], (2, 1, 1)), rng.normal(size=(2, 2, d)), rng.normal(size=(2, 2, d))
    spread = np.tile([[12.0, 2.0], [2.0, 8.0]], (2, 1, 1))
    noise_model = SpeckleNoise(np.ones(2), np.ones(2), np.ones(2), "given", "given")
    return Sandwich(information, variability, np.zeros((d, d)), *pairs, spread, noise_model)


def of_pair(found, k):
    """Regression of (offset, contrast) on z and their covariance given z."""
    turn = np.linalg.inv(np.linalg.cholesky(found.pair_information[k])).T
    return turn @ found.pair_slope[k], turn @ found.pair_spread[k] @ turn.T


def test_curvature_is_that_of_the_sandwich_and_of_the_prior():
    """H J^-1 H where the data know, the prior where they do not; the widening alone does not do it."""
    found, prior, nothing = made(), np.diag([1e-9, 1e-9, 0.7]), np.full(2, 1e-12)
    covariance = np.linalg.inv(found.information + prior)
    adjustment = adjustment_to(found, np.zeros(3), covariance)
    own = slice(0, 2)
    h, j = found.information[own, own], found.variability[own, own]
    expected = np.diag([0.0, 0.0, 1 / 0.7])
    expected[own, own] = np.linalg.inv(h) @ j @ np.linalg.inv(h)
    wide = adjusted_covariance(adjustment, found, prior, nothing)
    np.testing.assert_allclose(wide, expected, rtol=1e-6, atol=1e-7)
    only = replace(adjustment, matrix=np.eye(3))
    assert not np.allclose(adjusted_covariance(only, found, prior, nothing), expected, rtol=0.02)
    assert adjustment.widening**2 == pytest.approx(np.trace(np.linalg.solve(h, j)) / 2, rel=1e-6)


def test_the_prior_of_offset_and_contrast_informs_the_coordinates():
    """As in the joint normal distribution of z and the pairs of all angles."""
    found, prior, pair_prior = made(), np.diag([1e-9, 1e-9, 0.7]), np.array([0.5, 2.0])
    covariance = np.linalg.inv(found.information + prior)
    adjustment = adjustment_to(found, np.zeros(3), covariance)
    alone = np.linalg.inv(adjusted_covariance(adjustment, found, prior, np.full(2, 1e-12)))
    joint = np.zeros((7, 7))
    joint[:3, :3] = alone
    for k in range(2):
        away = np.zeros((2, 7))  # a pair minus its regression on z
        slope, covariance = of_pair(found, k)
        away[:, :3], away[:, 3 + 2 * k : 5 + 2 * k] = -slope, np.eye(2)
        joint += away.T @ np.linalg.inv(covariance) @ away
    joint[3:, 3:] += np.diag(np.tile(pair_prior, 2))
    expected = np.linalg.inv(joint)[:3, :3]
    wide = adjusted_covariance(adjustment, found, prior, pair_prior)
    np.testing.assert_allclose(wide, expected, rtol=1e-6)
    assert not np.allclose(np.linalg.inv(alone), expected, rtol=0.2), "planted bug: it is forgotten"


def test_noise_without_correlation_changes_nothing_whatever_the_priors_tell(likelihood):
    """So little light that only shot noise is left: also where a narrow prior of the contrast settles the rates."""
    narrow = replace(likelihood, scaling=ScalingPrior(1.0, 0.002, 0.3, 0.002))
    z, prior, rate = narrow.space.coordinates(PARAMS), np.diag([1e-3, 1e-3, 0.1]), 1e-6
    facts = CountingFacts(given_counts=rate, given_pixels=1 / (rate * SIGMA[0]) ** 2)
    found = sandwich(narrow, z, np.array([[1.0, 0.3]] * 2), SIGMA, facts, np.diag([0.1, 0.1, 0.2]), prior)
    covariance = np.linalg.inv(found.information + found.told + prior)
    root = np.linalg.cholesky(covariance)

    def change(of):
        """Largest change of a posterior width, or of a pair in units of its own."""
        lens = adjustment_to(of, z, covariance)
        parts = (
            np.linalg.inv(root) @ lens.matrix @ root - np.eye(3),
            lens.pair_slope @ root,
            lens.pair_spread - np.eye(2),
        )
        return max(abs(lens.widening - 1), *(np.abs(part).max() for part in parts))

    assert np.trace(found.told @ covariance) > 0.1  # the prior of the pairs matters
    assert change(found) < 1e-4
    assert change(replace(found, information=found.information + found.told)) > 0.01, (
        "planted bug: it is counted as data"
    )


def shifted(likelihood, z, seed=3):
    """Adjustment that turns everything a little, pairs too."""
    rng = np.random.default_rng(seed)
    matrix, slope = np.eye(3) + 0.1 * rng.normal(size=(3, 3)), 0.3 * rng.normal(size=(2, 2, 3))
    spread = np.array([[[9.0, -2.0], [-2.0, 4.0]], [[5.0, 1.0], [1.0, 6.0]]])
    return Adjustment(z + 0.02, matrix, 3.0, 100.0 * slope, spread)


def test_offset_and_contrast_are_known_as_the_adjustment_says(likelihood):
    """Marginal and conditional are those of the estimates with their new covariance and the prior after it."""
    narrow = replace(likelihood, scaling=ScalingPrior(1.0, 0.004, 0.3, 0.01))
    z = narrow.space.coordinates(PARAMS)
    lens, (expected, precision) = shifted(narrow, z), narrow.scaling.table
    flat = replace(narrow, scaling=ScalingPrior(1.0, 1e4, 0.3, 1e4))
    differences = []
    for point in (z, z + np.array([0.05, -0.04, 0.1])):
        apart = point - lens.center
        plain = flat.evaluate(lens.center + lens.matrix @ apart, 3.0 * SIGMA)
        mine = narrow.through(lens).evaluate(point, SIGMA)
        marginal = float(plain.log_likelihood)
        for k in range(2):
            turn = np.linalg.inv(np.linalg.cholesky(np.linalg.inv(plain.scaling_cov[k]))).T
            mean = plain.scaling_mean[k] + turn @ lens.pair_slope[k] @ apart
            covariance = turn @ lens.pair_spread[k] @ turn.T
            marginal += stats.multivariate_normal(expected, covariance + np.diag(1 / precision)).logpdf(mean)
            both = np.linalg.inv(np.linalg.inv(covariance) + np.diag(precision))
            np.testing.assert_allclose(mine.scaling_cov[k], both, rtol=1e-4)
            known = np.linalg.solve(covariance, mean) + precision * expected
            np.testing.assert_allclose(mine.scaling_mean[k], both @ known, rtol=1e-5)
        differences.append((float(mine.log_likelihood) - marginal, float(plain.log_likelihood)))
    (one, before), (other, after) = differences
    assert one == pytest.approx(other, abs=1e-3)  # the same constant at both points
    assert abs((one - other) - (before - after)) > 0.1, "planted bug: the prior of the pair says nothing of z"


def test_an_angle_without_data_keeps_its_prior(likelihood):
    z = likelihood.space.coordinates(PARAMS)
    maps = np.full((2, 30, 30), 1.2, np.float32)
    maps[1] = np.nan
    alone = replace(likelihood, slot=BlockSlot(block_from_maps(maps)))
    found = alone.through(shifted(alone, z)).evaluate(z + 0.05, SIGMA)
    mean, precision = alone.scaling.table
    np.testing.assert_allclose(found.scaling_mean[1], mean, atol=1e-4)
    np.testing.assert_allclose(found.scaling_cov[1], np.diag(1 / precision), rtol=1e-4, atol=1e-4)


def test_the_likelihood_is_that_of_the_image_with_more_noise(likelihood):
    """In value and gradient, compiled once; nothing else of the posterior changes."""
    z = likelihood.space.coordinates(PARAMS)
    rng = np.random.default_rng(2)
    matrix = np.eye(3) + 0.1 * rng.normal(size=(3, 3))
    adjustment = Adjustment(z + 0.01, matrix, 3.0, *_pair(likelihood))
    adjusted = likelihood.through(adjustment)
    for point in (z, z + 0.05 * rng.normal(size=3)):
        image = adjustment.center + matrix @ (point - adjustment.center)
        mine, plain = adjusted.evaluate(point, SIGMA), likelihood.evaluate(image, 3.0 * SIGMA)
        assert mine.log_likelihood == pytest.approx(float(plain.log_likelihood), rel=1e-12)
        assert mine.log_prior == likelihood.evaluate(point, SIGMA).log_prior
        assert float(mine.params["D0"]) == pytest.approx(float(likelihood.space.physical(point)["D0"]), rel=1e-12)
        traced = jax.value_and_grad(Posterior(adjusted, SIGMA).log_likelihood)(point)
        (value, slope), _ = adjusted.gradients(point, SIGMA, likelihood.scaling.table)
        assert float(traced[0]) == pytest.approx(float(value), rel=1e-12)
        np.testing.assert_allclose(traced[1], slope, rtol=1e-9)
        _, plain_slope = likelihood.gradients(image, 3.0 * SIGMA, likelihood.scaling.table)[0]
        np.testing.assert_allclose(slope, matrix.T @ plain_slope, rtol=1e-8)
    assert likelihood._evaluate._cache_size() == 1


def _pair(likelihood):
    nothing = unadjusted(3, len(likelihood.phi))
    return nothing.pair_slope, nothing.pair_spread


def test_no_adjustment_changes_nothing_and_records_read_back(likelihood):
    z = likelihood.space.coordinates(PARAMS)
    same = likelihood.through(unadjusted(3, 2))
    assert float(same.evaluate(z, SIGMA).log_likelihood) == float(likelihood.evaluate(z, SIGMA).log_likelihood)
    adjustment = Adjustment(z, 2.0 * np.eye(3), 3.0, *_pair(likelihood))
    again = Adjustment.from_dict(adjustment.to_dict())
    assert all(np.array_equal(a, b) for a, b in zip(vars(again).values(), vars(adjustment).values(), strict=True))
    with pytest.raises(TypeError):
        Adjustment.from_dict({"center": [1.0]})


def test_a_turned_flow_is_the_same_point():
    space = parameter_space("laminar_flow", 0.1 * np.arange(1, 11))
    z = np.arange(7.0)
    turned = z + 180.0 * (np.arange(7) == 6)
    np.testing.assert_allclose(space.apart(turned, z), 0.0, atol=1e-12)
    assert space.apart(z + 10.0 * (np.arange(7) == 6), z)[6] == pytest.approx(10.0)
