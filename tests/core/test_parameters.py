"""Parameter spaces: maps that are inverse, Jacobians by automatic differentiation, priors restricted to the support."""

from itertools import chain, combinations

import jax
import numpy as np
import pytest
from scipy import stats

from homodyne.core.parameters import (
    DEFAULT_PRIORS,
    LAMINAR_NAMES,
    MODES,
    STATIC_NAMES,
    UNITS,
    parameter_space,
)
from homodyne.core.priors import make_prior
from homodyne.core.transport import rate_integral
from homodyne.errors import InputError

T = 0.1 * np.arange(1, 31)
FIXED = {
    "D0": 2e4,
    "alpha": -0.4,
    "D_offset": 50.0,
    "gamma_dot_0": 2e-3,
    "beta": 0.3,
    "gamma_dot_offset": 1e-4,
    "phi0": 7.0,
}
BOUNDED = {
    "D0": make_prior("uniform", {"low": 0.0, "high": 1e6}),
    "alpha": make_prior("normal", {"mean": 0.0, "sd": 1.0}, (-2.0, 2.0)),
    "D_offset": make_prior("uniform", {"low": -3e3, "high": 1e4}),
    "beta": make_prior("uniform", {"low": -1.5, "high": 1.5}),
    "phi0": make_prior("uniform", {"low": -30.0, "high": 40.0}),
}
"""Priors with two finite ends; as coordinates these are stretched to the whole line."""


def subsets(names):
    """Every choice of fixed parameters that leaves one free."""
    return list(chain.from_iterable(combinations(names, k) for k in range(len(names))))


CHOICES = [("static", s) for s in subsets(STATIC_NAMES)] + [
    ("laminar_flow", ()),
    ("laminar_flow", ("alpha", "gamma_dot_offset")),
    ("laminar_flow", ("D0", "alpha", "D_offset", "gamma_dot_0")),
    ("laminar_flow", ("D_offset", "gamma_dot_0", "beta", "gamma_dot_offset")),
    ("laminar_flow", ("D0", "beta", "phi0")),
]


STRETCHED = [("static", ()), ("static", ("alpha",)), ("laminar_flow", ()), ("laminar_flow", ("D0", "beta", "phi0"))]


def spaces():
    """A space of every kind; those with bounded priors have ``logit`` coordinates."""
    for choices, bounded in ((CHOICES, {}), (STRETCHED, BOUNDED)):
        for mode, fixed in choices:
            priors = {n: p for n, p in bounded.items() if n in MODES[mode] and n not in fixed}
            yield parameter_space(mode, T, priors=priors, fixed={n: FIXED[n] for n in fixed})


SPACES = list(spaces())


def points(space, count=3, seed=0):
    """Coordinates of draws from the prior; exponents near 0, where amplitude and offset are one, are left out."""
    params = space.draw(np.random.default_rng(seed), 1000)
    chosen = supported_by_hand(space, params)
    for name in {"alpha", "beta"} & set(space.free_names):
        chosen &= np.abs(params[name]) > 0.1
    return space.coordinates({name: x[chosen][:count] for name, x in params.items()})


def cancellation(space, params):
    """How many digits the levels lose: largest term of amplitude t**exponent + offset over the sum, at any time."""
    worst = 1.0
    for amplitude, exponent, offset in (space.names[:3], space.names[3:6])[: len(space.laws)]:
        power, constant = params[amplitude] * T ** params[exponent], params[offset]
        worst = max(worst, float(np.max(np.maximum(abs(power), abs(constant)) / abs(power + constant))))
    return worst


def test_maps_are_inverse_of_each_other():
    for space in SPACES:
        for z in points(space):
            params = {name: float(value) for name, value in space.physical(z).items()}
            assert set(params) == set(space.names)
            assert all(params[name] == value for name, value in space.fixed.items())
            digits = 1e-12 * cancellation(space, params)
            np.testing.assert_allclose(space.coordinates(params), z, rtol=digits, atol=digits)


def test_coordinates_of_many_points_are_those_of_each():
    space = parameter_space("laminar_flow", T)
    z = points(space)
    params = [space.physical(one) for one in z]
    together = space.coordinates({name: np.array([p[name] for p in params]) for name in space.names})
    np.testing.assert_array_equal(together, [space.coordinates(p) for p in params])


