"""Shards on the command line: kept beside the result, resumed after any end, combined and certified again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import homodyne as package
from homodyne.certificate import certify as certificate
from homodyne.cli.interruption import Interrupted
from homodyne.cli.program import run
from homodyne.cli.store import choose_place
from homodyne.config.io import load_config
from homodyne.data import write_aps_u
from homodyne.data.twotime import TwoTimeData
from homodyne.optimization.cmc.store.files import read_json, write_json
from homodyne.optimization.cmc.store.shards import ShardStore

pytestmark = pytest.mark.slow

TRUTH = {"D0": 2e4, "alpha": -0.5, "D_offset": 100.0}
SETTINGS = [
    "optimization.cmc.backend.name=sequential",
    "optimization.cmc.escalate=false",
    "optimization.cmc.validation.strict=false",
    "optimization.cmc.per_shard_mcmc.num_warmup=100",
    "optimization.cmc.per_shard_mcmc.num_samples=150",
    "optimization.nlsq.num_candidates=200",
    "optimization.nlsq.num_starts=3",
]
CMC = ["--method", "cmc", "--mode", "static", "--no-figures", "--no-report", *SETTINGS]
TWO = [*CMC, "optimization.cmc.sharding.num_shards=2"]
FOUR = [*CMC, "optimization.cmc.sharding.num_shards=4"]


def simulated() -> TwoTimeData:
    """A static measurement with white noise: 60 frames, two angles."""
    settings = {"q": 0.01, "num_frames": 60, "dt": 0.1, "phi": [0.0, 90.0], "contrast": 0.3, "sigma": 0.01, "seed": 1}
    return package.simulate(TRUTH, kind="independent", **settings)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "run.h5"
    write_aps_u(path, simulated())
    return path


@pytest.fixture(scope="module")
def fitted(file, tmp_path_factory) -> Path:
    """Result folder of a finished fit over four shards; its store lies beside it."""
    folder = tmp_path_factory.mktemp("fit") / "out"
    assert run(["fit", str(file), *FOUR, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def store(fitted, tmp_path) -> Path:
    """A copy of the store of that fit."""
    return Path(shutil.copytree(f"{fitted}.store", tmp_path / "copy.store"))


def draws(folder: Path) -> dict[str, np.ndarray]:
    return dict(package.load_result(folder / "result.nc").samples)


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_shards_lie_beside_the_result_and_the_configuration_leaves_that_open(fitted):
    place = Path(f"{fitted}.store")
    assert sorted(path.name for path in (place / "results").iterdir()) == [f"000{k}.npz" for k in range(4)]
    assert load_config(fitted / "config.yaml").optimization.cmc.backend.checkpoint_dir is None


PLACES = {
    ("optimization.method=cmc", "output.directory=a/b/"): "a/b.store",
    ("optimization.method=auto",): "homodyne_result.store",
    ("optimization.method=cmc", "optimization.cmc.backend.checkpoint_dir=mine"): "mine",
    ("optimization.method=cmc", "optimization.cmc.backend.enable_checkpoints=false"): None,
    ("optimization.method=auto", "optimization.cmc.enable=false"): None,
    ("optimization.method=nuts",): None,
}


@pytest.mark.parametrize("changes", PLACES)
def test_place_of_the_store(changes):
    place = choose_place(load_config(None, changes), resume=False)
    assert place == (PLACES[changes] and Path(PLACES[changes]))


def test_place_of_the_store_of_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    place = choose_place(load_config(None, ["optimization.method=cmc", "output.directory=."]), resume=False)
    assert place == tmp_path / "here.store"


@pytest.mark.parametrize(
    ("options", "named"),
    [(["--method", "cmc"], "no store of finished shards at 'out.store'"), (["--method", "nuts"], "keeps no shards")],
)
def test_nothing_to_resume(homodyne, tmp_path, file, options, named):
    outcome = homodyne("fit", file, "--mode", "static", *options, "--resume", "--output", "out")
    assert outcome.code == 2
    assert named in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_replaced_result_takes_its_shards_with_it(homodyne, tmp_path, file, fitted):
    """What is written names absolute paths; a store of another result is never replaced."""
    shutil.copytree(fitted, "out")
    shutil.copytree(f"{fitted}.store", "out.store")
    again = ["fit", file, *TWO, "--seed", "5", "--output", "out"]
    assert choose_place(load_config(None, ["output.directory=out", "output.overwrite=true"]), resume=True) == Path(
        "out.store"
    )
    Path("out.store/mine.txt").touch()
    impossible = ["parameters.D0.prior={type: uniform, low: -9, high: -8}", "parameters.D_offset.fixed=-1"]
    assert homodyne(*again, "--overwrite", *impossible).code == 2
    assert Path("out.store/mine.txt").exists(), "a fit that fails leaves the shards as they were"
    outcome = homodyne(*again, "--overwrite")
    assert outcome.code == 0, outcome
    assert f"kept the shards in out.store, below {tmp_path}" in outcome.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.store"]
    assert not Path("out.store/mine.txt").exists()
    assert not same(draws(fitted), draws(Path("out")))
    written = load_config("out/config.yaml")
    assert written.optimization.cmc.backend.checkpoint_dir is None
    assert written.output.directory == str(tmp_path / "out")
    shutil.rmtree("out")
    shutil.copytree(fitted, "out")
    outcome = homodyne(*again, "--overwrite", "--seed", "6")
    assert outcome.code == 2
    assert "belongs to another run" in outcome.err
    assert homodyne("certify", "out.store").code == 0


def test_what_is_replaced_goes_when_the_new_is_complete(homodyne, file, fitted, monkeypatch):
    shutil.copytree(fitted, "out")
    shutil.copytree(f"{fitted}.store", "out.store")
    keep = ShardStore.write_result

    def interrupted(store, result):
        keep(store, result)
        raise Interrupted

    again = ["fit", file, *FOUR, "--seed", "5", "--output", "out", "--overwrite"]
    with monkeypatch.context() as patched:
        patched.setattr(ShardStore, "write_result", interrupted)
        outcome = homodyne(*again, "optimization.cmc.backend.name=sequential")
    assert (outcome.code, len(ShardStore.open("out.store").results())) == (130, 4)
    assert same(draws(fitted), draws(Path("out")))
    assert "1 finished shard is kept in out.store.new: start the same command again with --resume" in outcome.err
    outcome = homodyne(*again, "--resume")
    assert outcome.code == 0, outcome
    assert sorted(path.name for path in Path().iterdir()) == ["out", "out.store"]
    assert ShardStore.open("out.store").manifest.seed == 5


def started(file: Path, folder: Path) -> subprocess.Popen:
    """Start a fit over four shards, in a process of one thread that has finished one of them at least."""
    command = [Path(sys.executable).with_name("homodyne"), "fit", file, *FOUR, "--output", folder]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, **pipes)
    while not list(Path(f"{folder}.store").glob("results/*.npz")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


def shard_draws(store):
    """Draws of every shard of a store; what is returned of a run follows from the exact density, not from them."""
    return {str(result.shard_id): result.samples for result in store.results()}


def test_a_killed_fit_is_resumed_to_the_draws_of_an_undisturbed_one(homodyne, tmp_path, file, fitted):
    process = started(file, tmp_path / "out")
    process.kill()
    process.communicate(timeout=120)
    results = tmp_path / "out.store" / "results"
    before = {path.name: path.stat().st_mtime_ns for path in results.glob("*.npz")}
    assert 1 <= len(before) < 4, "the fit was not killed while it sampled"
    assert not (tmp_path / "out" / "result.nc").exists()
    outcome = homodyne("fit", file, *FOUR, "--resume", "--output", "out")
    assert outcome.code == 0, outcome
    assert "kept the shards in out.store" in outcome.out
    after = {path.name: path.stat().st_mtime_ns for path in results.glob("*.npz")}
    assert before.items() < after.items()
    assert same(draws(Path("out")), draws(fitted))
    kept, undisturbed = ShardStore.open(Path("out.store")), ShardStore.open(fitted.with_name("out.store"))
    assert same(shard_draws(kept), shard_draws(undisturbed))
    other = replace(kept.read_result(1), shard_id=0, num_points=kept.manifest.points[0])
    kept.write_result(other)  # planted: a shard has the draws of another
    assert not same(shard_draws(kept), shard_draws(undisturbed))


def test_an_interrupted_fit_says_what_is_kept_and_how_to_go_on(tmp_path, file):
    process = started(file, tmp_path / "out")
    process.send_signal(signal.SIGHUP)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"kept in {tmp_path / 'out.store'}: " in error
    assert error.endswith("start the same command again with --resume to go on with them\n")
    assert [path.name for path in tmp_path.iterdir()] == ["out.store"]


def test_combining_again_gives_the_same_result(homodyne, fitted, store):
    outcome = homodyne("combine", store, "--output", "again", "output.report=true")
    assert outcome.code == 0, outcome
    assert "wrote again" in outcome.out
    first, second = (package.load_result(folder / "result.nc") for folder in (fitted, Path("again")))
    assert same(dict(first.samples), dict(second.samples))
    for name in ("t", "phi", "sigma", "q"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    for name in ("gap", "verdict", "num_points", "units", "parameter_names", "num_shards", "seed", "bad_frames"):
        assert getattr(first, name) == getattr(second, name)
    assert first.certificate == second.certificate
    assert second.per_shard_diagnostics == first.per_shard_diagnostics
    assert {"summary.txt", "config.yaml", "result.nc", "report.html"} == {
        path.name for path in Path("again").glob("[!.]*")
    }


def test_combining_repeats_what_the_pilot_fit_had_to_say(homodyne):
    data = simulated()
    spots = np.random.default_rng(0).random((60, 60)) < 0.01
    write_aps_u("spots.h5", replace(data, c2=data.c2 + 0.2 * (spots | spots.T)))
    assert homodyne("fit", "spots.h5", *TWO, "--output", "out").code in (0, 3)
    assert homodyne("combine", "out.store", "--output", "again").code in (0, 3)
    first, second = (package.load_result(f"{folder}/result.nc").diagnostics["warnings"] for folder in ("out", "again"))
    assert any("residuals have heavy tails" in text for text in first)
    assert first == second


def test_combining_by_another_method_draws_what_needs_no_data(homodyne, store):
    arguments = ["--method", "consensus", "--output", "other", "output.figures=true"]
    outcome = homodyne("combine", store, *arguments)
    assert outcome.code in (0, 3), outcome
    assert "figures of the measured maps are left out" in outcome.out
    assert package.load_result("other/result.nc").combination_method == "consensus"
    figures = {path.stem for path in Path("other/figures").iterdir()}
    assert figures == {"rates", "corner", "traces", "misfit", "shards", "shard_divergence", "shard_agreement"}
    assert load_config("other/config.yaml").optimization.cmc.combination.method == "consensus"


def test_a_result_is_not_replaced_unasked(homodyne, fitted, store):
    outcome = homodyne("combine", store, "--output", fitted)
    assert outcome.code == 2
    assert "result.nc exists" in outcome.err


def test_certify_shows_the_verdict_and_writes_nothing(homodyne, tmp_path, fitted, store):
    outcome = homodyne("certify", store, "--points", 1000)
    certificate = package.load_result(fitted / "result.nc").certificate
    assert outcome.code == 0, outcome
    assert outcome.out.startswith(f"{certificate.verdict}: ")
    assert "k_hat" in outcome.out
    assert f"of {certificate.num_points} points" in outcome.out
    assert [path.name for path in tmp_path.iterdir()] == ["copy.store"]


def test_certify_refuses_with_3(homodyne, store, monkeypatch):
    """Pooled shards that are far too wide are mended; under a limit that no points reach they are refused."""
    kept = ShardStore.open(store)
    for result in kept.results():
        middle = result.samples.mean(axis=(0, 1))
        kept.write_result(replace(result, samples=middle + 4.0 * (result.samples - middle)))
    command = ["certify", store, "optimization.cmc.combination.method=average", "--points", 100]
    mended = homodyne(*command)
    assert (mended.code, mended.out.partition(":")[0]) == (0, "CORRECTED")
    monkeypatch.setattr(certificate, "MIN_ESS", 1e9)
    outcome = homodyne(*command)
    assert outcome.code == 3, outcome
    assert outcome.out.startswith("REFUSED: ")


def test_missing_shards_are_named_and_sampled_on_demand(homodyne, fitted, store):
    (store / "results" / "0001.npz").unlink()
    for command in (["certify", store], ["combine", store, "--output", "out"]):
        outcome = homodyne(*command)
        assert outcome.code == 4
        assert "1 of 4 shards" in outcome.err
        assert "no result: 1;" in outcome.err
        assert "--run" in outcome.err
        assert not Path("out").exists()
    assert homodyne("combine", store, "--run", "--output", "out").code == 0
    assert same(draws(fitted), draws(Path("out")))


@pytest.mark.parametrize(
    "change", ["seed=5", "parameters.alpha.bounds=[-3, 3]", "optimization.cmc.sharding.num_shards=3"]
)
def test_what_decides_about_the_shards_cannot_be_changed(homodyne, store, change):
    outcome = homodyne("combine", store, change, "--output", "out")
    assert outcome.code == 2
    assert change.split("=")[0] in outcome.err
    assert "sampled already" in outcome.err
    assert not Path("out").exists()


def test_what_is_no_store_of_maps(homodyne, store):
    assert homodyne("certify", "absent").code == 2
    manifest = read_json(store / "manifest.json")
    del manifest["setup"]["modes"]
    write_json(store / "manifest.json", manifest)
    outcome = homodyne("certify", store)
    assert outcome.code == 2
    assert "was not made by fitting two-time maps" in outcome.err


@pytest.mark.parametrize(("points", "chosen"), [(1_000_000, "nuts: 1,000,000 pairs"), (10**9, "cmc: 1,000,000,000 p")])
def test_hardware_tells_what_auto_would_choose(homodyne, points, chosen):
    outcome = homodyne("hardware", "--points", points)
    assert outcome.code == 0
    assert f"refused, {chosen}" in outcome.out
    lines = dict(line.split(None, 1) for line in outcome.out.splitlines())
    assert "shard" in lines["cmc"]
    assert lines["backend"].split(":")[0] in ("multiprocessing", "sequential")
    assert f"laplace {(20 + 2.1e-6 * points) / 3600:.2g} core hours" in lines["cost"]
