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

from homodyne.core.transport import (
    amplitude_offset,
    anchor_integral,
    anchor_rate,
    anchor_times,
    rate,
    rate_integral,
)

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
RECORDS = [(1e-3, 1e4), (0.1, 100.0), (10.0, 11.0)]


fast_rate_integral, fast_anchor_integral = jax.jit(rate_integral), jax.jit(anchor_integral)
fast_anchor_rate = jax.jit(anchor_rate)


def by_quadrature(function, t1, t2, epsabs=0.0):
    """Integral over time on a logarithmic axis, where power laws are tame."""

    def integrand(u):
        t = math.exp(u)
        return function(t) * t

    return quad(integrand, math.log(t1), math.log(t2), epsabs=epsabs, epsrel=2e-13, limit=400)[0]


def plain_anchor_rate(t, rate_a, rate_b, exponent, t_a, t_b):
    def share(t):
        if exponent == 0:
            return np.log(t / t_a) / np.log(t_b / t_a)
        return np.expm1(exponent * np.log(t / t_a)) / np.expm1(exponent * np.log(t_b / t_a))

    return rate_a + (rate_b - rate_a) * share(t)


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


def anchor_cases():
    """Intervals inside, across and outside the anchors; rates equal, different, and those of a pure decay."""
    shares = [0.0, 0.1, 0.35, 0.5, 0.85, 1.0]
    for (first, last), exponent in itertools.product(RECORDS, EXPONENTS):
        t_a, t_b = (float(t) for t in anchor_times(first, last))
        places = [first * (last / first) ** s for s in shares]
        intervals = [*itertools.combinations(places, 2), *((t, t * 1.001) for t in places)]
        pure = t_a**exponent + 1e-3, t_b**exponent + 1e-3
        for (t1, t2), (rate_a, rate_b) in itertools.product(intervals, [(1.0, 1.0), (1.0, 2.0), (2.0, 1.0), pure]):
            case = (t1, t2, rate_a, rate_b, exponent, t_a, t_b)
            if min(plain_anchor_rate(t, *case[2:]) for t in (t1, t2)) > 1e-6 * min(rate_a, rate_b):
                yield case


def test_anchor_integral_matches_quadrature_over_the_prior_range():
    cases = list(anchor_cases())[::3]
    assert len(cases) > 800
    got = np.asarray(fast_anchor_integral(*np.array(cases).T))
    expected = [by_quadrature(lambda t, c=c: plain_anchor_rate(t, *c[2:]), c[0], c[1]) for c in cases]
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_anchor_integral_of_a_power_law_equals_rate_integral():
    for exponent in [-4.0, -1.327, -1.0, -0.3, 0.2, 4.0]:
        t_a, t_b = anchor_times(1e-3, 1e4)
        at = [rate(t, 2.0, exponent, 0.5) for t in (t_a, t_b)]
        t = np.geomspace(1e-3, 1e4, 40)
        np.testing.assert_allclose(
            fast_anchor_integral(t[:-1], t[1:], *at, exponent, t_a, t_b),
            fast_rate_integral(t[:-1], t[1:], 2.0, exponent, 0.5),
            rtol=1e-9,  # the rates themselves carry rounding, which a decay over seven decades magnifies
        )


def test_gradient_of_anchor_integral_against_finite_differences():
    cases = np.array(list(anchor_cases())[::11])
    gradient = np.array(jax.jit(jax.vmap(jax.grad(anchor_integral, argnums=tuple(range(7)))))(*cases.T)).T
    assert np.all(np.isfinite(gradient))
    value = np.asarray(fast_anchor_integral(*cases.T))
    for k in range(7):
        step = 1e-4 if k == 4 else 1e-4 * cases[:, k]
        moved = [cases.copy() for _ in range(4)]
        for shift, points in zip((-2, -1, 1, 2), moved, strict=True):
            points[:, k] += shift * step
        f = [np.asarray(fast_anchor_integral(*points.T)) for points in moved]
        estimate = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)
        size = np.abs(gradient[:, k]) + np.abs(value / cases[:, k] if k != 4 else value)
        rounding = 1e-12 * np.abs(value) / np.abs(step)
        assert np.all(np.abs(gradient[:, k] - estimate) < 1e-6 * size + rounding), k


