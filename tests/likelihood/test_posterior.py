"""The log density, its derivatives and what follows at a point, against integrals and automatic derivatives."""

import json
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pairs import SCALING, integrated, whole_maps

from homodyne.likelihood.maps import Maps
from homodyne.likelihood.nodes import moments_from
from homodyne.likelihood.posterior import (
    SIGMA_PRIOR,
    Posterior,
    evaluate_many,
    image,
    inside,
    log_densities,
    log_density,
    log_likelihood,
    log_prior,
    physical_draws,
    score_many,
)
from homodyne.likelihood.reduction import Accuracy, find_cells, reduce_maps, reduce_pairs
from homodyne.likelihood.scaling import ScalingPrior
from homodyne.noise.adjustment import Adjustment, Calibration, uncalibrated
from homodyne.physics.model import CorrelationModel, Parameter, find_model
from homodyne.physics.space import parameter_space
from homodyne.testing.statistics import assert_covariance, assert_mean

N, SIGMA = 16, np.array([0.05, 0.08])
T = 0.1 * np.arange(1, N + 1)
PARAMS = {
    "D0": 3e4,
    "alpha": -0.4,
    "D_offset": 2e3,
    "gamma_dot_0": 2e-3,
    "beta": -0.3,
    "gamma_dot_offset": 2e-4,
    "phi0": 15.0,
}
LIKELIHOOD, PRIOR, DENSITY = jax.jit(log_likelihood), jax.jit(log_prior), jax.jit(log_density)
NARROW = ScalingPrior.product([(1.0, 1.02, 0.01)], [(1.0, 0.25, 0.02)])
WIDE = ScalingPrior.product([(1.0, 1.0, 1.0)], [(1.0, 0.5, 1.0)])


def posterior_of(noise=1.0, scaling=WIDE, seed=0):
    """Two maps of a laminar flow with the exact sums over all pairs, and the truth."""
    model, rng = find_model("laminar_flow"), np.random.default_rng(seed)
    space = parameter_space(model, T)
    maps = Maps(np.zeros((2, N, N)), np.ones((2, N), bool), T, np.array([0.0054, 0.0054]), np.array([10.0, 60.0]), 2e6)
    i, j = np.triu_indices(N, 1)
    for k in range(2):
        g = model.g(PARAMS, T[i], T[j], maps.q[k], maps.phi[k], 2e6)
        maps.values[k][i, j] = 1.0 + 0.3 * g + noise * SIGMA[k] * rng.standard_normal(i.size)
    nodes = reduce_pairs(maps, i, j)
    return Posterior(space, nodes, scaling, SIGMA, uncalibrated(7, 2)), maps, np.asarray(space.coordinates(PARAMS))


def some_adjustment(z, seed=1):
    """An adjustment that changes everything it can."""
    rng = np.random.default_rng(seed)
    spread = np.tile([[1.3, 0.2], [0.2, 0.9]], (2, 1, 1))
    return Adjustment(
        z + 0.02,
        np.eye(7) + 0.05 * rng.standard_normal((7, 7)),
        1.4,
        rng.normal(0, 2, (2, 2, 7)),
        spread,
        np.full((2, 2), 5.0),
        np.full(2, 20.0),
    )


def about(*adjustments):
    """A calibration by these, each about its centre."""
    return Calibration.of([(np.asarray(one.center), 0.01 * np.eye(len(one.center)), one) for one in adjustments])


def near(z, count, seed=2, width=0.1):
    return z + width * np.random.default_rng(seed).standard_normal((count, z.size))


@pytest.mark.slow
@pytest.mark.parametrize("scaling", [NARROW, WIDE, SCALING], ids=["narrow", "wide", "mixture"])
def test_offset_and_contrast_are_integrated_out(scaling):
    posterior, maps, z = posterior_of(scaling=scaling)
    for point in near(z, 3):
        params = {name: float(value) for name, value in posterior.space.physical(point).items()}
        whole = whole_maps(posterior.space.model, params, maps)
        expected = [integrated(y, g, sigma, scaling) for (y, g), sigma in zip(whole, SIGMA, strict=True)]
        assert float(LIKELIHOOD(point, posterior)) == pytest.approx(sum(expected), abs=1e-8)
        broader = scaling._replace(precision=0.9 * scaling.precision)
        wider = [integrated(y, g, sigma, broader) for (y, g), sigma in zip(whole, SIGMA, strict=True)]
        assert abs(sum(wider) - sum(expected)) > 1e-3  # priors that are 5 % wider are seen