def log_jacobian(space):
    """Log |d(free physical parameters)/dz| by automatic differentiation."""

    def free(z):
        params = space.physical(z)
        return [params[name] for name in space.free_names]

    def of(z):
        return np.linalg.slogdet(np.array([jax.jvp(free, (z,), (unit,))[1] for unit in np.eye(space.dim)]))[1]

    return of


def test_log_prior_is_the_prior_density_with_the_jacobian():
    for space in SPACES:
        for z in points(space, 1, seed=1):
            params = space.physical(z)
            prior = sum(float(space.priors[name].log_prob(params[name])) for name in space.free_names)
            jacobian = log_jacobian(space)(z)
            assert float(space.log_prior(z)) == pytest.approx(prior + jacobian, rel=1e-8, abs=1e-8)
            if any(name.startswith(("log_", "logit_")) for name in space.coordinate_names):
                assert float(space.log_prior(z)) != pytest.approx(prior, rel=1e-8, abs=1e-8)


def test_integrals_are_those_of_the_physical_parameters():
    for space in SPACES:
        for z in points(space, 1, seed=2):
            params = space.physical(z)
            digits = 1e-11 * cancellation(space, {name: float(x) for name, x in params.items()})
            transport, strain, phi0 = space.integrals(z, T)
            own = rate_integral(T[0], T, params["D0"], params["alpha"], params["D_offset"])
            np.testing.assert_allclose(transport, own, rtol=digits)
            if space.mode == "static":
                assert (strain, phi0) == (None, None)
                continue
            own = rate_integral(T[0], T, params["gamma_dot_0"], params["beta"], params["gamma_dot_offset"])
            np.testing.assert_allclose(strain, own, rtol=digits)
            assert phi0 == params["phi0"]


def test_curves_are_smooth_through_special_exponents():
    space = parameter_space("laminar_flow", T)
    weight = np.random.default_rng(3).normal(size=(2, T.size))
    unit, h = np.eye(7)[2] + np.eye(7)[5], 1e-3

    def curve(z):
        transport, strain, _ = space.integrals(z, T)
        return weight[0] @ transport / 1e3 + weight[1] @ strain * 1e3

    def slope(z):
        return jax.jvp(curve, (z,), (unit,))[1]

    value, slope, bend = (jax.jit(f) for f in (curve, slope, lambda z: jax.jvp(slope, (z,), (unit,))[1]))
    for exponent in (0.0, -1.0):
        z0 = np.array([9.0, 8.0, exponent, -6.0, -5.0, exponent, 3.0])
        for x in (-1e-3, -1e-9, 0.0, 1e-9, 1e-3):
            v, s = ([float(f(z0 + (x + k * h) * unit)) for k in (-2, -1, 1, 2)] for f in (value, slope))
            assert slope(z0 + x * unit) == pytest.approx((v[0] - 8 * v[1] + 8 * v[2] - v[3]) / (12 * h), rel=1e-8)
            assert bend(z0 + x * unit) == pytest.approx((s[0] - 8 * s[1] + 8 * s[2] - s[3]) / (12 * h), rel=1e-8)
        around = [float(value(z0 + x * unit)) for x in (-1e-9, 0.0, 1e-9)]
        np.testing.assert_allclose(around, around[1], rtol=1e-7)


def test_softening_leaves_no_pole_at_an_exponent_of_zero():
    """The prior grows up to it as far as it allows for amplitudes; elsewhere softening changes next to nothing."""
    space = parameter_space("laminar_flow", T)
    prior, softening = jax.jit(space.log_prior), jax.jit(space.log_softening)

    def at(beta):
        return np.array([9.0, 8.0, -0.5, -9.4, -9.6, beta, 3.0])

    betas = -np.geomspace(3e-3, 0.05, 10)
    plain = np.array([prior(at(beta)) for beta in betas])
    softened = plain + np.array([softening(at(beta)) for beta in betas])
    assert np.all(np.diff(plain) < 0)  # towards larger exponents
    assert np.all(np.diff(softened) > 0)
    assert abs(softening(at(-0.5)) - softening(at(-1.0))) < 0.15
    assert softening(at(0.0)) == -np.inf


