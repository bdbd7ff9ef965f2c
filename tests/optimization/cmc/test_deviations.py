"""Deviations in place of values that are normal in the prior given all others."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from benchmarks.validation.families import FAMILIES
from homodyne.optimization.cmc.coordinator import sample_consensus
from homodyne.optimization.cmc.models.adapters import LogDensityModel, NumPyroModel
from homodyne.optimization.cmc.models.deviations import (
    MOST,
    Block,
    Deviations,
    conditionally_normal,
    with_deviations,
)
from homodyne.optimization.cmc.store.shards import ShardStore
from homodyne.optimization.cmc.whole import likelihood_of_pool, look_for_modes, on_all_data
from homodyne.optimization.stored import stored_model

RNG = np.random.default_rng(5)
Y = {"y": RNG.standard_normal(12)}


def no_likelihood(z, data):
    return 0.0 * jnp.sum(data["y"]) * z[0]


def density(names, log_prior):
    return LogDensityModel(names, log_prior, no_likelihood)


def effects(z):
    """Effects around a mean whose own prior is wide; their width is exp(z[1])."""
    return -0.5 * (z[0] / 5.0) ** 2 - 0.5 * z[1] ** 2 - jnp.sum(0.5 * ((z[2:] - z[0]) / jnp.exp(z[1])) ** 2 + z[1])


def walk(z):
    steps = jnp.diff(z[1:], prepend=0.0)
    return -0.5 * z[0] ** 2 - jnp.sum(0.5 * (steps / jnp.exp(z[0])) ** 2 + z[0])


def tailed(z):
    return -0.5 * z[0] ** 2 - jnp.sum(2.5 * jnp.log1p((z[1:] / jnp.exp(z[0])) ** 2 / 4.0) + z[0])


def field(data):
    length = numpyro.sample("length", dist.HalfNormal(1.0))
    place = jnp.arange(4.0)
    covariance = jnp.exp(-0.5 * ((place[:, None] - place) / (1.0 + length)) ** 2) + 0.01 * jnp.eye(4)
    level = numpyro.sample("level", dist.MultivariateNormal(jnp.zeros(4), covariance))
    numpyro.sample("y", dist.Normal(level[data["place"]], 1.0), obs=data["y"])


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (density(["mean", "width", "a", "b"], effects), [0, 2, 3]),
        (density(["width", "a", "b", "c"], walk), [1, 2, 3]),
        (NumPyroModel(field, {**Y, "place": np.arange(12) % 4}), [1, 2, 3, 4]),
        (density(["a", "b"], lambda z: -0.5 * jnp.sum(z**2) - 0.3 * z[0] * z[1]), []),  # normal: no funnel
        (density(["a", "b"], lambda z: -0.5 * z[0] ** 2 - 0.5 * (z[1] - z[0] ** 2) ** 2), []),  # bent, of one width
        (density(["width", "a", "b"], tailed), []),
        (density(["a"], lambda z: jnp.sum(0.0 * z)), []),
        (density(["a", "b"], lambda z: -0.5 * jnp.sum(z**2) + jnp.log(z[0] - 50.0)), []),  # no number where it is tried
        (density([f"z{k}" for k in range(MOST + 1)], effects), []),
    ],
    ids=["effects", "walk", "field", "normal", "bent", "tailed", "flat", "no number", "large"],
)
def test_what_is_normal_given_the_others(model, found):
    assert conditionally_normal(model).tolist() == found


@pytest.mark.parametrize("information", [0.0, 0.7, 1e6])
@pytest.mark.parametrize("prior", [effects, walk])
def test_density_is_that_of_the_values_times_the_jacobian(prior, information):
    model = density([f"z{k}" for k in range(5)], prior)
    block = conditionally_normal(model)
    rng = np.random.default_rng(1)
    root = np.eye(len(block)) + 0.2 * rng.standard_normal((len(block), len(block)))
    known = rng.standard_normal(len(block))
    own = Deviations(model, Block(block, information * root @ root.T, information * root @ root.T @ known))
    points = rng.standard_normal((6, 5))
    values = own.values(points)
    jacobians = np.asarray(jax.jit(jax.vmap(jax.jacfwd(lambda z: own._values(z)[0])))(points))
    expected = np.asarray(jax.vmap(prior)(values)) + np.linalg.slogdet(jacobians)[1]
    np.testing.assert_allclose(own.log_priors(points), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(jax.vmap(own._deviations)(values), points, rtol=1e-6, atol=1e-6)
    if information == 0.0:  # the prior of deviations is standard normal, whatever the width is
        turned = points.copy()
        turned[:, block] = -points[:, block]
        np.testing.assert_allclose(own.log_priors(turned), own.log_priors(points), rtol=1e-9, atol=1e-9)
    elif information == 1e6:  # what the data tell is one value and its error
        np.testing.assert_allclose(values[:, block], np.broadcast_to(known, (6, len(block))), atol=0.02)


def test_a_block_can_be_written_and_read():
    block = Block(np.array([2, 0]), np.array([[1.5, 0.1], [0.1, 1e-300]]), np.array([1 / 3, -2e10]))
    again = Block.of_record(json.loads(json.dumps(block.record())))
    for name in ("index", "information", "slope"):
        np.testing.assert_array_equal(getattr(again, name), getattr(block, name))


@pytest.mark.slow
def test_schools_have_a_mode_in_deviations_only():
    """Densities of values grow without bound where the width goes to zero: their modes are no place to sample from."""
    case = FAMILIES["schools, a density"](1)
    size = len(case.data["y"])
    values = look_for_modes(case.model, case.data, size, 0)
    assert not values.complete, "planted: coordinates are values"
    own = with_deviations(case.model)
    modes = look_for_modes(own, case.data, size, 0)
    assert modes.complete
    told = own.informed(likelihood_of_pool(case.model, case.data, size), modes.modes[0].point)
    assert np.diag(told.block.information)[1:] == pytest.approx(case.data["error"] ** -2, rel=1e-4)
    taken = told.taken_over(modes.modes, own)
    found = on_all_data(told, told.load(case.data), replace(modes, modes=taken))
    assert len(found.modes) == len(taken) == 1
    np.testing.assert_allclose(told.values(taken[0].point[None]), own.values(modes.modes[0].point[None]), atol=1e-9)
    np.testing.assert_allclose(np.diag(found.modes[0].precision)[2:], 1.0, rtol=0.5)


WIDTHS = """
import jax.numpy as jnp
from homodyne.optimization.cmc.models.adapters import LogDensityModel

