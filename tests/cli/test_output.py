"""Output folders: what is replaced, what is refused, and what stands after an end in the middle."""

import base64
import os
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from benchmarks.example_results import example_result
from homodyne import files
from homodyne.cli.interruption import Interrupted
from homodyne.cli.output import CONFIG, INVENTORY, REPORT_FILE, RESULT, SUMMARY, OutputFolder, output_folder
from homodyne.config.io import load_config
from homodyne.config.schema import OutputConfig
from homodyne.errors import ExecutionError, InputError
from homodyne.files import OWN, write_atomically
from homodyne.result.record import MCMCResult
from homodyne.viz.report import Reported, report


@pytest.fixture(scope="module")
def laminar_result() -> MCMCResult:
    return example_result(num_frames=10, shape=(1, 20)).result


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file that is to be seen."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}


def fill(folder: OutputFolder, text: str) -> None:
    """Write what looks like a result with one figure."""
    contents = {folder.path / name: f"{text} {name}".encode() for name in (SUMMARY, CONFIG, RESULT)}
    figure = folder.path / "figures" / f"{text}.png"
    folder._note(*contents.values(), text.encode())
    for file, content in contents.items():
        write_atomically(file, content, OWN)
    figure.parent.mkdir(exist_ok=True)
    write_atomically(figure, text.encode(), OWN)


