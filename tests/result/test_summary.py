"""The table says what the draws say, and nobody can overlook a refusal."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homodyne.optimization.cmc.summary import format_number


def test_rows_hold_the_statistics_of_the_draws(laminar):
    result = laminar.result
    rows = {(row.name, row.angle): row for row in result.summary().rows}
    assert len(rows) == 7 + 2 * 3
    for (name, angle), row in rows.items():
        draws = result.samples[name]
        draws = (draws if angle is None else draws[..., list(result.phi).index(angle)]).ravel()
        expected = [draws.mean(), draws.std(ddof=1), *np.quantile(draws, (0.05, 0.5, 0.95))]
        np.testing.assert_allclose([row.mean, row.sd, row.q05, row.q50, row.q95], expected, rtol=1e-12)
    assert rows["alpha", None].rhat == result.diagnostics["rhat"]["alpha"]
    assert rows["contrast", 45.0].rhat == 1.001
    assert rows["contrast", 45.0].ess is None


def test_text(laminar, static):
    lines = str(laminar.result.summary()).splitlines()
    assert lines[0] == "CERTIFIED: " + laminar.result.certificate.reason
    assert "2,109 points" in lines[1]  # 38 good frames, three angles
    assert "1.5 times" in lines[2]
    assert "calibrated" in lines[2]
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
    assert "contrast per angle" in lines
    assert sum(line.startswith("  phi = ") for line in lines) == 6
    assert "!" not in "".join(lines)
    fixed = next(line for line in str(static.result.summary()).splitlines() if line.startswith("alpha"))
    assert fixed.split() == ["alpha", "-", "-0.9", "fixed"]


CHECKS = {"alarms": [], "angles": [{"phi": 0.0, "p": 0.3}], "misfit": {"p": 0.25}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "the numbers, with their error bars; whether the model fits the data was not tested"),
        (
            {"diagnostics": {"checks": CHECKS}},
            "the numbers, with their error bars; the model fits the data (p = 0.25), blocks of frames and angles agree",
        ),
        (
            {"diagnostics": {"checks": CHECKS | {"angles": []}}, "uncertainty": "independent"},
            "the numbers, but error bars only if points of the map have independent noise; "
            "the model fits the data (p = 0.25), blocks of frames agree",
        ),
        (
            {"diagnostics": {"checks": CHECKS | {"alarms": ["blocks disagree", "rows disagree"]}}},
            "the numbers only as a description by a model that the data contradict: blocks disagree; rows disagree",
        ),
        ({"verdict": "REFUSED", "certificate": None}, "nothing; the draws are not the posterior"),
    ],
)
def test_one_sentence_says_what_to_believe(laminar, change, sentence):
    table = replace(laminar.result, **change).summary()
    assert table.belief == f"believe: {sentence}"
    assert table.belief in str(table).splitlines()


def test_refusal_cannot_be_overlooked(refused):
    lines = str(refused.result.summary()).splitlines()
    assert lines[0].startswith("REFUSED: ")
    assert "DO NOT USE" in lines[1]
    assert "DO NOT USE" in lines[-1]


def test_warnings_and_shards_are_named(consensus):
    text = str(consensus.summary())
    assert "warning: shard 2 was slow" in text
    assert "over 3 shards (weighted)" in text


def test_other_models(generic):
    assert generic.summary().belief == ""
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
