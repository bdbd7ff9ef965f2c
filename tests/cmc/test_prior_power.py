"""Powers of priors: proper ones pass, improper ones are refused, also where parents and children conspire."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from homodyne.errors import HomodyneWarning, InputError
from homodyne.optimization.cmc.adapters import LogDensityModel, NumPyroModel
from homodyne.optimization.cmc.mode import climb, expansion
from homodyne.optimization.cmc.prior_power import check_prior_power
from known_answers.conjugate import PROBLEMS

jax.config.update("jax_enable_x64", True)

DATA = {"y": np.array([0.3, -0.2])}


def single(prior):
    """A NumPyro model with one latent site."""

    def model(data):
        x = numpyro.sample("x", prior)
        numpyro.sample("y", dist.Normal(jnp.sum(x), 1.0), obs=data["y"])

    return NumPyroModel(model, DATA)


def plain(log_prior, d=1):
    return LogDensityModel([f"z{k}" for k in range(d)], log_prior, lambda z, data: 0.0 * jnp.sum(data["y"]) * z[0])


@pytest.mark.parametrize(
    ("prior", "most"),
    [
        (dist.Cauchy(3.0, 1e-6), 1),
        (dist.StudentT(3.0, 0.0, 2.0), 3),
        (dist.StudentT(9.5, -1e4, 10.0), 10),
        (dist.MultivariateStudentT(6.0, jnp.zeros(2), jnp.eye(2)), 3),  # (6 + 2) / M > 2
        (dist.ImproperUniform(dist.constraints.real, (), ()), 1),
        (dist.Normal(0.0, 1.0).mask(False), 1),
    ],
)
def test_limits_of_heavy_tails(prior, most):
    """A tail |z|^-(nu + 1) in d dimensions bears M shards while (nu + d) / M > d."""
    model = single(prior)
    check_prior_power(model, 1.0)
    check_prior_power(model, 1.0 / most)
    with pytest.raises(InputError, match="lighter tails"):
        check_prior_power(model, 1.0 / (most + 1))


@pytest.mark.parametrize(
    "prior",
    [
        dist.HalfCauchy(2.0),
        dist.Pareto(1.0, 0.5),
        dist.LogNormal(0.0, 10.0),
        dist.InverseGamma(1.0, 1.0),
        dist.Beta(0.5, 0.5),
        dist.Uniform(-1e-8, 1e-8),
        dist.Laplace(0.0, 1e4),
        dist.Dirichlet(jnp.ones(3)),
        dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3) + 0.9),
    ],
)
def test_proper_priors_pass(prior):
    check_prior_power(single(prior), 1e-3)


@pytest.mark.parametrize("name", PROBLEMS)
def test_conjugate_priors_pass(name):
    check_prior_power(PROBLEMS[name](n=4).model, 1.0 / 64)


@pytest.mark.parametrize(("scale", "proper"), [(dist.HalfNormal(1.0), True), (dist.HalfCauchy(1.0), False)])
def test_scale_and_effects_together(scale, proper):
    """E. g. two shards: the integral over effects of N(0, tau)^(1/2) grows like tau^(1/2) each, and HalfCauchy^(1/2)
    with its Jacobian falls like tau^(-1/2) only."""

    def model(data):
        tau = numpyro.sample("tau", scale)
        with numpyro.plate("effects", 2):
            numpyro.sample("effect", dist.Normal(0.0, tau))
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=data["y"])

    built = NumPyroModel(model, DATA)
    if proper:
        check_prior_power(built, 0.5)
    else:
        with pytest.raises(InputError, match=r"tau \(HalfCauchy\).*2 shards"):
            check_prior_power(built, 0.5)


class TestPlainFunctions:
    def test_hard_bounds_are_proper(self):
        check_prior_power(plain(lambda z: jnp.where((z[0] > 2.0) & (z[0] < 1e6), 0.0, -jnp.inf)), 0.01)

    def test_flat_is_improper(self):
        with pytest.raises(InputError, match="does not fall at all"):
            check_prior_power(plain(lambda z: 0.0 * z[0]), 0.5)

    def test_message_names_exponent_and_limit(self):
        with pytest.raises(InputError, match=r"z1 cannot be shared by 8 shards.*\|z\|\^-0.75 only.*at most 5 shards"):
            check_prior_power(plain(lambda z: -0.5 * z[0] ** 2 - 3.0 * jnp.log1p(z[1] ** 2), 2), 0.125)

    def test_what_cannot_be_followed_is_said(self):
        with pytest.warns(HomodyneWarning, match="z0 could not be followed"):
            check_prior_power(plain(lambda z: jnp.where(jnp.abs(z[0]) < 3.0, -0.5 * z[0] ** 2, jnp.nan)), 0.5)

    @pytest.mark.parametrize("power", [0.0, -1.0, 2.0, np.nan])
    def test_power(self, power):
        with pytest.raises(InputError, match=r"expected 1 / number of shards"):
            check_prior_power(plain(lambda z: -jnp.sum(z**2)), power)


class TestClimb:
    def test_scales_and_saddles(self):
        """From near a saddle to a mode; coordinates of scale 1e8 and 1e-8."""
        mode = climb(
            expansion(lambda z: -(((z[0] * 1e8) ** 2 - 1.0) ** 2) - 0.5 * (z[1] * 1e-8 - 3.0) ** 2), [1e-10, 0.0]
        )
        assert mode.converged
        np.testing.assert_allclose(mode.point, [1e-8, 3e8], rtol=1e-5)
        np.testing.assert_allclose(np.diag(mode.precision), [8e16, 1e-16], rtol=1e-4)

    def test_fixed_coordinates_stay(self):
        mode = climb(expansion(lambda z: -0.5 * jnp.sum((z - z[0] - 1.0) ** 2)), [2.0, 0.0, 0.0], [1, 2])
        np.testing.assert_allclose(mode.point, [2.0, 3.0, 3.0])

    def test_no_mode(self):
        assert not climb(expansion(lambda z: z[0]), [0.0]).converged
