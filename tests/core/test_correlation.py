"""The equation of the correlation function against direct integration over time and over the gap."""

import math

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given
from scipy.integrate import quad

from homodyne.core import correlation
from homodyne.core.correlation import field_shear_factor, g, g1, shear_argument_scale
from homodyne.errors import InputError

Q, GAP = 0.0054, 2e6
STATIC = {"D0": 16918.0, "alpha": -1.572, "D_offset": 3.05}
LAMINAR = {
    "D0": 68481.0,
    "alpha": -1.327,
    "D_offset": 1708.0,
    "gamma_dot_0": 1.99e-3,
    "beta": -0.212,
    "gamma_dot_offset": -6.1e-4,
    "phi0": 2.0,
}


def integral(amplitude, exponent, offset, t1, t2):
    return quad(lambda t: amplitude * t**exponent + offset, t1, t2, epsabs=0, epsrel=1e-12, limit=200)[0]


def over_the_gap(phase):
    """Magnitude of (1/L) ∫ exp(i phase x/L) dx, the field of scatterers spread evenly over the gap."""
    parts = (quad(lambda u, f=f: f(phase * u), 0, 1, epsabs=1e-13, limit=400)[0] for f in (math.cos, math.sin))
    return math.hypot(*parts)


def slow_g(phi, t1, t2, p, factor):
    strain = integral(p["gamma_dot_0"], p["beta"], p["gamma_dot_offset"], t1, t2)
    transport = integral(p["D0"], p["alpha"], p["D_offset"], t1, t2)
    return math.exp(-(Q**2) * transport) * factor(math.cos(math.radians(p["phi0"] - phi)) * strain)


def averaged(parallel_strain):
    return over_the_gap(Q * GAP * parallel_strain) ** 2


def earlier_software(parallel_strain):
    y = Q * GAP * parallel_strain / (2 * math.pi)
    return (math.sin(y) / y) ** 4


PAIRS = [(0.1, 0.2), (0.1, 0.4), (3.0, 3.1), (3.0, 4.0), (50.0, 50.4), (99.0, 100.0)]


@pytest.mark.parametrize(("convention", "factor"), [("he2024", averaged), ("legacy", earlier_software)])
def test_g_is_the_field_averaged_over_gap_and_time(convention, factor):
    phi = np.array([-90.0, 0.0, 30.0, 77.0, 170.0])
    t1, t2 = np.array(PAIRS).T
    got = np.asarray(g(phi[:, None], t1, t2, LAMINAR, q=Q, gap=GAP, shear_convention=convention))
    expected = np.array([[slow_g(a, *pair, LAMINAR, factor) for pair in PAIRS] for a in phi])
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-13)
    other = averaged if factor is earlier_software else earlier_software
    wrong = np.array([[slow_g(a, *pair, LAMINAR, other) for pair in PAIRS] for a in phi])
    assert not np.allclose(got, wrong, rtol=0.02, atol=0.01)


def shear_factor(x, convention="he2024"):
    return field_shear_factor(x, convention) ** 2


