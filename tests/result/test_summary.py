"""The table says what the draws say, and nobody can overlook a refusal."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homodyne.physics.power_laws import middle_age
from homodyne.result.summary import format_number, map_labels, shared_label


@pytest.mark.slow
def test_rows_hold_the_statistics_of_the_draws(laminar):
    result = laminar.result
    rows = {(row.name, row.phi): row for row in result.summary().rows}
    assert len(rows) == 7 + 2 * 3
    for (name, phi), row in rows.items():
        draws = result.samples[name]
        draws = (draws if phi is None else draws[..., list(result.phi).index(phi)]).ravel()
        expected = [draws.mean(), draws.std(ddof=1), *np.quantile(draws, (0.05, 0.5, 0.95))]
        np.testing.assert_allclose([row.mean, row.sd, row.q05, row.q50, row.q95], expected, rtol=1e-12)
    assert rows["alpha", None].rhat == result.diagnostics["rhat"]["alpha"]
    assert rows["contrast", 45.0].rhat == 1.001
    assert rows["contrast", 45.0].ess is None
    assert rows["contrast", 45.0].q == 0.0054


def test_text(laminar, static):
    lines = str(laminar.result.summary()).splitlines()
    assert lines[:5] == ["CERTIFIED", *laminar.result.words.lines(), ""]
    assert lines[5] == "reason: " + laminar.result.certificate.reason
    assert "2,109 points in 3 maps, q = 0.0054 1/Å, φ = 0° to 90°" in lines[6]  # 38 good frames
    assert lines[6].startswith("laminar_flow (shear_convention he2024) by nuts")
    assert "1.5 times" in lines[7]
    assert "calibrated" in lines[7]
    header = next(line for line in lines if line.startswith("parameter"))
    assert header.split() == [
        "parameter",
        "unit",
        "mean",
        "sd",
        "5",
        "%",
        "50",
        "%",
        "95",
        "%",
        "ESS",
        "R-hat",
    ]
    assert "contrast per map" in lines
    assert sum(line.startswith("  φ = ") for line in lines) == 6
    assert "!" not in "".join(lines)
    fixed = next(line for line in str(static.result.summary()).splitlines() if line.startswith("alpha"))
    assert fixed.split() == ["alpha", "-", "-0.9", "fixed"]


CHECKS = {"alarms": [], "angles": [{"phi": 0.0, "p": 0.3}], "misfit": {"p": 0.25}}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "whether the model fits the data was not tested"),
        ({"checks": CHECKS}, "the model fits the data (p = 0.25), blocks of frames and angles agree"),
        ({"checks": CHECKS | {"angles": []}}, "the model fits the data (p = 0.25), blocks of frames agree"),
        ({"checks": CHECKS | {"alarms": ["blocks disagree", "rows disagree"]}}, "blocks disagree; rows disagree"),
        ({"checks": CHECKS | {"alarms": ["blocks disagree"]}, "prior": {"alarm": "D0"}}, "blocks disagree; D0"),
    ],
)
def test_one_line_says_what_tests_of_the_fit_found(laminar, change, line):
    table = replace(laminar.result, diagnostics=change).summary()
    assert table.facts.splitlines()[-1] == f"tests: {line}"
    assert f"tests: {line}" in str(table).splitlines()


def test_what_is_left_out_is_told(laminar):
    lines = ["57 pairs masked; frames 11", "3 pairs NaN, in 1 of 3 maps"]
    result = replace(laminar.result, diagnostics={**laminar.result.diagnostics, "left_out": lines})
    text = str(result.summary())
    assert [line for line in text.splitlines() if line.startswith("left out")] == [f"left out: {one}" for one in lines]
    assert "left out" not in str(laminar.result.summary())


def test_what_the_data_do_not_determine_is_marked(laminar):
    name = laminar.result.free_names[-1]
    diagnostics = {**laminar.result.diagnostics, "prior": {"shares": {name: 0.9, laminar.result.free_names[0]: 0.1}}}
    table = replace(laminar.result, diagnostics=diagnostics).summary()
    assert table.undetermined == (name,)
    marked = [line.split()[0] for line in str(table).splitlines() if " * " in line]
    assert marked == [name]
    assert f"the width of {name} is that of the prior" in str(table)
    assert f"parameters.{name}.fixed" in str(table)
    assert "not determined" not in str(laminar.result.summary())


def test_maps_are_called_by_what_differs():
    q, phi = np.array([0.004, 0.004, 0.00812345]), np.array([0.0, -90.0, 0.0])
    both = ["q = 0.004 1/Å, φ = 0°", "q = 0.004 1/Å, φ = -90°", "q = 0.008123 1/Å, φ = 0°"]
    assert map_labels(q, phi) == both
    assert (shared_label(q, phi), shared_label(q[:1], phi[:1])) == ("", "")
    assert map_labels(q[:2], phi[:2]) == ["φ = 0°", "φ = -90°"]
    assert shared_label(q[:2], phi[:2]) == "q = 0.004 1/Å"
    assert map_labels(q[[0, 2]], phi[[0, 2]]) == ["q = 0.004 1/Å", "q = 0.008123 1/Å"]
    assert map_labels(q[:1], phi[:1]) == ["q = 0.004 1/Å, φ = 0°"]
    assert map_labels(np.array([0.0040001, 0.0040002]), np.zeros(2)) == ["q = 0.0040001 1/Å", "q = 0.0040002 1/Å"]


def test_many_wave_vectors(waves):
    table = waves.result.summary()
    assert "2,610 points in 6 maps, q = 0.004 to 0.008123 1/Å, φ = 0° to 90°" in table.facts
    contrasts = [row for row in table.rows if row.name == "contrast"]
    assert [(row.q, row.phi) for row in contrasts] == list(zip(waves.result.q, waves.result.phi, strict=True))
    assert contrasts[5].label == "q = 0.008123 1/Å, φ = 90°"
    assert f"  {contrasts[5].label}  " in str(table)


def test_rates_come_first(laminar):
    """Value and logarithmic slope in the middle of the record, against formulas of power laws."""
    result = laminar.result
    table = result.summary()
    t = float(middle_age(result.t[0], result.t[-1]))
    laws = {"J": ("D0", "alpha", "D_offset"), "gamma_dot": ("gamma_dot_0", "beta", "gamma_dot_offset")}
    for row, (name, parameters) in zip(table.rates, laws.items(), strict=True):
        amplitude, exponent, offset = (result.samples[one].ravel() for one in parameters)
        value = amplitude * t**exponent + offset
        slope = exponent * amplitude * t**exponent / value
        expected = [part for x in (value, slope) for part in (np.median(x), np.ptp(np.quantile(x, (0.16, 0.84))) / 2)]
        assert (row.name, row.t) == (name, pytest.approx(t))
        np.testing.assert_allclose([row.value, row.error, row.slope, row.slope_error], expected, rtol=1e-9)
    lines = str(table).splitlines()
    places = [next(k for k, line in enumerate(lines) if line.startswith(word)) for word in ("  J ", "parameter")]
    assert places[0] < places[1]
    assert lines[places[0]].split()[:2] == ["J", "="]
    assert " Å²/s, " in lines[places[0]]


def test_rates_of_any_model_and_of_an_open_sign(own):
    gamma, drift = own.result.summary().rates
    assert gamma.value == pytest.approx(np.median(1 / own.result.samples["tau"]))
    assert gamma.slope == pytest.approx(0, abs=1e-12)
    assert np.isnan(drift.slope)
    assert "sign not determined" in str(own.result.summary())


def test_unknown_model_has_a_table_and_a_note(own):
    table = replace(own.result, analysis_mode="somewhere:Unknown", model_class=None).summary()
    assert table.rates == ()
    assert {row.name for row in table.rows} == {"tau", "gamma", "contrast", "offset"}
    assert "warning: no curves of the model: the model 'somewhere:Unknown'" in str(table)
    assert "name the model, load_result(path, model=MyModel)" in table.warnings[-1]


REDUCTION = {"nodes": 5300, "pairs": 50_000_000, "checks": 8, "error": 0.0041, "limit": 0.05, "attempts": 1}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {},
            "maps reduced to 5,300 nodes; against direct sums over all pairs the log density is off by 0.004 "
            "(limit 0.05) at 8 points",
        ),
        ({"attempts": 2}, "maps reduced to 5,300 nodes, made 2 times; against direct sums over all"),
        ({"nodes": 2109, "pairs": 2109}, "all 2,109 pairs entered one by one"),
    ],
)
def test_reduction_is_told_in_one_sentence(laminar, change, sentence):
    result = replace(laminar.result, diagnostics={"reduction": REDUCTION | change})
    assert sum(line.startswith(sentence) for line in str(result.summary()).splitlines()) == 1


def test_refusal_cannot_be_overlooked(refused):
    lines = str(refused.result.summary()).splitlines()
    assert lines[0] == "REFUSED"
    assert "DO NOT USE" in lines[1]
    assert "DO NOT USE" in lines[-1]


def test_warnings_and_shards_are_named(consensus):
    text = str(consensus.summary())
    assert "warning: shard 2 was slow" in text
    assert "over 3 shards (weighted)" in text


def test_other_models(generic):
    assert "tests:" not in generic.summary().facts
    table = generic.summary()
    assert table.verdict == "UNCERTIFIED"
    assert [row.name for row in table.rows][:2] == ["weights/layer[0,0]", "weights/layer[0,1]"]
    assert len(table.rows) == 7
    assert np.isnan(table.rows[-1].rhat)


@pytest.mark.parametrize(
    ("value", "sd", "text"),
    [
        (68481.3, 1234.0, "68500"),
        (68481.3, 12.0, "68481"),
        (-1.3274, 0.0312, "-1.327"),
        (0.00199, 0.00002, "0.001990"),
        (1.5e-5, 2.3e-7, "1.500e-05"),
        (3.0e12, 4.0e10, "3.000e+12"),
        (0.0, 2.0e-6, "0"),
        (9.96, 0.0996, "9.96"),  # 0.0996 rounds to 0.10
        (-0.001, 1.2, "0.0"),
        (2.0, 0.0, "2"),
        (math.pi, math.nan, "3.14159"),
        (math.nan, 1.0, "nan"),
    ],
)
def test_number_format(value, sd, text):
    assert format_number(value, sd) == text


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_number_format_keeps_two_digits_of_the_sd(value, sd):
    unit = 10.0 ** (math.floor(math.log10(float(f"{sd:.1e}"))) - 1)
    assert abs(float(format_number(value, sd)) - value) <= 0.5001 * unit + 1e-12 * abs(value)
    assert float(format_number(sd, sd)) == pytest.approx(float(f"{sd:.1e}"))
