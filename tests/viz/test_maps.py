"""Numbers behind the maps, against loops over single pairs."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest

from homodyne.result.curves import g_of
from homodyne.viz import maps
from homodyne.viz.labels import new_figure
from homodyne.viz.model import best_draw, chosen_maps, noise_sd, spread_over, spread_over_directions


def slow_panels(example, k, step):
    """Data, model and residual of each cell from its pairs, one after the other."""
    result, data = example.result, example.data
    flat = {name: draws.reshape(-1, *draws.shape[2:]) for name, draws in result.samples.items()}
    best = int(np.argmax(result.sample_stats["lp"].ravel()))
    params = {name: float(flat[name][best]) for name in result.free_names} | result.fixed
    t = data.t
    g = np.asarray(g_of(result.model, params, t[:, None], t, result.q[k], result.phi[k], result.gap))
    fitted = flat["offset"][best, k] + flat["contrast"][best, k] * g
    relative = data.relative_weights()
    roots = np.ones_like(fitted) if relative is None else np.sqrt(relative[k])
    size = -(-t.size // step)
    panels = np.full((3, size, size), np.nan)
    for a in range(size):
        for b in range(a, size):
            rows = range(a * step, min((a + 1) * step, t.size))
            columns = range(b * step, min((b + 1) * step, t.size))
            pairs = [(i, j) for i in rows for j in columns if i < j and data.good[i] and data.good[j]]
            pairs = [(i, j) for i, j in pairs if np.isfinite(data.c2[k, i, j]) and roots[i, j] > 0]
            if pairs:
                y = np.mean([data.c2[k, i, j] for i, j in pairs], dtype=float)
                m = np.mean([fitted[i, j] for i, j in pairs])
                error = result.sigma[k] / np.sqrt(len(pairs))
                left = np.mean([roots[i, j] * (data.c2[k, i, j] - fitted[i, j]) for i, j in pairs])
                panels[:, a, b] = panels[:, b, a] = y, m, left / error
    return panels


@pytest.mark.parametrize("step", [1, 4])
def test_panels_agree_with_single_pairs(laminar, step):
    """Data with one missing pixel, different noise per angle, and a last cell that is not full."""
    c2 = laminar.data.c2.copy()
    c2[5, 20, 33] = np.nan
    example = replace(
        laminar,
        data=replace(laminar.data, c2=c2),
        result=replace(laminar.result, sigma=np.linspace(0.01, 0.04, 13)),
    )
    panels = maps.map_panels(example.result, example.data, 5, max_cells=-(-50 // step))
    assert panels.step == step
    data, model, residual = slow_panels(example, 5, step)
    np.testing.assert_allclose(panels.data, data, rtol=1e-12)
    np.testing.assert_allclose(panels.model, model, rtol=1e-10)
    np.testing.assert_allclose(panels.residual, residual, rtol=1e-6, atol=1e-8)
    frames = np.linspace(0.1, 2.0, 50)
    frames[7] = 0.0
    weighted = replace(example, data=example.data.weighted(frame_weights=frames))
    panels = maps.map_panels(weighted.result, weighted.data, 5, max_cells=-(-50 // step))
    np.testing.assert_allclose(panels.residual, slow_panels(weighted, 5, step)[2], rtol=1e-5, atol=1e-7)
    other = slow_panels(replace(example, result=replace(example.result, sigma=laminar.result.sigma)), 5, step)[2]
    assert not np.allclose(other, residual, equal_nan=True)


@pytest.mark.parametrize("step", [1, 3])
def test_residuals_of_a_right_model_have_unit_variance(static, step):
    """Also of block means; without the square root of the number of pairs they would be about 1/step."""
    panels = maps.map_panels(static.result, static.data, 0, max_cells=-(-60 // step))
    cells = panels.residual[np.triu_indices(len(panels.residual))]
    cells = cells[np.isfinite(cells)]
    tolerance = 4 * np.sqrt(0.5 / cells.size)
    assert abs(cells.std() - 1) < tolerance
    if step > 1:
        assert abs(cells.std() / step - 1) > 3 * tolerance


def test_edges_follow_uneven_times():
    t = np.array([1.0, 2.0, 4.0, 5.0, 6.0])
    np.testing.assert_allclose(maps.cell_edges(t, 1), [0.5, 1.5, 3.0, 4.5, 5.5, 6.5])
    np.testing.assert_allclose(maps.cell_edges(t, 2), [0.5, 3.0, 5.5, 6.5])
    np.testing.assert_allclose(maps.cell_edges(t, 5), [0.5, 6.5])


def test_colour_limits_do_not_see_the_diagonal():
    cells = np.linspace(0, 1, 101 * 101).reshape(101, 101)
    np.fill_diagonal(cells, 50.0)
    low, high = maps.colour_limits([cells])
    assert 0 < low < high < 1
    np.testing.assert_allclose([low, high], np.percentile(cells[np.triu_indices(101, 1)], (1, 99)))
    assert maps.colour_limits([np.full((3, 3), np.nan)]) == (0.0, 1.0)
    assert maps.colour_limits([np.ones((3, 3))]) == (0.5, 1.5)


def test_artist_holds_the_map(laminar):
    panels = maps.map_panels(laminar.result, laminar.data, 0)
    for edges in (panels.edges, panels.edges**1.5):  # even and uneven cells
        ax = new_figure(3, 3).subplots()
        image = maps.draw_map(ax, edges, panels.data, "viridis", (1.0, 1.3))
        array = image.get_array().reshape(panels.data.shape)
        np.testing.assert_array_equal(array.filled(np.nan), panels.data)
        assert array.mask[10].all()  # a bad frame
        assert image.get_clim() == (1.0, 1.3)
        np.testing.assert_allclose([*ax.get_xlim(), *ax.get_ylim()], np.tile(edges[[0, -1]], 2))
        assert tuple(image.cmap.get_bad()[:3]) == matplotlib.colors.to_rgb("0.72")


def test_figure_shares_scales_and_names_what_it_shows(laminar):
    figure = maps.map_figure(laminar.result, laminar.data)
    panels = [ax for ax in figure.axes if ax.images]
    assert len(panels) == 18
    limits = [ax.images[0].get_clim() for ax in panels]
    assert len(set(limits[:12])) == 1
    assert set(limits[12:]) == {(-4.0, 4.0)}
    shown = spread_over_directions(laminar.data.phi, 6)
    for ax, angle in zip(panels[:6], shown, strict=True):
        expected = maps.measured_pairs(laminar.data, angle)
        upper = np.triu_indices(50, 1)
        np.testing.assert_array_equal(ax.images[0].get_array().filled(np.nan)[upper], expected[upper])
    assert figure.get_suptitle() == "q = 0.0054 1/Å, 6 of 13 angles, 50 frames, 3 bad frames (gray)"
    assert {ax.get_xlabel() for ax in panels[12:]} == {"$t_1$ (s)"}


def test_averaged_maps_say_so_and_keep_bad_frames(laminar):
    figure = maps.map_figure(laminar.result, laminar.data, max_maps=2, max_cells=20)
    assert figure.axes[0].images[0].get_array().shape == (17, 17)
    assert "block mean of 3 x 3 frames" in figure.get_suptitle()
    assert len(figure.axes[0].lines) == 6


def test_spread_over():
    phi = np.array([90.0, 0.0, 45.0, -90.0, 10.0])
    assert spread_over(phi, 3) == [3, 4, 0]
    assert spread_over(phi, 9) == [3, 1, 4, 2, 0]
    assert spread_over(phi, 1) == [3]


def test_directions_along_and_across_the_flow_are_shown():
    phi = np.arange(8) * 22.5
    assert phi[spread_over_directions(phi, 4)].tolist() == [0.0, 45.0, 90.0, 135.0]
    assert phi[spread_over_directions(phi, 2)].tolist() == [0.0, 90.0]
    phi = np.linspace(-95.0, 95.0, 20)
    assert {-85.0, -5.0, 5.0, 85.0} & set(phi[spread_over_directions(phi, 3)].round().tolist())
    assert abs(phi[spread_over_directions(phi, 3)]).max() > 84
    assert spread_over_directions(phi, 99) == list(range(20))


def test_chosen_maps():
    phi = np.array([90.0, 0.0, 45.0, -90.0, 10.0])
    assert chosen_maps(np.full(5, 0.01), phi, 3) == [1, 2, 0]
    assert chosen_maps(np.array([0.3, 0.1, 0.2, 0.5, 0.4]), phi, 3) == [1, 0, 3]
    q, phi = np.repeat([0.1, 0.2, 0.3, 0.4], 3), np.tile([0.0, 90.0, 45.0], 4)
    assert chosen_maps(q, phi, 6) == [0, 1, 6, 7, 9, 10]  # three of four wave vectors, the ends of the angles
    assert chosen_maps(q[:6], phi[:6], 6) == [0, 2, 1, 3, 5, 4]
    assert chosen_maps(q, phi, 1) == [0]


def test_maps_of_many_wave_vectors_are_named(waves):
    figure = maps.map_figure(waves.result, waves.data)
    titles = [ax.get_title() for ax in figure.axes if ax.images][:6]
    assert titles[0] == "q = 0.004 1/Å\n$\\varphi$ = 0°"
    assert titles[5] == "q = 0.01 1/Å\n$\\varphi$ = 90°"
    third = [ax for ax in figure.axes if ax.images][2]
    expected = maps.measured_pairs(waves.data, 6)
    upper = np.triu_indices(40, 1)
    np.testing.assert_array_equal(third.images[0].get_array().filled(np.nan)[upper], expected[upper])


def test_best_draw_without_density_is_near_the_mean(laminar):
    result = laminar.result
    assert best_draw(result) == np.argmax(result.sample_stats["lp"])
    draws = result.samples_params
    position = best_draw(replace(result, sample_stats={}))
    distance = np.sum(((draws - draws.mean(0)) / draws.std(0)) ** 2, axis=1)
    assert distance[position] == distance.min()


def test_sampled_noise_is_its_median(static):
    draws = np.random.default_rng(0).uniform(0.1, 0.2, (1, 300, 1))
    result = replace(static.result, sigma=None, samples={**static.result.samples, "sigma": draws})
    np.testing.assert_allclose(noise_sd(result), np.median(draws))
