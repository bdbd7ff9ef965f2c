"""What may import what, what is public, and what must stay unloaded until it is needed."""

import subprocess
import sys
from pathlib import Path

import pytest

import homodyne

ROOT = Path(__file__).resolve().parent.parent
HEAVY = (
    "jax",
    "jaxtyping",
    "numpyro",
    "numpy",
    "scipy",
    "h5py",
    "matplotlib",
    "xarray",
    "arviz_stats",
    "yaml",
    "pandas",
)


def test_imports_point_one_way():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", homodyne.__all__)
def test_public_names_import(name):
    assert getattr(homodyne, name) is not None


def test_unknown_name():
    with pytest.raises(AttributeError, match="'fitt'"):
        homodyne.fitt  # noqa: B018


PROGRAM = "from homodyne.cli.program import run; run(['{}'])"


@pytest.mark.parametrize("code", ["import homodyne", PROGRAM.format("--help"), PROGRAM.format("--version")])
def test_nothing_heavy_is_loaded_before_it_is_needed(code):
    report = f"{code}\nimport sys; print(sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
