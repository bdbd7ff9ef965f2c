from pathlib import Path

import pytest

from homodyne.cli.output import RESULT, staged
from homodyne.errors import InputError


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write(stage: Path, text: str) -> None:
    (stage / RESULT).write_text(text)
    (stage / "figures").mkdir()
    (stage / "figures" / f"{text}.png").write_text(text)


def test_new_folder_is_filled(tmp_path):
    with staged(tmp_path / "a/b", overwrite=False) as stage:
        write(stage, "one")
        assert not (tmp_path / "a/b" / RESULT).exists()
    assert tree(tmp_path) == {"a/b/result.nc": "one", "a/b/figures/one.png": "one"}
    assert [path.name for path in (tmp_path / "a/b").iterdir() if path.name.startswith(".")] == []


def test_failure_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), staged(tmp_path / "a/b", overwrite=False) as stage:
        write(stage, "one")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_what_was_there(tmp_path):
    with staged(tmp_path, overwrite=False) as stage:
        write(stage, "one")
    (tmp_path / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(KeyError), staged(tmp_path, overwrite=True) as stage:
        write(stage, "two")
        raise KeyError
    assert tree(tmp_path) == before


def test_replacing_removes_old_figures_and_keeps_other_files(tmp_path):
    with staged(tmp_path, overwrite=False) as stage:
        write(stage, "one")
    (tmp_path / "notes.txt").write_text("mine")
    with staged(tmp_path, overwrite=True) as stage:
        write(stage, "two")
    assert tree(tmp_path) == {"result.nc": "two", "figures/two.png": "two", "notes.txt": "mine"}


def test_existing_result_is_refused_before_anything_runs(tmp_path):
    (tmp_path / RESULT).write_text("old")
    with pytest.raises(InputError, match="result.nc exists"), staged(tmp_path, overwrite=False):
        pytest.fail("ran")
    assert tree(tmp_path) == {RESULT: "old"}


@pytest.mark.parametrize("place", ["file/out", "file", "/proc/out", "x" * 300])
def test_folder_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_text("a file, not a folder")
    with (
        pytest.raises(InputError, match="cannot write to the folder"),
        staged(tmp_path / place, overwrite=False),
    ):
        pytest.fail("ran")
    assert tree(tmp_path) == {"file": "a file, not a folder"}
