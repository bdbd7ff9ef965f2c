"""The door through which files are written: whose files are replaced, and what dead processes leave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import homodyne as package
from benchmarks.example_results import example_result
from homodyne import files
from homodyne.cli.program import run
from homodyne.config.io import load_config
from homodyne.data import save_hdf5, save_npz, write_aps_u
from homodyne.device.config import detect_hardware
from homodyne.errors import InputError
from homodyne.files import FIGURE, OWN, remove_abandoned, temporary_folder, writable_folder, write_atomically
from homodyne.optimization.problem import build_problem
from homodyne.optimization.xpcs import count_shards, most_shards
from homodyne.viz.figures import FORMATS, figure_bytes


def measurement(num_frames=8):
    truth = {"D0": 2e4, "alpha": -0.5, "D_offset": 0.0}
    return package.simulate(
        truth, q=0.01, num_frames=num_frames, dt=0.1, phi=[0.0], contrast=0.3, kind="independent", sigma=0.1
    )


def figure(path, data):
    drawn = Figure()
    drawn.text(0.1, 0.1, "x")
    write_atomically(path, figure_bytes(drawn, Path(path).suffix[1:]), FIGURE)


WRITERS = {
    "run.h5": write_aps_u,
    "own.h5": save_hdf5,
    "own.npz": save_npz,
    "fit.nc": lambda path, data: example_result(num_frames=8, shape=(1, 10)).result.save(path),
    **{f"x.{kind}": figure for kind in FORMATS},
}


@pytest.mark.parametrize("name", WRITERS)
def test_only_what_the_program_has_written_is_replaced(tmp_path, name):
    """The kinds are told apart by content: each writer is given files of all the others, and of other programs."""
    data, file = measurement(), tmp_path / "it"
    file = file.with_suffix(Path(name).suffix)
    for _ in range(2):
        WRITERS[name](file, data)
    for other in WRITERS:
        if name == other or {name, other} <= {"run.h5", "own.h5", "own.npz"} or {name[:2], other[:2]} == {"x."}:
            continue
        made = tmp_path / f"other-{other}"
        WRITERS[other](made, data)
        before = made.read_bytes()
        made = made.rename(tmp_path / f"other{Path(name).suffix}")
        with pytest.raises(InputError, match="is no .* that homodyne has written: it is not replaced"):
            WRITERS[name](made, data)
        assert made.read_bytes() == before
    foreign = file.with_stem("foreign")
    foreign.write_bytes(b"\x89HDF precious" + bytes(200_000))
    with pytest.raises(InputError, match="it is not replaced"):
        WRITERS[name](foreign, data)
    assert [path.name for path in tmp_path.glob(".homodyne*")] == []


COMMANDS = (
    ("inspect", "run.h5", "--figure", "run.png"),
    ("simulate", "run.png", "--overwrite", "--frames", "10"),
    ("plan", "D0=2e4", "--mode", "static", "--output", "numbers.json"),
    ("plan", "D0=2e4", "--mode", "static", "--vary", "frames=10,20", "--figure", "run.png"),
    ("compare", "a.nc", "b.nc", "--csv", "run.png"),
    ("config", "new", "run.png"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_replaces_the_file_of_somebody_else_and_each_refuses_before_it_works(
    tmp_path, monkeypatch, capsys, command
):
    monkeypatch.chdir(tmp_path)
    write_aps_u("run.h5", measurement())
    for name in ("run.png", "numbers.json"):
        Path(name).write_text("precious")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert run(list(command)) == 2
    captured = capsys.readouterr()
    assert "choose another name" in captured.err
    assert captured.out == ""
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


KILLED = """
import os, signal, sys
from homodyne.files import OWN, replacing, temporary_folder
with temporary_folder() as folder, replacing(sys.argv[1], OWN) as sink:
    sink.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_is_found_and_what_a_living_one_writes_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary" / "homodyne-of-mine").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".homodyne-notes.part").write_text("mine")
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "out" / "x"], env=environment, check=False)
    assert len(list((tmp_path / "out").iterdir())) == len(list((tmp_path / "temporary").iterdir())) == 2
    with temporary_folder(), files.replacing(tmp_path / "out" / "y", OWN) as sink:
        sink.write(b"whole")
        assert run(["store", "clean", str(tmp_path)]) == 0
        assert capsys.readouterr().out.count("removed ") == 2
    assert remove_abandoned(tmp_path) == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".homodyne-notes.part", "y"]
    assert [path.name for path in (tmp_path / "temporary").iterdir()] == ["homodyne-of-mine"]


@pytest.mark.parametrize("place", ["file/x", "file", "/proc/x/y", "x" * 300, "a\0b"])
def test_a_folder_that_cannot_be_made_is_refused_and_nothing_is_left(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"), writable_folder(tmp_path / place):
        pass
    with writable_folder(tmp_path / "a/b/c"):
        assert (tmp_path / "a/b/c").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_limit_of_memory_is_refused_in_one_sentence():
    command = f"ulimit -v 2000000; exec {sys.executable} -m homodyne fit absent.h5"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.startswith("error: not enough memory: ")) == (4, True), done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sharding.num_shards": 2},
            "2 shards are too many, .* 5 pairs .* each of 5 unknown .* at most 1 shard ",
        ),
        ({"sharding.max_points_per_shard": 14}, "2 shards are too many, .*max_points_per_shard"),
        ({"backend.enable_checkpoints": True}, "no folder is given to keep the shards in"),
        ({"backend.checkpoint_dir": "/proc/x"}, "cannot write to the folder '/proc/x'"),
    ],
)
def test_shards_that_cannot_be_are_refused_before_the_pilot_fit(monkeypatch, changes, message):
    monkeypatch.setattr("homodyne.optimization.mcmc.pilot_fit", lambda *arguments, **more: pytest.fail("worked"))
    config = {"optimization": {"cmc": {}}}
    for name, value in changes.items():
        section, _, key = name.partition(".")
        config["optimization"]["cmc"].setdefault(section, {})[key] = value
    with pytest.raises(InputError, match=message):
        package.fit(measurement(), mode="static", method="cmc", config=config)


@pytest.mark.parametrize(("strategy", "most"), [("random", 285), ("interleaved", 285), ("frame_blocks", 119)])
def test_the_number_of_shards_that_is_advised_is_accepted(monkeypatch, strategy, most):
    monkeypatch.setattr("homodyne.optimization.mcmc.pilot_fit", lambda *arguments, **more: raise_reached())
    data = measurement(120)
    for asked, outcome in ((5000, f"^5000 .* {most} shards"), (most + 1, f" {most} shards"), (most, "reached")):
        config = {"optimization": {"cmc": {"sharding": {"num_shards": asked, "strategy": strategy}}}}
        with pytest.raises(InputError, match=outcome):
            package.fit(data, mode="static", method="cmc", config=config)


def test_no_more_shards_are_chosen_than_may_be_asked_for():
    config = load_config(None, ["analysis_mode=static", "optimization.cmc.backend.num_workers=99"])
    maps = build_problem(measurement(60), config).maps
    most = most_shards(config, maps)
    assert most[0] == 60 * 59 // 2 // 25
    counted = count_shards(maps.num_pairs, most, config.optimization.cmc, detect_hardware())
    assert counted == (70, "70 shards, each with " + most[1])


def raise_reached():
    raise InputError("the pilot fit is reached")
