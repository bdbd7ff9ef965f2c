"""``homodyne fit`` from end to end on a small measurement."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import homodyne as package
from homodyne.certificate import certify as certificate
from homodyne.cli.program import run
from homodyne.config.io import load_config
from homodyne.data import write_aps_u

pytestmark = pytest.mark.slow

TRUTH = {"D0": 2e4, "alpha": -0.5, "D_offset": 100.0}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A static measurement with white noise: 60 frames, two angles."""
    path = tmp_path_factory.mktemp("data") / "run.h5"
    data = package.simulate(
        TRUTH,
        q=0.01,
        num_frames=60,
        dt=0.1,
        phi=[0.0, 90.0],
        contrast=0.3,
        kind="independent",
        sigma=0.03,
        seed=1,
    )
    write_aps_u(path, data)
    return path


@pytest.fixture(scope="module")
def fitted(file, tmp_path_factory) -> Path:
    """Folder of a finished fit, figures included."""
    folder = tmp_path_factory.mktemp("fit") / "out"
    assert run(["fit", str(file), "--mode", "static", "--output", str(folder), "--seed", "3"]) == 0
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Files that are to be seen."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}


def test_folder_holds_result_summary_configuration_and_figures(fitted, file):
    names = set(content(fitted))
    assert {"result.nc", "summary.txt", "config.yaml"} < names
    assert any(name.startswith("figures/") and name.endswith(".png") for name in names)
    result = package.load_result(fitted / "result.nc")
    assert result.verdict in ("CERTIFIED", "CORRECTED")
    assert result.verdict in (fitted / "summary.txt").read_text(encoding="utf-8").splitlines()[0]
    for name, value in TRUTH.items():
        draws = np.asarray(result.samples[name])
        assert abs(draws.mean() - value) < 5 * draws.std()
    config = load_config(fitted / "config.yaml")
    assert (config.analysis_mode, config.seed) == ("static", 3)
    assert config.experimental_data.file_path == str(file)
    assert config.parameters.D0.prior is not None


def test_written_configuration_runs_again_to_the_same_draws(homodyne, fitted):
    outcome = homodyne("fit", fitted / "config.yaml", "--output", "again", "--no-figures")
    assert outcome.code == 0, outcome.err
    first, second = (package.load_result(folder / "result.nc") for folder in (fitted, Path("again")))
    assert np.array_equal(first.samples["D0"], second.samples["D0"])
    assert not Path("again/figures").exists()
    assert "wrote again" in outcome.out


def test_options_and_changes_reach_the_fit(homodyne, file):
    options = ["--method", "nuts", "--frames", "1:40", "--phi", "0", "--seed", "5", "--no-figures"]
    changes = ["optimization.mcmc.num_chains=2", "optimization.mcmc.num_samples=50"]
    outcome = homodyne("fit", file, *changes, "--mode", "static", *options)
    assert outcome.code in (0, 3), outcome.err
    result = package.load_result("homodyne_result/result.nc")
    assert (result.method, result.seed, result.num_chains) == ("nuts", 5, 2)
    assert result.config["optimization"]["mcmc"]["num_samples"] == 50
    assert result.num_points == 40 * 39 // 2
    assert result.samples["contrast"].shape[2] == 1


def test_result_is_not_replaced_unasked(homodyne, file, fitted):
    before = content(fitted)
    outcome = homodyne("fit", file, "--mode", "static", "--output", fitted)
    assert outcome.code == 2
    assert "result.nc exists" in outcome.err
    assert content(fitted) == before


def test_full_disk_leaves_the_old_result(homodyne, file, fitted):
    before = content(fitted)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        outcome = homodyne("fit", file, "--mode", "static", "--output", fitted, "--overwrite", "--no-figures")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome.code == 4, outcome.err
    assert "result.nc" in outcome.err
    assert content(fitted) == before


IMPOSSIBLE = {
    "J is negative": [
        "parameters.D0.prior={type: uniform, low: -9, high: -8}",
        "parameters.D_offset.fixed=-1",
    ],
    "no support": [
        "parameters.alpha.prior={type: uniform, low: 1, high: 2}",
        "parameters.alpha.bounds=[3, 4]",
    ],
    "nothing to fit": [f"parameters.{name}.fixed=1" for name in TRUTH],
    "no gap": ["analysis_mode=laminar_flow"],
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_impossible_model(homodyne, tmp_path, file, kind):
    outcome = homodyne("fit", file, "analysis_mode=static", *IMPOSSIBLE[kind], "--output", "out")
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_fit_leaves_nothing(tmp_path, file, number):
    program = Path(sys.executable).with_name("homodyne")
    settings = ["optimization.mcmc.num_samples=1000000", "--method", "nuts", "--mode", "static"]
    process = subprocess.Popen(
        [program, "fit", file, *settings, "--output", tmp_path / "out"], stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "out").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert error.endswith("start the same command again\n")
    assert list(tmp_path.iterdir()) == []


def test_refused_posterior_is_written_and_ends_with_3(homodyne, file, monkeypatch):
    """Ten frames do not determine the exponent; and no number of effective points is enough."""
    monkeypatch.setattr(certificate, "MIN_ESS", 1e9)
    few = ["--frames", "1:10", "--phi", "0", "--method", "laplace", "--mode", "static", "--no-figures"]
    outcome = homodyne("fit", file, *few)
    assert outcome.code == 3, outcome
    assert outcome.out.startswith("REFUSED")
    assert package.load_result("homodyne_result/result.nc").verdict == "REFUSED"
