"""Many measurements: one after the other, what fails is noted, one table and one figure; a folder that is watched."""

import csv
from pathlib import Path

import numpy as np
import pytest

import homodyne as package
from benchmarks.example_results import example_result
from homodyne.cli import many
from homodyne.cli.interruption import Interrupted
from homodyne.cli.output import held
from homodyne.data import write_aps_u
from homodyne.result.table import Line, to_csv, to_latex

QUICK = ["parameters.D_offset.fixed=0", "optimization.laplace.num_draws=100", "certificate.num_points=200",
         "reduction.num_checks=2", "uncertainty=independent", "output.figures=false", "output.report=false",
         "optimization.nlsq.num_candidates=100", "optimization.nlsq.num_starts=2"]  # fmt: skip


def measured(path, seed, q=0.01):
    truth = {"D0": 2e4 * seed, "alpha": -0.5, "D_offset": 0.0}
    how = {"num_frames": 30, "dt": 0.1, "contrast": 0.3, "sigma": 0.02, "kind": "independent", "phi": [0.0]}
    write_aps_u(path, package.simulate(truth, q=q, seed=seed, **how))


@pytest.fixture
def night(homodyne, tmp_path):
    """Two measurements, and a file that is none between them."""
    measured(tmp_path / "a.h5", 1)
    (tmp_path / "b.h5").write_text("nothing")
    measured(tmp_path / "c.h5", 2, q=0.012)
    return ["a.h5", "b.h5", "c.h5"]


def rows(file):
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_what_fails_is_noted_and_the_others_are_fitted(homodyne, night):
    outcome = homodyne("fit", *night, "--mode", "static", "--output", "out", "--known", "T (K)=290,300,310", *QUICK)
    assert outcome.code == 2
    assert "3 fits: 1 failed, 0 refused" in outcome.out
    table = rows("out/table.csv")
    assert [row["file"] for row in table] == ["a", "b", "c"]
    assert [row["T (K)"] for row in table] == ["290.0", "300.0", "310.0"]
    assert "no HDF5, NPZ or NPY file" in table[1]["failure"]
    assert [row["verdict"] in ("CERTIFIED", "CORRECTED") for row in table] == [True, False, True]
    result = package.load_result("out/c/result.nc")
    key = next(name for name in table[2] if name.startswith("D0 (") and name.endswith(")"))
    assert float(table[2][key]) == np.median(result.samples["D0"])
    assert float(table[2][f"{key} lower"]) == np.quantile(result.samples["D0"], 0.16)
    assert r"a & 0.01 & 290 & $" in Path("out/table.tex").read_text()
    assert Path("out/parameters.png").stat().st_size > 5000
    before = Path("out/a/result.nc").stat().st_mtime_ns

    outcome = homodyne("fit", "a.h5", "c.h5", "--mode", "static", "--output", "out", *QUICK)
    assert outcome.code == 2
    assert "2 of 2 results are in out already" in outcome.err
    Path("b.h5").unlink()
    measured(Path("b.h5"), 3)
    outcome = homodyne("fit", *night, "--mode", "static", "--output", "out", "--resume", *QUICK)
    assert outcome.code == 0, outcome
    assert "kept out/a" in outcome.out
    assert Path("out/a/result.nc").stat().st_mtime_ns == before
    assert [row["failure"] for row in rows("out/table.csv")] == ["", "", ""]
    outcome = homodyne("fit", *night, "--mode", "static", "--output", "out", "--resume", *QUICK, "seed=3")
    assert outcome.code == 2
    assert "made with other settings (seed)" in outcome.err


@pytest.mark.slow
def test_fits_are_spread_over_backends_with_the_same_table(homodyne, night):
    how = ["--mode", "static", "--known", "T (K)=290,300,310", *QUICK]
    assert homodyne("fit", *night, "--output", "here", *how).code == 2
    settings = ["optimization.cmc.backend.num_workers=2", "optimization.cmc.backend.spread=multiprocessing"]
    outcome = homodyne("fit", *night, "--output", "there", *how, *settings)
    assert outcome.code == 2, outcome
    assert "b.h5 is no HDF5, NPZ or NPY file" in outcome.err
    assert "wrote there/a" in outcome.out.replace(str(Path.cwd()) + "/", "")
    assert Path("there/table.csv").read_bytes() == Path("here/table.csv").read_bytes()
    assert Path("there/table.tex").read_bytes() == Path("here/table.tex").read_bytes()
    before = Path("there/a/result.nc").stat().st_mtime_ns
    Path("there/c/result.nc").unlink()
    Path("b.h5").unlink()
    measured(Path("b.h5"), 3)
    outcome = homodyne("fit", *night, "--output", "there", *how, "--spread", "dask", "--resume", "--overwrite")
    assert outcome.code == 0, outcome
    assert "kept there/a" in outcome.out
    assert Path("there/a/result.nc").stat().st_mtime_ns == before
    assert [row["failure"] for row in rows("there/table.csv")] == ["", "", ""]
    assert rows("there/table.csv")[2] == rows("here/table.csv")[2]


@pytest.mark.parametrize("command", [["fit", "a.h5", "c.h5"], ["watch", ".", "--until-idle", "0"]])
def test_a_folder_into_which_another_run_writes_is_refused(homodyne, night, command):
    """Each would replace the table of the other."""
    with held(Path("out")):
        outcome = homodyne(*command, "--output", "out")
    assert outcome.code == 4
    assert "'out' is in use by another homodyne" in outcome.err
    assert not Path("out").exists()


def test_a_file_that_vanishes_while_it_is_looked_at_does_not_end_a_watch(tmp_path):
    (tmp_path / "gone.h5").symlink_to(tmp_path / "nowhere")
    assert list(many._arrivals(tmp_path, "*.h5", 0.01, 0.0)) == []


