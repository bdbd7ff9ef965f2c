"""The wide study: are its cases what it promises, does it see what is wrong, and does a small part of it hold?"""

import json
from copy import deepcopy

import numpy as np
import pytest

from benchmarks.validation import wide
from benchmarks.validation.records import Unit, append, read
from benchmarks.validation.report import write_report
from benchmarks.validation.studies import STUDIES, perform
from benchmarks.validation.wide_report import LEVELS, compared, counted, limits
from homodyne.errors import ConvergenceError
from homodyne.physics.model import find_model

SMALL = (60, 80)
PART = {
    "Brownian": (6, 11, 37, 52),
    "ageing": (7, 13, 43),
    "offset": (11, 13, 31, 38, 53),
    "stretched": (4, 17, 46),
}
"""Seeds of measurements that are simulated and fitted in little time, chosen by that alone."""


@pytest.mark.parametrize("kind", wide.KINDS)
def test_cases_are_as_promised_and_depend_on_the_seed_alone(kind):
    cases = [wide.draw(kind, seed) for seed in range(30)]
    for case in cases:
        assert find_model(case.model).supported(case.params, case.t[0], case.t[-1])
        assert 60 <= case.num_frames <= 1000
        assert 1 <= len(case.phi) <= 12
        assert len(case.contrast) == len(case.q) * len(case.phi) <= 36
        assert 500 <= case.pixels <= 50_000
        assert 0.02 <= case.mean_counts <= 10
        assert np.all((case.contrast > 0) & (case.contrast <= case.offset))
    again = wide.draw(kind, 3)
    assert again.params == cases[3].params
    assert again.pixels == cases[3].pixels
    assert len({case.pixels for case in cases}) > 20
    assert (kind == "Brownian") == all(case.params.get("alpha", 1.0) == 0 for case in cases)


def test_study_has_600_maps_or_more_and_40_percent_are_brownian():
    study = STUDIES["wide"]
    sets = {kind: study.sets_of(kind, study.sets) for kind in study.cases}
    assert sum(sets.values()) >= 600
    assert sets["Brownian"] == pytest.approx(0.4 * sum(sets.values()))


def test_part_of_the_study_holds():
    fits = [wide.one(kind, seed, SMALL) for kind, seeds in PART.items() for seed in seeds]
    assert [record["fit"].get("error") for record in fits] == [None] * len(fits)
    assert {record["fit"]["verdict"] for record in fits} <= {"CERTIFIED", "CORRECTED"}
    assert max(abs(one.z) for record in fits for one in counted(record)) < 5
    assert _uncovered(fits) < 3
    assert json.loads(json.dumps(fits)) == fits
    for record in fits:  # planted: errors of a third of the size
        for one in record["fit"]["values"].values():
            one["quantiles"] = [at / 3 + one["quantiles"][2] * 2 / 3 for at in one["quantiles"]]
    assert _uncovered(fits) > 3


def _uncovered(records):
    """How far the shares of truths in central intervals are off, in binomial standard deviations."""
    inside = np.array([one.inside for record in records for one in counted(record)])
    levels = np.array(list(LEVELS))
    return np.max(np.abs(inside.mean(axis=0) - levels) / np.sqrt(levels * (1.0 - levels) / len(inside)))


def test_slow_decay_is_not_taken_for_a_fast_one_of_less_contrast():
    """A seventh of the correlation decays in the record: what speckle does there looks like a decay of its own."""
    found = wide.one("ageing", 2, SMALL)["fit"]["values"]
    assert max(abs(one["mean"] - one["truth"]) / one["sd"] for one in found.values() if one["truth"] is not None) < 5


def test_noise_of_a_slower_decay_does_not_take_the_answer_away():
    """Under it the best answer lay 28 standard deviations off, and the shear rate 5: the planted fault of the rule."""
    found = wide.one("laminar flow", 19, SMALL)["fit"]["values"]
    assert max(abs(one["mean"] - one["truth"]) / one["sd"] for one in found.values() if one["truth"] is not None) < 4


def test_errors_are_records(monkeypatch):
    def failing(*args, **kwargs):
        raise ConvergenceError("no mode")

    monkeypatch.setattr(wide.homodyne, "fit", failing)
    [(_, record)] = perform([Unit("wide", "Brownian", 10)])
    assert record["fit"]["error"] == "refusal: ConvergenceError: no mode"
    assert "in failing" in record["fit"]["traceback"]
    assert "reference" not in record


def _made_up(seed, *, verdict="CORRECTED", shift=0.0, width=1.0, off=0.0):
    """Record of a fit with one quantity, of which the truth is drawn, and a reference."""
    truth = np.random.default_rng(seed).standard_normal()
    at = np.array([-1.645, -0.6745, 0.0, 0.6745, 1.645])

    def told(mean, sd):
        one = {"mean": mean, "sd": sd, "quantiles": (mean + sd * at).tolist(), "truth": truth, "prior": 0.01}
        return {"J": one, "vague": {**one, "prior": 0.5, "truth": 99.0}, "unknown": {**one, "truth": None}}

    fit = {"verdict": verdict, "values": told(shift, width), "seconds": 1.0}
    exact = {"verdict": "CERTIFIED", "weighted": False, "values": told(shift + off, width), "seconds": 9.0}
    return {"seed": seed, "frames": 60, "maps": 1, "fit": fit, "reference": exact}


class TestLimits:
    def test_right_answers_keep_all_of_them(self):
        assert all(line.endswith(": kept") for line in limits({"Brownian": [_made_up(seed) for seed in range(1500)]}))

    @pytest.mark.parametrize(
        ("wrong", "line", "named"),
        [
            ({"shift": 0.5}, 3, "coverage"),
            ({"width": 0.8}, 3, "coverage"),
            ({"off": 0.3}, 2, "Brownian 7: J by 0.30"),
            ({"verdict": "REFUSED"}, 1, "1500 of 1500"),
        ],
    )
    def test_what_is_wrong_is_seen(self, wrong, line, named):
        found = limits({"Brownian": [_made_up(seed, **wrong) for seed in range(1500)]})[line]
        assert "MISSED" in found
        assert named in found

    def test_one_error_is_named(self):
        broken = {"seed": 4, "fit": {"error": "fault: ValueError: x", "seconds": 2.0}}
        found = limits({"ageing": [_made_up(1), broken]})
        assert found[0] == "- no error: MISSED, ageing 4 (fault: ValueError: x)"

    def test_reference_that_failed_its_tests_is_none(self):
        record = deepcopy(_made_up(1, off=2.0))
        assert compared(record)["J"][0] == pytest.approx(2.0, rel=1e-3)
        record["reference"]["weighted"] = True
        assert compared(record) == {}


def test_page_has_a_row_by_kind(tmp_path):
    path = tmp_path / "records.jsonl"
    append(path, [(Unit("wide", kind, seed), _made_up(seed)) for kind in ("Brownian", "ageing") for seed in range(20)])
    write_report(read(path), tmp_path / "validation.md", "python -m benchmarks.validation wide", "0a1b2c3")
    text = (tmp_path / "validation.md").read_text()
    assert "## Wide study" in text
    assert "| Brownian | 20 | none | 20 CORRECTED | 20 |" in text
    assert "| all | 40 | none | 40 CORRECTED | 40 |" in text
    assert "These 40 measurements have 60 to 60 frames and 1 to 1 maps" in text
