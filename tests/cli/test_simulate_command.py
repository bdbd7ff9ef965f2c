import h5py
import numpy as np
import pytest

import homodyne as package
from homodyne.cli.simulate import TRUTHS


@pytest.mark.parametrize("mode", ["static", "laminar_flow"])
@pytest.mark.parametrize("kind", ["speckle", "parametric", "independent"])
def test_written_file_is_a_measurement(homodyne, tmp_path, mode, kind):
    options = ["--mode", mode, "--kind", kind, "--frames", 20, "--angles", 3, "--dt", 0.2]
    outcome = homodyne("simulate", "run.h5", *options)
    assert outcome.code == 0, outcome.err
    for name, value in TRUTHS[mode].items():
        assert f"{name}={value:g}" in outcome.out
    data = package.load(tmp_path / "run.h5")
    assert (data.num_frames, data.num_maps, data.wavevectors, data.dt) == (20, 3, 0.0054, 0.2)
    assert data.phi == pytest.approx([0.0, 60.0, 120.0])


def test_the_seed_decides(homodyne, tmp_path):
    maps = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        homodyne("simulate", f"{name}.h5", "--frames", 20, "--angles", 2, "--seed", seed)
        maps.append(package.load(tmp_path / f"{name}.h5").c2)
    assert np.array_equal(maps[0], maps[1], equal_nan=True)
    assert not np.array_equal(maps[0], maps[2], equal_nan=True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--q", "0.004,x"], "--q 0.004,x"),
        (["--q", "0.004,-1"], "q is"),
        (["--kind", "foo"], "foo"),
        (["--kind", "independent", "--counts", 1], "mean_counts"),
        (["--counts", -1], "-1"),
        (["--dt", 0], "dt is 0"),
        (["--contrast", -1], "contrast"),
    ],
)
def test_impossible_choice(homodyne, tmp_path, arguments, named):
    outcome = homodyne("simulate", "run.h5", "--frames", 20, *arguments)
    assert outcome.code == 2
    assert named in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["stretched", "two_component"])
def test_parameters_and_options_are_set(homodyne, tmp_path, name):
    own = {"stretched": ["k=0.9", "q_ref=0.006"], "two_component": ["v0=250", "f2=1"]}[name]
    changes = [word for change in own for word in ("--set", change)]
    outcome = homodyne("simulate", "run.h5", "--model", name, "--frames", 20, "--angles", 2, "--pixels", 500, *changes)
    assert outcome.code == 0, outcome.err
    for change in own:
        assert change in outcome.out or "q_ref" in change
    assert package.load(tmp_path / "run.h5").num_frames == 20


@pytest.mark.parametrize(
    ("model", "change", "named"),
    [
        ("stretched", "kk=1", "--set kk=1: did you mean k?"),
        ("stretched", "k=x", "--set k=x: 'x' is not a number"),
        ("stretched", "q_ref=no", "q_ref of stretched is 'no': expected a number"),
        ("laminar_flow", "shear_convention=old", "expected one of he2024, legacy"),
        ("nowhere:Mine", "k=1", "cannot import the model 'nowhere:Mine'"),
        ("statics", "k=1", "did you mean static"),
        ("static", "D_offset=-1e5", "J(t) is not positive"),
    ],
)
def test_impossible_settings_of_a_model(homodyne, tmp_path, model, change, named):
    outcome = homodyne("simulate", "run.h5", "--model", model, "--frames", 20, "--set", change)
    assert outcome.code == 2
    assert named in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_nothing_is_replaced_unasked(homodyne, tmp_path):
    (tmp_path / "run.h5").write_text("mine")
    outcome = homodyne("simulate", "run.h5", "--frames", 20)
    assert (outcome.code, (tmp_path / "run.h5").read_text()) == (2, "mine")
    assert homodyne("simulate", "run.h5", "--frames", 20, "--overwrite").code == 2
    assert (tmp_path / "run.h5").read_text() == "mine"
    for _ in range(2):
        assert homodyne("simulate", "other.h5", "--frames", 20, "--overwrite").code == 0
    assert homodyne("simulate", "nowhere/run.h5", "--frames", 20).code == 2


