"""The marginal likelihood and the posterior against dense algebra, quadrature and finite differences."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from scipy import stats

from homodyne.core.blocks import block_from_maps, block_from_points
from homodyne.core.correlation import g as correlation_g
from homodyne.core.likelihood import Likelihood, ScalingPrior, least_squares
from homodyne.core.moments import BlockSlot
from homodyne.core.parameters import parameter_space
from homodyne.core.posterior import SIGMA_PRIOR, Posterior

N, PHI, Q, GAP = 14, np.array([-20.0, 35.0, 80.0]), 0.0054, 2e6
T = 0.1 * np.arange(1, N + 1)
SIGMA = np.array([0.03, 0.05, 0.02])
SCALING = ScalingPrior(offset_mean=0.9, offset_sd=0.4, contrast_mean=0.3, contrast_sd=0.2)
TRUTH = {"D0": 3e4, "alpha": -0.6, "D_offset": 800.0}
SHEAR = {"gamma_dot_0": 8e-4, "beta": 0.3, "gamma_dot_offset": 1e-4, "phi0": 4.0}


def measured(params, seed=0, convention="he2024"):
    """Maps with white noise; contrast and offset differ by angle."""
    t1, t2 = np.meshgrid(T, T, indexing="ij")
    gap = GAP if "phi0" in params else None
    g = np.asarray(correlation_g(PHI[:, None, None], t1, t2, params, q=Q, gap=gap, shear_convention=convention))
    noise = np.random.default_rng(seed).normal(size=g.shape) * SIGMA[:, None, None]
    return (np.array([1.0, 1.1, 0.95])[:, None, None] + np.array([0.3, 0.2, 0.4])[:, None, None] * g + noise).astype(
        np.float32
    )


def blocks(c2):
    """One of every kind: whole, with missing pixels, weighted, weighted points in any order."""
    rng = np.random.default_rng(1)
    holes = c2.copy()
    holes[0, 2, 3:9] = holes[2, :, 7] = np.nan
    weights = rng.uniform(0.2, 3.0, c2.shape)
    weights[1, 0] = 0.0
    angle, i, j = block_from_maps(c2).point_frames()
    some = rng.permutation(angle.size)[: angle.size // 2]
    values, w = c2[angle[some], i[some], j[some]], rng.uniform(0.2, 3.0, some.size)
    return {
        "whole": block_from_maps(c2),
        "missing": block_from_maps(holes),
        "weights": block_from_maps(holes, weights=weights),
        "points": block_from_points(N, len(PHI), angle[some], i[some], j[some], values, w),
    }


KINDS = ("whole", "missing", "weights", "points")


class Setup:
    """One likelihood whose block is exchanged, with its one compiled program, and points of its support."""

    def __init__(self, mode, convention):
        params = TRUTH if mode == "static" else TRUTH | SHEAR
        space = parameter_space(mode, T)
        self.blocks = blocks(measured(params, convention=convention))
        slot = BlockSlot(self.blocks["whole"])
        gap = None if mode == "static" else GAP
        self.likelihood = Likelihood(slot, space, T, PHI, Q, gap, SCALING, convention)
        self.space, self.convention = space, convention
        self.posterior = Posterior(self.likelihood, SIGMA)
        self.value_and_gradient = jax.jit(jax.value_and_grad(self.posterior.log_density))
        self.truth = space.coordinates(params)
        self.points = np.concatenate([self.truth[None], space.draw_supported(np.random.default_rng(2), 6)])

    @classmethod
    @cache
    def made(cls, mode, convention):
        return cls(mode, convention)

    def use(self, kind):
        self.likelihood.slot.block = self.blocks[kind]

    def log_likelihood(self, z):
        return float(self.likelihood.evaluate(z, SIGMA).log_likelihood)

    def log_density(self, z):
        return self.posterior.evaluate(z)[0]

    def data(self, z, angle):
        """Values, weights and g of the points with weight of one angle; g from the plain reference."""
        block = self.likelihood.slot.block
        k, i, j = block.point_frames()
        weight = np.ones(k.size) if block.weights is None else block.weights.astype(float)
        here = (k == angle) & (weight > 0)
        params = {name: float(x) for name, x in self.space.physical(z).items()}
        settings = {"q": Q, "gap": self.likelihood.gap, "shear_convention": self.convention}
        g = np.asarray(correlation_g(PHI[angle], T[i[here]], T[j[here]], params, **settings))
        return block.values[here].astype(float), weight[here], g


@pytest.fixture(
    scope="module", params=[("static", "he2024"), ("laminar_flow", "he2024"), ("laminar_flow", "legacy")], ids="-".join
)
def setup(request):
    return Setup.made(*request.param)


@pytest.fixture(scope="module")
def laminar():
    return Setup.made("laminar_flow", "he2024")


def dense(y, w, g, sigma, scaling=SCALING):
    """Log density of the data of one angle with offset and contrast integrated out: one normal distribution."""
    design = np.stack([np.ones_like(g), g], axis=1)
    covariance = np.diag(sigma**2 / w) + design @ np.diag(1 / scaling.table[1]) @ design.T
    return stats.multivariate_normal(design @ scaling.table[0], covariance).logpdf(y)


@pytest.mark.parametrize("kind", KINDS)
def test_marginal_likelihood_equals_the_dense_normal_distribution(setup, kind):
    setup.use(kind)
    for z in setup.points:
        expected = sum(dense(*setup.data(z, k), SIGMA[k]) for k in range(len(PHI)))
        assert setup.log_likelihood(z) == pytest.approx(expected, rel=1e-9, abs=1e-8)
    y, w, g = setup.data(setup.truth, 0)  # what a mistake would do
    right = dense(y, w, g, SIGMA[0])
    assert right != pytest.approx(dense(y, w, g, SIGMA[0], replace(SCALING, contrast_sd=0.201)), rel=1e-9, abs=1e-8)
    assert right != pytest.approx(dense(y, w, g, SIGMA[0] * (1 + 1e-5)), rel=1e-9, abs=1e-8)


@pytest.mark.parametrize("kind", ["whole", "weights"])
def test_marginal_likelihood_equals_quadrature_over_offset_and_contrast(setup, kind):
    """Trapezoid rule, which is exact to rounding for a smooth peak."""
    setup.use(kind)
    for z in setup.points[:2]:
        total = 0.0
        for k in range(len(PHI)):
            y, w, g = setup.data(z, k)
            design = np.stack([np.ones_like(g), g], axis=1) * np.sqrt(w)[:, None]
            normal = design.T @ design / SIGMA[k] ** 2 + np.diag(SCALING.table[1])
            right = design.T @ (np.sqrt(w) * y) / SIGMA[k] ** 2 + SCALING.table[1] * SCALING.table[0]
            root = np.linalg.cholesky(np.linalg.inv(normal))
            axis = np.linspace(-9.0, 9.0, 61)
            unit = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
            offset, contrast = (np.linalg.solve(normal, right) + unit @ root.T).T
            log_joint = stats.norm.logpdf(y, offset[:, None] + contrast[:, None] * g, SIGMA[k] / np.sqrt(w)).sum(axis=1)
            log_joint += stats.norm.logpdf(offset, SCALING.offset_mean, SCALING.offset_sd)
            log_joint += stats.norm.logpdf(contrast, SCALING.contrast_mean, SCALING.contrast_sd)
            peak = log_joint.max()
            cell = (axis[1] - axis[0]) ** 2 * np.linalg.det(root)
            total += peak + np.log(np.exp(log_joint - peak).sum() * cell)
        assert setup.log_likelihood(z) == pytest.approx(total, rel=1e-9, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_posterior_is_the_exact_conditional(setup, kind):
    setup.use(kind)
    for z in setup.points:
        at = setup.likelihood.evaluate(z, SIGMA)
        for k in range(len(PHI)):
            y, w, g = setup.data(z, k)
            # Condition the joint normal distribution of (offset, contrast) and the data.
            design, prior = np.stack([np.ones_like(g), g], axis=1), np.diag(1 / SCALING.table[1])
            data = np.diag(SIGMA[k] ** 2 / w) + design @ prior @ design.T
            gain = np.linalg.solve(data, design @ prior).T
            expected = SCALING.table[0] + gain @ (y - design @ SCALING.table[0])
            np.testing.assert_allclose(at.scaling_mean[k], expected, rtol=1e-8)
            np.testing.assert_allclose(at.scaling_cov[k], prior - gain @ design @ prior, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_least_squares_over_offset_and_contrast(setup, kind):
    setup.use(kind)
    for z in setup.points:
        left, contrast = least_squares(setup.likelihood.evaluate(z, SIGMA).moments)
        for k in range(len(PHI)):
            y, w, g = setup.data(z, k)
            root = np.sqrt(w)
            design = np.stack([root, root * g], axis=1)
            if np.ptp(g) < 1e-6:
                continue  # nothing but an offset
            best = np.linalg.lstsq(design, root * y)[0]
            if best[1] < 0:
                best = np.array([np.average(y, weights=w), 0.0])
            assert contrast[k] == pytest.approx(best[1], rel=1e-6, abs=1e-8)
            assert left[k] == pytest.approx(np.sum((root * y - design @ best) ** 2), rel=1e-8)


def test_both_implementations_give_one_value(laminar):
    laminar.use("weights")
    other = replace(laminar.likelihood, slot=BlockSlot(laminar.blocks["weights"]), implementation="jax")
    for z in laminar.points:
        value = float(other.evaluate(z, SIGMA).log_likelihood)
        assert value == pytest.approx(laminar.log_likelihood(z), rel=1e-11)


def agrees(function, z, k, derivative, tolerance):
    """Whether a fourth-order difference along coordinate k equals the derivative, for a step of some size.

    A draw from the prior may oscillate over 1e-5, lie 1e-6 from a wall or be flat over 1e-1, so no one step
    suits all; a wrong derivative agrees with none.
    """
    for power in (-4, -3, -5, -2, -6, -7, -1, -8, -9):
        step = 10.0**power
        v = [function(z + m * step * np.eye(len(z))[k]) for m in (-2, -1, 1, 2)]
        if np.isfinite(v).all() and abs((v[0] - 8 * v[1] + 8 * v[2] - v[3]) / (12 * step) - derivative) < tolerance:
            return True
    return False


def test_gradient_over_the_whole_prior(laminar):
    laminar.use("weights")
    points = np.concatenate([laminar.truth[None], laminar.space.draw_supported(np.random.default_rng(3), 30)])
    for count, z in enumerate(points):
        value, gradient = laminar.value_and_gradient(z)
        assert value == pytest.approx(laminar.log_density(z), rel=1e-13)
        for k, exact in enumerate(gradient):
            tolerance = 1e-5 * max(abs(exact), 1e-3 * np.linalg.norm(gradient), 1e-4)
            assert agrees(laminar.log_density, z, k, exact, tolerance), (z, k)
            if count == 0:  # a gradient that is off by 0.01 % is seen
                wrong = 1.0001 * exact + 1e-5 * np.linalg.norm(gradient)
                assert not agrees(laminar.log_density, z, k, wrong, tolerance)


def test_outside_the_support_the_density_is_minus_infinity(laminar):
    laminar.use("whole")
    rng = np.random.default_rng(4)
    seen = set()
    for z in laminar.points[np.arange(60) % len(laminar.points)] + 2.0 * rng.normal(size=(60, 7)):
        supported = np.isfinite(laminar.likelihood.evaluate(z, SIGMA).log_prior)
        assert np.isfinite(laminar.value_and_gradient(z)[0]) == np.isfinite(laminar.log_density(z)) == supported
        assert np.isfinite(laminar.log_likelihood(z)) == laminar.space.supported(z)
        seen.add(bool(supported))
    assert seen == {True, False}


def test_sampled_noise_is_a_parameter_with_its_prior(laminar):
    laminar.use("whole")
    posterior = Posterior(laminar.likelihood, None)
    assert posterior.names[7:] == ("log_sigma[0]", "log_sigma[1]", "log_sigma[2]")
    assert posterior.dim == 10
    program = jax.jit(posterior.log_density)
    for z, sigma in ((laminar.truth, SIGMA), (laminar.points[1], np.array([0.4, 0.002, 0.1]))):
        longer = np.concatenate([z, np.log(sigma)])
        expected = float(laminar.space.log_prior(z)) + stats.norm.logpdf(np.log(sigma), *SIGMA_PRIOR).sum()
        expected += sum(dense(*laminar.data(z, k), sigma[k]) for k in range(len(PHI)))
        assert float(program(longer)) == pytest.approx(expected, rel=1e-9)
        assert posterior.evaluate(longer)[0] == pytest.approx(expected, rel=1e-9)
    draws, lp = posterior.physical_draws(longer[None], np.random.default_rng(0))
    np.testing.assert_allclose(draws["sigma"], sigma[None], rtol=1e-14)
    assert lp[0] == pytest.approx(expected, rel=1e-9)


def moments_agree(pair, mean, covariance):
    """Chi-square tests, at 1e-4, of the mean and of the covariance of normal draws (count, 2)."""
    count = len(pair)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (pair - mean).T)
    off = np.sqrt(count) * white.mean(axis=1)
    spread = white @ white.T / count - np.eye(2)
    scores = spread[np.tril_indices(2)] * np.sqrt(count) / np.sqrt([2, 1, 2])
    return np.sum(off**2) + np.sum(scores**2) < stats.chi2(5).ppf(1 - 1e-4)


def test_offset_and_contrast_are_drawn_from_their_conditional(laminar):
    laminar.use("missing")
    chosen = laminar.points[:2]
    z = np.repeat(chosen, 4000, axis=0).reshape(2, 4000, 7)
    passes = []
    draws, lp = laminar.posterior.physical_draws(z, np.random.default_rng(5), lambda *news: passes.append(news))
    assert passes[-1] == ("contrast and offset", 2, 2)  # one pass for each distinct point
    assert draws["contrast"].shape == (2, 4000, 3)
    for row, one in enumerate(chosen):
        np.testing.assert_allclose(lp[row], laminar.log_density(one), rtol=1e-13)
        for name, value in laminar.space.physical(one).items():
            np.testing.assert_allclose(draws[name][row], value, rtol=1e-12)
        at = laminar.likelihood.evaluate(one, SIGMA)
        for k in range(len(PHI)):
            pair = np.stack([draws["offset"][row, :, k], draws["contrast"][row, :, k]], axis=1)
            mean, covariance = np.asarray(at.scaling_mean[k]), np.asarray(at.scaling_cov[k])
            assert moments_agree(pair, mean, covariance)
            assert not moments_agree(pair[:, ::-1], mean, covariance)
            assert not moments_agree(pair, mean, 1.2 * covariance)
            assert row > 0 or not moments_agree(pair, mean, np.diag(np.diag(covariance)))
