"""Executors as backends: a lost worker costs its shard one attempt and nobody else anything."""

import math
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
from running import options, outcome, task, until

from homodyne.errors import InputError
from homodyne.optimization.cmc.backends import BACKENDS
from homodyne.optimization.cmc.backends.base import Agenda
from homodyne.optimization.cmc.backends.child import Failed
from homodyne.optimization.cmc.backends.executor import ClusterExecutor, ExecutorBackend, _Workers
from homodyne.optimization.cmc.backends.pools import require

pytestmark = pytest.mark.slow

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
                    with suppress(ProcessLookupError):  # the pool has ended it together with another
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
        lost = "the worker process was killed by signal 9" if kind == "parsl" else "the worker was lost ("
        assert failures[0].reason.startswith(lost)
        results, failures = outcome(backend, [task(4)])
        assert (list(results), failures) == ([4], [])


def test_work_beside_a_worker_leaves_it_alone_when_it_is_killed():
    def pool():
        return ProcessPoolExecutor(1, get_context("spawn"))

    with ExecutorBackend(pool, options(), beside=True) as backend:
        results, failures = outcome(backend, [task(0), task(1), task(2, "die"), task(3)])
    assert [(failure.shard_id, failure.attempts) for failure in failures] == [(2, 2)]
    assert failures[0].reason.startswith("the worker process was killed by signal 9")
    assert results[0]["pid"] == results[1]["pid"] != results[3]["pid"]  # kept for the next task while it lives
    assert len({result["parent"] for result in results.values()} - {os.getpid()}) == 1


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