@pytest.mark.slow
def test_the_density_is_prior_times_likelihood_inside_the_support():
    posterior, _, z = posterior_of()
    points = near(z, 5)
    found = log_densities(points, posterior)
    for point, value in zip(points, found, strict=True):
        expected = PRIOR(point, posterior) + LIKELIHOOD(point, posterior)
        assert value == pytest.approx(float(expected), rel=1e-12)
        assert float(DENSITY(point, posterior)) == pytest.approx(value, rel=1e-12)
    outside = points[0] + np.array([800.0, 0, 0, 0, 0, 0, 0])  # a rate that overflows
    assert not np.isfinite(PRIOR(outside, posterior))
    np.testing.assert_array_equal(inside(np.array([points[0], outside]), posterior), [True, False])
    assert log_densities(outside[None], posterior) == -np.inf
    assert score_many(outside[None], posterior).value == -np.inf


@pytest.mark.slow
def test_no_density_is_higher_than_the_highest():
    """However steeply a rate falls towards zero at the last frame, behind which nodes lie."""
    t, model, rng = 0.25 * np.arange(1, 121), find_model("static"), np.random.default_rng(0)
    truth = {"D0": 1000.0, "alpha": -0.8, "D_offset": 25.0}
    space, (i, j) = parameter_space(model, t), np.triu_indices(120, 1)
    maps = Maps(np.zeros((1, 120, 120)), np.ones((1, 120), bool), t, np.array([0.0054]), np.zeros(1), None)
    maps.values[0][i, j] = 1.0 + 0.3 * model.g(truth, t[i], t[j], 0.0054, 0.0, np.nan) + rng.normal(0, 0.01, i.size)
    nodes = reduce_maps(
        maps, find_cells(model, {name: np.full(3, x) for name, x in truth.items()}, maps, Accuracy(10, 1e-5))
    )
    spread = np.array([[[144.0, 0.9], [0.9, 0.6]]])
    adjustment = replace(uncalibrated(3, 1).at(np.zeros(3)), scaling_spread=spread)
    posterior = Posterior(space, nodes, WIDE, np.array([0.01]), about(adjustment))
    level, share = (x.ravel() for x in np.meshgrid(np.linspace(8.0, 25.0, 80), np.linspace(0.1, 1.4, 80)))
    steep = np.stack([level, np.full(6400, -0.577), share], axis=1)
    found = log_densities(steep[np.isfinite(jax.vmap(space.log_prior)(steep))], posterior)
    top = log_densities(space.coordinates(truth)[None], posterior)[0]
    assert found.size > 500
    assert not np.isnan(found).any()
    assert found.max() < top


def test_moments_that_no_model_has_are_none():
    """Nodes whose weights are of both signs may say that a model explains more than all scatter of the data."""
    rng = np.random.default_rng(0)
    y, w = rng.normal(1.2, 0.1, 500), rng.uniform(0.5, 2.0, 500)
    sums = np.array([[500, w.sum(), w @ (y - 1), w @ (y - 1) ** 2, np.log(w).sum()]])

    def found(g, less=0.0):
        return moments_from(sums, np.ones(1), *(np.array([x]) for x in (w @ g, w @ g**2 - less, (w * (y - 1)) @ g)))

    for g in (rng.random(500), np.ones(500), np.full(500, 0.3), 1e-9 * rng.random(500), np.zeros(500), 3.0 * y - 2.0):
        assert np.isfinite(found(g)).all()  # noise, no decay at all, exact data
    assert np.isfinite(found(1e-157 * rng.random(500))).all()  # squares have no digits
    whole = found(y)
    assert np.isnan(found(y, 0.01 * whole.scatter[0]).g).all()  # explains a hundredth more than there is
    spread = whole.gg[0] - whole.g[0] ** 2 / whole.weight[0]
    assert np.isnan(found(y, 1.01 * spread).g).all()  # varies less than not at all
    points = np.asarray(posterior_of()[2])[None]
    posterior = posterior_of()[0]
    wrong = replace(posterior, nodes=posterior.nodes._replace(weight_y=30.0 * posterior.nodes.weight_y))  # planted
    assert np.isfinite(log_densities(points, posterior)).all()
    assert log_densities(points, wrong) == score_many(points, wrong).value == -np.inf