def supported_by_hand(space, params):
    """Whether the rates are positive and finite on a fine grid of the record."""
    laws = (space.names[:3], space.names[3:6])[: len(space.laws)]
    rates = [params[a] * t ** params[e] + params[o] for t in np.geomspace(T[0], T[-1], 50) for a, e, o in laws]
    return np.all(np.array(rates) > 0, axis=0)


def test_outside_the_support_the_prior_is_minus_infinity():
    space = parameter_space("laminar_flow", T)
    log_prior, supported = jax.jit(space.log_prior), jax.jit(space.supported)
    rng = np.random.default_rng(4)
    inside = 0
    for z in space.draw_supported(rng, 60) + rng.normal(size=(60, 7)):
        params = {name: float(x) for name, x in space.physical(z).items()}
        within = supported_by_hand(space, params)
        assert supported(z) == within
        possible = within and params["D0"] > 0 and params["gamma_dot_0"] > 0
        assert np.isfinite(log_prior(z)) == possible
        inside += possible
    assert 5 < inside < 55  # both sides were seen


@pytest.mark.parametrize("name", ["D0", "alpha", "D_offset"])
def test_outside_its_bounds_a_prior_is_minus_infinity(name):
    bounds = {"D0": (1e4, 1e5), "alpha": (-1.0, 0.5), "D_offset": (0.0, 1e3)}[name]
    priors = {name: make_prior(*DEFAULT_PRIORS[name], bounds)}
    space = parameter_space("static", T, priors=priors)
    free = parameter_space("static", T)
    for value in bounds:
        for factor, possible in ((1e-6, True), (-1e-6, False)):
            inward = factor * (bounds[1] - bounds[0]) * (1 if value == bounds[0] else -1)
            params = {"D0": 3e4, "alpha": -0.4, "D_offset": 50.0, name: value + inward}
            if f"logit_{name}" in space.coordinate_names:
                if not possible:
                    with pytest.raises(InputError, match=f"{name} = "):
                        space.coordinates(params)
                continue
            assert np.isfinite(space.log_prior(free.coordinates(params))) == possible


def rejection(space, rng, count):
    """Draws from the default priors by SciPy, those kept whose rates are positive on a fine grid."""
    whole = {
        "lognormal": lambda a: stats.lognorm(a["sigma"], scale=a["median"]),
        "normal": lambda a: stats.norm(a["mean"], a["sd"]),
        "uniform": lambda a: stats.uniform(a["low"], a["high"] - a["low"]),
    }
    columns = {n: whole[DEFAULT_PRIORS[n][0]](DEFAULT_PRIORS[n][1]).rvs(count, random_state=rng) for n in space.names}
    return {n: x[supported_by_hand(space, columns)] for n, x in columns.items()}


def disagreement(sample, reference):
    """Smallest p-value of Kolmogorov-Smirnov tests of every parameter."""
    return min(stats.ks_2samp(sample[n], reference[n]).pvalue for n in sample)


def test_supported_draws_follow_the_prior_restricted_to_the_support():
    space = parameter_space("laminar_flow", T)
    rng = np.random.default_rng(5)
    z = space.draw_supported(rng, 3000)
    assert z.shape == (3000, 7)
    params = jax.jit(jax.vmap(space.physical))(z)
    assert np.all(jax.jit(jax.vmap(space.supported))(z))
    reference = rejection(space, rng, 12_000)
    assert len(reference["D0"]) > 2000
    assert disagreement({n: np.asarray(x) for n, x in params.items()}, reference) > 1e-3 / 7
    assert disagreement(space.draw(rng, 3000), reference) < 1e-6  # not restricted: seen
    bounded = parameter_space("laminar_flow", T, priors=BOUNDED)
    z = bounded.draw_supported(rng, 200)
    assert np.all(np.isfinite(jax.jit(jax.vmap(bounded.log_prior))(z)))