def test_one_measurement_is_not_spread_and_devices_take_no_fits(homodyne, night):
    outcome = homodyne("fit", "a.h5", "--mode", "static", "--spread", "multiprocessing", "--output", "out")
    assert (outcome.code, "there is one measurement; give several files, or --each-q" in outcome.err) == (2, True)
    outcome = homodyne("fit", *night, "--mode", "static", "--spread", "pjit", "--output", "out")
    assert (outcome.code, "pjit runs shards on the devices" in outcome.err) == (2, True)


@pytest.mark.slow
def test_an_interruption_says_how_to_go_on(homodyne, night, monkeypatch):
    fitted = many.fitted

    def interrupted(task, *, resume):
        if task.label == "c":
            raise Interrupted
        return fitted(task, resume=resume)

    monkeypatch.setattr(many, "fitted", interrupted)
    outcome = homodyne("fit", *night, "--mode", "static", "--output", "out", *QUICK)
    assert outcome.code == 130
    assert "2 of 3 fits are in out: start the same command again with --resume" in outcome.err
    assert len(rows("out/table.csv")) == 2
    Path("b.h5").unlink()
    outcome = homodyne("watch", ".", "--mode", "static", "--output", "other", *QUICK)
    assert outcome.code == 130
    assert "1 fits are in other: start the same command again, which keeps them" in outcome.err
    assert "--resume" not in outcome.err  # a watch has no such option


@pytest.mark.slow
def test_every_wave_vector_for_itself(homodyne, tmp_path):
    truth = {"D0": 2e4, "alpha": -0.5, "D_offset": 0.0}
    how = {"num_frames": 30, "dt": 0.1, "contrast": 0.3, "sigma": 0.02, "kind": "independent"}
    data = package.simulate(truth, q=[0.008, 0.012], phi=[0.0], seed=1, **how)
    write_aps_u(tmp_path / "two.h5", data)
    outcome = homodyne("fit", "two.h5", "--each-q", "--mode", "static", "--output", "out", *QUICK)
    assert outcome.code == 0, outcome
    table = rows("out/table.csv")
    assert [row["file"] for row in table] == ["two_q0.008", "two_q0.012"]
    assert [float(row["q_min"]) for row in table] == pytest.approx([0.008, 0.012])
    assert package.load_result("out/two_q0.012/result.nc").num_points == 30 * 29 // 2


@pytest.mark.slow
def test_a_folder_that_is_watched(homodyne, tmp_path, monkeypatch):
    monkeypatch.setattr(many, "_QUIET", 0.05)
    (tmp_path / "in").mkdir()
    measured(tmp_path / "in" / "a.h5", 1)
    (tmp_path / "in" / "b.h5").write_text("nothing")
    how = ["--output", "out", "--mode", "static", "--every", "0.1", "--until-idle", "0.1", *QUICK]
    outcome = homodyne("watch", "in", *how)
    assert outcome.code == 0, outcome
    assert [bool(row["verdict"]) for row in rows("out/table.csv")] == [True, False]
    before = Path("out/a/result.nc").stat().st_mtime_ns
    measured(tmp_path / "in" / "c.h5", 2)
    outcome = homodyne("watch", "in", *how)
    assert [row["file"] for row in rows("out/table.csv")] == ["a", "b", "c"]
    assert Path("out/a/result.nc").stat().st_mtime_ns == before, "each file is fitted once"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.h5", "other.h5"], "absent.h5: no such file"),
        (["a.h5", "c.h5", "--known", "T=1"], "--known T: 1 numbers for 2 files"),
        (["a.h5", "c.h5", "--known", "T=warm,cold"], "expected NAME=V1,V2"),
        (["a.h5", "settings.yaml"], "settings.yaml: one configuration at most"),
        (["seed=3"], "seed=3: expected a configuration"),
        (["a.h5", "c.h5", "--dry-run"], "--dry-run shows the job of one measurement"),
    ],
)
def test_wrong_input(homodyne, tmp_path, arguments, message):
    for name in ("a.h5", "c.h5", "settings.yaml"):
        (tmp_path / name).touch()
    outcome = homodyne("fit", *arguments, "--output", "out")
    assert (outcome.code, message in outcome.err) == (2, True), outcome
    assert not (tmp_path / "out").exists()


def test_a_table_of_somebody_else_is_not_replaced(homodyne, tmp_path):
    for name in ("a.h5", "c.h5"):
        (tmp_path / name).touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "table.csv").write_text("mine")
    outcome = homodyne("fit", "a.h5", "c.h5", "--mode", "static", "--output", "out")
    assert outcome.code == 2
    assert (tmp_path / "out" / "table.csv").read_text() == "mine"


def test_tables_of_different_models():
    lines = [
        Line("one_%", example_result().result, values={"T": 1.0}),
        Line("two", None, 'a, "reason"', 2),
    ]
    table = list(csv.reader(to_csv(lines).splitlines()))
    assert len({len(row) for row in table}) == 1
    assert table[2][-1] == 'a, "reason"'
    assert r"one\_\%" in to_latex(lines)
    assert "failed" in to_latex(lines)


def test_the_configuration_of_a_result_is_not_replaced_by_its_own_run(homodyne, tmp_path, night):
    Path("out/a").mkdir(parents=True)
    file = Path("out/a/config.yaml")
    file.write_text("analysis_mode: static\n")
    outcome = homodyne("fit", file, "a.h5", "b.h5", "--output", "out", "--overwrite", *QUICK)
    assert outcome.code == 2
    assert outcome.err.count("out/a/config.yaml is read by this command and would be replaced") == 1, outcome
    assert file.read_text() == "analysis_mode: static\n"
