"""The process that reads files: what it dies of is said, and what it holds is limited."""

import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from homodyne import reading
from homodyne.data import describe, load
from homodyne.data.readers import open_catalog, process
from homodyne.errors import DataError, ExecutionError

MAP = "/xpcs/twotime/correlation_map/c2_00001"
MEBIBYTE = 1 << 20


def idle():
    """The reading process that waits for the next file."""
    return process._idle[-1]._process.pid


def peak(pid):
    """Most memory that a process has held, bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def at(path, mark, offset, byte):
    """Change a byte behind the first place of a mark."""
    content = bytearray(path.read_bytes())
    content[content.index(mark) + offset] = byte
    path.write_bytes(content)
    return path


@pytest.mark.slow
def test_a_heap_of_texts_in_which_the_library_goes_round_for_ever(aps_u, made, monkeypatch):
    monkeypatch.setattr(reading, "SECONDS", 1)
    good = aps_u()
    load(good, q=0.004)
    before = idle()
    broken = at(aps_u(name="broken.hdf"), b"GCOL", 24, 0)  # an object of size zero
    for action in (describe, lambda path: load(path, q=0.004)):
        with pytest.raises(DataError, match=r"broken.hdf.* does not come to an end with it \(SIGXCPU\)"):
            action(broken)
    made.same(load(good, q=0.004).c2[0], made.upper_map(int(made.CELLS[0])))
    assert idle() != before


def test_a_chunk_that_is_a_thousand_times_what_its_dataset_says(aps_u):
    def bomb(file):
        del file[MAP]
        found = file.create_dataset(MAP, (12, 12), np.float32, chunks=(12, 12), compression="gzip")
        packer = zlib.compressobj()
        blocks = [packer.compress(bytes(MEBIBYTE)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
        found.id.write_direct_chunk((0, 0), blocks[0] + 3000 * blocks[1])

    path = aps_u(change=bomb)
    assert path.stat().st_size < 4 * MEBIBYTE
    with pytest.raises(DataError, match="c2_00001 cannot be read"):
        load(path, q=0.004)
    assert peak(idle()) < reading.ROOM + 256 * MEBIBYTE


@pytest.mark.slow
def test_what_is_granted_is_enough_for_one_large_chunk(aps_u, made):
    n = 3000
    rng = np.random.default_rng(0)

    def large(file):
        for name in file["/xpcs/twotime/correlation_map"]:
            del file[f"/xpcs/twotime/correlation_map/{name}"]
        for k in range(9):
            values = 1.0 + np.triu(rng.integers(0, 3, (n, n))) if k == 0 else np.ones((n, n))
            file.create_dataset(
                f"/xpcs/twotime/correlation_map/c2_{k + 1:05d}", data=values, chunks=(n, n), compression="gzip"
            )

    path = aps_u(change=large)
    assert n * n * 8 * 3 < reading.EXPANSION * path.stat().st_size + reading.ALLOWANCE
    assert load(path, q=0.004, phi=0.0).num_frames == n


@pytest.mark.slow
def test_an_end_that_is_not_the_fault_of_the_file(aps_u):
    path = aps_u()
    process._dismiss()
    before = set(children())
    with open_catalog(path) as catalog:
        out = np.empty((12, 12), np.float32)
        catalog.read_map(0, slice(0, 12), out)
        (busy,) = set(children()) - before
        os.kill(busy, signal.SIGKILL)
        with pytest.raises(ExecutionError, match="was killed, as a machine out of memory does"):
            catalog.read_map(1, slice(0, 12), out)
    load(path, q=0.004)
    os.kill(idle(), signal.SIGKILL)
    os.waitid(os.P_PID, idle(), os.WEXITED | os.WNOWAIT)
    load(path, q=0.004)


def children():
    """Processes that this one has started."""
    return [int(one) for one in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def test_an_interruption_between_request_and_answer_ends_the_process(aps_u, monkeypatch):
    path = aps_u()
    load(path, q=0.004)
    pid = idle()

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(process.Connection, "recv", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(path, q=0.004)
    monkeypatch.undo()
    assert pid not in children()
    load(path, q=0.004)


@pytest.mark.slow
def test_two_files_at_once_and_a_forked_program_have_processes_of_their_own(aps_u, npz):
    with open_catalog(aps_u()) as one, open_catalog(npz()) as other:
        assert (one.format, other.format) == ("aps-u", "npz")
    program = f"""
import os
from pathlib import Path
from homodyne.data import load
for _ in range(2):
    load({str(aps_u())!r}, q=0.004)
child = os.fork()
if child == 0:
    load({str(aps_u())!r}, q=0.004)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
load({str(aps_u())!r}, q=0.004)
print(Path(f"/proc/self/task/{{os.getpid()}}/children").read_text())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    (left,) = done.stdout.split()
    assert not Path(f"/proc/{left}").exists()


def test_names_are_those_of_the_caller(aps_u, tmp_path, monkeypatch):
    aps_u(name="here.hdf")
    load(tmp_path / "here.hdf", q=0.004)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"is not in here.hdf"):
        load("here.hdf", q=1.0)
    assert load("here.hdf", q=0.004).source["path"] == "here.hdf"


def test_a_file_that_is_cut_while_it_is_read(tmp_path):
    np.save(tmp_path / "cube.npy", np.ones((2, 1000, 1000), np.float64))
    with open_catalog(tmp_path / "cube.npy") as catalog:
        os.truncate(tmp_path / "cube.npy", 4096)
        with pytest.raises(DataError, match=r"cube.npy cannot be read; .* it was cut while it was read \(SIGBUS\)"):
            catalog.read_map(1, slice(0, 1000), np.empty((1000, 1000), np.float32))


@pytest.mark.slow
def test_the_program_does_not_die_without_a_word_when_a_mapped_file_is_cut(tmp_path):
    program = """
import os, sys
import numpy as np
import homodyne.data
from homodyne.cli import program

def cut(path, **given):
    mapped = np.memmap(path, np.float32, "r")
    os.truncate(path, 0)
    return mapped.sum()

homodyne.data.describe = cut
sys.exit(program.run(["inspect", "cube"]))
"""
    (tmp_path / "cube").write_bytes(bytes(MEBIBYTE))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == -signal.SIGBUS
    assert "Bus error" in done.stderr
    assert "in cut" in done.stderr