def test_draws_repeat_for_the_same_generator():
    space = parameter_space("static", T)
    first, second, other = (space.draw_supported(np.random.default_rng(seed), 5) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.any(first == other)


def test_canonical_phi0_is_the_same_flow():
    space = parameter_space("laminar_flow", T)
    z = np.zeros((2, 3, 7))
    z[..., -1] = [[0.0, 89.0, 91.0], [-91.0, 270.5, 544.0]]
    np.testing.assert_allclose(space.canonical(z)[..., -1], [[0.0, 89.0, -89.0], [89.0, -89.5, 4.0]])
    np.testing.assert_allclose(space.canonical(z, around=80.0)[..., -1], [[0.0, 89.0, 91.0], [89.0, 90.5, 4.0]])
    np.testing.assert_array_equal(space.canonical(z)[..., :-1], z[..., :-1])
    assert z[0, 0, -1] == 0.0
    log_prior = space.log_prior(np.array([9.0, 8.0, -0.5, -6.0, -5.0, 0.5, 30.0]))
    assert space.log_prior(np.array([9.0, 8.0, -0.5, -6.0, -5.0, 0.5, 210.0])) == log_prior
    longer = np.zeros(9)  # coordinates followed by others
    longer[6] = longer[8] = 100.0
    assert space.canonical(longer)[6] == -80.0
    assert space.canonical(longer)[8] == 100.0
    for still in (
        parameter_space("static", T),
        parameter_space("laminar_flow", T, fixed={"phi0": 100.0}),
        parameter_space("laminar_flow", T, priors={"phi0": make_prior("normal", {"mean": 0.0, "sd": 200.0})}),
    ):
        np.testing.assert_array_equal(still.canonical(np.full(still.dim, 100.0)), 100.0)


PUBLISHED = {
    "laminar_flow": dict(zip(LAMINAR_NAMES, (68481, -1.327, 1708, 1.99e-3, -0.212, -6.1e-4, 2.0), strict=True)),
    "static": dict(zip(STATIC_NAMES, (16918, -1.572, 3.05), strict=True)),
}


@pytest.mark.parametrize("mode", PUBLISHED)
def test_published_fits_lie_inside_the_default_priors(mode):
    """Inside the middle 98 % of every prior, and possible as a whole, over 1000 frames of 0.1 s."""
    space = parameter_space(mode, 0.1 * np.arange(1, 1001))
    for name, value in PUBLISHED[mode].items():
        low, high = space.priors[name].quantile(np.array([0.01, 0.99]))
        assert low < value < high
    z = space.coordinates(PUBLISHED[mode])
    assert np.isfinite(space.log_prior(z))


def test_coordinate_names():
    assert parameter_space("static", T).coordinate_names == ("log_J_a", "log_J_b", "alpha")
    assert parameter_space("laminar_flow", T).coordinate_names[3:] == (
        "log_gamma_dot_a",
        "log_gamma_dot_b",
        "beta",
        "phi0",
    )
    one = parameter_space(
        "laminar_flow", T, fixed={"D_offset": 0.0, "gamma_dot_0": 0.0, "beta": 0.0}, priors=BOUNDED | {}
    )
    assert one.coordinate_names == ("log_J_m", "logit_alpha", "log_gamma_dot_m", "logit_phi0")
    assert one.free_names == ("D0", "alpha", "gamma_dot_offset", "phi0")
    assert set(LAMINAR_NAMES) < set(UNITS)


WRONG = {
    "nothing to fit": (
        ("static", T, {"fixed": {n: FIXED[n] for n in STATIC_NAMES}}),
        "all parameters of static mode are fixed",
    ),
    "two constants": (
        ("static", T, {"fixed": {"alpha": 0.0}}),
        "alpha is fixed at 0.*D0 and D_offset are.*fix D_offset",
    ),
    "two constant rates": (("laminar_flow", T, {"fixed": {"beta": 0}}), "beta is fixed at 0.*fix gamma_dot_offset"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input(wrong):
    (mode, t, settings), message = WRONG[wrong]
    with pytest.raises(InputError, match=message):
        parameter_space(mode, t, **settings)


def test_values_without_coordinates():
    space = parameter_space("static", T, priors={"alpha": BOUNDED["alpha"]})
    with pytest.raises(InputError, match=r"alpha = 3.0.*inside their bounds"):
        space.coordinates({"D0": 1e4, "alpha": 3.0, "D_offset": 0.0})
    with pytest.raises(InputError, match=r"D0 = -10000.0.*must be positive"):
        space.coordinates({"D0": -1e4, "alpha": 1.0, "D_offset": 0.0})


def test_rates_that_cannot_be_positive():
    space = parameter_space("static", T, fixed={"D_offset": -1e12})
    with pytest.raises(InputError, match=r"J\(t\).*0 of 100 draws.*D0, alpha, D_offset"):
        space.draw_supported(np.random.default_rng(0), 1)
