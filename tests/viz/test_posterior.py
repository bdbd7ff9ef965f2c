"""Contours hold the shares they claim, ranks see chains that disagree, axes carry units."""

import numpy as np
import pytest

from homodyne.physics.models.laminar_flow import LaminarFlow
from homodyne.viz import posterior
from homodyne.viz.labels import Notation, new_figure, notation_of, unit_text


def test_regions_hold_half_and_nine_tenths():
    """Also for a narrow ridge and with far draws out of view."""
    draws = np.random.default_rng(0).multivariate_normal([0, 3], [[1, 0.95], [0.95, 1]], 20_000)
    draws[:200] *= 1e4
    spans = [posterior.span_of(column) for column in draws.T]
    ax = new_figure(3, 3).subplots()
    regions = posterior.draw_pair(ax, *draws.T, *spans)
    outer, inner = regions.get_paths()
    inside = inner.contains_points(draws)
    assert inside.mean() == pytest.approx(0.5, abs=0.02)
    assert (inside | outer.contains_points(draws)).mean() == pytest.approx(0.9, abs=0.01)


def test_ranks_are_flat_only_when_chains_agree():
    draws = np.random.default_rng(0).normal(size=(4, 1000))
    counts, limits = posterior.rank_counts(draws)
    assert counts.shape == (4, 20)
    assert counts.sum() == 4000
    assert limits[-1] == 4000
    expected = 1000 / 20
    # multinomial over bins; 3/4 because the four chains share each bin
    chi_square = np.sum((counts - expected) ** 2 / expected) / (3 / 4)
    assert abs(chi_square - 76) < 5 * np.sqrt(2 * 76)
    draws[2] += 0.5  # the planted fault: one chain elsewhere
    counts, _ = posterior.rank_counts(draws)
    assert np.sum((counts - expected) ** 2 / expected) / (3 / 4) > 76 + 15 * np.sqrt(2 * 76)


def test_rank_artists(laminar):
    ax = new_figure(3, 3).subplots()
    draws = laminar.result.samples["D0"]
    steps = posterior.draw_ranks(ax, draws)
    counts, _ = posterior.rank_counts(draws)
    for step, row in zip(steps, counts, strict=True):
        np.testing.assert_array_equal(step.get_data().values, row)
    ax = new_figure(3, 3).subplots()
    (histogram,) = posterior.draw_ranks(ax, draws[:1])
    assert histogram.get_data().values.sum() == pytest.approx(100, abs=3)


def test_trace_counts_what_it_does_not_show():
    draws = np.random.default_rng(0).normal(size=(2, 500))
    ax = new_figure(3, 3).subplots()
    lines = posterior.draw_trace(ax, draws)
    np.testing.assert_array_equal(lines[1].get_ydata(), draws[1])
    assert not ax.texts
    draws[0, 5], draws[1, 7] = 1e6, -1e6
    ax = new_figure(3, 3).subplots()
    posterior.draw_trace(ax, draws)
    assert [text.get_text() for text in ax.texts] == ["2 outside"]
    assert ax.get_ylim()[1] < 20


def test_corner(laminar):
    figure = posterior.corner_figure(laminar.result, laminar.truth)
    axes = dict(zip(zip(*np.tril_indices(7), strict=True), figure.axes, strict=True))
    assert axes[6, 0].get_xlabel() == r"$D_0$ ($10^{4}$ Å²/s$^{1+\alpha}$)"
    assert axes[6, 6].get_xlabel() == r"$\varphi_0$ (deg)"
    (truth,) = axes[0, 0].lines
    assert truth.get_xdata()[0] == pytest.approx(6.0)
    low, middle, high = np.quantile(laminar.result.samples["phi0"], (0.05, 0.5, 0.95))
    shown = axes[6, 6].get_title().split("\n")[1].replace("−", "-").strip("]").replace("[", "").replace(",", "")
    np.testing.assert_allclose([float(part) for part in shown.split()], [middle, low, high], rtol=0.02)
    counts = [patch.get_height() for patch in axes[6, 6].patches]
    assert sum(counts) == pytest.approx(400, abs=10)


def test_parameter_that_does_not_vary(static):
    columns = posterior.parameter_columns(static.result)
    assert [column.name for column in columns] == ["D0", "alpha", "D_offset"]
    low, high = posterior.span_of(np.full((1, 10), 3.0))
    assert low < 3.0 < high
    assert posterior.scale_power(np.zeros((1, 3))) == 0


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("Å^2/s^(1+alpha)", r"Å$^{2}$/s$^{1+\alpha}$"),
        ("1/s^(1+beta)", r"1/s$^{1+\beta}$"),
        ("s^-1", "s$^{-1}$"),
        ("Å**2/s", "Å$^{2}$/s"),
        ("degree", "degree"),
    ],
)
def test_units(unit, text):
    assert unit_text(unit, {"alpha": r"\alpha", "beta": r"\beta"}) == text


def test_axis_labels():
    laminar = notation_of(LaminarFlow())
    assert laminar.label("alpha") == r"$\alpha$"
    assert laminar.label("D0", 4) == r"$D_0$ ($10^{4}$ Å²/s$^{1+\alpha}$)"
    assert Notation(units={"viscosity": "Pa s"}).label("viscosity", -3) == "viscosity ($10^{-3}$ Pa s)"
    assert notation_of(None, {"D0": "Å²/s^(1+alpha)"}).label("D0") == "D0 (Å²/s$^{1+alpha}$)"
