"""Sums over few nodes against sums over all, where parameters are nearly known."""

import numpy as np
import pytest
from test_reduction import GAP, MODELS, PHI, TIMES, maps_with, some_params

from homodyne.likelihood.condensed import condensed
from homodyne.likelihood.nodes import moments
from homodyne.likelihood.reduction import reduce_pairs
from homodyne.physics.model import find_model

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
    few = condensed(nodes, model, near, 1e-8, np.random.default_rng(0))
    assert len(few.t1) < len(nodes.t1) / 5
    assert largest_error(model, fresh, few, nodes) < 1e-6
    fewer = condensed(nodes, model, near, 1e-3, np.random.default_rng(0))  # planted: most functions are left out
    assert len(fewer.t1) < len(few.t1)
    assert largest_error(model, fresh, fewer, nodes) > 1e-6


def test_they_stand_for_all_only_near_the_points_they_were_made_for():
    model, params = find_model("laminar_flow"), some_params("laminar_flow", 0)
    nodes = reduce_pairs(maps_with(TIMES["uneven steps"]), ROWS, COLUMNS)
    few = condensed(nodes, model, points_near(params, POINTS, 1), 1e-8, np.random.default_rng(0))
    assert largest_error(model, points_near(params, 10, 3), few, nodes) < 1e-6
    assert largest_error(model, points_near(params, 10, 3, 20 * SPREAD), few, nodes) > 1e-6


def test_sums_over_the_data_stay_what_they_are():
    model, params = find_model("static"), some_params("static", 0)
    nodes = reduce_pairs(maps_with(TIMES["bursts"]), ROWS, COLUMNS)
    few = condensed(nodes, model, points_near(params, POINTS, 1), 1e-8, np.random.default_rng(0))
    assert few.num_points == nodes.num_points
    assert (few.gap, *few.phi) == (GAP, *PHI)
    np.testing.assert_array_equal(few.sums, nodes.sums)
