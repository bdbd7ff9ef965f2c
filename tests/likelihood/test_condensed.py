"""Sums over few nodes against sums over all, where parameters are nearly known."""

from dataclasses import replace

import numpy as np
import pytest
from pairs import SCALING
from test_reduction import GAP, MODELS, PHI, TIMES, maps_with, some_params

from homodyne.likelihood.condensed import Condensed, condensation, log_densities
from homodyne.likelihood.nodes import moments
from homodyne.likelihood.posterior import Posterior
from homodyne.likelihood.reduction import reduce_pairs
from homodyne.noise.adjustment import uncalibrated
from homodyne.physics.model import find_model
from homodyne.physics.space import parameter_space

pytestmark = pytest.mark.slow

ROWS, COLUMNS = np.triu_indices(70, 1)
SPREAD = 0.02  # of the parameters, relative
POINTS = 100


def points_near(params, count, seed, spread=SPREAD):
    rng = np.random.default_rng(seed)
    return {name: value * (1.0 + spread * rng.uniform(-1, 1, count)) for name, value in params.items()}


def sums(model, params, nodes):
    rows = [moments(model, {name: x[k] for name, x in params.items()}, nodes) for k in range(10)]
    return np.array([[m.g, m.gg, m.yg] for m in rows])


def largest_error(model, params, few, nodes):
    exact = sums(model, params, nodes)
    return np.max(np.abs(sums(model, params, few) - exact) / np.abs(exact[:, 1:2]).max())


@pytest.mark.parametrize("name", MODELS)
def test_few_nodes_give_the_sums_of_all(name):
    model, params = find_model(name), some_params(name, 0)
    nodes = reduce_pairs(maps_with(TIMES["equal steps"]), ROWS, COLUMNS)
    near, fresh = points_near(params, POINTS, 1), points_near(params, 10, 2)
    few = condensation(nodes, model, near, 1e-8, np.random.default_rng(0)).few(nodes)
    assert np.count_nonzero(few.weight[0]) < len(nodes.t1) / 5
    assert largest_error(model, fresh, few, nodes) < 1e-6
    fewer = condensation(nodes, model, near, 1e-3, np.random.default_rng(0)).few(nodes)  # planted: few functions
    assert np.count_nonzero(fewer.weight[0]) < np.count_nonzero(few.weight[0])
    assert largest_error(model, fresh, fewer, nodes) > 1e-6


def test_they_stand_for_all_only_near_the_points_they_were_made_for():
    model, params = find_model("laminar_flow"), some_params("laminar_flow", 0)
    nodes = reduce_pairs(maps_with(TIMES["uneven steps"]), ROWS, COLUMNS)
    few = condensation(nodes, model, points_near(params, POINTS, 1), 1e-8, np.random.default_rng(0)).few(nodes)
    assert largest_error(model, points_near(params, 10, 3), few, nodes) < 1e-6
    assert largest_error(model, points_near(params, 10, 3, 20 * SPREAD), few, nodes) > 1e-6


def test_sums_over_the_data_stay_what_they_are():
    model, params = find_model("static"), some_params("static", 0)
    nodes = reduce_pairs(maps_with(TIMES["bursts"]), ROWS, COLUMNS)
    few = condensation(nodes, model, points_near(params, POINTS, 1), 1e-8, np.random.default_rng(0)).few(nodes)
    assert few.num_points == nodes.num_points
    assert (few.gap, *few.phi) == (GAP, *PHI)
    np.testing.assert_array_equal(few.sums, nodes.sums)


def test_the_density_is_not_high_where_few_nodes_do_not_stand_for_all():
    """Far from the points that they were made at, sums over few nodes are anything; the trial says so."""
    model, params, t = find_model("laminar_flow"), some_params("laminar_flow", 0), TIMES["equal steps"]
    maps, space = maps_with(t), parameter_space(model, t)
    i, j = np.triu_indices(len(t), 1)
    g = np.asarray(model.g(params, t[i], t[j], maps.q[:, None], maps.phi[:, None], GAP))
    maps.values[:, i, j] = 1.0 + 0.3 * g
    nodes = reduce_pairs(maps, i, j)
    found = condensation(nodes, model, points_near(params, POINTS, 1), 1e-6, np.random.default_rng(0))
    exact = Posterior(
        space,
        nodes,
        SCALING,
        np.full(3, 0.01),
        uncalibrated(space.dim, 3),
    )
    cheap = Condensed(replace(exact, nodes=found.few(nodes)), found.trial)
    untried = cheap._replace(trial=found.trial._replace(limit=np.inf))  # planted

    def excess(density, spread):
        points = space.coordinates(points_near(params, 300, 4, spread))
        return np.max(log_densities(points, density) - log_densities(points, exact))

    assert abs(excess(cheap, SPREAD)) < 1.0
    assert excess(cheap, 10 * SPREAD) < 1.0
    assert excess(untried, 10 * SPREAD) > 50.0
