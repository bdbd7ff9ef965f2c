"""Adapters: the product over shards is the posterior, the densities are right, and wrong models are refused."""

import pickle
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import potential_energy
from scipy import stats

from homodyne.errors import HomodyneWarning, InputError
from homodyne.optimization.cmc.models.adapters import LogDensityModel, NumPyroModel, as_model
from homodyne.optimization.cmc.whole import look_for_modes
from homodyne.testing.conjugate import PROBLEMS

jax.config.update("jax_enable_x64", True)

N = 192
CASES = [(name, adapter) for name in PROBLEMS for adapter in ("functions", "numpyro")]
CONSTRAINED = ["beta_bernoulli", "poisson_gamma", "exponential_rate"]


def build(name, adapter, n=N):
    problem = PROBLEMS[name](n=n)
    return problem, as_model(problem.model if adapter == "functions" else problem.function, problem.data)


def partition(n, num_shards, seed=0):
    return np.array_split(np.random.default_rng(seed).permutation(n), num_shards)


def around(problem, seed=0):
    """A point a few posterior widths off the mean."""
    posterior = problem.posterior()
    return jnp.asarray(
        posterior.mean + 3.0 * posterior.sd * np.random.default_rng(seed).standard_normal(len(posterior.sd))
    )


def assert_product(problem, model, shards, power, prior=None):
    """The identity of the engine: subposteriors multiply to the posterior."""
    z = around(problem)
    likelihood = jax.jit(model.log_likelihood)
    prior = (lambda z: power * model.log_prior(z)) if prior is None else prior
    tempered = float(jax.jit(prior)(z))
    parts = [float(likelihood(z, model.load(problem.shard(index)), power)) + tempered for index in shards]
    full = float(likelihood(z, model.load(problem.data), 1.0)) + float(model.log_prior(z))
    assert sum(parts) == pytest.approx(full, rel=1e-8)


class TestProduct:
    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "adapter"), CASES)
    def test_shards_multiply_to_the_posterior(self, name, adapter):
        problem, model = build(name, adapter)
        num_shards = 4 if adapter == "numpyro" else 16
        assert_product(problem, model, partition(N, num_shards), 1.0 / num_shards)

    def test_by_hand(self):
        """Sum of the exact subposteriors' logarithms, written without the adapters."""
        problem, model = build("beta_bernoulli", "numpyro")
        z = around(problem)
        y, theta = problem.data["y"], 1.0 / (1.0 + np.exp(-float(z[0])))
        by_hand = (2 + y.sum()) * np.log(theta) + (3 + (1 - y).sum()) * np.log1p(-theta) + np.log(12.0)  # 1 / B(2, 3)
        value = float(model.log_prior(z)) + float(model.log_likelihood(z, model.load(problem.data), 1.0))
        assert value == pytest.approx(by_hand, rel=1e-12)

    @pytest.mark.parametrize("name", CONSTRAINED)
    def test_planted_jacobian_without_power(self, name):
        problem, model = build(name, "numpyro")

        def jacobian(z):
            return jax.nn.log_sigmoid(z[0]) + jax.nn.log_sigmoid(-z[0]) if name == "beta_bernoulli" else z[0]

        def prior(z):
            return 0.25 * (model.log_prior(z) - jacobian(z)) + jacobian(z)

        with pytest.raises(AssertionError):
            assert_product(problem, model, partition(N, 4), 0.25, prior)

    @pytest.mark.parametrize("bug", ["power of one", "lost shard", "doubled point", "lost point"])
    @pytest.mark.parametrize("name", ["linear_regression", "poisson_gamma"])
    def test_planted_bugs(self, name, bug):
        problem, model = build(name, "functions")
        shards = partition(N, 4)
        power = 1.0 if bug == "power of one" else 0.25
        if bug == "lost shard":
            del shards[1]
        elif bug == "doubled point":
            shards[1] = np.append(shards[1], shards[2][0])
        elif bug == "lost point":
            shards[1] = shards[1][1:]
        with pytest.raises(AssertionError):
            assert_product(problem, model, shards, power)