def opened(path: Path, *, overwrite: bool = False, figures: bool = True, inputs: tuple[Path, ...] = ()):
    return output_folder(OutputConfig(directory=str(path), overwrite=overwrite, figures=figures), inputs)


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), opened(tmp_path / "a/b"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_runs_with_one_folder_do_not_replace_what_the_other_writes(tmp_path, overwrite):
    """The second is refused before it works; what a killed one has left does not keep anybody out."""
    (tmp_path / files._HELD).touch()
    with opened(tmp_path) as first:
        with pytest.raises(ExecutionError, match="is in use by another homodyne: .* choose another folder"):
            opened(tmp_path, overwrite=overwrite).__enter__()
        fill(first, "one")
    assert not (tmp_path / files._HELD).exists()
    with pytest.raises(InputError, match=f"{RESULT} exists"):
        opened(tmp_path).__enter__()
    with opened(tmp_path, overwrite=True):
        pass
    assert not (tmp_path / files._HELD).exists()


def test_a_lock_that_was_removed_before_it_was_taken_is_made_again(tmp_path, monkeypatch):
    """As by a run that ends between the two: the lock would keep nobody out."""
    lock, removed = files._lock, []

    def late(descriptor):
        if not removed and (tmp_path / files._HELD).exists():
            removed.append((tmp_path / files._HELD).unlink())
        return lock(descriptor)

    monkeypatch.setattr(files, "_lock", late)
    with opened(tmp_path), pytest.raises(ExecutionError, match="in use"):
        opened(tmp_path).__enter__()


@pytest.mark.parametrize("name", [RESULT, SUMMARY, CONFIG, REPORT_FILE, "figures/mine.txt", "figures"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_somebody_else_are_never_replaced(tmp_path, name, overwrite):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("precious")
    with pytest.raises(InputError, match=f"{name} exists.*--overwrite"):
        opened(tmp_path, overwrite=overwrite).__enter__()
    assert tree(tmp_path) == {name: b"precious"}


def test_a_result_without_a_note_of_what_was_written_is_not_replaced(tmp_path):
    with opened(tmp_path) as folder:
        fill(folder, "one")
    (tmp_path / INVENTORY).unlink()
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"there is no .homodyne.json, .* earlier version.* remove it yourself"):
        opened(tmp_path, overwrite=True).__enter__()
    assert tree(tmp_path) == before


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/mine.txt").write_text("precious")
    (tmp_path / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    with opened(tmp_path, figures=False):
        pass
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", [RESULT, SUMMARY, CONFIG, "figures/one.png"])
def test_what_was_changed_since_is_not_replaced(tmp_path, name):
    with opened(tmp_path) as folder:
        fill(folder, "one")
    with pytest.raises(InputError, match="exists"):
        opened(tmp_path).__enter__()
    with opened(tmp_path, overwrite=True):
        pass
    with (tmp_path / name).open("ab") as file:
        file.write(b"# my comment")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=f"{name} is not as homodyne has written it"):
        opened(tmp_path, overwrite=True).__enter__()
    assert tree(tmp_path) == before


def test_what_the_command_reads_is_not_replaced(tmp_path):
    with opened(tmp_path) as folder:
        fill(folder, "one")
    (tmp_path / "link.yaml").symlink_to(CONFIG)
    with pytest.raises(InputError, match="is read by this command"):
        opened(tmp_path, overwrite=True, inputs=(tmp_path / "link.yaml",)).__enter__()


@pytest.mark.slow
def test_a_new_result_takes_the_figures_of_the_old_one_away(tmp_path, laminar_result):
    with opened(tmp_path) as folder:
        fill(folder, "one")
    (tmp_path / "figures/mine.txt").write_text("mine")
    with opened(tmp_path, overwrite=True, figures=False) as folder:
        folder.write_result(laminar_result, load_config(None))
    after = tree(tmp_path)
    assert set(after) == {RESULT, SUMMARY, CONFIG, "figures/mine.txt"}
    assert after[CONFIG] != b"one config.yaml"


def test_a_full_disk_replaces_nothing(tmp_path, monkeypatch, laminar_result):
    with opened(tmp_path) as folder:
        fill(folder, "one")
    before = tree(tmp_path)
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 4:  # inventory, summary and configuration fit
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(ExecutionError, match=r"result\.nc' failed: No space left on device"),
        opened(tmp_path, overwrite=True) as folder,
    ):
        folder.write_result(laminar_result, load_config(None))
    monkeypatch.undo()
    assert tree(tmp_path) == before
    with opened(tmp_path, overwrite=True):  # all of it is still known
        pass


@pytest.mark.parametrize("error", [Interrupted(), ExecutionError("disk full"), MemoryError()])
def test_the_result_is_there_whatever_happens_to_the_figures(tmp_path, monkeypatch, laminar_result, error):
    def figures(*arguments):
        yield from ()
        raise error

    monkeypatch.setattr("homodyne.viz.figures.standard_figures", figures)
    with pytest.raises(type(error)), opened(tmp_path / "out") as folder:
        folder.write_result(laminar_result, load_config(None))
        folder.illustrate(OutputConfig(report=False), laminar_result, None)
    assert error.__notes__ == [f"the result is in {tmp_path / 'out'}, 0 figures are drawn"]
    assert set(tree(tmp_path / "out")) == {RESULT, SUMMARY, CONFIG}


def test_a_figure_of_files_and_report_is_drawn_once(tmp_path, monkeypatch, laminar_result):
    drawn, real = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda *given, **more: (drawn.append(1), real(*given, **more))[1])
    with opened(tmp_path / "out") as folder:
        folder.write_result(laminar_result, load_config(None))
        folder.illustrate(OutputConfig(), laminar_result, None)
    files = list((tmp_path / "out/figures").iterdir())
    assert len(drawn) == len(files) > 2
    page = (tmp_path / "out/report.html").read_bytes()
    pictures = re.findall(rb'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == len(files)
    assert sum(len(base64.b64decode(one)) for one in pictures) < sum(one.stat().st_size for one in files)
    assert page == report([Reported("out", laminar_result)]), "as it is drawn without files"


@pytest.mark.parametrize("place", ["file/out", "file", "/proc/out", "x" * 300])
def test_folder_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(InputError, match="cannot write"), opened(tmp_path / place):
        pytest.fail("ran")
    assert tree(tmp_path) == {"file": b"a file, not a folder"}
