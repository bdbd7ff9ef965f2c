"""Coordinates: round trips, Jacobians against autodiff, no wall at exponent zero."""

import itertools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from homodyne.errors import InputError
from homodyne.physics.model import find_model
from homodyne.physics.priors import make_prior
from homodyne.physics.space import parameter_space

T = 0.1 * np.arange(1, 101)
MIDDLE = np.exp(integrate.quad(np.log, T[0], T[-1], epsabs=1e-13)[0] / (T[-1] - T[0]))
VALUES = {
    "D0": 2e4, "alpha": -0.4, "D_offset": 30.0, "gamma_dot_0": 3e-3, "beta": 0.2, "gamma_dot_offset": -1e-4,
    "phi0": 12.0,
}  # fmt: skip


def space_of(free, model="laminar_flow", **more):
    chosen = find_model(model)
    fixed = {name: VALUES[name] for name in chosen.parameter_names if name not in free}
    return parameter_space(chosen, T, fixed=fixed, **more)


LAWS = {"D_offset": ("D0", "alpha"), "gamma_dot_offset": ("gamma_dot_0", "beta")}


def log_prior(space, params):
    """Sum of the log densities of the priors; that of a share s of the law by the slope |ds/db| at the offset b."""
    total = 0.0
    for name, prior in space.priors.items():
        if prior.share:
            amplitude, exponent = (float(params[other]) for other in LAWS[name])
            power = amplitude * MIDDLE**exponent
            share = power / (power + float(params[name]))
            total += float(prior.log_prob(share)) + np.log(power / (power + float(params[name])) ** 2)
        else:
            total += float(prior.log_prob(params[name]))
    return total


LAW = ("D0", "alpha", "D_offset")
SUBSETS = [free for size in (1, 2, 3) for free in itertools.combinations(LAW, size)]


NORMAL = make_prior("normal", {"mean": 0.0, "sd": 1e4})


@pytest.mark.parametrize("free", [*SUBSETS, tuple(VALUES), ("gamma_dot_0", "beta", "phi0")])
@pytest.mark.parametrize("offset", [30.0, -30.0])
@pytest.mark.parametrize("prior", [None, NORMAL], ids=["share", "normal"])
def test_coordinates_and_parameters_are_inverse_and_the_jacobian_is_that_of_autodiff(free, offset, prior):
    fixed = {name: VALUES[name] for name in VALUES if name not in free} | (
        {"D_offset": offset} if "D_offset" not in free else {}
    )
    priors = {"D_offset": prior} if prior and "D_offset" in free else {}
    space = parameter_space(find_model("laminar_flow"), T, fixed=fixed, priors=priors)
    truth = {**VALUES, "D_offset": offset}
    z = space.coordinates(truth)
    assert z.shape == (space.dim,) == (len(free),)
    back = space.physical(jnp.asarray(z))
    for name in VALUES:
        assert float(back[name]) == pytest.approx(truth[name], rel=1e-12)
    slopes = jax.jacfwd(space.physical)(jnp.asarray(z))
    matrix = np.array([slopes[name] for name in space.free_names])
    expected = np.log(abs(np.linalg.det(matrix))) + log_prior(space, back)
    if "phi0" in free:  # unwrapped about 0 in a window with soft ends
        expected += np.log(np.diff(stats.norm.cdf(([-90.0, 90.0] - z[-1]) / (180.0 / 12)))[0])
    assert float(space.log_prior(jnp.asarray(z))) == pytest.approx(expected, rel=1e-10)


HETERODYNE = {
    "D0_ref": 3000.0, "alpha_ref": -0.5, "D_offset_ref": 50.0, "D0_sample": 9000.0, "alpha_sample": 0.2,
    "D_offset_sample": -200.0, "v0": 300.0, "beta": -0.4, "v_offset": -20.0, "f0": 0.5, "f1": -0.2, "f2": 0.0,
    "f3": 0.15, "phi0": 12.0,
}  # fmt: skip
GROWTH = ("f0", "f1", "f3")


