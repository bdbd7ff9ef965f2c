"""Vectors and matrices with constraints, and factors of the prior, against exact answers."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import biject_to, constraints

from homodyne.errors import InputError
from homodyne.optimization.cmc.coordinator import _with_coordinates, sample_consensus
from homodyne.optimization.cmc.models.adapters import LogDensityModel, NumPyroModel, as_model
from homodyne.optimization.cmc.store.shards import ShardStore
from homodyne.optimization.stored import stored_model

pytestmark = pytest.mark.slow

jax.config.update("jax_enable_x64", True)

SHARDS = 4


def run(model, data, **given):
    found = sample_consensus(model, data, num_shards=SHARDS, backend="sequential", seed=1, **given)
    assert found.verdict in ("CERTIFIED", "CORRECTED"), found.certificate.reason
    return {name: draws.reshape(-1, *draws.shape[2:]) for name, draws in found.samples.items()}


def assert_exact(draws, mean, sd):
    """Means to 0.08 sd, widths to 8 %: 4000 draws are worth 1000 at least."""
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 0.08 * sd)
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.08)


def on_grid(log_density, *axes):
    """Mean and sd of every coordinate, (d,), from a log density of a regular grid."""
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    values = log_density(points)
    mass = np.exp(values - values.max())
    mean = mass @ points / mass.sum()
    return mean, np.sqrt(mass @ (points - mean) ** 2 / mass.sum())


# ---------------------------------------------------------------- supports


def categories(data):
    share = numpyro.sample("share", dist.Dirichlet(jnp.array([0.5, 1.0, 4.0])))
    numpyro.sample("y", dist.Categorical(probs=share), obs=data["y"])


def test_simplex():
    y = np.random.default_rng(0).choice(3, size=200, p=[0.05, 0.25, 0.7])
    a = np.array([0.5, 1.0, 4.0]) + np.bincount(y, minlength=3)
    mean = a / a.sum()
    assert_exact(run(categories, {"y": y})["share"], mean, np.sqrt(mean * (1 - mean) / (a.sum() + 1)))


def ordered_means(data):
    """Flat on ordered pairs; what is known of them beforehand is a factor."""
    mean = numpyro.sample("mean", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    numpyro.factor("known", jnp.sum(dist.Normal(0.0, 0.5).log_prob(mean)))
    numpyro.sample("y", dist.Normal(mean[data["group"]], 1.0), obs=data["y"])


GROUPS = np.arange(80) % 2
LEVELS = np.random.default_rng(3).normal(0.3 * GROUPS)


def exact_ordered_means(power=1.0):
    count, total = np.bincount(GROUPS), np.bincount(GROUPS, LEVELS)

    def log_density(m):
        value = (m * total - 0.5 * count * m**2).sum(axis=1) - power * 2.0 * (m**2).sum(axis=1)
        return np.where(m[:, 0] < m[:, 1], value, -np.inf)

    return on_grid(log_density, np.linspace(-1.5, 1.5, 1201), np.linspace(-1.5, 1.5, 1201))


ORDERED = {"group": GROUPS, "y": LEVELS}


def test_ordered_vector_with_a_factor_of_the_prior():
    assert_exact(run(ordered_means, ORDERED, prior_sites=("known",))["mean"], *exact_ordered_means())


def positive_rates(data):
    rate = numpyro.sample("rate", dist.ImproperUniform(constraints.positive_ordered_vector, (), (2,)))
    numpyro.factor("known", -jnp.sum(rate))
    numpyro.factor("waits", jnp.log(rate[data["group"]]) - rate[data["group"]] * data["y"])


def test_positive_ordered_vector_with_a_factor_of_the_data():
    """A factor over observations beside one of the prior; no site has obs=."""
    y = np.random.default_rng(1).exponential(1.0 / np.array([1.0, 1.3])[GROUPS])
    count, total = np.bincount(GROUPS), np.bincount(GROUPS, y)

    def log_density(r):
        value = (count * np.log(r) - r * (total + 1.0)).sum(axis=1)
        return np.where(r[:, 0] < r[:, 1], value, -np.inf)

    found = run(positive_rates, {"group": GROUPS, "y": y}, prior_sites=("known",))
    axis = np.linspace(0.2, 3.5, 1201)
    assert_exact(found["rate"], *on_grid(log_density, axis, axis))


PAIRS = np.random.default_rng(2).multivariate_normal([0.0, 0.0], [[1.0, 0.6], [0.6, 1.0]], 60)


def correlated(data):
    factor = numpyro.sample("factor", dist.LKJCholesky(2, concentration=3.0))
    numpyro.deterministic("correlation", factor[1, 0])
    numpyro.sample("first", dist.Normal(0.0, 1.0), obs=data["y"][:, 0])
    numpyro.sample("second", dist.Normal(factor[1, 0] * data["y"][:, 0], factor[1, 1]), obs=data["y"][:, 1])


def test_cholesky_factor_of_a_correlation():
    squares, product = np.sum(PAIRS**2), np.sum(PAIRS[:, 0] * PAIRS[:, 1])

    def log_density(r):
        rest = 1.0 - r[:, 0] ** 2
        return (2.0 - 0.5 * len(PAIRS)) * np.log(rest) - 0.5 * (squares - 2.0 * r[:, 0] * product) / rest

    mean, sd = on_grid(log_density, np.linspace(-0.999, 0.999, 20001))
    assert_exact(run(correlated, {"y": PAIRS})["correlation"], mean[0], sd[0])


def precision(data):
    factor = numpyro.sample("factor", dist.WishartCholesky(4.0, scale_matrix=jnp.eye(2)))
    numpyro.deterministic("matrix", factor @ factor.T)
    numpyro.factor("y", jnp.sum(jnp.log(jnp.diag(factor))) - 0.5 * jnp.sum((data["y"] @ factor) ** 2, axis=1))


def test_lower_cholesky_factor():
    scale, df = np.linalg.inv(np.eye(2) + PAIRS.T @ PAIRS), 4.0 + len(PAIRS)
    sd = np.sqrt(df * (scale**2 + np.outer(np.diag(scale), np.diag(scale))))
    assert_exact(run(precision, {"y": PAIRS}, prior_sites=())["matrix"], df * scale, sd)


SUPPORTS = {
    "simplex": (dist.Dirichlet(jnp.ones((2, 3))), (2, 2)),
    "ordered": (dist.ImproperUniform(constraints.ordered_vector, (), (3,)), (3,)),
    "positive ordered": (dist.ImproperUniform(constraints.positive_ordered_vector, (), (3,)), (3,)),
    "correlation": (dist.LKJ(3, 2.0), (3,)),
    "covariance": (dist.Wishart(5.0, jnp.eye(2)), (3,)),
    "sum of zero": (dist.ZeroSumNormal(1.0, (4,)), (3,)),
    "l1 ball": (dist.ImproperUniform(constraints.l1_ball, (), (3,)), (3,)),
    "angle": (dist.VonMises(0.0, 2.0), ()),
}


@pytest.mark.parametrize("name", SUPPORTS)
def test_every_coordinate_has_a_name_and_the_density_its_determinant(name):
    distribution, shape = SUPPORTS[name]

    def model(data):
        value = numpyro.sample("v", distribution)
        numpyro.sample("y", dist.Normal(jnp.sum(value), 1.0), obs=data["y"])

    built = NumPyroModel(model, {"y": np.arange(6.0)})
    assert built.names == (tuple(f"v[{','.join(map(str, k))}]" for k in np.ndindex(shape)) if shape else ("v",))
    z, transform = np.random.default_rng(1).normal(size=shape), biject_to(distribution.support)
    value = transform(jnp.asarray(z))
    expected = distribution.log_prob(value).sum() + transform.log_abs_det_jacobian(jnp.asarray(z), value).sum()
    assert float(built.log_prior(jnp.ravel(z))) == pytest.approx(float(expected), rel=1e-12)
    np.testing.assert_allclose(built.constrain(jnp.ravel(z))["v"], value, rtol=1e-12)


# ---------------------------------------------------------------- sides


def test_without_sides_factors_are_refused_and_the_message_names_prior_sites():
    with pytest.raises(InputError, match="prior_sites=..known.,."):
        NumPyroModel(ordered_means, ORDERED)


def test_a_factor_of_the_prior_does_not_belong_to_the_data():
    with pytest.raises(InputError, match="no product over observations"):
        NumPyroModel(ordered_means, ORDERED, prior_sites=())


def waits_and_counts(data):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    numpyro.factor("waits", jnp.log(rate) - rate * data["y"] ** 2)
    numpyro.sample("count", dist.Poisson(rate), obs=data["group"])


def test_a_factor_of_the_data_does_not_belong_to_the_prior():
    with pytest.raises(InputError, match="'waits' depends on the data.* leave it out of prior_sites"):
        NumPyroModel(waits_and_counts, ORDERED, prior_sites=("waits",))


def test_planted_factor_on_the_wrong_side(monkeypatch):
    """Four shards hold the factor of the prior four times, were it not refused."""
    monkeypatch.setattr(NumPyroModel, "check_densities", lambda self, rows: None)
    monkeypatch.setattr("homodyne.optimization.cmc.coordinator.check_identity", lambda *args: None)
    monkeypatch.setattr("homodyne.optimization.cmc.models.splitting.JOINED", 0)  # nobody sees all data together
    draws = run(ordered_means, ORDERED, prior_sites=())["mean"]
    right, wrong = exact_ordered_means(), exact_ordered_means(power=SHARDS)
    with pytest.raises(AssertionError):
        assert_exact(draws, *right)
    assert_exact(draws, *wrong)


def soft(data):
    """A constant observation, as good as a factor."""
    level = numpyro.sample("level", dist.ImproperUniform(constraints.real, (), ()))
    numpyro.sample("known", dist.Normal(level, 0.1), obs=0.0)
    numpyro.sample("y", dist.Normal(level, 1.0), obs=data["y"])


def test_an_observation_of_the_prior():
    y = 0.3 + np.random.default_rng(4).normal(size=100)
    with pytest.raises(InputError, match="no product over observations"):
        NumPyroModel(soft, {"y": y})
    model = NumPyroModel(soft, {"y": y}, prior_sites=["known"])
    assert float(model.log_prior(jnp.zeros(1))) == pytest.approx(-np.log(0.1) - 0.5 * np.log(2 * np.pi))
    shard = model.load({"y": y[:5]})
    assert float(model.log_likelihood(jnp.zeros(1), shard, 1.0)) == pytest.approx(
        -0.5 * np.sum(y[:5] ** 2) - 2.5 * np.log(2 * np.pi)
    )


@pytest.mark.parametrize("sites", ["known", ["unknown"], ["mean"]])
def test_wrong_names_of_sites(sites):
    with pytest.raises(InputError, match="prior_sites"):
        NumPyroModel(ordered_means, ORDERED, prior_sites=sites)


def test_everything_in_the_prior_observes_nothing():
    with pytest.raises(InputError, match="observes nothing"):
        NumPyroModel(ordered_means, ORDERED, prior_sites=["known", "y"])


def test_other_models_have_a_prior_of_their_own():
    model = LogDensityModel(["z"], lambda z: -jnp.sum(z**2), lambda z, data: -jnp.sum((data["y"] - z) ** 2))
    with pytest.raises(InputError, match="prior_sites belongs to NumPyro"):
        as_model(model, {"y": np.zeros(4)}, prior_sites=())


def test_complex_sites_are_refused():
    def model(data):
        numpyro.sample("c", dist.ImproperUniform(constraints.complex, (), ()))
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=data["y"])

    with pytest.raises(InputError, match="'c' is complex"):
        NumPyroModel(model, {"y": np.zeros(4)})


LEVEL = """
import numpyro
import numpyro.distributions as dist