def log_prior(z):
    return -0.5 * z[0]**2 - jnp.sum(0.5 * (z[1:] / jnp.exp(z[0]))**2 + z[0])

def log_likelihood(z, data):
    return -0.5 * jnp.sum((data["y"] - z[1:][data["group"]])**2)

MODEL = LogDensityModel(["width", "a", "b"], log_prior, log_likelihood, lambda z: {"width": jnp.exp(z[0]), "a": z[1]})
"""


@pytest.mark.slow
def test_jobs_build_the_same_coordinates(tmp_path, monkeypatch):
    (tmp_path / "model_of_widths.py").write_text(WIDTHS)
    monkeypatch.syspath_prepend(tmp_path)
    data = {"y": np.tile([0.3, -0.4], 20) + 0.1 * RNG.standard_normal(40), "group": np.tile([0, 1], 20)}
    result = sample_consensus(
        "model_of_widths:MODEL", data, num_shards=2, store=tmp_path / "store", backend="sequential"
    )
    assert result.verdict in ("CERTIFIED", "CORRECTED")
    assert set(result.samples) == {"width", "a"}
    store = ShardStore.open(tmp_path / "store")
    model = stored_model(store)
    assert model.block.index.tolist() == [1, 2]
    assert np.diag(model.block.information) == pytest.approx([20.0, 20.0])
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (2, 3))  # those of the densities in the manifest
    found = [*model.log_priors(points), *model.statistics(points, model.load(data)).ravel()]
    assert found == pytest.approx(store.manifest.densities, rel=1e-12)
    assert found != pytest.approx([*model.model.log_priors(points), *found[2:]], rel=1e-3), "planted: values"
