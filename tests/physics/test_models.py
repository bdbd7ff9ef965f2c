"""Models against direct integration over time and over the gap, and against slow, obvious references."""

import math

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given
from scipy.integrate import quad

from homodyne.physics.model import find_model
from homodyne.physics.models.laminar_flow import SHEAR_CONVENTIONS, LaminarFlow
from homodyne.physics.models.static import Static
from homodyne.physics.simulate import covariance_factor

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
    got = np.asarray(LaminarFlow(convention).g(LAMINAR, t1, t2, Q, phi[:, None], GAP))
    expected = np.array([[slow_g(a, *pair, LAMINAR, factor) for pair in PAIRS] for a in phi])
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-13)
    other = averaged if factor is earlier_software else earlier_software
    wrong = np.array([[slow_g(a, *pair, LAMINAR, other) for pair in PAIRS] for a in phi])
    assert not np.allclose(got, wrong, rtol=0.02, atol=0.01)


def shear_factor(x, convention="he2024"):
    """Factor in g at an argument x of sin(x)/x, of a sample that does nothing but flow."""
    divisor, _ = SHEAR_CONVENTIONS[convention]
    still = {"D0": 0.0, "alpha": 0.0, "D_offset": 0.0, "beta": 0.0, "gamma_dot_offset": 0.0, "phi0": 0.0}
    return LaminarFlow(convention).g({**still, "gamma_dot_0": x}, 1.0, 2.0, divisor, 0.0, 1.0)