class TestDensities:
    @pytest.mark.parametrize("name", PROBLEMS)
    def test_both_adapters_agree(self, name):
        problem, functions = build(name, "functions")
        _, model = build(name, "numpyro")
        assert model.names == functions.names
        z, shard = around(problem), model.load(problem.data)
        for one, other in [
            (model.log_prior(z), functions.log_prior(z)),
            (model.log_likelihood(z, shard, 1.0), functions.log_likelihood(z, shard, 1.0)),
        ]:
            assert float(one) == pytest.approx(float(other), rel=1e-12)

    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "adapter"), CASES)
    def test_gradients(self, name, adapter):
        problem, model = build(name, adapter)
        shard, z, sd = model.load(problem.data), np.asarray(around(problem)), problem.posterior().sd
        for density in (model.log_prior, lambda z: model.log_likelihood(z, shard, 1.0)):
            gradient = np.asarray(jax.jit(jax.grad(density))(jnp.asarray(z))) * sd
            program = jax.jit(density)
            for k, step in enumerate(np.diag(1e-3 * sd)):
                difference = (float(program(z + step)) - float(program(z - step))) / 2e-3
                assert gradient[k] == pytest.approx(difference, rel=1e-5, abs=1e-6)

    @pytest.mark.parametrize("name", PROBLEMS)
    def test_exact_posterior_has_the_gradient_of_the_model(self, name):
        """Moments of exact draws satisfy Stein's identity E[grad] = 0, E[(z - mean) grad^T] = -1 of the model."""
        problem, model = build(name, "functions")
        posterior, shard = problem.posterior(), model.load(problem.data)
        draws = posterior.draw(4000, 1)
        density = jax.grad(lambda z: model.log_prior(z) + model.log_likelihood(z, shard, 1.0))
        gradient = np.asarray(jax.jit(jax.vmap(density))(jnp.asarray(draws))) * posterior.sd
        white = (draws - posterior.mean) / posterior.sd
        d = len(posterior.mean)
        products = np.hstack([gradient, (white[:, :, None] * gradient[:, None, :]).reshape(len(draws), -1)])
        expected = np.concatenate([np.zeros(d), -np.eye(d).ravel()])
        error = products.std(axis=0) / np.sqrt(len(draws))
        assert np.all(np.abs(products.mean(axis=0) - expected) < 5.0 * error)


def everything(data):
    """Vectors, matrices, a simplex, bounds that depend on another site, scale and mask, a deterministic site."""
    low = numpyro.sample("low", dist.Normal(0.0, 1.0))
    high = numpyro.sample("high", dist.Uniform(low, low + 3.0))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
    with numpyro.plate("columns", 2):
        slope = numpyro.sample("slope", dist.StudentT(4.0, 0.0, 2.0))
    with numpyro.plate("rows", 2, dim=-2), numpyro.plate("more", 2, dim=-1):
        matrix = numpyro.sample("matrix", dist.HalfNormal(1.0))
    numpyro.deterministic("range", high - low)
    numpyro.deterministic("double", 2.0 * matrix)
    mean = data["x"] @ slope + low * weights[data["group"]] + matrix[0, 1]
    with (
        numpyro.plate("data", len(data["y"])),
        numpyro.handlers.scale(scale=0.7),
        numpyro.handlers.mask(mask=data["good"]),
    ):
        numpyro.sample("y", dist.Normal(mean, high), obs=data["y"])


def simple(data):
    numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Normal(0.0, 1.0)), 1.0), obs=data["y"])


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(0)
    n = 12
    return {
        "x": rng.standard_normal((n, 2)),
        "y": rng.standard_normal(n),
        "group": np.arange(n) % 3,
        "good": np.arange(n) % 4 > 0,
    }