def model(data):
    level = numpyro.sample("level", dist.Normal(0.0, 5.0))
    width = numpyro.sample("width", dist.HalfNormal(5.0))
    numpyro.factor("known", -0.5 * level**2)
    values = numpyro.sample("values", dist.Normal(level, width).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(values[data["group"]], 1.0), obs=data["y"])
"""


def test_a_store_tells_the_sides_to_who_builds_its_model_again(tmp_path, monkeypatch):
    (tmp_path / "model_of_a_level.py").write_text(LEVEL)
    monkeypatch.syspath_prepend(tmp_path)
    data = {"y": np.tile([0.0, 9.0], 20), "group": np.tile([0, 1], 20)}
    run("model_of_a_level:model", data, prior_sites=("known",), store=tmp_path / "store")
    store = ShardStore.open(tmp_path / "store")
    assert store.manifest.setup["centred"] == ["values[0]", "values[1]"]
    model, z = stored_model(store), np.zeros((2, 4))
    z[1] = 1.0, 0.0, 1.0, 1.0  # values that go with the level: the density of neither differs, but for the level's own
    assert np.diff(model.log_priors(z))[0] == pytest.approx(-0.5 - 0.02)


def test_deviations_of_a_model_without_a_mode_stay_deviations():
    """A store tells that nothing is centred; planted: without a word all values would be."""

    def level(data):
        numpyro.sample("free", dist.ImproperUniform(constraints.real, (), ()))
        width = numpyro.sample("width", dist.HalfNormal(5.0))
        values = numpyro.sample("values", dist.Normal(0.0, width).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(values[data["group"]], 1.0), obs=data["y"])

    data = {"y": np.array([0.1, -0.2, 0.3, 0.2]), "group": np.array([0, 1, 0, 1])}
    model, modes, coordinates = _with_coordinates(NumPyroModel(level, data), data, 4, 0)
    assert not modes.modes
    assert coordinates == {"centred": []}
    z = np.random.default_rng(0).standard_normal((2, 4))
    np.testing.assert_allclose(model.centred(coordinates["centred"]).log_priors(z), model.log_priors(z))
    assert np.abs(model.centred(model.names).log_priors(z) - model.log_priors(z)).max() > 0.1
