"""Cuts and rates: data of each bin and quantiles of each band, against slow sums."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from homodyne.errors import InputError
from homodyne.result.curves import correlation_draws, g_of, rate_draws
from homodyne.viz import cuts, inspection, rates
from homodyne.viz.labels import new_figure
from homodyne.viz.maps import measured_pairs
from homodyne.viz.model import thinned


def slow_band(example, k, pairs):
    """5, 50, 95 % over the thinned draws of the mean of c2 over ``pairs`` of frames."""
    result, data = example.result, example.data
    values = []
    for position in thinned(result):
        flat = {name: draws.reshape(-1, *draws.shape[2:])[position] for name, draws in result.samples.items()}
        params = {name: flat[name] for name in result.free_names} | result.fixed
        scale = {"contrast": flat["contrast"][k], "offset": flat["offset"][k]}
        t1, t2 = data.t[[i for i, _ in pairs]], data.t[[j for _, j in pairs]]
        curve = np.asarray(g_of(result.model, params, t1, t2, result.q[k], result.phi[k], result.gap))
        values.append(np.mean(scale["offset"] + scale["contrast"] * curve))
    return np.quantile(values, (0.05, 0.5, 0.95))


@pytest.mark.slow
def test_cut_at_age(laminar):
    data, angle = laminar.data, 2
    cut = cuts.cut_at_age(laminar.result, data, angle, 20)
    assert cut.label == f"$t_1$ = {data.t[20]:.3g} s"
    limits = np.unique(np.geomspace(1, 50, 25).round())
    row = 0
    for low, high in pairwise(limits):
        pairs = [(20, j) for j in range(21, 50) if low <= j - 20 < high and data.good[j]]
        if not pairs:
            continue
        y = np.mean([data.c2[angle, i, j] for i, j in pairs], dtype=float)
        assert cut.mean[row] == pytest.approx(y, rel=1e-12)
        assert cut.error[row] == pytest.approx(0.02 / np.sqrt(len(pairs)))
        assert cut.x[row] == pytest.approx(np.mean([data.t[j] - data.t[i] for i, j in pairs]))
        if row % 5 == 0:
            band = slow_band(laminar, angle, pairs)
            np.testing.assert_allclose([cut.low[row], cut.median[row], cut.high[row]], band, rtol=1e-9)
        row += 1
    assert row == cut.x.size


@pytest.mark.slow
def test_cut_at_lag(static):
    data = static.data
    cut = cuts.cut_at_lag(static.result, data, 0, 1)
    frames = [i for i in range(59) if data.good[i] and data.good[i + 1]]
    bins = sorted({i * 24 // 60 for i in frames})
    assert cut.x.size == len(bins)
    for row, which in enumerate(bins):
        pairs = [(i, i + 1) for i in frames if i * 24 // 60 == which]
        assert cut.mean[row] == pytest.approx(np.mean([data.c2[0, i, j] for i, j in pairs], dtype=float), rel=1e-12)
        assert cut.error[row] == pytest.approx(0.03 / np.sqrt(len(pairs)))
    band = slow_band(static, 0, pairs)
    np.testing.assert_allclose([cut.low[-1], cut.median[-1], cut.high[-1]], band, rtol=1e-9)


def test_errors_of_weighted_pairs(static):
    frames = np.linspace(0.2, 2.0, 60)
    data = static.data.weighted(frame_weights=frames)
    cut, plain = (cuts.cut_at_lag(static.result, one, 0, 1) for one in (data, static.data))
    pairs = [i for i in range(59) if data.good[i] and data.good[i + 1] and i * 24 // 60 == 23]
    weights = [data.relative_weights()[0][i, i + 1] for i in pairs]
    assert cut.error[-1] == pytest.approx(0.03 * np.sqrt(np.sum(1 / np.array(weights))) / len(pairs), rel=1e-5)
    assert cut.error[-1] < 0.8 * plain.error[-1]
    np.testing.assert_array_equal(cut.mean, plain.mean)


def test_model_over_few_pairs_stands_for_all_of_a_bin(static, monkeypatch):
    few = cuts.cut_at_lag(static.result, static.data, 0, 20)
    monkeypatch.setattr(cuts, "PAIRS_PER_BIN", 10**6)
    every = cuts.cut_at_lag(static.result, static.data, 0, 20)
    np.testing.assert_allclose(few.median, every.median, rtol=1e-4)


def test_data_agree_with_the_band_only_when_the_model_is_right(static):
    """Chi-square of the points about the median; a fit with 30 % more contrast is the planted fault."""

    def chi_square(result):
        cut = cuts.cut_at_lag(result, static.data, 0, 1)
        return np.sum(((cut.mean - cut.median) / cut.error) ** 2), cut.x.size

    value, size = chi_square(static.result)
    assert abs(value - size) < 4 * np.sqrt(2 * size)
    samples = {**static.result.samples, "contrast": 1.3 * static.result.samples["contrast"]}
    wrong, _ = chi_square(replace(static.result, samples=samples))
    assert wrong > size + 6 * np.sqrt(2 * size)


def test_cut_without_pairs_is_empty(static):
    good = np.zeros(60, bool)
    good[[5, 25, 50]] = True
    data = replace(static.data, alive=static.data.alive & good)
    assert cuts.cut_at_lag(static.result, data, 0, 3).x.size == 0
    assert cuts.cut_at_lag(static.result, data, 0, 20).x.size == 1
    assert cuts.cut_figure(static.result, data).axes


def test_longest_lag_is_where_a_tenth_is_left(static):
    lag = cuts.longest_lag(static.result, static.data, [0])
    t, first = static.data.t, 20

    def left(frames):
        times = t[[first]], t[[first + frames]]
        return float(static.result.model.g(static.truth, *times, 0.0054, 7.5, np.nan)[0])

    assert left(lag) > 0.08  # the truth differs a little from the best draw
    assert lag == 39 or left(lag + 4) < 0.1


def test_cut_artists(static):
    cut = cuts.cut_at_lag(static.result, static.data, 0, 3)
    ax = new_figure(3, 3).subplots()
    band, line, points = cuts.draw_cut(ax, cut, "red")
    np.testing.assert_array_equal(line.get_xydata(), np.stack([cut.x, cut.median], axis=1))
    np.testing.assert_array_equal(points.get_xydata(), np.stack([cut.x, cut.mean], axis=1))
    low, high = band.get_datalim(ax.transData).intervaly
    assert (low, high) == (cut.low.min(), cut.high.max())


def test_correlation_draws_use_each_draws_own_contrast(laminar):
    result, data = laminar.result, laminar.data
    positions = np.array([0, 7, 399])
    far = correlation_draws(result, 4, data.t[[0]], data.t[[-1]], positions)
    offset = result.samples["offset"].reshape(-1, 13)[positions, 4]
    np.testing.assert_allclose(far[:, 0], offset, rtol=1e-6)


@pytest.mark.parametrize(
    ("which", "kind"), [(0, ("D0", "alpha", "D_offset")), (1, ("gamma_dot_0", "beta", "gamma_dot_offset"))]
)
def test_rate_band(laminar, which, kind):
    samples = laminar.result.samples
    amplitude, exponent, offset = (samples[name].ravel()[thinned(laminar.result)] for name in kind)
    t = np.array([0.2, 1.0, 4.0])
    band = rates.rate_band(rate_draws(laminar.result, t, thinned(laminar.result))[which])
    for k, time in enumerate(t):
        expected = np.quantile(amplitude * time**exponent + offset, (0.05, 0.5, 0.95))
        np.testing.assert_allclose(band[:, k], expected, rtol=1e-10)


def test_curves_of_a_model_of_ones_own(own):
    """Every map has its own wave vector, and the option of the model is used; another one is the planted fault."""
    result, positions = own.result, np.array([0, 5])
    t1, t2 = np.array([0.3]), np.array([0.7])
    tau, gamma = (result.samples[name].ravel()[positions] for name in ("tau", "gamma"))
    for k, q in enumerate((0.004, 0.006)):
        contrast, offset = (result.samples[name].reshape(-1, 2)[positions, k] for name in ("contrast", "offset"))
        expected = offset + contrast * np.exp(-2 * (0.4 / tau * q / 0.004) ** gamma)
        np.testing.assert_allclose(correlation_draws(result, k, t1, t2, positions)[:, 0], expected, rtol=1e-12)
        wrong = replace(result, model_options={"q_ref": 0.005})
        assert np.all(np.abs(correlation_draws(wrong, k, t1, t2, positions)[:, 0] - expected) > 1e-4)
    unknown = replace(result, model_class=None, analysis_mode="some:Where")
    with pytest.raises(InputError, match="name the model, load_result"):
        correlation_draws(unknown, 0, t1, t2, positions)
    figure = rates.rate_figure(result, own.truth)
    assert [ax.get_ylabel() for ax in figure.axes] == [r"$\Gamma(t)$ (1/s)", r"$\delta(t)$"]
    assert figure.axes[1].get_yscale() == "linear"


def test_rate_figure(laminar, static):
    figure = rates.rate_figure(laminar.result, laminar.truth)
    assert [ax.get_ylabel() for ax in figure.axes] == [r"$J(t)$ (Å²/s)", r"$\dot\gamma(t)$ (1/s)"]
    transport = figure.axes[0]
    assert transport.get_xscale() == transport.get_yscale() == "log"
    t, true_curve = transport.lines[1].get_data()
    assert (t[0], t[-1]) == pytest.approx((laminar.data.t[0], laminar.data.t[-1]))
    np.testing.assert_allclose(true_curve, 6e4 * t**-0.9 + 1500)
    assert len(rates.rate_figure(static.result).axes) == 1


def test_negative_rates_get_a_linear_axis():
    ax = new_figure(3, 3).subplots()
    rates.draw_rate(ax, np.array([1.0, 2.0]), np.array([[-1.0, -2.0], [1.0, 1.0], [2.0, 2.0]]), "red")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")


def test_thinning():
    class Shape:
        num_chains, num_draws = 3, 500

    positions = thinned(Shape())
    assert positions.size == 200
    assert (positions[0], positions[-1]) == (0, 1499)
    assert set(np.diff(positions)) <= {7, 8}


def test_frame_mean(static):
    upper = measured_pairs(static.data, 0)
    mean = inspection.frame_mean(upper)
    assert np.isnan(mean[[0, 20]]).all()
    expected = [upper[i, 5] for i in range(5)] + [upper[5, j] for j in range(6, 60)]
    assert mean[5] == pytest.approx(np.nanmean(expected))


def test_frames_are_averaged_where_there_are_many():
    ax = new_figure(3, 3).subplots()
    values = np.arange(500.0)
    values[0:3] = np.nan
    values[6] = np.nan
    (line,) = inspection.draw_frames(ax, np.arange(500.0), values, "red")
    x, y = line.get_data()
    assert x.size == 167
    assert np.isnan(y[0])
    np.testing.assert_allclose(y[1:4], [4.0, 7.5, 10.0])
    np.testing.assert_allclose(x[[0, 1, -1]], [1.0, 4.0, 498.5])
