"""Wrong input: exit code 2, one message that names what is wrong, and nothing left behind."""

import io
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from homodyne.data import from_cube, write_aps_u

NUM_FRAMES = 12


def maps(num_angles: int = 2) -> np.ndarray:
    t = np.arange(1, NUM_FRAMES + 1)
    decay = np.exp(-0.05 * np.abs(t[:, None] - t[None, :]))
    return np.stack([1.0 + 0.3 * decay + 0.01 * np.cos(t[:, None] * t[None, :] + k) for k in range(num_angles)])


def measurement(path: Path, c2: np.ndarray | None = None) -> Path:
    """A file in the layout of APS-U with q = 0.01 1/Å, two angles and a frame time of 0.1 s."""
    c2 = maps() if c2 is None else c2
    t = 0.1 * np.arange(1, c2.shape[1] + 1)
    write_aps_u(path, from_cube(c2, t, phi=[0.0, 90.0], q=0.01))
    return path


def damage(path: Path, change: str) -> Path:
    """A measurement with one thing wrong."""
    measurement(path)
    with h5py.File(path, "r+") as file:
        names = [f"/xpcs/twotime/correlation_map/c2_{k:05d}" for k in (1, 2)]
        for name in names:
            values = file[name][()]
            del file[name]
            file[name] = {
                "shape": values[:, :5],
                "dtype": values.astype("S8"),
                "zeros": np.zeros_like(values),
                "nan": np.full_like(values, np.nan),
            }[change]
    return path


def file_of(kind: str, folder: Path) -> Path:
    path = folder / "run.h5"
    match kind:
        case "absent":
            pass
        case "folder":
            path.mkdir()
        case "empty":
            path.touch()
        case "text":
            path.write_text("q,phi\n0.01,3\n")
        case "truncated":
            content = measurement(path).read_bytes()
            path.write_bytes(content[: len(content) // 2])
        case "other layout":
            with h5py.File(path, "w") as file:
                file["entry/data"] = np.zeros((4, 4))
        case "bomb":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("c2_exp.npy", header((10**7, 10**7)))
        case _:
            damage(path, kind)
    return path


def header(shape: tuple[int, ...]) -> bytes:
    """Start of an array file that promises far more than it holds."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


FILES = {
    "absent": "No such file|does not exist",
    "folder": "directory|folder",
    "empty": "empty",
    "text": "format|layout|HDF5",
    "truncated": "truncated|damaged|cannot be read",
    "other layout": "/xpcs/twotime",
    "bomb": "run.h5",
    "shape": "c2_00001.*shape|shape.*c2_00001",
    "dtype": "c2_00001.*dtype|dtype.*c2_00001|c2_00001.*type",
    "zeros": "bad|usable",
    "nan": "NaN|usable",
}


@pytest.mark.parametrize("command", ["fit", "inspect"])
@pytest.mark.parametrize("kind", FILES)
def test_file_that_is_no_measurement(homodyne, tmp_path, command, kind):
    path = file_of(kind, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    extra = ["--figure", "out.png", "--q", "0.01"] if command == "inspect" else ["--gap", "2e6"]
    outcome = homodyne(command, path, *extra)
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("error: ")
    assert re.search(FILES[kind], outcome.err), outcome.err
    assert sorted(tmp_path.rglob("*")) == before


SELECTIONS = {
    ("--q", "0.02"): "0.01",
    ("--q", "-1"): "experimental_data.q: '-1' given",
    ("--q", "0.01,0.02"): "0.01",
    ("--q", "0.02:0.03"): "0.01",
    ("--q", "most"): "experimental_data.q: 'most' given",
    ("--phi", "100:120"): "90",
    ("--phi", "0,x"): "experimental_data.phi",
    ("--frames", "1:2"): "frames",
    ("--frames", "5:400"): "12",
    ("--frames", "first:last"): "experimental_data.frames: 'first:last' given",
    ("--dt", "0.3"): "0.1",
    ("--gap", "-3"): "experimental_data.gap: -3 given",
    ("--mode", "laminar"): "analysis_mode: unknown model 'laminar'",
    ("--method", "hmc"): "optimization.method: unknown method 'hmc'",
    ("--seed", "-1"): "seed: -1 given",
    ("experimental_data.age_origin=-0.5",): "-0.4",
    ("experimental_data.format=tiff",): "tiff",
    ("optimization.mcmc.num_sample=3",): "did you mean optimization.mcmc.num_samples?",
    ("--output", "/proc/out"): "/proc/out",
    ("--output", "run.h5"): "run.h5",
}


@pytest.mark.parametrize("arguments", SELECTIONS, ids=" ".join)
def test_wrong_choice(homodyne, tmp_path, arguments):
    path = measurement(tmp_path / "run.h5")
    content = path.read_bytes()
    outcome = homodyne("fit", path, "--mode", "static", *arguments)
    assert outcome.code == 2, outcome
    assert SELECTIONS[arguments] in outcome.err
    assert outcome.err.startswith("error: ")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == content


def test_configuration_without_a_file(homodyne, tmp_path):
    (tmp_path / "run.yaml").write_text("analysis_mode: static\n")
    outcome = homodyne("fit", "run.yaml")
    assert outcome.code == 2
    assert "experimental_data.file_path: missing" in outcome.err


def test_options_are_looked_at_before_the_file(homodyne):
    for option, value, expected in (
        ("--q", "nan", "experimental_data.q: 'nan' given"),
        ("--dt", "2 ms", "experimental_data.dt: '2 ms' given, expected a valid number without a unit: seconds between"),
        ("--dt", "", "experimental_data.dt: '' given"),
    ):
        outcome = homodyne("inspect", "absent.h5", option, value)
        assert outcome.code == 2
        assert expected in outcome.err