@pytest.mark.parametrize("age", [0.0, 1.0])
@pytest.mark.parametrize("prior", [None, ("normal", {"mean": 0.0, "sd": 1.0})], ids=["bounded", "normal"])
def test_coordinates_of_a_growing_fraction_are_inverse_too(age, prior):
    """Straight where data determine level and slope: along the last coordinate these hardly change."""
    model, truth = find_model("heterodyne"), {**HETERODYNE, "f2": age}
    fixed = {name: value for name, value in truth.items() if name not in GROWTH}
    space = parameter_space(model, T, fixed=fixed, priors={"f0": make_prior(*prior)} if prior else {})
    last = "f0" if prior else "logit_f0"
    assert space.coordinate_names == ("logit_fraction", "slope_fraction", last)
    z = space.coordinates(truth)
    back, slopes = space.physical(jnp.asarray(z)), jax.jacfwd(space.physical)(jnp.asarray(z))
    assert [float(back[name]) for name in GROWTH] == pytest.approx([truth[name] for name in GROWTH], rel=1e-12)
    matrix = np.array([slopes[name] for name in space.free_names])
    priors = sum(float(space.priors[name].log_prob(truth[name])) for name in GROWTH)
    assert float(space.log_prior(z)) == pytest.approx(np.log(abs(np.linalg.det(matrix))) + priors, rel=1e-10)
    slow = space.coordinates({**truth, "f1": -0.01})

    def fractions(step):
        p = space.physical(slow + np.array([0.0, 0.0, step]))
        return np.asarray(p["f3"] + p["f0"] * jnp.exp(p["f1"] * (T - age)))

    assert np.abs(fractions(0.5) - fractions(0.0)).max() < 2e-3
    assert np.abs(fractions(0.0) - float(back["f3"])).max() > 0.1


def test_growth_with_a_fixed_parameter_has_coordinates_of_single_ones():
    names = parameter_space(find_model("heterodyne"), T, fixed={"f1": -0.1}).coordinate_names
    assert {"logit_f0", "logit_f3"} < set(names)
    priors = {"f2": make_prior("normal", {"mean": 0.0, "sd": 1.0})}
    assert {"f1", "f2", "logit_f3"} < set(parameter_space(find_model("heterodyne"), T, priors=priors).coordinate_names)


def test_exponent_zero_is_an_ordinary_point():
    space = space_of(LAW, "static")
    z = np.array([9.0, 0.0, -0.5])
    gradient = jax.grad(space.log_prior)(z)
    assert np.isfinite(gradient).all()
    beside = [float(space.log_prior(z + np.array([0.0, e, 0.0]))) for e in (-1e-9, 1e-9)]
    assert beside[0] == pytest.approx(beside[1], abs=1e-7)


def test_bounded_exponent_stays_inside():
    space = space_of(LAW, "static", priors={"alpha": make_prior("uniform", {"low": -1.0, "high": 0.5})})
    assert space.coordinate_names[1] == "logit_alpha"
    z = space.coordinates(VALUES)
    slopes = jax.jacfwd(space.physical)(jnp.asarray(z))
    matrix = np.array([slopes[name] for name in space.free_names])
    expected = np.log(abs(np.linalg.det(matrix))) + log_prior(space, space.physical(z))
    assert float(space.log_prior(z)) == pytest.approx(expected, rel=1e-10)
    assert -1 < float(space.physical(z + np.array([0, 40.0, 0]))["alpha"]) <= 0.5


