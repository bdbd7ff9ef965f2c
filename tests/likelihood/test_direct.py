"""Sums over all pairs by rectangles, and what they say of reduced data."""

from dataclasses import replace

import numpy as np
import pytest
from pairs import SCALING, whole_moments

from homodyne.errors import DataError
from homodyne.likelihood.direct import LIMIT, direct_moments, reduction_errors
from homodyne.likelihood.maps import Maps
from homodyne.likelihood.posterior import Posterior, score_many
from homodyne.likelihood.reduction import Accuracy, find_cells, reduce_maps, reduce_pairs
from homodyne.noise.adjustment import Adjustment, Calibration, uncalibrated
from homodyne.physics.model import find_model
from homodyne.physics.space import parameter_space

pytestmark = pytest.mark.slow

PARAMS = {
    "D0": 2e4,
    "alpha": -0.5,
    "D_offset": 1e3,
    "gamma_dot_0": 1e-3,
    "beta": -0.3,
    "gamma_dot_offset": 1e-4,
    "phi0": 15.0,
}
MODEL = find_model("laminar_flow")


def measured(num_frames, dtype=np.float32):
    """Two noisy maps with missing pixels, a frame that is dead in one of them and one that is in both."""
    rng, n = np.random.default_rng(num_frames), num_frames
    t = 5.0 / n * np.arange(1, n + 1)
    q, phi = np.array([0.0054, 0.006]), np.array([10.0, 60.0])
    i, j = np.triu_indices(n, 1)
    values, alive = np.ones((2, n, n), dtype), np.ones((2, n), bool)
    for k in range(2):
        values[k][i, j] = 1.0 + 0.3 * MODEL.g(PARAMS, t[i], t[j], q[k], phi[k], 2e6) + rng.normal(0, 0.02, i.size)
    values[rng.random(values.shape) < 0.03] = np.nan
    alive[:, n // 2] = alive[1, n - 2] = False
    return Maps(values, alive, t, q, phi, 2e6)


@pytest.mark.parametrize("num_frames", [5, 64, 65, 330])
def test_rectangles_together_are_all_pairs(num_frames):
    """One row of rectangles, one frame more than fits into one, and several along both sides."""
    maps, told = measured(num_frames), []
    params = {name: value * np.array([0.9, 1.1]) for name, value in PARAMS.items()}
    found = direct_moments(MODEL, params, maps, lambda done, total: told.append((done, total)))
    for k in range(2):
        expected = whole_moments(MODEL, {name: float(value[k]) for name, value in params.items()}, maps)
        for name, values in expected._asdict().items():
            scale = np.maximum(np.abs(values), expected.points)
            np.testing.assert_allclose(
                getattr(found, name)[k] / scale, values / scale, rtol=0, atol=1e-11, err_msg=name
            )
    assert told == [(done, told[-1][1]) for done in range(1, told[-1][1] + 1)]


@pytest.mark.parametrize("order", ["C", "F"])
def test_pairs_by_row_and_lag(order, tmp_path):
    """From arrays of any layout and from files, up to the last pair of the record, of which no more is read."""
    maps = measured(40)
    stored = np.memmap(tmp_path / "maps", np.float32, "w+", shape=maps.values.shape)
    stored[:] = maps.values
    values = stored if order == "C" else tuple(np.asfortranarray(one) for one in maps.values)
    given, seen = replace(maps, values=values), np.zeros((40, 40), int)
    for rows, lags in given.rectangles(7, 9):
        found, present = given.lagged(1, rows, lags)
        for a, i in enumerate(range(rows.start, rows.stop)):
            for b, lag in enumerate(range(lags.start, lags.stop)):
                there = i + lag < 40 and maps.alive[1, i] and maps.alive[1, i + lag]
                there = bool(there and np.isfinite(maps.values[1, i, i + lag]))
                assert present[a, b] == there
                assert found[a, b] == (maps.values[1, i, i + lag] if there else 0.0)
                if i + lag < 40:
                    seen[i, i + lag] += 1
    np.testing.assert_array_equal(seen, np.triu(np.ones((40, 40), int), 1))


def test_a_map_without_pairs_is_named():
    maps = measured(8)
    alive = maps.alive.copy()
    alive[1, 1:] = False
    with pytest.raises(DataError, match="q = 0.006, phi = 60 degrees has no pair"):
        replace(maps, alive=alive).center  # noqa: B018


@pytest.fixture(scope="module")
def noisy():
    """Maps, their posterior by sums over pairs, and points of it."""
    maps = measured(70)
    space = parameter_space(MODEL, maps.t)
    posterior = posterior_of(maps, space, reduce_pairs(maps, *np.triu_indices(70, 1)))
    z = np.asarray(space.coordinates(PARAMS))
    root = np.linalg.cholesky(np.linalg.inv(score_many(z[None], posterior).information[0]))
    return maps, posterior, z + np.random.default_rng(0).standard_normal((12, 7)) @ root.T


def posterior_of(maps, space, nodes):
    return Posterior(space, nodes, SCALING, np.full(2, 0.02), uncalibrated(7, 2))


def reduced(posterior, maps, points, accuracy):
    params = {name: np.resize(value, 3) for name, value in PARAMS.items()}
    nodes = reduce_maps(maps, find_cells(MODEL, params, maps, accuracy))
    return reduction_errors(points, replace(posterior, nodes=nodes), maps)


def test_too_coarse_cells_are_caught(noisy):
    maps, posterior, points = noisy
    coarse = reduced(posterior, maps, points, Accuracy(2, 1.0))
    assert coarse.shape == (12,)
    assert coarse.mean() == pytest.approx(0.0, abs=1e-9)
    assert coarse.std(ddof=1) > 10 * LIMIT
    fine = reduced(posterior, maps, points, Accuracy(8, 1e-4))
    finer = reduced(posterior, maps, points, Accuracy(8, 1e-6))
    assert finer.std(ddof=1) < fine.std(ddof=1) < LIMIT


def test_nodes_that_are_pairs_have_no_error(noisy):
    """Under an adjustment, and where the noise is sampled, too."""
    maps, posterior, points = noisy
    assert np.abs(reduction_errors(points, posterior, maps)).max() < 1e-7
    spread = np.tile([[1.3, 0.2], [0.2, 0.9]], (2, 1, 1))
    scaling = np.full((2, 2, 7), 0.1), spread, np.ones((2, 2)), np.ones(2)
    adjustment = Adjustment(points[0], 0.9 * np.eye(7), 1.4, *scaling)
    calibration = Calibration.of([(points[0], np.eye(7), adjustment)])
    assert np.abs(reduction_errors(points, replace(posterior, calibration=calibration), maps)).max() < 1e-7
    longer = np.concatenate([points, np.full((12, 2), np.log(0.03))], axis=1)
    assert np.abs(reduction_errors(longer, posterior.with_sigma(None), maps)).max() < 1e-7


def test_data_that_were_lost_are_caught(noisy):
    """Nodes of all pairs but those of a few frames."""
    maps, posterior, points = noisy
    i, j = np.triu_indices(70, 1)
    kept = i >= 3
    lost = replace(posterior, nodes=reduce_pairs(maps, i[kept], j[kept]))
    assert reduction_errors(points, lost, maps).std(ddof=1) > 3 * LIMIT
