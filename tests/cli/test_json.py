"""``--json``: one JSON document on stdout, and nothing else there."""

import json

import numpy as np
import pytest

import homodyne as package
from benchmarks.example_results import example_result
from homodyne.data import write_aps_u

QUICK = ["parameters.D_offset.fixed=0", "optimization.laplace.num_draws=100", "certificate.num_points=200",
         "reduction.num_checks=2", "uncertainty=independent", "output.figures=false", "output.report=false",
         "optimization.nlsq.num_candidates=100", "optimization.nlsq.num_starts=2"]  # fmt: skip


def parsed(text):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.slow
def test_a_fit(homodyne, tmp_path):
    how = {"num_frames": 30, "dt": 0.1, "contrast": 0.3, "sigma": 0.02, "kind": "independent", "phi": [0.0]}
    for name in ("a.h5", "c.h5"):
        write_aps_u(tmp_path / name, package.simulate({"D0": 2e4, "alpha": -0.5, "D_offset": 0.0}, q=0.01, **how))
    outcome = homodyne("fit", "a.h5", "--mode", "static", "--output", "out", "--json", *QUICK)
    assert outcome.code == 0, outcome
    found, result = parsed(outcome.out), package.load_result("out/result.nc")
    assert (found["verdict"], found["directory"], found["model"]) == (result.verdict, "out", "static")
    row = next(one for one in found["parameters"] if one["name"] == "D0")
    assert (row["mean"], row["fixed"], row["unit"]) == (pytest.approx(result.mean["D0"]), False, result.units["D0"])
    assert found["words"]["found"] == result.words.found
    assert found["rates"][0]["name"] == "J"
    assert "wrote out" in outcome.err
    (tmp_path / "b.h5").touch()
    several = "a.h5", "b.h5", "c.h5", "--known", "T=1,2,3"
    outcome = homodyne("fit", *several, "--json", "--quiet", "--mode", "static", *QUICK)
    assert [line.partition(":")[0] for line in outcome.err.splitlines()] == ["error"]
    first, second, third = parsed(outcome.out)
    assert (first["file"], first["known"], first["failure"]) == ("a", {"T": 1.0}, "")
    assert "is empty" in second["failure"]
    assert third["verdict"]


def test_a_comparison(homodyne, tmp_path):
    for seed, name in enumerate(("one.nc", "two.nc")):
        example_result(seed=seed).result.save(tmp_path / name)
    outcome = homodyne("compare", "one.nc", "two.nc", "--json")
    assert outcome.code == 0, outcome
    found = parsed(outcome.out)
    assert [one["file"] for one in found["fits"]] == ["one", "two"]
    assert found["fits"][0]["values"]["D0"]["low68"] < found["fits"][0]["values"]["D0"]["high68"]
    assert found["units"]["D0"]


def test_tables_for_programs():
    result = example_result().result
    table = result.summary()
    record = parsed(json.dumps(table.to_dict(), allow_nan=False))
    assert [one["name"] for one in record["parameters"]] == [row.name for row in table.rows]
    assert len(table.to_csv().splitlines()) == len(table.rows) + 1
    frame = result.to_dataframe()
    assert frame.index.names == ["chain", "draw"]
    assert len(frame) == result.num_chains * result.num_draws
    np.testing.assert_array_equal(frame["D0"].to_numpy(), result.samples["D0"].ravel())
    np.testing.assert_array_equal(frame.loc[(1, 3), "contrast[0]"], result.samples["contrast"][1, 3, 0])