class TestNumPyroModel:
    @pytest.mark.slow
    def test_against_numpyro(self, example):
        """Prior and likelihood add up to NumPyro's own potential, at a shorter shard too."""
        model = NumPyroModel(everything, example)
        z = jnp.asarray(np.random.default_rng(1).normal(size=len(model.names)))
        params = {
            "low": z[0],
            "high": z[1],
            "weights": z[2:4],
            "slope": z[4:6],
            "matrix": z[6:].reshape(2, 2),
        }
        for length in (12, 5):
            shard = model.load({name: value[:length] for name, value in example.items()})
            value = model.log_prior(z) + model.log_likelihood(z, shard, 1.0)
            assert float(value) == pytest.approx(-float(potential_energy(everything, (shard,), {}, params)), rel=1e-12)

    def test_names_and_sites(self, example):
        model = NumPyroModel(everything, example)
        assert model.names == (
            *("low", "high", "weights[0]", "weights[1]", "slope[0]", "slope[1]"),
            *("matrix[0,0]", "matrix[0,1]", "matrix[1,0]", "matrix[1,1]"),
        )
        z = np.random.default_rng(2).normal(size=(2, 3, 10))
        draws = model.finish(z, np.zeros((2, 3, 1)), np.random.default_rng(0))
        shapes = {name: value.shape[2:] for name, value in draws.items()}
        assert shapes == {
            "low": (),
            "high": (),
            "weights": (3,),
            "slope": (2,),
            "matrix": (2, 2),
            "range": (),
            "double": (2, 2),
        }
        np.testing.assert_allclose(draws["matrix"], np.exp(z[..., 6:]).reshape(2, 3, 2, 2))
        np.testing.assert_allclose(draws["double"], 2.0 * draws["matrix"])
        np.testing.assert_allclose(draws["weights"].sum(axis=-1), 1.0)
        np.testing.assert_allclose(draws["high"], draws["low"] + 3.0 / (1.0 + np.exp(-z[..., 1])))

    def test_handlers_around_the_caller_have_no_effect(self, example):
        model = NumPyroModel(simple, example)
        with numpyro.handlers.trace() as outside, numpyro.handlers.scale(scale=3.0):
            value = float(model.log_prior(jnp.array([0.5])))
        assert value == float(model.log_prior(jnp.array([0.5])))
        assert not outside

    def test_travels(self, example):
        """A pickled copy is small and computes the same."""
        model = NumPyroModel(simple, {"y": np.arange(100_000.0)})
        text = pickle.dumps(model)
        assert len(text) < 5000
        z, copy = jnp.array([0.3]), pickle.loads(text)
        assert float(copy.log_prior(z)) == float(model.log_prior(z))
        shard = copy.load(example)
        assert float(copy.log_likelihood(z, shard, 1.0)) == float(model.log_likelihood(z, shard, 1.0))

    def test_deterministic_of_the_data_is_left_out_aloud(self, example):
        def model(data):
            mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
            numpyro.deterministic("twice", 2.0 * mu)
            numpyro.deterministic("residual", data["y"] - mu)
            numpyro.deterministic("average", jnp.mean(data["y"]) - mu)
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=data["y"])

        with pytest.warns(HomodyneWarning, match="average.*residual"):
            built = NumPyroModel(model, example)
        assert set(built.constrain(jnp.zeros(1))) == {"mu", "twice"}

    def test_one_observation(self):
        model = NumPyroModel(simple, {"y": np.array([1.0])})
        value = model.log_likelihood(jnp.zeros(1), model.load({"y": np.array([1.0])}), 1.0)
        assert float(value) == pytest.approx(-0.5 - 0.5 * np.log(2 * np.pi))


TAILED = partial(dist.StudentT, 4.0)


def groups(data, prior=TAILED):
    mean, width = numpyro.sample("mean", dist.Normal(0.0, 5.0)), numpyro.sample("width", dist.HalfNormal(2.0))
    level = numpyro.sample("level", prior(mean, width).expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(level[data["group"]], 1.0), obs=data["y"])


