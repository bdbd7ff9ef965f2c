"""The calibrated likelihood: its curvature is the sandwich's, the rest of the posterior is as it was."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from homodyne.core.adjustment import Adjustment, unadjusted
from homodyne.core.blocks import block_from_maps
from homodyne.core.calibration import adjusted_covariance, adjustment_to
from homodyne.core.likelihood import Likelihood, ScalingPrior
from homodyne.core.moments import BlockSlot
from homodyne.core.parameters import parameter_space
from homodyne.core.posterior import Posterior
from homodyne.core.sandwich import Sandwich
from homodyne.core.simulate import TrueModel, independent
from homodyne.core.speckle_noise import SpeckleNoise

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
    pairs = np.tile(4.0 * np.eye(2), (2, 1, 1)), rng.normal(size=(2, 2, d)), rng.normal(size=(2, 2, d))
    pair_covariance = np.tile(np.diag([3.0, 2.0]), (2, 1, 1))
    noise_model = SpeckleNoise(np.ones(2), np.ones(2), np.ones(2), "given", "given")
    return Sandwich(information, variability, *pairs, pair_covariance, noise_model)


def test_curvature_is_that_of_the_sandwich_and_of_the_prior():
    """H J^-1 H where the data know, the prior where they do not; the widening alone does not do it."""
    found, prior = made(), np.diag([1e-9, 1e-9, 0.7])
    covariance = np.linalg.inv(found.information + prior)
    adjustment = adjustment_to(found, np.zeros(3), covariance, np.zeros(3), prior, np.ones(2))
    own = slice(0, 2)
    h, j = found.information[own, own], found.variability[own, own]
    expected = np.diag([0.0, 0.0, 1 / 0.7])
    expected[own, own] = np.linalg.inv(h) @ j @ np.linalg.inv(h)
    np.testing.assert_allclose(adjusted_covariance(adjustment, covariance, prior), expected, rtol=1e-6, atol=1e-7)
    only = replace(adjustment, matrix=np.eye(3))
    assert not np.allclose(adjusted_covariance(only, covariance, prior), expected, rtol=0.02)
    assert adjustment.widening**2 == pytest.approx(np.trace(np.linalg.solve(h, j)) / 2, rel=1e-6)


def test_offset_and_contrast_get_their_slope_and_covariance():
    found = made()
    prior, pair_prior = np.diag([1e-9, 1e-9, 0.7]), np.array([0.5, 2.0])
    covariance = np.linalg.inv(found.information + prior)
    adjustment = adjustment_to(found, np.zeros(3), covariance, np.zeros(3), prior, pair_prior)
    power, known = adjustment.widening**2, np.diag(pair_prior)
    information = found.pair_information / power
    before = np.linalg.inv(information + known)
    apart, expected = np.array([0.1, -0.2, 0.3]), np.array([1.0, 0.3])
    free = expected + 0.7 + found.elimination @ adjustment.matrix @ apart  # least squares of the adjusted likelihood
    conditional = before @ (information @ free[..., None] + (known @ expected)[:, None])
    mean, wide = adjustment.pair(apart, conditional[..., 0], before, np.stack([expected, pair_prior]))
    root = np.linalg.cholesky(found.pair_covariance) @ np.linalg.cholesky(found.pair_information + known).swapaxes(1, 2)
    own = np.linalg.inv(root @ np.linalg.inv(found.pair_information) @ root.swapaxes(1, 2))
    np.testing.assert_allclose(wide, np.linalg.inv(own + known), rtol=1e-10)
    sandwiched = expected + 0.7 + found.pair_slope @ apart
    both = wide @ (own @ sandwiched[..., None] + (known @ expected)[:, None])
    np.testing.assert_allclose(mean, both[..., 0], rtol=1e-10)
    assert not np.allclose(np.linalg.inv(own), wide, rtol=0.1), "planted bug: the prior is forgotten"


def test_an_angle_without_data_keeps_its_prior():
    found = replace(
        made(), pair_information=np.zeros((2, 2, 2)), pair_covariance=np.tile(np.diag([2.0, 0.5]), (2, 1, 1))
    )
    pair_prior = np.array([0.5, 2.0])
    adjustment = adjustment_to(found, np.zeros(3), np.eye(3), np.zeros(3), np.eye(3), pair_prior)
    before = np.tile(np.diag(1.0 / pair_prior), (2, 1, 1))
    mean, wide = adjustment.pair(np.zeros(3), np.tile([1.0, 0.3], (2, 1)), before, np.array([[1.0, 0.3], pair_prior]))
    np.testing.assert_allclose(mean, np.tile([1.0, 0.3], (2, 1)), rtol=1e-6)
    np.testing.assert_allclose(wide, before, rtol=1e-6)


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
    return nothing.pair_slope, nothing.pair_root


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
