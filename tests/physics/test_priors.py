"""Priors against SciPy and numerical integration."""

import jax
import numpy as np
import pytest
from scipy import stats

from homodyne.errors import InputError
from homodyne.physics.priors import make_prior

INF = np.inf
CASES = {
    "normal": ("normal", {"mean": -2.0, "sd": 3.0}, None, stats.norm(-2, 3), (-INF, INF)),
    "normal in bounds": ("normal", {"mean": -2.0, "sd": 3.0}, (-1.0, 9.0), stats.norm(-2, 3), (-1, 9)),
    "normal above a bound": ("normal", {"mean": 0.0, "sd": 1e4}, (0.0, INF), stats.norm(0, 1e4), (0, INF)),
    "lognormal": ("lognormal", {"median": 30.0, "sigma": 1.5}, None, stats.lognorm(1.5, scale=30), (0, INF)),
    "lognormal in bounds": (
        "lognormal",
        {"median": 1e4, "sigma": 4.0},
        (-5.0, 1e5),
        stats.lognorm(4, scale=1e4),
        (0, 1e5),
    ),
    "uniform": ("uniform", {"low": -3.0, "high": 7.0}, None, stats.uniform(-3, 10), (-3, 7)),
    "uniform in bounds": ("uniform", {"low": -3.0, "high": 7.0}, (2.0, 40.0), stats.uniform(-3, 10), (2, 7)),
    "loguniform": ("loguniform", {"low": 0.1, "high": 1e3}, None, stats.loguniform(0.1, 1e3), (0.1, 1e3)),
    "loguniform in bounds": (
        "loguniform",
        {"low": 0.1, "high": 1e3},
        (-1.0, 50.0),
        stats.loguniform(0.1, 1e3),
        (0.1, 50),
    ),
    "truncated normal": (
        "truncated_normal",
        {"mean": 1.0, "sd": 0.5, "low": 0.0, "high": 1.2},
        None,
        stats.norm(1, 0.5),
        (0, 1.2),
    ),
    "truncated normal in bounds": (
        "truncated_normal",
        {"mean": 1.0, "sd": 0.5, "low": 0.0, "high": 1.2},
        (0.7, 5.0),
        stats.norm(1, 0.5),
        (0.7, 1.2),
    ),
    "half normal": ("half_normal", {"sd": 2.0}, None, stats.halfnorm(scale=2), (0, INF)),
    "half normal in bounds": ("half_normal", {"sd": 2.0}, (-4.0, 3.0), stats.halfnorm(scale=2), (0, 3)),
}
P = np.linspace(0.02, 0.98, 9)


@pytest.fixture(params=CASES)
def case(request):
    """Prior, SciPy distribution, its support, and its mass there by numerical integration."""
    kind, arguments, bounds, whole, (low, high) = CASES[request.param]
    prior = make_prior(kind, arguments, bounds)
    return prior, whole, (low, high), integral(whole.pdf, whole, low, high)


def integral(function, whole, low, high):
    """Gauss-Legendre quadrature by pieces, so that every decade of a wide distribution is seen."""
    score = np.linspace(0.0, 8.0, 17)
    edges = np.concatenate([whole.ppf(stats.norm.sf(score)), whole.isf(stats.norm.sf(score)), [low, high]])
    edges = np.sort(np.clip(edges[np.isfinite(edges)], low, high))
    half, middle = np.diff(edges)[:, None] / 2, (edges[1:] + edges[:-1])[:, None] / 2
    x, weight = np.polynomial.legendre.leggauss(30)
    return float(np.sum(half * weight * function(middle + half * x)))


def test_log_prob_is_the_density_restricted_to_the_bounds(case):
    prior, whole, _, mass = case
    x = prior.quantile(P)
    np.testing.assert_allclose(prior.log_prob(x), whole.logpdf(x) - np.log(mass), rtol=1e-9, atol=1e-9)


def test_density_integrates_to_one(case):
    prior, whole, (low, high), mass = case
    total = integral(lambda x: np.exp(prior.log_prob(x)), whole, low, high)
    assert total == pytest.approx(1.0, abs=1e-9)
    if mass < 0.99:  # the density that is not normalised again is seen
        assert mass * total != pytest.approx(1.0, abs=1e-9)