def test_shear_factor_by_quadrature_over_the_gap():
    x = np.array([1e-9, 0.1, 0.499, 0.501, 1.0, 3.0, 3.2, 20.0])
    expected = [over_the_gap(2 * one) ** 2 for one in x]
    np.testing.assert_allclose(shear_factor(x), expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(shear_factor(x, "legacy"), (np.sin(x) / x) ** 4, rtol=1e-10, atol=1e-14)


def test_shear_factor_is_smooth_at_zero_and_legacy_rates_are_larger_by_the_known_ratio():
    found = {}
    for convention, curvature in (("he2024", -2 / 3), ("legacy", -4 / 3)):
        factor = lambda x, c=convention: shear_factor(x, c)  # noqa: E731
        assert float(factor(0.0)) == 1.0
        assert float(jax.grad(factor)(0.0)) == 0.0
        for x in (0.0, 1e-200, 1e-8, 1e-4):
            assert float(jax.grad(jax.grad(factor))(x)) == pytest.approx(curvature, rel=1e-6)
        found[convention] = curvature / SHEAR_CONVENTIONS[convention][0] ** 2
    assert math.sqrt(found["he2024"] / found["legacy"]) == pytest.approx(math.pi / math.sqrt(2), rel=1e-12)


def test_static_g_is_one_exponential_without_angle():
    t1, t2 = np.array(PAIRS).T
    got = Static().g(STATIC, t1, t2, Q, np.array([[0.0], [90.0]]), np.nan)
    expected = [math.exp(-(Q**2) * integral(*STATIC.values(), *pair)) for pair in PAIRS]
    np.testing.assert_allclose(got, [expected, expected], rtol=1e-10)


def test_planted_factor_two_in_the_exponent_is_seen():
    wrong = {**STATIC, "D0": 2 * STATIC["D0"], "D_offset": 2 * STATIC["D_offset"]}
    right, doubled = (float(Static().g(p, 0.1, 0.2, Q, 0.0, np.nan)) for p in (STATIC, wrong))
    expected = math.exp(-(Q**2) * integral(*STATIC.values(), 0.1, 0.2))
    assert right == pytest.approx(expected, rel=1e-10)
    assert doubled != pytest.approx(expected, rel=1e-2)


STRETCHED = {"Gamma_ref": 0.8, "mu": 0.4, "k": 0.6, "n": 1.7}


@pytest.mark.parametrize("k", [0.6, 1.0, 1.8])
@pytest.mark.parametrize("q_ref", [0.01, 0.004])
def test_stretched_exponential_by_quadrature(k, q_ref):
    params, q = {**STRETCHED, "k": k}, np.array([[0.004], [0.01]])
    t1, t2 = np.array(PAIRS).T
    got = find_model("stretched", {"q_ref": q_ref}).g(params, t1, t2, q, np.zeros((2, 1)), np.nan)
    expected = [
        [math.exp(-2 * ((one / q_ref) ** 1.7 * integral(0.8, -0.4, 0.0, *pair)) ** k) for pair in PAIRS]
        for one in q.ravel()
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    wrong = np.exp(-2 * (q / q_ref) ** 1.7 * np.array([integral(0.8, -0.4, 0.0, *pair) for pair in PAIRS]) ** k)
    if k != 1.0:  # the power of the scale forgotten
        assert not np.allclose(got, wrong, rtol=1e-2)


def test_short_lags_of_a_stretched_exponential_have_slopes():
    model, t2 = find_model("stretched"), np.array([1.0, 1.0 + 1e-12, 1.001, 5.0])
    g = lambda p: model.g({**p, "n": 2.0}, 1.0, t2, 0.01, 0.0, np.nan)  # noqa: E731
    params = {name: STRETCHED[name] for name in ("Gamma_ref", "mu", "k")}
    assert g(params)[0] == 1.0
    slopes = jax.jacrev(g)(params)
    for name, value in slopes.items():
        assert np.all(np.isfinite(value)), name
        assert value[0] == 0.0
        step = 1e-6 * params[name]
        estimate = (g({**params, name: params[name] + step}) - g({**params, name: params[name] - step})) / (2 * step)
        np.testing.assert_allclose(value[2:], estimate[2:], rtol=1e-6, atol=1e-9)


def test_stretched_exponent_of_q_is_fixed_unless_it_is_freed():
    n = [model.parameters[3] for model in (find_model("stretched"), find_model("stretched", {"free_n": True}))]
    assert [one.fixed for one in n] == [2.0, None]
    rates = {one.name: one.value for one in find_model("stretched").rates()}
    assert float(rates["Gamma"](STRETCHED, 2.0) * rates["tau"](STRETCHED, 2.0)) == pytest.approx(1.0)
    assert float(rates["Gamma"](STRETCHED, 2.0)) == pytest.approx(0.8 * 2.0**-0.4)


HETERODYNE = {
    "D0_ref": 3000.0, "alpha_ref": -0.5, "D_offset_ref": 50.0, "D0_sample": 9000.0, "alpha_sample": 0.2,
    "D_offset_sample": -200.0, "v0": 300.0, "beta": -0.4, "v_offset": -20.0, "f0": 0.5, "f1": -0.2, "f2": 1.0,
    "f3": 0.15, "phi0": 12.0,
}  # fmt: skip


def slow_c2(p, phi, q, t1, t2):
    """The formula of the paper, integrals by quadrature, in its own order of terms."""
    s1, s2 = (p["f0"] * math.exp(p["f1"] * (t - p["f2"])) + p["f3"] for t in (t1, t2))
    r1, r2 = 1 - s1, 1 - s2
    Hr, Hs = (
        math.exp(-0.5 * q**2 * integral(p[f"D0_{c}"], p[f"alpha_{c}"], p[f"D_offset_{c}"], t1, t2))
        for c in ("ref", "sample")
    )
    path = integral(p["v0"], p["beta"], p["v_offset"], t1, t2)
    cross = 2 * r1 * r2 * s1 * s2 * Hr * Hs * math.cos(q * math.cos(math.radians(phi - p["phi0"])) * path)
    return ((r1 * r2 * Hr) ** 2 + (s1 * s2 * Hs) ** 2 + cross) / ((s1**2 + r1**2) * (s2**2 + r2**2))


def test_heterodyne_is_the_formula_of_two_components():
    phi, q = np.array([[0.0], [40.0], [102.0], [-170.0]]), np.array([[0.004], [0.006], [0.008], [0.01]])
    t1, t2 = np.array([(0.1, 0.2), (0.1, 0.5), (3.0, 3.5), (3.0, 9.0), (9.0, 10.0)]).T
    got = find_model("heterodyne").g(HETERODYNE, t1, t2, q, phi, np.nan)
    expected = [
        [slow_c2(HETERODYNE, a, k, *pair) for pair in zip(t1, t2, strict=True)]
        for a, k in zip(phi.ravel(), q.ravel(), strict=True)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    planted = [slow_c2({**HETERODYNE, "phi0": -12.0}, 40.0, 0.006, *pair) for pair in zip(t1, t2, strict=True)]
    assert not np.allclose(got[1], planted, rtol=1e-2)


def test_what_intensities_do_not_tell():
    model, t = find_model("heterodyne"), np.linspace(0.1, 9.0, 12)
    g = lambda change: model.g({**HETERODYNE, **change}, t[0], t, 0.006, 30.0, np.nan)  # noqa: E731
    turned, reversed_ = {"phi0": HETERODYNE["phi0"] + 180.0}, {"v0": -300.0, "v_offset": 20.0}
    swapped = {name.replace("ref", "x").replace("sample", "ref").replace("x", "sample"): value
               for name, value in HETERODYNE.items() if name.endswith(("ref", "sample"))}  # fmt: skip
    swapped |= {"f0": -HETERODYNE["f0"], "f3": 1.0 - HETERODYNE["f3"]}
    moved = {"f2": 0.0, "f0": HETERODYNE["f0"] * math.exp(-HETERODYNE["f1"])}
    for change in (turned, reversed_, swapped, moved):
        np.testing.assert_allclose(g(change), g({}), rtol=1e-12)
    assert [p.name for p in model.parameters if p.fixed is not None] == ["f2"]
    assert next(p for p in model.parameters if p.name == "phi0").period == 180.0


def test_the_other_order_of_components_is_an_alternative():
    """Exact where s does not bend; a start for searches elsewhere."""
    model, t = find_model("heterodyne"), np.linspace(0.1, 9.0, 12)
    for f1, tolerance in ((-1e-5, 1e-8), (-0.02, 1e-2)):
        here = {**HETERODYNE, "f1": f1}
        (other,) = model.alternatives(here, 4.0)
        assert set(other) == set(here)
        g, alike = (model.g(params, t[0], t, 0.006, 30.0, np.nan) for params in (here, other))
        np.testing.assert_allclose(alike, g, atol=tolerance)
        (back,) = model.alternatives(other, 4.0)
        assert back == pytest.approx(here)


def test_support_of_two_components():
    model = find_model("heterodyne")
    allowed = lambda **change: bool(model.supported({**HETERODYNE, **change}, 0.1, 9.0))  # noqa: E731
    assert allowed()
    assert allowed(v_offset=-150.0)  # changes its sign late
    assert not allowed(v0=-300.0, v_offset=0.0)
    assert not allowed(f3=0.7)
    assert not allowed(f3=-0.2)
    assert not allowed(D_offset_ref=-3000.0)
    assert not allowed(D_offset_sample=-9000.0)


def test_a_velocity_that_frames_cannot_follow_is_told():
    model, t = find_model("heterodyne"), 0.1 * np.arange(1, 50)
    maps = np.array([0.004, 0.01]), np.array([12.0, 12.0])
    assert model.warnings(HETERODYNE, t, *maps, np.nan) == ()
    fast = {**HETERODYNE, "v0": 1.02 * math.pi / (0.01 * 0.1), "beta": 0.0, "v_offset": 0.0}
    (told,) = model.warnings(fast, t, *maps, np.nan)
    assert "q = 0.01" in told
    assert "3.2 from frame" in told
    assert model.warnings(fast, t, maps[0], np.array([12.0, 102.0]), np.nan) == ()


MODELS = {
    "static": (Static(), STATIC),
    "he2024": (LaminarFlow(), LAMINAR),
    "legacy": (LaminarFlow("legacy"), LAMINAR),
    "stretched": (find_model("stretched"), STRETCHED),
    "heterodyne": (find_model("heterodyne"), HETERODYNE),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_field_is_a_covariance_whose_square_is_g(name):
    model, params = MODELS[name]
    t = np.linspace(0.1, 3.0, 25)
    early, late = np.minimum(t[:, None], t), np.maximum(t[:, None], t)
    g, field = (np.asarray(f(params, early, late, Q, 2.0, GAP)) for f in (model.g, model.field))
    np.testing.assert_allclose(np.abs(field) ** 2, g, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(np.diag(g), 1.0, rtol=1e-14)
    hermitian = np.where(t[:, None] <= t, field, field.conj())
    assert np.linalg.eigvalsh(hermitian).min() > 0
    factor = covariance_factor(hermitian)
    np.testing.assert_allclose(factor @ factor.conj().T, hermitian, atol=1e-13)


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


FAST_G = jax.jit(lambda phi, t1, t2, params: LaminarFlow().g(params, t1, t2, Q, phi, GAP))


PRIOR_BOX = [  # the mode of each fit and the corners of a wide prior around it
    {**LAMINAR, "alpha": alpha, "D0": 10.0**log_d0, "beta": beta, "gamma_dot_0": 10.0**log_rate, "phi0": phi0}
    for alpha, log_d0 in ((-2.0, 3.0), (-1.0, 4.0), (0.0, 3.5), (0.8, 3.0))
    for beta, log_rate in ((-1.5, -3.0), (-1.0, -3.5), (0.0, -2.5))
    for phi0 in (-30.0, 90.0)
]


@pytest.mark.parametrize("convention", SHEAR_CONVENTIONS)
def test_gradient_against_finite_differences_over_the_prior(convention):
    phi, t1, t2 = (
        np.array([0.0, 50.0, 120.0])[:, None],
        np.array([0.1, 1.0, 20.0]),
        np.array([0.3, 1.5, 20.2]),
    )

    def values(params):
        return LaminarFlow(convention).g(params, t1, t2, Q, phi, GAP)

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
            assert bool(Static().supported(p, t[0], t[-1])) == everywhere
