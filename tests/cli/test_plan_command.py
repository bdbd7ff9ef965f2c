import json

import matplotlib.image
import pytest
import yaml

SMALL = ["--mode", "static", "--frames", 30, "--angles", 1, "--pixels", 500, "--fix", "D_offset"]


@pytest.mark.slow
def test_table_files_and_figure_tell_the_same(homodyne, tmp_path):
    options = [
        "D0=2e4",
        "alpha=-0.5",
        "D_offset=100",
        "--vary",
        "counts=1,10",
        "--output",
        "p.yaml",
        "--figure",
        "p.png",
    ]
    outcome = homodyne("plan", *SMALL, *options)
    assert outcome.code == 0, outcome.err
    content = yaml.safe_load((tmp_path / "p.yaml").read_text())
    assert content["measurement"]["params"]["D0"] == 2e4
    assert [one["counts"] for one in content["precision"]] == [1.0, 10.0]
    for one in content["precision"]:
        assert one["true"].keys() == {"D0", "alpha"}
        assert f"{one['true']['alpha']:.2g} ({one['independent']['alpha']:.2g})" in outcome.out
        assert f"{100 * one['true']['D0'] / 2e4:.2g} % (" in outcome.out
    assert matplotlib.image.imread(tmp_path / "p.png").shape[1] > 500


def test_numbers_as_json(homodyne, tmp_path):
    assert homodyne("plan", *SMALL, "--output", "p.json").code == 0
    assert json.loads((tmp_path / "p.json").read_text())["varied"] == "frames"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["D9=1"], "'D9=1': expected NAME=VALUE with a name among D0, alpha, D_offset"),
        (["D0=much"], "'much' is not a number"),
        (["--vary", "dt=1,2"], "--vary dt=1,2: expected NAME=A,B,... with a name among frames"),
        (["--vary", "frames=1.5"], "'1.5' is not a whole number"),
        (["--output", "p.txt"], "p.txt: expected a name that ends in .json or .yaml"),
        (["--figure", "p.png"], "give two values or more to --vary"),
        (["--fix", "phi0"], "phi0 cannot be fixed"),
        (["--counts", "-1"], "counts is -1"),
        (["--frames", "2"], "num_frames is 2"),
    ],
)
def test_wrong_input(homodyne, tmp_path, arguments, named):
    outcome = homodyne("plan", "--mode", "static", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert named in outcome.err
    assert not list(tmp_path.iterdir())