def test_quantile_inverts_the_distribution_function(case):
    prior, whole, (low, high), mass = case
    x = prior.quantile(P)
    below = [integral(whole.pdf, whole, low, one) / mass for one in x]
    np.testing.assert_allclose(below, P, atol=1e-9)
    assert np.all((x > low) & (x < high))
    np.testing.assert_allclose(prior.quantile(np.array([0.0, 1.0])), [low, high], rtol=1e-12, atol=1e-12)


def test_outside_is_impossible_and_flat(case):
    prior, _, (low, high), _ = case
    value_and_gradient = jax.jit(jax.value_and_grad(prior.log_prob))
    for end, sign in ((low, -1.0), (high, 1.0)):
        for distance in (1e-9, 1.0, 1e6):
            if np.isfinite(end):
                assert value_and_gradient(end + sign * distance * max(1.0, abs(end))) == (-INF, 0.0)


def test_gradient_equals_differences(case):
    prior, *_ = case
    gradient = jax.jit(jax.grad(prior.log_prob))
    for x in prior.quantile(P[::3]):
        step = 1e-4 * (prior.quantile(0.6) - prior.quantile(0.4))
        step = min(step, 1e-4 * abs(x - prior.low), 1e-4 * abs(x - prior.high))
        slope = (prior.log_prob(x + step) - prior.log_prob(x - step)) / (2 * step)
        assert gradient(x) == pytest.approx(float(slope), rel=1e-5, abs=1e-9 / step)


WRONG = {
    "ends exchanged": ("uniform", {"low": 2.0, "high": 1.0}, None, "low = 2.0 must be below high = 1.0"),
    "ends equal": ("truncated_normal", {"mean": 0.0, "sd": 1.0, "low": 1.0, "high": 1.0}, None, "below high"),
    "bounds exchanged": ("normal", {"mean": 0.0, "sd": 1.0}, (1.0, -1.0), "no support between 1.0 and -1.0"),
    "bounds equal": ("normal", {"mean": 0.0, "sd": 1.0}, (1.0, 1.0), "no support"),
    "bound not a number": ("normal", {"mean": 0.0, "sd": 1.0}, (np.nan, 1.0), "no support"),
    "bounds beside a uniform": ("uniform", {"low": 0.0, "high": 1.0}, (1.0, 2.0), "no support"),
    "bounds beside a normal": ("normal", {"mean": 0.0, "sd": 1.0}, (50.0, 60.0), "no support"),
    "bounds below a lognormal": ("lognormal", {"median": 1.0, "sigma": 1.0}, (-2.0, 0.0), "no support"),
    "bounds of both": (
        "truncated_normal",
        {"mean": 0.0, "sd": 1.0, "low": 0.0, "high": 1.0},
        (1.0, 2.0),
        "no support",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input_names_the_parameter(wrong):
    kind, arguments, bounds, message = WRONG[wrong]
    with pytest.raises(InputError, match=message) as caught:
        make_prior(kind, arguments, bounds, name="D_offset")
    assert "D_offset" in str(caught.value)


def test_uniform_over_whole_turns_closes_to_a_circle():
    circle = make_prior("uniform", {"low": -90.0, "high": 90.0}).on_circle(180.0)
    assert circle.circular
    value, gradient = jax.value_and_grad(circle.log_prob)(np.float64(400.0))
    assert (value, gradient) == (pytest.approx(-np.log(180.0), rel=1e-14), 0.0)
    assert make_prior("uniform", {"low": 0.0, "high": 360.0}).on_circle(180.0).circular


@pytest.mark.parametrize(
    "prior",
    [
        make_prior("uniform", {"low": -90.0, "high": 80.0}),
        make_prior("uniform", {"low": 0.0, "high": 90.0}),
        make_prior("uniform", {"low": -90.0, "high": 90.0}, (-90.0, 20.0)),
        make_prior("normal", {"mean": 0.0, "sd": 20.0}),
        make_prior("normal", {"mean": 0.0, "sd": 20.0}, (-90.0, 90.0)),
    ],
)
def test_other_priors_stay_open(prior):
    assert prior.on_circle(180.0) is prior