def test_inspect_shows_and_draws(homodyne, tmp_path):
    homodyne("simulate", "run.h5", "--frames", 20, "--angles", 3)
    outcome = homodyne("inspect", "run.h5", "--phi", "0:90", "--frames", "2:11", "--figure", "run.png")
    assert outcome.code == 0, outcome.err
    assert "aps-u" in outcome.out
    assert "2 maps x 10 frames" in outcome.out
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.h5", "run.png"]


def test_inspect_lists_what_is_left_out(homodyne):
    homodyne("simulate", "run.h5", "--frames", 20, "--angles", 2)
    with h5py.File("run.h5", "r+") as file:
        for one in file["/xpcs/twotime/correlation_map"].values():
            one[3, 3:] = one[:4, 3] = -1.0
    line = "left out    38 pairs in frames of one constant number (-1), in 2 of 2 maps; frames 4"
    assert line in homodyne("inspect", "run.h5").out.splitlines()
    chosen = homodyne("inspect", "run.h5", "--frames", "2:20").out.splitlines()
    assert "left out    36 pairs in frames of one constant number (-1), in 2 of 2 maps; frames 4" in chosen
    assert "left out" not in homodyne("inspect", "run.h5", "--frames", "5:20").out.split("selected")[1]


def test_many_wavevectors_from_the_command_line(homodyne, tmp_path):
    options = ["--mode", "static", "--kind", "independent", "--frames", 20, "--angles", 3]
    outcome = homodyne("simulate", "run.h5", *options, "--q", "0.004,0.006,0.008")
    assert outcome.code == 0, outcome.err
    assert "next:  homodyne fit run.h5 --mode static --q all" in outcome.out
    outcome = homodyne("inspect", "run.h5")
    for line in ("0.004 (3), 0.006 (3), 0.008 (3) 1/Å", "9 of 20 x 20 frames", "--q all: one fit of all 9 maps"):
        assert line in outcome.out
    for q, selected in {
        "0.004,0.008": "q=0.004, 0.008 1/Å, 6 maps",
        "0.005:0.009": "q=0.006, 0.008 1/Å, 6 maps",
        "0.006": "q=0.006 1/Å, 3 maps",
        "all": "q=0.004, 0.006, 0.008 1/Å, 9 maps",
    }.items():
        outcome = homodyne("inspect", "run.h5", "--q", q)
        assert outcome.code == 0, outcome.err
        assert f"selected: TwoTimeData({selected} x 20 frames" in outcome.out
    outcome = homodyne("inspect", "run.h5", "--q", "all", "--phi", "0", "--figure", "run.png")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    outcome = homodyne("inspect", "run.h5", "--phi", "0")
    assert outcome.code == 2
    assert "(0.004:0.008), or all" in outcome.err


def test_inspect_takes_units_and_says_where_ages_begin(homodyne):
    homodyne("simulate", "run.h5", "--frames", 20, "--angles", 2)
    with h5py.File("run.h5", "r+") as file:
        file["/entry/instrument/detector_1/frame_time"][...] = 100.0
        file["/entry/instrument/detector_1/frame_time"].attrs["units"] = "ticks"
    refused = homodyne("inspect", "run.h5")
    assert refused.code == 2
    assert "'ticks', which is no unit of frame_time" in refused.err
    assert "(--unit frame_time=ms)" in refused.err
    outcome = homodyne("inspect", "run.h5", "--unit", "frame_time=ms", "--frames", "11:20")
    assert outcome.code == 0, outcome.err
    assert "dt          0.1 s" in outcome.out
    assert "age: 0.1 s at frame 11: ages count from there (age_origin = 1: from frame 1)" in outcome.err
    assert "expected QUANTITY=UNIT" in homodyne("inspect", "run.h5", "--unit", "ms").err