def test_shear_factor_by_quadrature_over_the_gap():
    x = np.array([1e-9, 0.1, 0.499, 0.501, 1.0, 3.0, 3.2, 20.0])
    expected = [over_the_gap(2 * one) ** 2 for one in x]
    np.testing.assert_allclose(shear_factor(x), expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(shear_factor(x, "legacy"), (np.sin(x) / x) ** 4, rtol=1e-10, atol=1e-14)


def test_legacy_shear_rates_are_larger_by_the_known_ratio():
    """Equal curvature at zero strain: sqrt(2) π / 2 = 2.22 times the rate."""
    he, legacy = (
        abs(float(jax.grad(jax.grad(lambda s, c=c: shear_factor(shear_argument_scale(0, 0, Q, GAP, c) * s, c)))(0.0)))
        for c in ("he2024", "legacy")
    )
    assert math.sqrt(he / legacy) == pytest.approx(math.pi / math.sqrt(2), rel=1e-12)


def test_shear_factor_is_smooth_at_zero():
    for convention, curvature in (("he2024", -2 / 3), ("legacy", -4 / 3)):
        factor = lambda x, c=convention: shear_factor(x, c)  # noqa: E731
        assert float(factor(0.0)) == 1.0
        assert float(jax.grad(factor)(0.0)) == 0.0
        for x in (0.0, 1e-200, 1e-8, 1e-4):
            assert float(jax.grad(jax.grad(factor))(x)) == pytest.approx(curvature, rel=1e-6)
    below, above = (float(jax.grad(shear_factor)(0.5 + d)) for d in (-1e-12, 1e-12))
    assert below == pytest.approx(above, rel=1e-11)


def test_static_g_is_one_exponential_without_angle():
    t1, t2 = np.array(PAIRS).T
    got = g([[0.0], [90.0]], t1, t2, STATIC, q=Q)
    expected = [math.exp(-(Q**2) * integral(*STATIC.values(), *pair)) for pair in PAIRS]
    np.testing.assert_allclose(got, [expected, expected], rtol=1e-10)


def test_planted_factor_two_in_the_exponent_is_seen():
    wrong = {**STATIC, "D0": 2 * STATIC["D0"], "D_offset": 2 * STATIC["D_offset"]}
    right, doubled = (float(g(0.0, 0.1, 0.2, p, q=Q)) for p in (STATIC, wrong))
    expected = math.exp(-(Q**2) * integral(*STATIC.values(), 0.1, 0.2))
    assert right == pytest.approx(expected, rel=1e-10)
    assert doubled != pytest.approx(expected, rel=1e-2)


def test_g_is_symmetric_in_time_and_one_on_the_diagonal():
    t = np.linspace(0.1, 2.0, 7)
    square = np.asarray(g(30.0, t[:, None], t, LAMINAR, q=Q, gap=GAP))
    np.testing.assert_array_equal(square, square.T)
    np.testing.assert_array_equal(np.diag(square), 1.0)


def test_g1_is_the_signed_root():
    t = np.linspace(0.1, 3.0, 25)
    for convention in correlation.SHEAR_CONVENTIONS:
        keywords = {"q": Q, "gap": GAP, "shear_convention": convention}
        field = np.asarray(g1(2.0, t[:, None], t, LAMINAR, **keywords))
        np.testing.assert_allclose(field**2, g(2.0, t[:, None], t, LAMINAR, **keywords), rtol=1e-14)
        assert np.linalg.eigvalsh(field).min() > 0  # a covariance of the field


@given(
    phi=st.floats(-360, 360),
    phi0=st.floats(-180, 180),
    t1=st.floats(0.1, 90),
    lag=st.floats(0, 10),
    turns=st.sampled_from([-180.0, 180.0, 360.0]),
)
def test_half_turn_of_the_flow_direction_changes_nothing(phi, phi0, t1, lag, turns):
    values = [float(FAST_G(phi, t1, t1 + lag, {**LAMINAR, "phi0": angle})) for angle in (phi0, phi0 + turns)]
    assert values[0] == pytest.approx(values[1], abs=1e-11)


FAST_G = jax.jit(lambda phi, t1, t2, params: g(phi, t1, t2, params, q=Q, gap=GAP))


PRIOR_BOX = [  # the mode of each fit and the corners of a wide prior around it
    {**LAMINAR, "alpha": alpha, "D0": 10.0**log_d0, "beta": beta, "gamma_dot_0": 10.0**log_rate, "phi0": phi0}
    for alpha, log_d0 in ((-2.0, 3.0), (-1.0, 4.0), (0.0, 3.5), (0.8, 3.0))
    for beta, log_rate in ((-1.5, -3.0), (-1.0, -3.5), (0.0, -2.5))
    for phi0 in (-30.0, 90.0)
]


@pytest.mark.parametrize("convention", correlation.SHEAR_CONVENTIONS)
def test_gradient_against_finite_differences_over_the_prior(convention):
    phi, t1, t2 = (
        np.array([0.0, 50.0, 120.0])[:, None],
        np.array([0.1, 1.0, 20.0]),
        np.array([0.3, 1.5, 20.2]),
    )

    def values(params):
        return g(phi, t1, t2, params, q=Q, gap=GAP, shear_convention=convention)

    evaluate, jacobian = jax.jit(values), jax.jit(jax.jacfwd(values))
    reverse = jax.jit(jax.jacrev(values))
    for params in PRIOR_BOX:
        gradient = jacobian(params)
        for name, slope in reverse(params).items():
            np.testing.assert_allclose(slope, gradient[name], rtol=1e-9, atol=1e-12 / abs(params[name] or 1.0))
        for name, value in params.items():
            step = 1e-4 * (abs(value) if name not in ("alpha", "beta", "phi0") else 1.0)
            f = [evaluate({**params, name: value + k * step}) for k in (-2, -1, 1, 2)]
            estimate = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)
            np.testing.assert_allclose(gradient[name], estimate, rtol=1e-6, atol=1e-11 / step)


def test_positivity_is_decided_at_the_ends():
    t = np.geomspace(0.1, 100.0, 400)
    for exponent in (-1.3, 0.0, 0.7):
        for offset in (-60.0, -1.0, 0.0, 1.0):
            p = {"D0": 2.0, "alpha": exponent, "D_offset": offset}
            everywhere = bool(np.all(2.0 * t**exponent + offset > 0))
            assert bool(correlation.transport_positive(p, t[0], t[-1])) == everywhere


@pytest.mark.parametrize(
    ("params", "keywords", "message"),
    [
        ({"D0": 1.0, "alpha": 0.0}, {}, "D_offset"),
        ({**STATIC, "beta": 0.0}, {}, "gamma_dot_0, gamma_dot_offset, phi0"),
        ({**STATIC, "d0": 1.0}, {}, "unknown parameter d0"),
        (LAMINAR, {"gap": None}, "gap is missing"),
        (LAMINAR, {"shear_convention": "old"}, "'old'.*he2024, legacy"),
        (STATIC, {"shear_convention": "old"}, "'old'.*he2024, legacy"),
    ],
)
def test_wrong_input_is_named(params, keywords, message):
    with pytest.raises(InputError, match=message):
        g(0.0, 0.1, 0.2, params, **{"q": Q, "gap": GAP, **keywords})
