"""Executors as backends: a lost worker costs its shard one attempt and nobody else anything."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from running import options, outcome, task

from homodyne.errors import InputError
from homodyne.optimization.cmc.backends import BACKENDS
from homodyne.optimization.cmc.backends.executor import ExecutorBackend
from homodyne.optimization.cmc.backends.pools import require

HERE = Path(__file__).parent
KINDS = ("executor", "dask", "parsl", "ray")


@contextmanager
def killer(folder, *names):
    """Kill every process that writes its number into one of these files, as soon as it does."""
    done, killed = threading.Event(), set()

    def watch():
        while not done.wait(0.02):
            for path in filter(Path.exists, (folder / name for name in names)):
                number = int(path.read_text())
                if (path, number) not in killed:
                    killed.add((path, number))
                    os.kill(number, signal.SIGKILL)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_worker_costs_one_attempt_and_the_next_run_works(kind, tmp_path):
    tasks = [task(0, payload=bytes(500_000)), task(1, "first hang", tmp_path), task(2), task(3, "hang", tmp_path)]
    with BACKENDS[kind](options()) as backend, killer(tmp_path, "1-0.pid", "3-0.pid", "3-1.pid"):
        results, failures = outcome(backend, tasks)
        assert {shard_id: result["attempt"] for shard_id, result in results.items()} == {0: 0, 1: 1, 2: 0}
        assert len(results[0]["payload"]) == 500_000
        assert [(failure.shard_id, failure.attempts) for failure in failures] == [(3, 2)]
        assert failures[0].reason.startswith("the worker was lost (")
        results, failures = outcome(backend, [task(4)])
        assert (list(results), failures) == ([4], [])


def test_a_pool_that_died_when_it_was_idle_is_made_again():
    with BACKENDS["executor"](options(num_workers=1)) as backend:
        first, _ = outcome(backend, [task(0)])
        os.kill(first[0]["pid"], signal.SIGKILL)
        second, failures = outcome(backend, [task(1)])
    assert failures == []
    assert second[1]["pid"] != first[0]["pid"]


def test_any_executor_will_do_and_one_of_the_callers_stays_open():
    with ThreadPoolExecutor(2) as own:
        backend = ExecutorBackend(lambda: nullcontext(own), options())
        seen = []
        results, failures = outcome(backend, [task(0), task(1, "diverge")], lambda *event: seen.append(event))
        assert own.submit(len, "open").result() == 4
    assert results[0]["pid"] == os.getpid()
    assert failures[0].reason == "shard 1 diverges"
    assert seen == [("shards", 1, 2), ("shards", 2, 2)]
    assert backend.get_backend_name() == "executor"


class Frail(Executor):
    """Runs what it is given, and breaks as a whole at one shard."""

    def __init__(self, at):
        self.at, self.calls, self.open = at, [], []

    def submit(self, function, setup, message):
        import pickle

        number = pickle.loads(message).shard_id
        self.calls.append(number)
        future = Future()
        self.open.append((future, function, setup, message))
        if number == self.at:
            for waiting, *_ in self.open:
                waiting.set_exception(BrokenExecutor("broken"))
            self.at = None if self.calls.count(number) == 2 else self.at
            self.open.clear()
        elif len(self.calls) > 4:
            self.open.pop()
            future.set_result(function(setup, message))
        return future


def test_whose_fault_a_broken_pool_is_is_found_out_one_by_one():
    frail = Frail(at=2)
    backend = ExecutorBackend(lambda: nullcontext(frail), options(max_attempts=2), in_flight=4)
    results, failures = outcome(backend, [task(shard_id) for shard_id in range(5)])
    assert failures == []
    assert {shard_id: result["attempt"] for shard_id, result in results.items()} == {0: 0, 1: 0, 2: 1, 3: 0, 4: 0}
    assert frail.calls[:4] == [0, 1, 2, 3]


def test_what_is_missing_is_named_with_the_command_that_installs_it():
    with pytest.raises(InputError, match=r"needs the package no_such_thing, .* pip install 'homodyne\[dask\]'"):
        require("no_such_thing", "dask")
    code = """
import sys
sys.modules.update(dask=None, parsl=None, ray=None)
from homodyne.errors import InputError
from homodyne.optimization.cmc.backends import BACKENDS, BackendOptions
for kind in ("dask", "parsl", "ray"):
    try:
        BACKENDS[kind](BackendOptions())
    except InputError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [
        f"pip install 'homodyne[{kind}]'" in line
        for kind, line in zip(("dask", "parsl", "ray"), done.stdout.splitlines(), strict=True)
    ] == [True] * 3


def test_no_time_limit_is_promised(caplog):
    BACKENDS["executor"](options(timeout=5.0))
    assert "cannot keep a time limit" in caplog.text


def test_tasks_that_cannot_be_sent_are_refused():
    with pytest.raises(InputError, match="cannot be sent to worker processes"):
        outcome(BACKENDS["executor"](options()), [task(0, payload=lambda: 0)])
