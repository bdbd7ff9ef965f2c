"""Closed-form integrals against adaptive quadrature, analytic derivatives and finite differences."""

import itertools
import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from scipy.integrate import quad

from homodyne.physics.power_laws import expm1_ratio, middle_age, rate, rate_integral

ORDINARY = [-4.0, -3.3, -2.0, -1.572, -1.327, -0.7, -0.5, -0.2, 0.2, 1.0, 2.5, 4.0]
SPECIAL = [s + d for s in (-1.0, 0.0) for d in (-1e-3, -1e-6, -1e-12, 0.0, 1e-12, 1e-6, 1e-3)]
EXPONENTS = ORDINARY + SPECIAL
TIMES = [1e-3, 0.1, 1.0, 30.0, 1e4]
RATIOS = [1.001, 1.1, 3.0, 100.0, 1e7]
PUBLISHED = {
    "laminar transport": (68481.0, -1.327, 1708.0),
    "laminar shear": (1.99e-3, -0.212, -6.1e-4),
    "static transport": (16918.0, -1.572, 3.05),
}


fast_rate_integral = jax.jit(rate_integral)


def by_quadrature(function, t1, t2, epsabs=0.0):
    """Integral over time on a logarithmic axis, where power laws are tame."""

    def integrand(u):
        t = math.exp(u)
        return function(t) * t

    return quad(integrand, math.log(t1), math.log(t2), epsabs=epsabs, epsrel=2e-13, limit=400)[0]


def assert_integral_matches(integral, cases):
    t1, t2, amplitude, exponent, offset = np.array(cases).T
    got = np.asarray(integral(t1, t2, amplitude, exponent, offset))
    expected = [by_quadrature(lambda t, c=c: c[2] * t ** c[3] + c[4], c[0], c[1]) for c in cases]
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def trapezoid(t1, t2, amplitude, exponent, offset):
    return 0.5 * (rate(t1, amplitude, exponent, offset) + rate(t2, amplitude, exponent, offset)) * (t2 - t1)


def test_rate_integral_matches_quadrature_over_the_prior_range():
    cases = [(t, t * r, 1.0, a, 0.0) for a, t, r in itertools.product(EXPONENTS, TIMES, RATIOS)]
    assert_integral_matches(fast_rate_integral, cases)


@pytest.mark.parametrize("name", PUBLISHED)
def test_rate_integral_matches_quadrature_for_published_fits(name):
    t = 0.1 * np.array([1, 2, 3, 10, 100, 999, 1000])
    cases = [(t1, t2, *PUBLISHED[name]) for t1, t2 in itertools.combinations(t, 2)]
    assert_integral_matches(fast_rate_integral, cases)
    with pytest.raises(AssertionError):
        assert_integral_matches(trapezoid, cases)


def test_trapezoid_error_of_the_first_interval_is_what_the_closed_form_removes():
    for name in ("laminar transport", "static transport"):
        case = (0.1, 0.2, *PUBLISHED[name])
        assert 0.1 < float(trapezoid(*case) / rate_integral(*case)) - 1 < 0.2


def test_rate_integral_is_additive_antisymmetric_and_zero_at_equal_times():
    parameters = (3.0, np.array(EXPONENTS), 0.5)
    np.testing.assert_allclose(
        rate_integral(0.1, 2.0, *parameters) + rate_integral(2.0, 70.0, *parameters),
        rate_integral(0.1, 70.0, *parameters),
        rtol=1e-13,
    )
    np.testing.assert_allclose(rate_integral(2.0, 0.1, *parameters), -rate_integral(0.1, 2.0, *parameters), rtol=1e-13)
    assert np.all(np.asarray(rate_integral(2.0, 2.0, *parameters)) == 0)


def test_gradient_of_rate_integral_is_the_integral_of_the_gradient():
    gradient = jax.jit(jax.vmap(jax.grad(rate_integral, argnums=(0, 1, 2, 3, 4))))
    cases = np.array([(t, t * r, 2.0, a, 0.7) for a, t, r in itertools.product(EXPONENTS, TIMES[:4], RATIOS[:4])])
    got = np.array(gradient(*cases.T)).T
    for (t1, t2, amplitude, exponent, offset), row in zip(cases, got, strict=True):
        power = by_quadrature(lambda t, a=exponent: t**a, t1, t2)
        size = power * max(abs(np.log(t1)), abs(np.log(t2)))
        slope = by_quadrature(lambda t, a=exponent: t**a * math.log(t), t1, t2, epsabs=1e-12 * size)
        ends = -(amplitude * t1**exponent + offset), amplitude * t2**exponent + offset
        np.testing.assert_allclose(row[:2], ends, rtol=1e-10, atol=1e-13 * amplitude * power / t1)
        np.testing.assert_allclose(row[[2, 4]], (power, t2 - t1), rtol=1e-10)
        assert abs(row[3] - amplitude * slope) < 1e-10 * amplitude * size


def test_second_derivative_in_the_exponent():
    exponents = np.array([-1.4, -1.0, -1.0 + 1e-9, 0.0, 1e-9])
    curvature = jax.vmap(jax.hessian(rate_integral, argnums=3), (None, None, None, 0, None))
    expected = [by_quadrature(lambda t, a=a: 2.0 * t**a * math.log(t) ** 2, 0.1, 1.0) for a in exponents]
    np.testing.assert_allclose(jax.jit(curvature)(0.1, 1.0, 2.0, exponents, 0.0), expected, rtol=1e-9)


@given(
    exponent=st.one_of(st.floats(-4, 4), st.sampled_from([-1.0, 0.0])),
    log_t1=st.floats(-3, 4),
    log_ratio=st.floats(0, 7),
)
def test_values_and_gradients_are_finite_everywhere(exponent, log_t1, log_ratio):
    t1 = 10.0**log_t1
    t2 = t1 * 10.0**log_ratio
    assert np.all(np.isfinite(np.array(GRADIENT(t1, t2, 1.0, exponent, 1.0))))


GRADIENT = jax.jit(jax.grad(rate_integral, argnums=(0, 1, 2, 3, 4)))


def test_ratios_are_smooth_through_zero_and_right_far_from_it():
    x = np.array([-700.0, -30.0, -0.5 - 1e-12, -0.5 + 1e-12, -1e-9, 1e-200, 0.3, 0.5, 3.0, 30.0])
    np.testing.assert_allclose(expm1_ratio(x), np.expm1(x) / x, rtol=1e-14)


def test_functions_work_under_jit_and_broadcast():
    t = jnp.linspace(0.1, 1.0, 5)
    exponents = jnp.array([-1.0, 0.0, 0.3])[:, None]
    assert jax.jit(rate_integral)(t[0], t, 1.0, exponents, 0.0).shape == (3, 5)
    assert rate_integral(np.float32(1), 2, 1, -1, 0).dtype == np.float64


def test_the_middle_of_a_record_is_the_geometric_mean_of_its_ages():
    for first, last in ((0.1, 20.0), (1000.0, 1008.0), (3.0, 3.0 * (1 + 1e-9))):
        ages = np.linspace(first, last, 200_001)
        assert middle_age(first, last) == pytest.approx(np.exp(np.mean(np.log(ages))), rel=1e-4)
    assert middle_age(1e-9, 1.0) == pytest.approx(np.exp(-1.0))