def test_a_worker_that_somebody_else_has_started_keeps_to_one_thread(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"):
        monkeypatch.delenv(name, raising=False)
    backend = ExecutorBackend(lambda: ProcessPoolExecutor(1, get_context("spawn")), options(run="fake_shards:look"))
    results, _ = outcome(backend, [task(0)])
    assert results[0]["environ"]["OMP_NUM_THREADS"] == results[0]["environ"]["OPENBLAS_NUM_THREADS"] == "1"
    assert results[0]["environ"]["NPROC"] == str(min(2, len(os.sched_getaffinity(0))))  # as here: the same sums


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


def test_dask_asks_for_no_port_of_its_own():
    """8787, the usual one, belongs to another cluster of the machine."""
    with socket.socket() as other:
        with suppress(OSError):  # taken already: as good
            other.bind(("127.0.0.1", 8787))
            other.listen()
        results, failures = outcome(BACKENDS["dask"](options()), [task(0)])
        assert (list(results), failures) == ([0], [])


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_that_takes_too_long_is_ended(kind, tmp_path):
    tasks = [task(0, payload=b"x"), task(1, "hang in compiled code", tmp_path), task(2, "refuse")]
    results, failures = outcome(BACKENDS[kind](options(timeout=2.0, max_attempts=1)), tasks)
    assert results.get(0, {"payload": b"x"})["payload"] == b"x"  # may be too slow on a machine that is busy
    told = {failure.shard_id: failure.reason for failure in failures}
    assert told[1] == "took longer than the timeout of 2 s; the worker process was killed"
    assert told[2] in ("the model has no parameters", told[1])
    number = int((tmp_path / "1-0.pid").read_text()) if (tmp_path / "1-0.pid").exists() else 0
    assert number == 0 or not Path(f"/proc/{number}").exists()


def test_within_its_time_limit_a_shard_gives_what_it_gives_without():
    results, failures = outcome(BACKENDS["executor"](options(timeout=600.0)), [task(0, "refuse"), task(1)])
    assert failures[0].reason == "the model has no parameters"
    assert (failures[0].attempts, results[1]["shard"]) == (1, 1)


@pytest.mark.parametrize("kind", ["executor", "multiprocessing"])
def test_a_straggler_is_named(kind, tmp_path, caplog):
    def go_on():
        until(lambda: any("shard 3 has been running for" in text for text in caplog.messages))
        (tmp_path / "go").touch()

    watcher = threading.Thread(target=go_on)
    watcher.start()
    tasks = [task(0), task(1), task(2), task(3, "wait", tmp_path)]
    results, failures = outcome(BACKENDS[kind](options(straggler=0.2)), tasks)
    watcher.join()
    assert failures == []
    assert {result["attempt"] for result in results.values()} == {0}


class Swallowing(ThreadPoolExecutor):
    """Loses the first answer of one shard, as Parsl does when a worker is killed at the instant of handing it over."""

    swallowed = None

    def submit(self, work, setup, message):
        import pickle

        if pickle.loads(message).shard_id == 1 and self.swallowed is None:
            self.swallowed = Future()
            return self.swallowed
        return super().submit(work, setup, message)


@pytest.mark.parametrize("count", [1, 3])
def test_an_answer_that_is_lost_on_its_way_is_worked_out_again(count):
    """Also when there is no other shard whose time would tell that it is late."""
    tasks = [task(1), task(0), task(2)][:count]
    with Swallowing(2) as own:
        backend = ExecutorBackend(lambda: nullcontext(own), options(straggler=0.1))
        results, failures = outcome(backend, tasks)
        assert own.swallowed.cancelled()
    assert failures == []
    assert {shard_id: result["attempt"] for shard_id, result in results.items()} == {each.shard_id: 0 for each in tasks}


def test_work_that_fails_after_its_first_answer_was_lost_has_failed():
    with Swallowing(2) as own:
        backend = ExecutorBackend(lambda: nullcontext(own), options(straggler=0.1, max_attempts=1))
        results, failures = outcome(backend, [task(1, "refuse")])
    assert (results, failures[0].reason) == ({}, "the model has no parameters")


def test_who_is_a_straggler():
    """By a clock of its own: three medians and the least time, told once for each attempt."""
    now = [0.0]
    tasks = [task(k) for k in range(4)]
    agenda = Agenda(tasks, lambda *_: None, None, options(straggler=10.0), lambda: now[0])
    first, second, third, last = (agenda.take() for _ in tasks)
    assert agenda.note_begun(last)
    assert not agenda.note_begun(last)
    now[0] = 100.0
    assert agenda.stragglers() == []  # nothing to compare it with
    for each in (first, second, third):
        agenda.note_begun(each)
        now[0] += 40.0
        agenda.finish(each, "result")
    assert now[0] == 220.0
    assert agenda.stragglers() == [last]  # after 220 s, of 40 s in the middle
    assert agenda.stragglers() == []
    agenda.finish(last, Failed("lost"))
    again = agenda.take()
    agenda.note_begun(again)
    now[0] += 119.0
    assert agenda.stragglers() == []
    now[0] += 2.0
    assert agenda.stragglers() == [again]


def test_what_is_slow_is_said_long_before_it_is_run_a_second_time(caplog):
    now = [0.0]
    agenda = Agenda([task(0), task(1)], lambda *_: None, None, options(straggler=300.0), lambda: now[0])
    first, last = agenda.take(), agenda.take()
    agenda.note_begun(first), agenda.note_begun(last)
    now[0] = 5.0
    agenda.finish(first, "result")
    now[0] = 29.0
    assert agenda.stragglers() == []
    assert caplog.messages == []
    now[0] = 31.0
    assert agenda.stragglers() == agenda.stragglers() == []
    assert caplog.messages == ["shard 1 has been running for 31 s, the median of the 1 finished shards is 5 s"]
    now[0] = 301.0
    assert agenda.stragglers() == [last]
    assert agenda.stragglers() == []
    assert len(caplog.messages) == 1


def test_tasks_that_may_take_any_time_are_no_stragglers(caplog):
    now = [0.0]
    agenda = Agenda([task(0), task(1)], lambda *_: None, None, options(straggler=math.inf), lambda: now[0])
    first, last = agenda.take(), agenda.take()
    agenda.note_begun(first), agenda.note_begun(last)
    now[0] = 5.0
    agenda.finish(first, "result")
    now[0] = 1e6
    assert (agenda.stragglers(), caplog.messages) == ([], [])


@pytest.mark.parametrize("come", [None, "result", Failed("lost")])
def test_workers_of_which_nothing_comes_are_named_once(come, caplog):
    now = [0.0]
    agenda = Agenda([task(0), task(1)], lambda *_: None, None, options(silence=300.0), lambda: now[0])
    agenda.warn_of_silence()
    first, _ = agenda.take(), agenda.take()
    now[0] = 149.0
    agenda.warn_of_silence()
    if come is not None:
        agenda.finish(first, come)
    assert [text for text in caplog.messages if "come back" in text] == []
    for now[0] in (151.0, 400.0):
        agenda.warn_of_silence()
    said = [text for text in caplog.messages if "no shard has come back for 151 s" in text]
    assert len(said) == (come is None)


def test_a_pool_without_workers_is_named(caplog):
    """Such as a cluster that waits for nodes."""
    waiting = ThreadPoolExecutor(1)
    blocked = threading.Event()
    waiting.submit(blocked.wait)

    def go_on():
        until(lambda: any("no shard has come back" in text for text in caplog.messages))
        blocked.set()

    watcher = threading.Thread(target=go_on)
    watcher.start()
    with waiting:
        results, failures = outcome(ExecutorBackend(lambda: nullcontext(waiting), options(silence=0.1)), [task(0)])
    watcher.join()
    assert (list(results), failures) == ([0], [])


class Cluster(ClusterExecutor):
    """A cluster with a number of workers, or an error in its place; they do what they are given at once."""

    def __init__(self, count, own=True):
        self.count, self.own = count, own

    def num_workers(self):
        if isinstance(self.count, Exception):
            raise self.count
        return self.count

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        if self.count:
            future.set_result(fn(*args, **kwargs))
        return future


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("count", [0, OSError("away")])
def test_a_cluster_without_workers_is_named_each_time(count, own, caplog):
    """A cluster of somebody else is never given up."""
    caplog.set_level("INFO", logger="homodyne")
    now, cluster = [0.0], Cluster(2, own)
    workers = _Workers("dask", lambda: now[0])

    def look(seconds):
        now[0] += seconds
        workers.lost(cluster)
        until(lambda: workers._question.done())
        return workers.lost(cluster)

    assert (look(0.0), workers.known) == (0.0, "dask has 2 workers")
    cluster.count = count
    assert [look(seconds) for seconds in (20.0, 20.0)] == [20.0 * own, 40.0 * own]
    look(20.0)
    said = "dask has no workers" if count == 0 else "dask does not answer"
    assert caplog.messages == [f"{said}, for 40 s: shards wait"]
    cluster.count = 3
    assert look(20.0) == 0.0
    cluster.count = count
    look(40.0)
    assert caplog.messages[1:] == ["dask has 3 workers again", f"{said}, for 40 s: shards wait"]


def test_an_executor_of_ones_own_that_lost_its_workers_is_replaced(caplog):
    clusters = [Cluster(0), Cluster(2)]
    backend = ExecutorBackend(lambda: nullcontext(clusters.pop(0)), options(silence=0.2))
    results, failures = outcome(backend, [task(0), task(1)])
    assert {shard_id: result["attempt"] for shard_id, result in results.items()} == {0: 0, 1: 0}
    assert (failures, clusters) == ([], [])


@pytest.mark.parametrize("kind", ["dask", "parsl", "ray"])
def test_a_cluster_tells_its_workers(kind):
    """The number that was asked for."""
    with BACKENDS[kind](options(num_workers=2)) as backend:
        outcome(backend, [task(0)])
        until(lambda: backend._executor.num_workers() == 2)


def test_the_last_shard_is_a_straggler_when_none_has_finished():
    now = [0.0]
    agenda = Agenda([task(0), task(1)], lambda *_: None, None, options(straggler=10.0, early_stop=0), lambda: now[0])
    first, last = agenda.take(), agenda.take()
    now[0] = 100.0
    assert agenda.stragglers() == []  # two that take as long as each other
    agenda.finish(first, Failed("refused", retry=False))
    assert agenda.stragglers() == [last]
    assert agenda.stragglers() == []


def test_work_that_stays_in_the_process_promises_no_time_limit(caplog):
    BACKENDS["pjit"](options(timeout=5.0))
    assert "cannot keep a time limit" in caplog.text


def test_tasks_that_cannot_be_sent_are_refused():
    with pytest.raises(InputError, match="cannot be sent to worker processes"):
        outcome(BACKENDS["executor"](options()), [task(0, payload=lambda: 0)])