@pytest.mark.slow
@pytest.mark.parametrize("adjusted", [False, True])
def test_values_and_gradients_are_those_of_the_log_density(adjusted):
    posterior, _, z = posterior_of()
    posterior = replace(posterior, calibration=about(some_adjustment(z))) if adjusted else posterior
    points = near(z, 4)
    found = score_many(points, posterior)
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(log_density), in_axes=(0, None)))(points, posterior)
    np.testing.assert_allclose(found.value, value, rtol=1e-10)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-7, atol=1e-7 * np.abs(gradient).max())


def test_information_is_the_curvature_where_the_model_fits():
    """Without residuals there is no other part, and priors say nothing; offset and contrast take out what is theirs."""
    posterior, _, z = posterior_of(noise=0.0)
    posterior = posterior.with_sigma(1e-3 * SIGMA)
    information = score_many(z[None], posterior).information[0]
    root = np.linalg.cholesky(np.linalg.inv(information))
    ahead, behind = (score_many(z + step * root.T, posterior).gradient for step in (0.1, -0.1))
    np.testing.assert_allclose(-(ahead - behind) @ root / 0.2, np.eye(7), atol=1e-3)


@pytest.mark.parametrize("adjusted", [False, True])
def test_information_is_nowhere_negative(adjusted):
    posterior, _, z = posterior_of()
    posterior = replace(posterior, calibration=about(some_adjustment(z))) if adjusted else posterior
    points = np.concatenate([near(z, 30, width=0.1), near(z, 30, width=2.0)])
    information = score_many(points, posterior).information
    information = information[np.isfinite(information).all(axis=(1, 2))]
    assert len(information) > 30
    scale = np.sqrt(np.einsum("nii->ni", information))
    assert np.linalg.eigvalsh(information / (scale[:, :, None] * scale[:, None])).min() > -1e-10


def test_no_adjustment_changes_nothing():
    """Wherever its centre is."""
    posterior, _, z = posterior_of()
    points = near(z, 3)
    elsewhere = replace(posterior, calibration=about(replace(posterior.calibration.at(z), center=z + 0.3)))
    np.testing.assert_allclose(log_densities(points, elsewhere), log_densities(points, posterior), rtol=1e-12)
    changed = replace(posterior, calibration=about(some_adjustment(z)))
    assert np.abs(log_densities(points, changed) - log_densities(points, posterior)).min() > 0.1


def test_an_adjustment_widens_the_noise_and_turns_about_its_centre():
    posterior, _, z = posterior_of()
    adjustment = some_adjustment(z)
    plain = replace(adjustment, scaling_slope=np.zeros((2, 2, 7)), scaling_spread=np.tile(np.eye(2), (2, 1, 1)))
    adjusted = replace(posterior, calibration=about(plain))
    for point in near(z, 3):
        where = image(jnp.asarray(point), adjusted)
        np.testing.assert_allclose(where, adjustment.center + adjustment.matrix @ (point - adjustment.center))
        expected = PRIOR(point, posterior) + LIKELIHOOD(where, posterior.with_sigma(1.4 * SIGMA))
        assert float(DENSITY(point, adjusted)) == pytest.approx(float(expected), rel=1e-10)


def test_the_adjustment_about_the_nearest_mode_applies():
    """Distances are in the standard deviations at each; what is kept of a calibration is all of it."""
    posterior, _, z = posterior_of()
    first, second = some_adjustment(z), replace(some_adjustment(z, seed=2), center=z + 1.0)
    both = replace(posterior, calibration=about(first, second))
    for adjustment, points in ((first, near(z, 3)), (second, near(z + 1.0, 3))):
        alone = replace(posterior, calibration=about(adjustment))
        np.testing.assert_allclose(log_densities(points, both), log_densities(points, alone), rtol=1e-12)
        np.testing.assert_allclose(score_many(points, both).gradient, score_many(points, alone).gradient, rtol=1e-9)
    kept = Calibration.from_dict(json.loads(json.dumps(both.calibration.to_dict())))
    points = near(z + 0.5, 20, width=0.5)
    np.testing.assert_array_equal(
        log_densities(points, replace(posterior, calibration=kept)), log_densities(points, both)
    )
    wide = replace(both.calibration, precision=both.calibration.precision * np.array([1.0, 1e-6])[:, None, None])
    beside, alone = (replace(posterior, calibration=x) for x in (wide, about(second)))
    points = near(z, 3, width=0.01) + 0.2  # nearer to the first, but many of its standard deviations away
    np.testing.assert_allclose(log_densities(points, beside), log_densities(points, alone), rtol=1e-12)