def test_direction_has_no_edge():
    space = space_of(("phi0",))
    z = np.array([170.0])
    assert space.canonical(z) == pytest.approx(np.array([-10.0]))
    assert float(space.physical(z)["phi0"]) == pytest.approx(-10.0)
    for moved in (space, space.about(np.array([[37.0]]), {})):  # the same on the circle, however it is unwrapped
        for z in np.linspace(-90.0, 90.0, 7):
            turns = [float(moved.log_prior(np.array([z + 180.0 * k]))) for k in range(-3, 4)]
            assert np.exp(turns).sum() == pytest.approx(1 / 180.0, rel=1e-12)
    x = np.linspace(-400.0, 400.0, 8001)
    values = np.exp([float(v) for v in jax.vmap(space.log_prior)(x[:, None])])
    assert values.sum() * 0.1 == pytest.approx(1.0, rel=1e-6)  # proper on the whole line
    assert np.isfinite(jax.grad(space.log_prior)(np.array([3000.0]))).all()
    assert float(space.difference(jnp.array([89.0]), jnp.array([-89.0]))[0]) == pytest.approx(-2.0)


def test_a_space_comes_back_from_plain_numbers_as_it_suits_its_data():
    """As a store of shards keeps it: the density there is of the same coordinates."""
    space = space_of(tuple(VALUES))
    z = space.coordinates(VALUES)
    turned = z + 50.0 * (space.periods > 0)
    suited = space.about(turned[None], {"J": 0.02})
    again = space.suited_as(json.loads(json.dumps(suited.suited)))
    assert float(again.log_prior(z)) == float(suited.log_prior(z)) != float(space.log_prior(z))
    wrapped = replace(suited, directions=space.directions)  # planted: the directions forgotten
    far = turned + 70.0 * (space.periods > 0)
    assert float(wrapped.log_prior(far)) != pytest.approx(float(again.log_prior(far)))
    with pytest.raises(KeyError):
        space.suited_as({"slope_scales": suited.suited["slope_scales"]})


def test_draws_of_the_prior_have_positive_rates():
    space = space_of(tuple(VALUES))
    z = space.draw_supported(np.random.default_rng(0), 200)
    assert np.isfinite(np.asarray(jax.vmap(space.log_prior)(z))).all()


def test_one_program_serves_all_priors_of_a_kind():
    count = 0

    @jax.jit
    def density(z, space):
        nonlocal count
        count += 1
        return space.log_prior(z)

    z = np.array([9.0, -0.3, -0.5])
    one = space_of(LAW, "static")
    other = space_of(LAW, "static", priors={"alpha": make_prior("normal", {"mean": -0.2, "sd": 0.3})})
    assert float(density(z, one)) != float(density(z, other))
    assert count == 1


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(InputError, match="one constant"):
        parameter_space(find_model("static"), T, fixed={"alpha": 0.0})
    with pytest.raises(InputError, match="leave at least one"):
        space_of((), "static")
    with pytest.raises(InputError, match="unknown parameter speed"):
        parameter_space(find_model("static"), T, fixed={"speed": 0.0})
    with pytest.raises(InputError, match="unknown model 'statics'"):
        find_model("statics")
    with pytest.raises(InputError, match="no power law of which this is the offset"):
        parameter_space(find_model("static"), T, priors={"alpha": make_prior("share", {"median": 1.0, "sigma": 1.0})})
    with pytest.raises(InputError, match="give D_offset another prior too"):
        make_prior("share", {"median": 1.0, "sigma": 1.0}, (0.0, 5.0), name="D_offset")


def test_draws_of_a_share_are_log_normal():
    space = space_of(LAW, "static", priors={"D_offset": make_prior("share", {"median": 0.5, "sigma": 0.7})})
    z = space.draw_supported(np.random.default_rng(0), 4000)
    params = {name: np.asarray(x) for name, x in jax.vmap(space.physical)(z).items()}
    power = params["D0"] * MIDDLE ** params["alpha"]
    share = power / (power + params["D_offset"])
    below = np.log(share[share < 1])  # all of these are allowed, whatever the exponent
    assert stats.kstest(below, stats.truncnorm(-np.inf, np.log(2) / 0.7, np.log(0.5), 0.7).cdf).pvalue > 1e-3
    assert share.max() > 1