GROUPED = {"group": np.array([0, 0, 1, 1, 2, 2]), "y": np.array([0.1, -0.4, 2.0, 1.8, -3.0, -2.6])}
POINT = np.array([0.3, -1.2, 0.5, -0.7, 1.1])  # mean, log width and three levels


class TestHierarchicalSites:
    @pytest.mark.parametrize("centred", [[], ["level[1]"], ["level[0]", "level[1]", "level[2]"]])
    def test_density_of_deviations_and_values(self, centred):
        """The density of the value, times the width for every coordinate that is a deviation."""
        model = NumPyroModel(groups, GROUPED).centred(centred)
        values = {name: np.asarray(value) for name, value in model.constrain(jnp.asarray(POINT)).items()}
        own = np.array([f"level[{k}]" in centred for k in range(3)])
        width = np.exp(POINT[1])
        np.testing.assert_allclose(values["level"], np.where(own, POINT[2:], POINT[0] + width * POINT[2:]))
        expected = stats.norm(0.0, 5.0).logpdf(POINT[0]) + stats.halfnorm(scale=2.0).logpdf(width) + POINT[1]
        expected += stats.t(4.0, POINT[0], width).logpdf(values["level"]).sum() + (~own).sum() * np.log(width)
        assert float(model.log_prior(jnp.asarray(POINT))) == pytest.approx(expected, rel=1e-12)
        likelihood = stats.norm(values["level"][GROUPED["group"]], 1.0).logpdf(GROUPED["y"]).sum()
        found = model.log_likelihood(jnp.asarray(POINT), model.load(GROUPED), 1.0)
        assert float(found) == pytest.approx(likelihood, rel=1e-12)

    @pytest.mark.parametrize("centred", [[], ["level[1]"]])
    def test_logarithms_of_positive_values(self, centred):
        model, own = NumPyroModel(partial(groups, prior=dist.LogNormal), GROUPED).centred(centred), np.arange(3) == 1
        deviations, width = (
            np.where(own & bool(centred), (POINT[2:] - POINT[0]) / np.exp(POINT[1]), POINT[2:]),
            POINT[1],
        )
        level = np.asarray(model.constrain(jnp.asarray(POINT))["level"])
        np.testing.assert_allclose(level, np.exp(POINT[0] + np.exp(width) * deviations))
        expected = stats.norm(0.0, 5.0).logpdf(POINT[0]) + stats.halfnorm(scale=2.0).logpdf(np.exp(width)) + width
        expected += stats.norm.logpdf(deviations).sum() - len(centred) * width
        assert float(model.log_prior(jnp.asarray(POINT))) == pytest.approx(expected, rel=1e-12)

    def test_draws_of_the_prior_are_in_these_coordinates(self):
        model = NumPyroModel(groups, GROUPED).centred(["level[2]"])
        drawn = model.prior_draws(4000, np.random.default_rng(0))
        expected = stats.t(4.0).ppf([0.25, 0.75])
        np.testing.assert_allclose(np.quantile(drawn[:, 2], [0.25, 0.75]), expected, atol=0.06)
        assert np.ptp(np.quantile(drawn[:, 4], [0.25, 0.75])) > 2.0 * np.ptp(expected), "planted: a value is wider"

    @pytest.mark.slow
    def test_what_the_data_tell_is_centred(self):
        """With few data the width may be zero, and values crowd at the mean; with many they are known."""
        many = {name: np.repeat(value, 200) for name, value in GROUPED.items()}
        many = {name: value[many["group"] < 2] for name, value in many.items()}  # nothing of the last group
        alike = {**many, "y": np.tile([0.3, -0.3], len(many["y"]) // 2)}  # the width may be zero all the same
        for data, labels in ((GROUPED, []), (alike, []), (many, ["level[0]", "level[1]"])):
            model = NumPyroModel(groups, data)
            assert model.measured(look_for_modes(model, data, len(data["y"]), 0).modes[0]) == labels

    def test_a_location_that_depends_on_the_data_is_refused(self):
        def model(data):
            width = numpyro.sample("width", dist.HalfNormal(1.0))
            level = numpyro.sample("level", dist.Normal(jnp.mean(data["y"]), width))
            numpyro.sample("y", dist.Normal(level, 1.0), obs=data["y"])

        with pytest.raises(InputError, match="the prior of site 'level' depends on the data"):
            NumPyroModel(model, GROUPED)


def refused(body):
    """A model around `body`, which gets the data and mu."""

    def model(data):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        body(data, mu)
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=data["y"])

    return model


def local(data, mu):
    with numpyro.plate("local", len(data["y"])):
        numpyro.sample("each", dist.Normal(mu, 1.0))


def subsampled(data, mu):
    with numpyro.plate("data", len(data["y"]), subsample_size=2):
        numpyro.sample("y2", dist.Normal(mu, 1.0))


def fixed_plate(data, mu):
    with numpyro.plate("data", 12):
        numpyro.sample("y2", dist.Normal(mu, 1.0), obs=data["y"])


def narrow(data, mu):
    numpyro.sample("y2", dist.Normal(mu.astype(jnp.float32).astype(jnp.float64), 1.0), obs=data["y"])


WRONG = {
    "discrete": (lambda data, mu: numpyro.sample("k", dist.Poisson(3.0)), "'k' is discrete"),
    "factor": (
        lambda data, mu: numpyro.factor("penalty", -(mu**2)),
        "'penalty' can belong to the prior or to the data",
    ),
    "param": (lambda data, mu: numpyro.param("p", 1.0), "'p' is of type 'param'"),
    "constant": (lambda data, mu: numpyro.sample("c", dist.Delta(1.0)), "'c' is a constant"),
    "subsampled": (subsampled, "subsamples 2 of 4"),
    "local": (local, "'each' depends on the number of observations"),
    "prior from values": (
        lambda data, mu: numpyro.sample("a", dist.Normal(jnp.mean(data["y"]), 1.0)),
        "prior of site 'a' depends on the data",
    ),
    "prior from size": (
        lambda data, mu: numpyro.sample("a", dist.Normal(0.0, 1.0 / len(data["y"]))),
        "prior of site 'a' depends on the data",
    ),
    "broadcast": (
        lambda data, mu: numpyro.sample("y2", dist.Normal(mu, jnp.ones((len(data["y"]), 1))), obs=data["y"]),
        "no product over observations",
    ),
    "centred": (
        lambda data, mu: numpyro.sample("y2", dist.Normal(mu, 1.0), obs=data["y"] - jnp.mean(data["y"])),
        "no product over observations",
    ),
    "fixed plate": (fixed_plate, "cannot be evaluated on 4 of the observations"),
    "narrow": (narrow, "less than float64"),
    "python branch": (lambda data, mu: 1.0 if mu > 0.0 else 2.0, "Python code"),
}


class TestWrongModels:
    @pytest.mark.parametrize("name", WRONG)
    def test_refused(self, name, example):
        body, message = WRONG[name]
        with pytest.raises(InputError, match=message):
            NumPyroModel(refused(body), example)

    def test_nothing_observed(self, example):
        with pytest.raises(InputError, match="observes nothing"):
            as_model(lambda data: numpyro.sample("mu", dist.Normal(0.0, 1.0)), example)

    def test_nothing_latent(self, example):
        with pytest.raises(InputError, match="no latent site"):
            as_model(lambda data: numpyro.sample("y", dist.Normal(0.0, 1.0), obs=data["y"]), example)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({}, "at least one array"),
            (np.zeros(3), "mapping"),
            ({"y": np.zeros(0)}, "first axis"),
            ({"y": 1.0}, "first axis"),
            ({"y": np.zeros(3, np.float32)}, "float32, expected float64"),
            ({"y": np.array(["a"])}, "expected float64"),
            ({"y": np.ma.masked_equal(np.arange(3.0), 1.0)}, "has 1 masked values; expected a value at every"),
            ({"y": np.zeros(3), "x": np.zeros(4)}, "different numbers of observations"),
        ],
    )
    def test_data(self, data, message):
        for model in (simple, PROBLEMS["poisson_gamma"](n=5).model):
            with pytest.raises(InputError, match=message):
                as_model(model, data)

    def test_float32_shard(self, example):
        with pytest.raises(InputError, match="float32"):
            NumPyroModel(simple, example).load({"y": np.zeros(3, np.float32)})

    def test_jax_in_float32(self, example):
        with jax.enable_x64(False), pytest.raises(InputError, match="jax_enable_x64"):
            NumPyroModel(simple, example)

    @pytest.mark.parametrize("model", [None, "model", 3.0])
    def test_no_model(self, model, example):
        with pytest.raises(InputError, match="expected a NumPyro model function|expected .module:name."):
            as_model(model, example)