def test_the_estimate_of_the_scaling_moves_linearly_near_the_centre_and_not_beyond_its_reach():
    """A contrast above its noise keeps its sign wherever z is."""
    adjustment, information = some_adjustment(np.zeros(7)), np.tile(np.diag([4e4, 1e4]), (2, 1, 1))
    root, mean = np.sqrt(np.diag(information[0])), np.array([[1.0, 0.2], [1.0, 0.2]])  # a contrast of 20 units
    for width, linear in ((1e-3, True), (1.0, False)):
        difference = width * np.random.default_rng(3).standard_normal(7)
        moved = np.asarray(adjustment.scaling(difference, jnp.asarray(mean), jnp.asarray(information))[0])
        expected = adjustment.scaling_slope @ difference / root
        close = np.allclose(moved - mean, expected, rtol=0, atol=0.01 * np.abs(expected).max())
        assert close if linear else not close
    for direction in near(np.zeros(7), 20, width=1e3):
        moved = np.asarray(adjustment.scaling(direction, jnp.asarray(mean), jnp.asarray(information))[0])
        assert np.all(np.abs(moved - mean)[:, 0] * root[0] <= 5.0)
        assert np.all(moved[:, 1] > 0)


def conditional(posterior, maps, point):
    """Mean and covariance of (offset, contrast) of every map given z, from all pairs."""
    params = {name: float(value) for name, value in posterior.space.physical(point).items()}
    [mean], [precision] = posterior.scaling[1:]
    found = []
    for (y, g), sigma in zip(whole_maps(posterior.space.model, params, maps), SIGMA, strict=True):
        design = np.stack([np.ones_like(g), g])
        covariance = np.linalg.inv(design @ design.T / sigma**2 + np.diag(precision))
        found.append((covariance @ (design @ y / sigma**2 + precision * mean), covariance))
    return found


@pytest.mark.parametrize("scaling", [NARROW, WIDE], ids=["narrow", "wide"])
def test_draws_of_offset_and_contrast_are_exact(scaling):
    posterior, maps, z = posterior_of(scaling=scaling)
    point = near(z, 1)[0]
    expected = conditional(posterior, maps, point)
    at = evaluate_many(point[None], posterior)
    draws, values = physical_draws(np.tile(point, (4, 1000, 1)), posterior, np.random.default_rng(0))
    np.testing.assert_allclose(values, log_densities(point[None], posterior)[0], rtol=1e-12)
    assert set(draws) == {*PARAMS, "contrast", "offset"}
    np.testing.assert_array_equal(draws["D0"], np.full((4, 1000), at.params["D0"][0]))
    for k, (mean, covariance) in enumerate(expected):
        np.testing.assert_allclose(at.scaling_mean[0, k], mean, rtol=1e-8)
        np.testing.assert_allclose(at.scaling_covariance[0, k], covariance, rtol=1e-8)
        both = np.stack([draws["offset"][..., k], draws["contrast"][..., k]], axis=-1).reshape(-1, 2)
        assert_mean(both, mean)
        assert_covariance(both, mean, covariance)
        with pytest.raises(AssertionError):  # the correlation of the two forgotten
            assert_covariance(both, mean, np.diag(np.diag(covariance)))