def test_anchor_integral_is_smooth_in_the_exponent():
    t_a, t_b = anchor_times(0.1, 100.0)
    shifts = np.array([-1e-5, -1e-8, -1e-13, 0.0, 1e-13, 1e-8, 1e-5])

    def derivatives(exponent):
        first = jax.grad(anchor_integral, argnums=4)
        second = jax.grad(first, argnums=4)
        return [f(0.1, 100.0, 5.0, 2.0, exponent, t_a, t_b) for f in (first, second)]

    compiled = jax.jit(jax.vmap(derivatives))
    for special in (-1.0, 0.0):
        for values in np.array(compiled(special + shifts)):
            linear = values[0] + (values[-1] - values[0]) * (shifts - shifts[0]) / 2e-5
            np.testing.assert_allclose(values, linear, rtol=1e-8)


@given(
    exponent=st.one_of(st.floats(-4, 4), st.sampled_from([-1.0, 0.0])),
    log_t1=st.floats(-3, 4),
    log_ratio=st.floats(0, 7),
)
def test_values_and_gradients_are_finite_everywhere(exponent, log_t1, log_ratio):
    t1 = 10.0**log_t1
    t2 = t1 * 10.0**log_ratio
    t_a, t_b = anchor_times(1e-3, 1e4)
    numbers = [
        *GRADIENT(t1, t2, 1.0, exponent, 1.0),
        *ANCHOR_GRADIENT(t1, t2, 1.0, 2.0, exponent, t_a, t_b),
    ]
    assert np.all(np.isfinite(np.array(numbers)))


GRADIENT = jax.jit(jax.grad(rate_integral, argnums=(0, 1, 2, 3, 4)))
ANCHOR_GRADIENT = jax.jit(jax.grad(anchor_integral, argnums=(0, 1, 2, 3, 4)))


def test_anchor_rate_goes_through_the_anchors_and_follows_the_plain_formula():
    t_a, t_b = (float(t) for t in anchor_times(0.1, 100.0))
    t = np.geomspace(0.1, 100.0, 30)
    for exponent in EXPONENTS:
        np.testing.assert_allclose(fast_anchor_rate(t_a, 5.0, 2.0, exponent, t_a, t_b), 5.0, rtol=1e-12)
        np.testing.assert_allclose(fast_anchor_rate(t_b, 5.0, 2.0, exponent, t_a, t_b), 2.0, rtol=1e-12)
        got = fast_anchor_rate(t, 5.0, 2.0, exponent, t_a, t_b)
        expected = plain_anchor_rate(t, 5.0, 2.0, exponent, t_a, t_b)
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", PUBLISHED)
def test_amplitude_offset_inverts_the_anchor_rates(name):
    amplitude, exponent, offset = PUBLISHED[name]
    t_a, t_b = anchor_times(0.1, 100.0)
    at = [rate(t, amplitude, exponent, offset) for t in (t_a, t_b)]
    np.testing.assert_allclose(amplitude_offset(*at, exponent, t_a, t_b), (amplitude, offset), rtol=1e-9)


def test_anchor_times_stand_at_fixed_places_on_the_logarithmic_axis():
    t_a, t_b = anchor_times(0.1, 100.0)
    assert np.log10(t_a) == pytest.approx(-1 + 3 * 0.35)
    assert np.log10(t_b) == pytest.approx(-1 + 3 * 0.85)


def test_functions_work_under_jit_and_broadcast():
    t = jnp.linspace(0.1, 1.0, 5)
    exponents = jnp.array([-1.0, 0.0, 0.3])[:, None]
    assert jax.jit(rate_integral)(t[0], t, 1.0, exponents, 0.0).shape == (3, 5)
    assert jax.jit(anchor_integral)(t[0], t, 1.0, 2.0, exponents, 0.2, 0.8).shape == (3, 5)
    assert rate_integral(np.float32(1), 2, 1, -1, 0).dtype == np.float64
