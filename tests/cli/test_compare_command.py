"""``homodyne compare``: table, file and figure, and what is refused."""

import csv
import re

import matplotlib.image
import pytest

from benchmarks.example_results import example_result


@pytest.fixture(scope="module")
def results():
    settings = {"phi": (7.5,), "num_frames": 30, "shape": (1, 100)}
    slow = example_result("static", q=0.004, **settings).result
    return slow, example_result("static", q=0.006, verdict="REFUSED", **settings).result


@pytest.mark.slow
def test_table_file_and_figure_tell_the_same(homodyne, tmp_path, results):
    for name, result in zip(("slow", "fast"), results, strict=True):
        (tmp_path / name).mkdir()
        result.save(tmp_path / name / "result.nc")
    outcome = homodyne("compare", "slow", "fast/result.nc", "--csv", "all.csv", "--figure", "all.png")
    assert outcome.code == 0, outcome.err
    assert "note: REFUSED, do not use the numbers of fast" in outcome.out
    assert outcome.out.splitlines()[-2:] == ["wrote all.csv", "wrote all.png"]
    rows = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert [row["file"] for row in rows[:2]] == ["slow", "fast"]
    alpha = next(row for row in rows if row["parameter"] == "alpha")
    line = next(line for line in outcome.out.splitlines() if line.strip().startswith("alpha"))
    cells = re.split(" {2,}", line)
    assert cells[:4] == ["alpha", "-", "slow", "0.004"]
    assert float(cells[4]) == pytest.approx(float(alpha["median"]), rel=0.02)
    assert cells[7] == "CERTIFIED"
    assert matplotlib.image.imread(tmp_path / "all.png").shape[1] > 500


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["one.nc"], "1 result given to compare; expected two or more"),
        (["one.nc", "one.nc"], "expected different files to compare"),
        (["one.nc", "absent.nc"], "no result file at 'absent.nc'"),
        (["one.nc", "."], "no result file at 'result.nc'"),
        (["one.nc", "two.nc", "--figure", "all.jpg"], "all.jpg: expected a name that ends in .png, .pdf, .svg"),
        (["one.nc", "two.nc", "--csv", "no/all.csv"], "no/all.csv"),
    ],
)
def test_wrong_input(homodyne, tmp_path, results, arguments, named):
    for name, result in zip(("one.nc", "two.nc"), results, strict=True):
        result.save(tmp_path / name)
    outcome = homodyne("compare", *arguments)
    assert outcome.code == 2
    assert named in outcome.err
    assert {path.name for path in tmp_path.iterdir()} == {"one.nc", "two.nc"}
