"""Sums over nodes against sums over whole arrays of pairs."""

from dataclasses import replace

import numpy as np
import pytest
from pairs import whole_moments

from homodyne.likelihood import reduction
from homodyne.likelihood.maps import Maps
from homodyne.likelihood.nodes import add, moments, padded, padded_size
from homodyne.likelihood.reduction import (
    Accuracy,
    chebyshev,
    find_cells,
    lagrange,
    reduce_maps,
    reduce_pairs,
    reduce_shards,
)
from homodyne.optimization.cmc.sharding import STRATEGIES, shard_numbers
from homodyne.physics.model import find_model

N, Q, PHI, GAP = 70, np.array([0.004, 0.0054, 0.009]), np.array([-30.0, 10.0, 75.0]), 2e6
TRANSPORT = {"D0": 2e4, "alpha": -0.6, "D_offset": 800.0}
MODELS = {
    "static": TRANSPORT,
    "stretched": {"Gamma_ref": 0.6, "mu": 0.3, "k": 1.4, "n": 1.5},
    "laminar_flow": {**TRANSPORT, "gamma_dot_0": 1e-3, "beta": -0.3, "gamma_dot_offset": 1e-4, "phi0": 5.0},
    "heterodyne": {
        **{f"{name}_ref": value / 20 for name, value in TRANSPORT.items()},
        **{f"{name}_sample": value for name, value in TRANSPORT.items()},
        **dict.fromkeys(("f0", "f3"), 0.3),
        **dict.fromkeys(("beta", "f1", "f2"), -0.1),
        "v0": 900.0,
        "v_offset": 50.0,
        "phi0": 20.0,
    },
}
TIMES = {
    "equal steps": 0.1 * np.arange(1, N + 1),
    "uneven steps": 0.1 * np.arange(1, N + 1) + np.random.default_rng(1).uniform(-0.03, 0.03, N),
    "bursts": np.concatenate([start + 0.01 * np.arange(10) for start in np.geomspace(0.1, 20.0, N // 10)]),
}
FINE, COARSE = Accuracy(8, 1e-5), Accuracy(8, 10.0)


def maps_with(t, seed=0):
    """Random values at three wave vectors, with missing pixels, and frames that are dead in one map or in all."""
    rng, n = np.random.default_rng(seed), len(t)
    values = 1.0 + 0.3 * rng.standard_normal((3, n, n)).astype(np.float32)
    values[rng.random(values.shape) < 0.05] = np.nan
    alive = np.ones((3, n), bool)
    alive[:, n // 3] = alive[0, 0] = alive[1, -1] = alive[2, n // 2] = False
    return Maps(values, alive, t, Q, PHI, GAP)


def some_params(name, seed):
    """Parameters that differ from those above by up to a quarter."""
    rng = np.random.default_rng(seed)
    return {key: value * rng.uniform(0.8, 1.25) for key, value in MODELS[name].items()}


def alone(name):
    """One point of the parameter space, as often as there are points elsewhere."""
    return {key: np.full(3, value) for key, value in MODELS[name].items()}


def wrongness(found, expected, maps):
    """Largest error of sums of w g, w g² and w y g, per pair and unit of the data."""
    size, spread = np.asarray(expected.points), np.sqrt(np.asarray(expected.scatter) / np.asarray(expected.points))
    scales = {"g": size, "gg": size, "yg": size * spread}
    return max(
        float(np.abs((np.asarray(getattr(found, name)) - np.asarray(getattr(expected, name))) / scale).max())
        for name, scale in scales.items()
    )


def same_data(found, expected):
    for name in ("points", "weight", "mean", "scatter", "log_weights"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("steps", TIMES)
@pytest.mark.parametrize("name", MODELS)
def test_sums_over_nodes_are_sums_over_pairs(name, steps):
    """Between the points for which the cells were made, too, and far better than with too coarse cells."""
    model, maps = find_model(name), maps_with(TIMES[steps])
    corners = [some_params(name, seed) for seed in range(3)]
    columns = {key: np.array([one[key] for one in corners]) for key in corners[0]}
    fine = reduce_maps(maps, find_cells(model, columns, maps, FINE))
    coarse = reduce_maps(maps, find_cells(model, columns, maps, COARSE))
    inner = {key: values.mean() for key, values in columns.items()}
    for params in (*corners, inner):
        expected = whole_moments(model, params, maps)
        found = moments(model, params, fine)
        same_data(found, expected)
        assert wrongness(found, expected, maps) < FINE.tolerance
        assert wrongness(moments(model, params, coarse), expected, maps) > 3 * FINE.tolerance


@pytest.mark.slow
@pytest.mark.parametrize("t", [0.1 * np.arange(1, 9), TIMES["bursts"][5:12], np.array([0.1, 0.5, 0.7])])
def test_small_maps_are_exact(t):
    """As many frames as a cell has nodes along a side: whatever the tolerance, nothing is interpolated."""
    model = find_model("laminar_flow")
    values = np.random.default_rng(0).normal(1.0, 0.3, (3, len(t), len(t)))
    maps = Maps(values, np.ones((3, len(t)), bool), t, Q, PHI, GAP)
    columns = alone("laminar_flow")
    nodes = reduce_maps(maps, find_cells(model, columns, maps, COARSE))
    for seed in range(3):
        params = some_params("laminar_flow", seed)
        expected = whole_moments(model, params, maps)
        found = moments(model, params, nodes)
        same_data(found, expected)
        assert wrongness(found, expected, maps) < 1e-13


def test_few_nodes_stand_for_many_pairs():
    t = 0.05 * np.arange(1, 401)
    maps = Maps(np.ones((3, 400, 400), np.float32), np.ones((3, 400), bool), t, Q, PHI, GAP)
    columns = alone("laminar_flow")
    cells = find_cells(find_model("laminar_flow"), columns, maps, Accuracy(8, 1e-4))
    assert cells.limits[-1] < 0.05 * 400 * 399 / 2
    finer = find_cells(find_model("laminar_flow"), columns, maps, Accuracy(8, 1e-6))
    assert finer.limits[-1] > cells.limits[-1]


def test_cells_of_few_pairs_may_be_coarser():
    """The tolerance is meant for a thirtieth of all pairs, and follows the root of their number up to a limit."""
    n = 401
    whole = n * (n - 1) / 2
    for height, width in ((40, 40), (20, 10), (200, 100)):
        cell = reduction.Cell(0, height, 1, 1 + width)
        assert reduction._looseness(cell, n) == pytest.approx(np.sqrt(whole / 30 / (height * width)))
    assert reduction._looseness(reduction.Cell(0, 2, 1, 3), n) == 10.0
    corner = reduction.Cell(n - 11, n - 1, 1, n)  # cut off by the end of the record
    assert reduction._looseness(corner, n) == pytest.approx(np.sqrt(whole / 30 / 55))


@pytest.mark.slow
def test_a_pause_between_equal_steps():
    """More pairs of one lag than nodes, all the same time apart."""
    t = np.concatenate([0.01 * np.arange(1, 91), 5.0 + 0.01 * np.arange(90)])
    model, params, maps = find_model("static"), MODELS["static"], maps_with(t)
    grid = find_cells(model, alone("static"), maps, FINE)
    expected = whole_moments(model, params, maps)
    assert wrongness(moments(model, params, reduce_maps(maps, grid)), expected, maps) < FINE.tolerance
    assert grid.limits[-1] < 0.6 * expected.points[0]


@pytest.mark.parametrize("steps", TIMES)
def test_every_pair_lies_in_one_cell(steps):
    maps = maps_with(TIMES[steps])
    columns = alone("static")
    seen = np.zeros((N, N), int)
    for cell in find_cells(find_model("static"), columns, maps, FINE).cells:
        for i in range(cell.first_row, cell.end_row):
            seen[i, i + cell.first_lag : min(i + cell.end_lag, N)] += 1
    np.testing.assert_array_equal(seen, np.triu(np.ones((N, N), int), 1))


@pytest.fixture(scope="module", params=TIMES)
def gridded(request):
    maps = maps_with(TIMES[request.param])
    columns = alone("laminar_flow")
    return maps, find_cells(find_model("laminar_flow"), columns, maps, FINE)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_shards_add_up(strategy, gridded):
    maps, grid = gridded
    whole = reduce_maps(maps, grid)
    parts = reduce_shards(maps, grid, 6, shard_numbers(maps, 6, strategy, seed=3))
    assert all(part.num_points > 0 for part in parts)
    together = add(parts)
    for name in ("t1", "t2", "center"):
        np.testing.assert_array_equal(getattr(together, name), getattr(whole, name))
    for name in ("weight", "weight_y", "sums"):
        np.testing.assert_allclose(getattr(together, name), getattr(whole, name), rtol=0, atol=1e-10)
    lost = add(parts[1:])
    assert not np.allclose(lost.weight_y, whole.weight_y, rtol=0, atol=1e-3)


def test_a_shard_is_its_own_pairs(gridded):
    """As though the pairs of the other shards were missing."""
    maps, grid = gridded
    dealt = shard_numbers(maps, 6, "random", seed=3)
    i, j = np.meshgrid(np.arange(N), np.arange(N), indexing="ij")
    parts = reduce_shards(maps, grid, 6, dealt)
    for m in (0, 5):
        own = np.array([np.where((i < j) & (dealt(k, i, j) == m), maps.values[k], np.nan) for k in range(3)])
        expected = reduce_maps(replace(maps, values=own), grid)
        centred = expected.weight_y + (expected.center - maps.center)[:, None] * expected.weight
        np.testing.assert_allclose(parts[m].weight, expected.weight, rtol=0, atol=1e-10)
        np.testing.assert_allclose(parts[m].weight_y, centred, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(parts[m].sums[:, 0], expected.sums[:, 0])


def test_nodes_of_other_cells_do_not_add_up(gridded):
    maps, grid = gridded
    nodes = reduce_maps(maps, grid)
    for other in (nodes._replace(center=nodes.center + 1.0), nodes._replace(t1=nodes.t1[::-1])):
        with pytest.raises(ValueError, match="one grid and one centre"):
            add([nodes, other])


@pytest.mark.slow
def test_nodes_that_are_pairs_are_exact():
    maps, model = maps_with(TIMES["bursts"]), find_model("heterodyne")
    params = some_params("heterodyne", 0)
    nodes = reduce_pairs(maps, *np.triu_indices(N, 1))
    expected = whole_moments(model, params, maps)
    for one in (nodes, padded(nodes)):
        found = moments(model, params, one)
        same_data(found, expected)
        assert wrongness(found, expected, maps) < 1e-13
        assert one.num_points == expected.points.sum()


def test_sizes_of_padded_nodes_are_few():
    sizes = [padded_size(count) for count in range(1, 40_000, 7)]
    assert all(size >= count for size, count in zip(sizes, range(1, 40_000, 7), strict=True))
    assert len(set(sizes)) < 40
    assert max(size / count for size, count in zip(sizes, range(1, 40_000, 7), strict=True) if count > 4096) < 1.15


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_interpolation_is_exact_for_polynomials(count):
    nodes, x = chebyshev(3.0, 7.0, count), np.linspace(3.0, 7.0, 50)
    table = lagrange(nodes, np.concatenate([x, nodes]))
    np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(table[50:], np.eye(count), atol=1e-12)
    powers = np.arange(count)
    np.testing.assert_allclose(
        table[:50] @ ((nodes[:, None] - 5.0) ** powers), (x[:, None] - 5.0) ** powers, atol=1e-10
    )
    off = table[:50] @ (nodes - 5.0) ** count - (x - 5.0) ** count  # one more is not
    assert np.abs(off).max() > 1e-3


def test_one_map_after_the_other_is_reported(gridded):
    told = []
    reduce_maps(*gridded, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
