"""``homodyne worker``, which every job runs: what it keeps, and with which code it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from homodyne.optimization.cmc.backends.base import SequentialBackend
from homodyne.optimization.cmc.store.rounds import SAMPLING, Round

HERE = Path(__file__).parent


@pytest.fixture
def work(tmp_path, monkeypatch) -> Round:
    monkeypatch.syspath_prepend(HERE)
    from test_jobs import store_of, tasks_of

    store = store_of(tmp_path / "store", 2)
    return Round.write(tasks_of(store), "faulty_shards:run")


def started(work: Round, shard_id: int, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "homodyne", "worker", work.store.path, str(shard_id), *options]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(HERE)}, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    _, said = process.communicate()
    return process.returncode, said


def test_a_result_is_kept_and_made_once(work):
    from test_jobs import tasks_of

    assert ended(started(work, 1, "--attempt", "3")) == (0, "")
    found = work.store.read_result(1)
    alone = {}
    SequentialBackend().run(tasks_of(work.store)[1:], on_result=alone.__setitem__)
    assert np.array_equal(found.samples, alone[1].samples)
    assert found.attempts == 4
    before = (work.store.path / "results" / "0001.npz").stat().st_mtime_ns
    (work.store.path / "fault-1").write_text("leave")  # would be seen if it worked again
    assert ended(started(work, 1)) == (0, "")
    assert (work.store.path / "results" / "0001.npz").stat().st_mtime_ns == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_worker_that_is_told_to_stop_ends_with_75(work, number):
    (work.store.path / "fault-0").write_text("hang")
    process = started(work, 0)
    while not (work.store.path / "hangs-0").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    assert ended(process) == (75, f"stopped by {number.name}\n")
    assert work.store.pending() == [0, 1]


def test_work_that_fails_is_noted(work):
    (work.store.path / "fault-0").write_text("refuse")
    code, said = ended(started(work, 0, "--attempt", "1"))
    assert (code, said) == (4, "error: the model has no parameters\n")
    again = Round.read(work.store, SAMPLING)
    assert not again.failure(0, 1).retry
    assert again.failure(0, 1).reason == "the model has no parameters"
    assert again.failure(0, 0) is None  # of another attempt
