"""``homodyne report`` and ``homodyne figures``: what they write, what they say of lost data, what they leave."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from benchmarks.example_results import example_result
from homodyne.cli.output import INVENTORY
from homodyne.cli.program import run
from homodyne.data import write_aps_u
from homodyne.viz import report as module


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """Folder with a measurement, ``run.h5``, and a fit of it without figures, ``out``."""
    folder = tmp_path_factory.mktemp("measured")
    example = example_result("static", phi=(0.0, 90.0), num_frames=30, shape=(1, 30))
    write_aps_u(folder / "run.h5", replace(example.data, gap=None))
    fit = ["fit", folder / "run.h5", "--mode", "static", "--output", folder / "out", "--no-figures"]
    assert run([str(word) for word in fit]) == 0
    return folder


@pytest.fixture
def copy(measured, tmp_path) -> Path:
    shutil.copytree(measured / "out", tmp_path / "out")
    return tmp_path / "out"


def images(file: Path) -> int:
    return file.read_text(encoding="utf-8").count("data:image/png;base64,")


def test_a_fit_leaves_a_report(measured):
    names = {path.name for path in (measured / "out").glob("[!.]*")}
    assert names == {"result.nc", "summary.txt", "config.yaml", "report.html"}
    assert images(measured / "out/report.html") == 0  # --no-figures
    assert "figures were switched off" in (measured / "out/report.html").read_text(encoding="utf-8")


def test_a_failing_report_does_not_lose_the_result(homodyne, measured, monkeypatch):
    def broken(*_: object, **__: object) -> bytes:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(module, "report", broken)
    outcome = homodyne("fit", measured / "run.h5", "--mode", "static", "--output", "out", "--no-figures")
    assert outcome.code == 0, outcome
    assert "warning: no report was written (ZeroDivisionError: planted); the result is in out" in outcome.err
    assert {path.name for path in Path("out").glob("[!.]*")} == {"result.nc", "summary.txt", "config.yaml"}


def test_no_report(homodyne, measured):
    options = ["--mode", "static", "--output", "out", "--no-figures", "--no-report"]
    assert homodyne("fit", measured / "run.h5", *options).code == 0
    assert not Path("out/report.html").exists()


def test_a_report_is_made_again_with_the_data(homodyne, copy):
    outcome = homodyne("report", copy)
    assert outcome.code == 0, outcome
    assert outcome.out == f"wrote {copy / 'report.html'}\n"
    assert images(copy / "report.html") == 2 * 2 + len(["misfit", "rates", "corner", "traces"])
    again = homodyne("fit", copy / "config.yaml", "--output", copy, "--overwrite", "--no-figures")
    assert again.code == 2  # its own configuration is not replaced; the report is known as the program's own
    assert "config.yaml is read by this command" in again.err


def test_a_report_says_that_the_data_are_gone(homodyne, copy):
    config = copy / "config.yaml"
    config.write_text(re.sub(r"file_path: .*", "file_path: /gone/run.h5", config.read_text("utf-8")), encoding="utf-8")
    outcome = homodyne("report", copy / "result.nc", "-o", "page.html")
    assert outcome.code == 0, outcome
    assert "out: the data cannot be shown: " in outcome.err
    assert "No maps are shown: the data cannot be shown: " in Path("page.html").read_text(encoding="utf-8")
    assert images(Path("page.html")) == 4
    outcome = homodyne("figures", copy, "--only", "maps,rates")
    assert outcome.code == 2
    assert "no figure 'maps', only misfit, rates, corner, traces; the data cannot be shown" in outcome.err
    assert not (copy / "figures").exists()


def test_other_data_in_the_place_of_those_that_were_fitted_are_not_shown(homodyne, copy):
    other = example_result("static", phi=(0.0, 90.0), num_frames=20, shape=(1, 30))
    write_aps_u("other.h5", replace(other.data, gap=None))
    config = copy / "config.yaml"
    path = Path("other.h5").resolve()
    config.write_text(re.sub(r"file_path: .*", f"file_path: {path}", config.read_text("utf-8")), encoding="utf-8")
    outcome = homodyne("report", copy, "-o", "page.html")
    assert "t of the data differs from the fit's" in outcome.err
    assert images(Path("page.html")) == 4


def test_files_of_somebody_else_are_not_replaced(homodyne, copy):
    Path("page.html").write_text("mine")
    outcome = homodyne("report", copy, "-o", "page.html")
    assert outcome.code == 2
    assert "no report that homodyne has written" in outcome.err
    assert Path("page.html").read_text() == "mine"


def test_several_results(homodyne, copy):
    shutil.copytree(copy, "second")
    outcome = homodyne("report", copy, "second")
    assert outcome.code == 0, outcome
    text = Path("report.html").read_text(encoding="utf-8")
    assert "2 results side by side" in text
    assert 'href="#r1">second</a>' in text


def test_figures_are_drawn_again_without_fitting(homodyne, copy):
    outcome = homodyne("figures", copy, "--only", "maps,rates", "--width", "column")
    assert outcome.code == 0, outcome
    files = {path.name for path in (copy / "figures").iterdir()}
    assert files == {"maps.pdf", "rates.pdf", "captions.txt"}
    assert sorted(outcome.out.split()[1::2]) == sorted(str(copy / "figures" / name) for name in files)
    assert (copy / "figures/maps.pdf").read_bytes().startswith(b"%PDF")
    captions = (copy / "figures/captions.txt").read_text(encoding="utf-8")
    assert "\nmaps.pdf: q = 0.0054 1/Å, 2 angles, 30 frames. model: " in captions
    assert "Next:  " in captions
    assert homodyne("figures", copy, "--only", "rates").code == 0  # replaces its own
    outcome = homodyne("figures", copy, "--only", "rates", "--format", "svg", "--output", "print")
    assert {path.name for path in Path("print").iterdir()} == {"rates.svg", "captions.txt"}
    assert homodyne("figures", copy, "--only", "rates", "--format", "jpg").code == 2


def test_what_was_drawn_again_does_not_stand_in_the_way_of_another_fit(homodyne, measured, copy):
    assert homodyne("figures", copy, "--only", "rates", "--format", "png").code == 0
    assert homodyne("report", copy).code == 0
    options = ["--mode", "static", "--output", copy, "--overwrite", "--no-report"]
    outcome = homodyne("fit", measured / "run.h5", *options, "output.figures=false")
    assert outcome.code == 0, outcome
    assert {path.name for path in copy.iterdir()} == {"result.nc", "summary.txt", "config.yaml", INVENTORY}


def test_no_result(homodyne, tmp_path):
    for command in ("report", "figures"):
        outcome = homodyne(command, tmp_path)
        assert outcome.code == 2
        assert "no result file" in outcome.err


def test_export_writes_a_nexus_file_and_never_touches_the_data(homodyne, measured, copy):
    before = (measured / "run.h5").read_bytes()
    assert homodyne("export", copy, "run.nxs").code == 0
    assert homodyne("export", copy / "result.nc", "run.nxs").code == 0, "its own file is replaced"
    with h5py.File("run.nxs", "r") as file:
        assert file["entry/process/input/file_name"][()].decode() == str(measured / "run.h5")
    refused = homodyne("export", copy, measured / "run.h5")
    assert (refused.code, (measured / "run.h5").read_bytes()) == (2, before)
    assert "NeXus file of a result" in refused.err
    assert "run.csv: expected the name of a NeXus file, which ends with .nxs" in homodyne("export", copy, "run.csv").err


@pytest.mark.parametrize(
    ("command", "name"),
    [(("report",), "report.html"), (("figures", "--only", "corner", "--format", "svg"), "figures/corner.svg")],
)
def test_what_was_edited_is_not_replaced(homodyne, copy, command, name):
    for _ in range(2):  # what is as it was written is
        assert homodyne(command[0], copy, *command[1:]).code == 0
    edited = copy / name
    edited.write_text(edited.read_text(encoding="utf-8") + "<!-- mine -->", encoding="utf-8")
    outcome = homodyne(command[0], copy, *command[1:])
    assert outcome.code == 2
    assert f"{name} is not as homodyne has written it, and is not replaced" in outcome.err
    assert "mine" in edited.read_text(encoding="utf-8")