@pytest.mark.slow
def test_draws_from_a_mixture_follow_the_weights_of_its_parts():
    """Of a map that says little of its contrast."""
    posterior, maps, z = posterior_of(scaling=SCALING)
    posterior, wide = posterior.with_sigma(3 * SIGMA), 3 * SIGMA
    params = {name: float(value) for name, value in posterior.space.physical(z).items()}
    draws, _ = physical_draws(np.tile(z, (4, 2000, 1)), posterior, np.random.default_rng(0))
    for k, (y, g) in enumerate(whole_maps(posterior.space.model, params, maps)):
        design, weights, means = np.stack([np.ones_like(g), g]), [], []
        for one in range(len(SCALING.log_weight)):
            part = ScalingPrior(*(values[one : one + 1] for values in SCALING))
            weights.append(integrated(y, g, wide[k], part))
            information = design @ design.T / wide[k] ** 2 + np.diag(part.precision[0])
            means.append(np.linalg.solve(information, design @ y / wide[k] ** 2 + part.precision[0] * part.mean[0])[1])
        share = np.exp(np.array(weights) - np.max(weights))
        expected = float(share @ means / share.sum())
        assert_mean(draws["contrast"][..., k].reshape(-1, 1), np.array([expected]))
        with pytest.raises(AssertionError):  # all parts alike
            assert_mean(draws["contrast"][..., k].reshape(-1, 1), np.array([np.mean(means)]))


@pytest.mark.slow
def test_noise_that_is_sampled():
    """Its logarithms follow the coordinates, with a prior of their own."""
    fixed, _, z = posterior_of()
    free = fixed.with_sigma(None)
    assert free.names == (*fixed.names, "log_sigma[0]", "log_sigma[1]")
    both = np.concatenate([z, np.log(SIGMA)])
    mean, sd = SIGMA_PRIOR
    prior = -0.5 * ((np.log(SIGMA) - mean) / sd) ** 2 - np.log(sd * np.sqrt(2 * np.pi))
    assert float(DENSITY(both, free)) == pytest.approx(float(DENSITY(z, fixed)) + prior.sum(), rel=1e-12)
    draws, _ = physical_draws(np.tile(both, (1, 3, 1)), free, np.random.default_rng(0))
    np.testing.assert_allclose(draws["sigma"], np.tile(SIGMA, (1, 3, 1)))


def test_points_in_any_number():
    """Points are evaluated in batches of one size; nothing depends on it but the reports."""
    posterior, _, z = posterior_of()
    points, told = near(z, 130), []
    found = evaluate_many(points, posterior, told.append)
    assert told == [64, 128, 130]
    np.testing.assert_array_equal(found.log_density[100:], log_densities(points[100:], posterior))
    np.testing.assert_array_equal(score_many(points[:3], posterior).value, score_many(points, posterior).value[:3])


TRACED = []


@dataclass(frozen=True)
class Counted(CorrelationModel):
    """An exponential decay that counts how often it is compiled."""

    name = "counted"
    parameters = (Parameter("rate", ("lognormal", {"median": 1.0, "sigma": 1.0}), "1/s", support=(0.0, np.inf)),)

    def g(self, params, t1, t2, q, phi, gap):
        TRACED.append(np.shape(t1))
        return jnp.exp(-params["rate"] * (jnp.asarray(t2) - t1)) + 0.0 * q


def counted(num_frames, num_maps, seed):
    t = (1 + 0.1 * seed) * 0.1 * np.arange(1, num_frames + 1)
    values = np.random.default_rng(seed).normal(1.0, 0.1, (num_maps, num_frames, num_frames))
    alive, places = np.ones((num_maps, num_frames), bool), 0.005 * np.arange(1, num_maps + 1)
    maps = Maps(values, alive, t, places, 10.0 * places, None)
    nodes = reduce_pairs(maps, *np.triu_indices(num_frames, 1))
    sigma = np.full(num_maps, 0.1 + 0.01 * seed)
    return Posterior(parameter_space(Counted(), t), nodes, WIDE, sigma, uncalibrated(1, num_maps))


@pytest.mark.slow
def test_data_of_the_same_shapes_share_their_programs():
    def used(posterior):
        """Compilations for values and for scores of a few points."""
        before = len(TRACED)
        evaluate_many(np.zeros((3, 1)), posterior)
        score_many(np.zeros((70, 1)), posterior)
        return len(TRACED) - before

    assert used(counted(12, 2, seed=1)) > 0
    assert used(counted(12, 2, seed=2)) == 0  # other ages, data, noise, wave vectors
    assert used(counted(12, 3, seed=1)) > 0  # a third map