def normal(z):
    return -0.5 * jnp.sum(z**2)


def data_term(z, data):
    return -0.5 * jnp.sum((data["y"] - z[0]) ** 2)


class TestLogDensityModel:
    def test_constrain(self):
        model = LogDensityModel(["a", "b"], normal, data_term, lambda z: {"scale": jnp.exp(z[0]), "both": z})
        z = np.random.default_rng(0).normal(size=(2, 5, 2))
        draws = model.finish(z, np.zeros((2, 5, 1)), np.random.default_rng(0))
        np.testing.assert_allclose(draws["scale"], np.exp(z[..., 0]))
        np.testing.assert_allclose(draws["both"], z)
        plain = LogDensityModel(["a", "b"], normal, data_term).finish(z, np.zeros((2, 5, 1)), np.random.default_rng(0))
        np.testing.assert_array_equal(plain["b"], z[..., 1])

    @pytest.mark.parametrize("names", [[], "ab", ["a", "a"]])
    def test_names(self, names):
        with pytest.raises(InputError, match="names is .*; expected different names"):
            LogDensityModel(names, normal, data_term)

    def test_prior_is_no_scalar(self):
        with pytest.raises(InputError, match="float64 scalar"):
            LogDensityModel(["a", "b"], lambda z: z, data_term)

    @pytest.mark.parametrize(
        ("likelihood", "message"),
        [
            (lambda z, data: data["y"] * z[0], "float64 scalar"),
            (lambda z, data: jnp.sum(data["y"]).astype(jnp.float32), "float64 scalar, got float32"),
            (lambda z, data: jnp.sum(data["y"].astype(jnp.float32)) * z[0], "less than float64"),
            (lambda z, data: z[0] * jnp.mean(data["y"]), "no product over observations"),
            (lambda z, data: z[0] * data["x"].sum(), "x"),
        ],
    )
    def test_likelihood(self, likelihood, message, example):
        model = LogDensityModel(["a"], normal, likelihood)
        with pytest.raises((InputError, KeyError), match=message):
            as_model(model, {"y": example["y"]})

    def test_power_is_left_alone(self, example):
        """A model of its own comes back as it is."""
        model = LogDensityModel(["a"], normal, data_term)
        assert as_model(model, example) is model
        assert model.num_points(model.load(example)) == 12


def test_partial_functions_travel():
    """Conjugate problems, made of partial functions, survive a process boundary."""
    for name in PROBLEMS:
        problem = PROBLEMS[name](n=20)
        z = jnp.asarray(problem.truth)
        copy = pickle.loads(pickle.dumps(as_model(problem.function, problem.data)))
        assert float(copy.log_prior(z)) == pytest.approx(float(pickle.loads(pickle.dumps(problem.model)).log_prior(z)))


def test_no_warning_for_a_clean_model(example):
    with warnings.catch_warnings(action="error"):
        as_model(partial(simple), example)
