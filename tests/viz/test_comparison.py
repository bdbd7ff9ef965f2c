"""Several results side by side: numbers of the table, what is left out and said, and the figure."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.example_results import Example, example_result
from homodyne import compare
from homodyne.errors import InputError
from homodyne.physics.power_laws import middle_age
from homodyne.result.comparison import short_names
from homodyne.viz.comparison import COLOURS, comparison_figure, fit_places


def at(q: float, **settings) -> Example:
    return example_result("static", q=q, phi=(7.5,), num_frames=40, shape=(1, 200), **settings)


@pytest.fixture(scope="module")
def series():
    """One fit for each wave vector, the last one refused."""
    verdicts = {0.004: "CERTIFIED", 0.006: "CORRECTED", 0.008: "REFUSED"}
    return {f"q{q:g}": at(q, verdict=verdict, seed=k).result for k, (q, verdict) in enumerate(verdicts.items())}


@pytest.fixture(scope="module")
def joint():
    q = (0.004, 0.006, 0.008)
    return example_result("static", q=q, phi=(7.5,) * 3, num_frames=50, fixed=("alpha",), shape=(1, 200)).result


@pytest.mark.slow
def test_intervals_are_quantiles(series):
    found = compare(series)
    assert [one.name for one in found.quantities] == ["J at 1.62 s", "D0", "alpha", "D_offset"]
    for fit, result in zip(found.fits, series.values(), strict=True):
        expected = np.quantile(result.samples["alpha"], (0.5, 0.16, 0.84, 0.025, 0.975))
        np.testing.assert_allclose(fit.values["alpha"], expected)
        amplitude, exponent, offset = (result.samples[name] for name in result.parameter_names)
        rate = amplitude * float(middle_age(0.1, 4.0)) ** exponent + offset
        assert fit.values["J at 1.62 s"].median == pytest.approx(np.median(rate))
        assert (fit.verdict, fit.q) == (result.verdict, (result.q[0], result.q[0]))
    assert found.notes == ("REFUSED, do not use the numbers of q0.008",)


def test_rates_are_compared_in_the_middle_of_the_common_ages(series, joint):
    found = compare({"one": series["q0.004"], "joint": joint})
    assert found.quantities[0].name == "J at 1.62 s"  # 0.1 s to 4 s; the joint fit goes on to 5 s
    assert found.fits[1].q == (0.004, 0.008)
    assert found.fits[1].values["alpha"].fixed
    assert found.fits[1].values["alpha"].cells == ("-0.9", "fixed", "")


def test_table_and_csv_tell_the_same(series):
    found = compare(series)
    lines = str(found).splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("alpha "))
    assert [line.split()[-1] for line in lines[start : start + 3]] == ["CERTIFIED", "CORRECTED", "REFUSED"]
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert len(rows) == 4 * 3
    row = rows[3 + 3 + 1]
    assert (row["parameter"], row["file"], row["verdict"], float(row["q_min"])) == (
        "alpha",
        "q0.006",
        "CORRECTED",
        0.006,
    )
    for name, value in found.fits[1].values["alpha"]._asdict().items():
        assert float(row[name]) == value
    assert row["fixed"] == "False"


@pytest.mark.slow
def test_different_models_are_compared_in_what_they_share(series, laminar):
    found = compare({"rest": series["q0.004"], "flow": laminar.result})
    assert [one.name for one in found.quantities] == ["J at 1.62 s", "D0", "alpha", "D_offset"]
    assert found.notes == (
        "different models (rest: static, flow: laminar_flow): only what they have in common is compared",
        "not in every result: gamma_dot_0, beta, gamma_dot_offset, phi0",
    )


def test_options_and_units_that_differ_are_told(laminar):
    other = replace(laminar.result, model_options={"shear_convention": "legacy"})
    notes = compare({"new": laminar.result, "old": other}).notes
    assert notes[0].startswith("options of the models differ (new: laminar_flow shear_convention=he2024, old: ")
    other = replace(laminar.result, units={**laminar.result.units, "D0": "nm²/s"})
    found = compare([laminar.result, other])
    assert "left out, because units differ: D0" in found.notes
    assert "D0" not in found.fits[0].values


@pytest.mark.slow
def test_nothing_to_compare(series, own, tmp_path):
    result = series["q0.004"]
    with pytest.raises(InputError, match=r"1 result given to compare; expected two or more"):
        compare([result])
    with pytest.raises(InputError, match=r"no parameter in common \(a: static, b: .*Kohlrausch\)"):
        compare({"a": result, "b": own.result})
    path = result.save(tmp_path / "fit.nc")
    with pytest.raises(InputError, match="expected different files"):
        compare([path, path])
    assert [fit.label for fit in compare([path, result]).fits] == ["fit", "result 2"]


def test_unknown_model_has_its_parameters_compared(own):
    unknown = replace(own.result, model_class=None, analysis_mode="some:Where")
    found = compare({"known": own.result, "unknown": unknown})
    assert [one.name for one in found.quantities] == ["tau", "gamma"]
    assert any("rates are not compared, unknown: no curves of the model" in note for note in found.notes)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.nc", "b.nc"], ["a", "b"]),
        (["x/a/result.nc", "x/b/result.nc"], ["a", "b"]),
        (["a/1/result.nc", "b/1/result.nc", "b/2/result.nc"], ["a/1", "b/1", "b/2"]),
        (["a/result.nc", "a/other.nc"], ["result", "other"]),
        (["a/fit.nc", "b/fit.nc", "b/other.nc"], ["a/fit", "b/fit", "b/other"]),
        (["fit.nc"], ["fit"]),
        (["fit.nc", "fit.nc.old"], ["fit", "fit.nc"]),
    ],
)
def test_short_names(paths, names, tmp_path):
    assert short_names([tmp_path / path for path in paths]) == names


def test_figure_against_q(series, joint):
    comparison = compare({**series, "joint": joint})
    assert comparison.q_differs
    place, spans = fit_places(comparison)
    np.testing.assert_allclose(place, [0.004, 0.006, 0.008, 0.006 + 0.015 * 0.004])  # beside the fit of the same q
    np.testing.assert_array_equal(spans[3], [0.004, 0.008])
    figure = comparison_figure(comparison)
    panel = figure.axes[2]
    assert panel.get_ylabel() == r"$\alpha$"
    assert {ax.get_xlabel() for ax in figure.axes[2:]} == {"q (1/Å)"}
    medians = [line.get_ydata()[0] for line in panel.lines]
    np.testing.assert_allclose(medians, [fit.values["alpha"].median for fit in comparison.fits])
    assert [line.get_color() for line in panel.lines] == [COLOURS[fit.verdict] for fit in comparison.fits]
    assert panel.lines[3].get_markerfacecolor() == "white"  # fixed
    assert "do not use the numbers of q0.008" in figure.get_supxlabel().replace("\n", " ")


def test_figure_against_files(series):
    other = replace(
        series["q0.004"], samples={n: x + 30 * (n == "D_offset") for n, x in series["q0.004"].samples.items()}
    )
    figure = comparison_figure(compare({"first": series["q0.004"], "second": other}))
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == ["first", "second"]


def test_wide_ranges_get_a_logarithmic_axis(series):
    samples = series["q0.006"].samples
    other = replace(series["q0.006"], samples={**samples, "D0": 100 * samples["D0"]})
    figure = comparison_figure(compare({"a": series["q0.004"], "b": other}))
    assert [ax.get_yscale() for ax in figure.axes] == ["log", "log", "linear", "linear"]
