"""Backends: every task is run, a failing one is recorded, and nothing is left behind, whatever is killed."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from running import options, outcome, task, until

from homodyne.device.config import HardwareConfig
from homodyne.errors import InputError
from homodyne.optimization.cmc import backends
from homodyne.optimization.cmc.backends.base import BackendOptions, Clock, SequentialBackend
from homodyne.optimization.cmc.backends.multiprocessing import MultiprocessingBackend, worker_environment
from homodyne.optimization.cmc.backends.selection import choose_backend, select_backend
from homodyne.optimization.cmc.store.shards import ShardStore, write_arrays
from homodyne.optimization.cmc.types import Initialization, ShardTask
from homodyne.optimization.nuts import NutsSettings

HERE = Path(__file__).parent
KINDS = {"sequential": SequentialBackend, "multiprocessing": MultiprocessingBackend}


def gone(pid):
    """Whether a process has ended; one that nobody has waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def reaped(pid):
    return not Path(f"/proc/{pid}").exists()


def pids(folder):
    return {file.stem: int(file.read_text()) for file in Path(folder).glob("*.pid")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_is_run_once(kind):
    seen = []
    tasks = [task(shard_id, payload=os.urandom(shard_id * 300_000)) for shard_id in (5, 0, 3, 1)]
    results, failures = outcome(KINDS[kind](options()), tasks, lambda *report: seen.append(report))
    assert failures == []
    assert {shard_id: result["payload"] for shard_id, result in results.items()} == {
        each.shard_id: each.payload for each in tasks
    }
    assert seen == [("shards", count, 4) for count in (1, 2, 3, 4)]
    workers = {result["pid"] for result in results.values()}
    assert workers == {os.getpid()} if kind == "sequential" else os.getpid() not in workers and len(workers) <= 2
    assert kind == "sequential" or all(map(reaped, workers))


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_shard_is_recorded_and_the_others_go_on(kind):
    tasks = [
        task(0),
        task(1, "diverge"),
        task(2, "first stumble"),
        task(3, "refuse"),
        task(4, "stumble"),
        task(5, "first diverge"),
    ]
    results, failures = outcome(KINDS[kind](options()), tasks)
    assert {shard_id: result["attempt"] for shard_id, result in results.items()} == {0: 0, 2: 1, 5: 1}
    assert {shard_id: result["caution"] for shard_id, result in results.items()} == {0: 0, 2: 0, 5: 1}
    assert [(failure.shard_id, failure.attempts) for failure in failures] == [(1, 2), (3, 1), (4, 2)]
    assert failures[0].reason == "shard 1 diverges"
    assert failures[1].reason == "the model has no parameters"
    assert failures[2].reason.startswith("ZeroDivisionError: by zero (")
    assert "fake_shards.py, line " in failures[2].reason


@pytest.mark.parametrize("kind", KINDS)
def test_the_run_ends_when_the_first_shards_all_fail(kind):
    tasks = [task(shard_id, "diverge" if shard_id < 9 else "return") for shard_id in range(10)]
    results, failures = outcome(KINDS[kind](options(early_stop=3, max_attempts=1)), tasks)
    assert results == {}
    assert [failure.shard_id for failure in failures] == list(range(10))
    assert [failure.reason for failure in failures].count("not run: the first 3 shards all failed") == 7
    results, failures = outcome(KINDS[kind](options(early_stop=0, max_attempts=1)), tasks)
    assert (list(results), len(failures)) == ([9], 9)
    tasks[0] = task(0)
    results, failures = outcome(KINDS[kind](options(early_stop=1, max_attempts=1, num_workers=1)), tasks)
    assert (sorted(results), len(failures)) == ([0, 9], 8)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_caller_raises_ends_the_run(kind, tmp_path):
    def refuse(shard_id, result):
        raise OSError("disk full")

    tasks = [task(0), *(task(shard_id, folder=tmp_path) for shard_id in range(1, 4))]
    with pytest.raises(OSError, match="disk full"):
        KINDS[kind](options()).run(tasks, on_result=refuse)
    assert all(map(reaped, pids(tmp_path).values()))


@pytest.mark.parametrize("kind", KINDS)
def test_two_tasks_for_one_shard_are_refused(kind):
    with pytest.raises(InputError, match=r"two tasks for one shard: \[1, 1\]"):
        outcome(KINDS[kind](options()), [task(1), task(1)])
    assert outcome(KINDS[kind](options()), []) == ({}, [])


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_can_be_given_itself(kind):
    from fake_shards import run

    results, failures = outcome(KINDS[kind](options(run=run)), [task(0)])
    assert failures == []
    assert results[0]["shard"] == 0
    _, failures = outcome(KINDS[kind](options(run="fake_shards:nothing")), [task(0)])
    assert "has no attribute 'nothing'" in failures[0].reason


def test_draws_do_not_depend_on_the_backend():
    tasks = [task(shard_id, "first die" if shard_id == 2 else "return") for shard_id in range(4)]
    parallel, failures = outcome(MultiprocessingBackend(options(run="fake_shards:sample")), tasks)
    assert failures == []
    alone, _ = outcome(SequentialBackend(options(run="fake_shards:sample")), [task(k) for k in reversed(range(4))])
    for shard_id in range(4):
        np.testing.assert_array_equal(parallel[shard_id], alone[shard_id])


@pytest.mark.slow
def test_sampled_draws_are_the_same_bit_by_bit(tmp_path):
    from homodyne.testing import regression as jax_shards

    settings = NutsSettings(num_warmup=10, num_samples=10, num_chains=1)
    start = Initialization(np.array([0.5, 0.0]), np.diag([1e-5, 5e-6]), "identity")
    folder = write_arrays(tmp_path / "shard", jax_shards.data(0))
    sampling = ShardTask(0, jax_shards.model(), folder, 0.5, settings, start, 1)
    alone, _ = outcome(SequentialBackend(options(run="homodyne.testing.regression:sample")), [sampling])
    parallel, failures = outcome(MultiprocessingBackend(options(run="homodyne.testing.regression:sample")), [sampling])
    assert failures == []
    assert alone[0].shape == (1, 10, 2)
    np.testing.assert_array_equal(parallel[0], alone[0])


def test_a_worker_starts_clean(tmp_path):
    with open(tmp_path / "lock", "w"):
        results, _ = outcome(MultiprocessingBackend(options(run="fake_shards:look")), [task(0, threads=3)])
    seen = results[0]
    assert seen["modules"] == []
    assert seen["interrupts"]
    assert not any(str(tmp_path) in file for file in seen["files"])
    assert (
        seen["environ"]["OMP_NUM_THREADS"] == seen["environ"]["OPENBLAS_NUM_THREADS"] == seen["environ"]["NPROC"] == "3"
    )
    assert seen["environ"]["JAX_PLATFORMS"] == "cpu"
    assert os.environ.get("OMP_NUM_THREADS") != "3"


@pytest.mark.parametrize(("own", "threads", "pool"), [("1", 1, "1"), ("2", 1, "2"), ("64", 1, "2"), ("64", 5, "5")])
def test_the_pool_of_a_worker_is_single_only_where_that_of_the_parent_is(own, threads, pool, monkeypatch):
    monkeypatch.setenv("NPROC", own)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/nowhere")
    environment = worker_environment(threads)
    assert environment["NPROC"] == pool
    assert environment["OMP_NUM_THREADS"] == str(threads)
    assert environment["XLA_FLAGS"] == "--xla_dump_to=/nowhere"


def test_workers_are_kept_within_a_block():
    with MultiprocessingBackend(options(num_workers=1)) as backend:
        first, _ = outcome(backend, [task(0), task(1, "diverge")])
        second, _ = outcome(backend, [task(2)])
        assert first[0]["pid"] == second[2]["pid"]
        os.kill(first[0]["pid"], signal.SIGKILL)
        until(lambda: gone(first[0]["pid"]))
        third, failures = outcome(backend, [task(3)])
        assert failures == []
        assert third[3]["attempt"] == 0
        fourth, _ = outcome(backend, [task(4, threads=2)])
        assert len({first[0]["pid"], third[3]["pid"], fourth[4]["pid"]}) == 3
        assert reaped(third[3]["pid"])
    assert reaped(fourth[4]["pid"])


def test_a_killed_worker_costs_one_attempt(tmp_path):
    def kill():
        until(lambda: "1-0" in pids(tmp_path))
        os.kill(pids(tmp_path)["1-0"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    tasks = [task(0), task(1, "first hang", tmp_path), task(2, "die"), task(3, "leave"), task(4, "first die")]
    tasks.append(task(5, "cut", tmp_path))
    results, failures = outcome(MultiprocessingBackend(options()), tasks)
    killer.join()
    assert {shard_id: result["attempt"] for shard_id, result in results.items()} == {0: 0, 1: 1, 4: 1}
    assert results[1]["pid"] != pids(tmp_path)["1-0"]
    assert [(failure.shard_id, failure.attempts) for failure in failures] == [(2, 2), (3, 2), (5, 2)]
    assert failures[0].reason.startswith("the worker process was killed by signal 9 (SIGKILL)")
    assert failures[1].reason == "the worker process ended by itself with exit code 7"
    assert failures[2].reason.endswith("(SIGBUS), as when a file that is mapped into memory is cut while it is read")
    assert all(map(reaped, pids(tmp_path).values()))


@pytest.mark.parametrize("action", ["hang", "hang in compiled code"])
def test_a_shard_that_takes_too_long_is_ended(action, tmp_path):
    settings = options(timeout=2.0, max_attempts=2)
    results, failures = outcome(MultiprocessingBackend(settings), [task(0, action, tmp_path)])
    assert results == {}
    assert failures[0].reason == "took longer than the timeout of 2 s; the worker process was killed"
    assert failures[0].attempts == 2
    assert len(pids(tmp_path)) == 2
    assert all(map(reaped, pids(tmp_path).values()))


def test_the_second_attempt_may_be_in_time():
    results, failures = outcome(MultiprocessingBackend(options(timeout=1.0, max_attempts=9)), [task(0, "first hang")])
    assert failures == []
    assert results[0]["attempt"] >= 1


def test_a_stopped_worker_is_noticed(tmp_path):
    settings = options(silence=1.0, max_attempts=9)
    results, failures = outcome(MultiprocessingBackend(settings), [task(0, "first stop", tmp_path)])
    assert failures == []
    assert results[0]["attempt"] >= 1
    _, failures = outcome(MultiprocessingBackend(options(silence=2.0, max_attempts=1)), [task(0, "stop")])
    assert failures[0].reason == "the worker process gave no sign of life for 2 s and was killed"


def test_a_stopped_worker_that_does_not_read_its_task_blocks_nobody():
    with MultiprocessingBackend(options(num_workers=1, silence=1.0, max_attempts=9)) as backend:
        first, _ = outcome(backend, [task(0)])
        os.kill(first[0]["pid"], signal.SIGSTOP)
        second, failures = outcome(backend, [task(1, payload=bytes(5_000_000))])
    assert failures == []
    assert second[1]["attempt"] >= 1


def test_a_task_that_cannot_be_sent_is_refused():
    with pytest.raises(InputError, match="cannot be sent to worker processes.*backend 'sequential'"):
        outcome(MultiprocessingBackend(options()), [task(0, payload=lambda: 0)])


PARENT = """
import signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import numpy as np
from fake_shards import FakeTask
from homodyne.optimization.cmc.backends.base import BackendOptions
from homodyne.optimization.cmc.backends.multiprocessing import MultiprocessingBackend
from homodyne.optimization.cmc.store.shards import Manifest, ShardStore
from homodyne.optimization.cmc.types import ShardResult

def keep(shard_id, samples):
    ones = np.ones(1)
    store.write_result(ShardResult(
        shard_id, samples, ("x",), {{}}, 1, True, (), ones, ones, ones, 0, np.ones(2), 1, 1, 0.0))

if __name__ == "__main__":
    folder, actions = Path(sys.argv[1]), sys.argv[2:]
    store = ShardStore.create(folder / "store", Manifest("d", "m", {{}}, ("x",), (1,) * len(actions), 1))
    with store.lock():
        if not store.ready:
            for shard_id in range(len(actions)):
                store.write_shard(shard_id, {{"x": np.zeros(1)}})
            store.finish_setup()
        tasks = [FakeTask(shard_id, actions[shard_id], folder) for shard_id in store.pending()]
        with MultiprocessingBackend(BackendOptions(num_workers=2, run="fake_shards:sample")) as backend:
            failures = backend.run(tasks, on_result=keep)
    print([task.shard_id for task in tasks], failures)
"""


def program(folder):
    path = folder / "program.py"
    path.write_text(PARENT.format(here=str(HERE)))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("action", ["hang in compiled code", "hang unseen"])
def test_killing_the_parent_leaves_no_worker_and_loses_no_result(action, tmp_path):
    actions = ["return", "return", action, action, "return"]
    command = [sys.executable, program(tmp_path), tmp_path]
    with subprocess.Popen([*command, *actions], start_new_session=True) as parent:
        try:
            until(lambda: {"2-0", "3-0"} <= pids(tmp_path).keys() or parent.poll() is not None)
        finally:
            parent.kill()
    workers = pids(tmp_path)
    assert "4-0" not in workers
    until(lambda: all(map(gone, workers.values())))
    store = ShardStore.open(tmp_path / "store")
    assert store.pending() == [2, 3, 4]
    kept = (tmp_path / "store/results/0000.npz").read_bytes()

    again = subprocess.run([*command, *["return"] * 5], capture_output=True, text=True, check=True)
    assert again.stdout == "[2, 3, 4] []\n"
    assert "taking over" in again.stderr
    assert (tmp_path / "store/results/0000.npz").read_bytes() == kept
    for result in store.results():
        np.testing.assert_array_equal(
            result.samples, np.random.default_rng(result.shard_id).normal(size=result.samples.shape)
        )
    assert store.pending() == []


@pytest.mark.slow
def test_an_interruption_ends_everything(tmp_path):
    command = [sys.executable, program(tmp_path), tmp_path, "return", "hang in compiled code", "hang"]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as parent:
        until(lambda: {"1-0", "2-0"} <= pids(tmp_path).keys() or parent.poll() is not None)
        os.killpg(parent.pid, signal.SIGINT)
        _, errors = parent.communicate()
    assert parent.returncode == -signal.SIGINT
    assert errors.count("KeyboardInterrupt") == 1
    assert all(map(reaped, pids(tmp_path).values()))
    assert ShardStore.open(tmp_path / "store").pending() == [1, 2]


def stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


@pytest.mark.slow
def test_a_program_that_is_stopped_while_its_workers_work_goes_on(tmp_path):
    command = [sys.executable, program(tmp_path), tmp_path, "wait", "wait", "return"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        until(lambda: {"0-0", "1-0"} <= pids(tmp_path).keys() or parent.poll() is not None)
        os.kill(parent.pid, signal.SIGSTOP)
        until(lambda: stopped(parent.pid))
        (tmp_path / "go").touch()
        until(lambda: all((tmp_path / f"{k}.done").exists() for k in range(2)))
        os.kill(parent.pid, signal.SIGCONT)
        said, _ = parent.communicate()
    assert said == "[0, 1, 2] []\n"
    for result in ShardStore.open(tmp_path / "store").results():
        expected = np.random.default_rng(result.shard_id).normal(size=result.samples.shape)
        np.testing.assert_array_equal(result.samples, expected)


def test_a_clock_stands_still_while_nobody_looks():
    now = [5.0]
    clock = Clock(2.0, lambda: now[0])
    seen = []
    for step in (1.0, 1e6, 0.5):
        now[0] += step
        seen.append(clock())
    assert seen == [1.0, 3.0, 3.5]


def test_nothing_is_measured_by_the_time_of_day(monkeypatch):
    """It jumps where a machine sets its clock."""
    days = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 1e5 * next(days) * (-1) ** next(days))
    limits = options(timeout=600.0, silence=600.0, straggler=600.0)
    results, failures = outcome(MultiprocessingBackend(limits), [task(0), task(1), task(2, "first die")])
    assert (sorted(results), failures) == ([0, 1, 2], [])
    source = Path(backends.__file__).parents[3]
    assert not [file for file in source.rglob("*.py") if re.search(r"\btime\.time\(|datetime|utcnow", file.read_text())]


LIMITED = """
import os, resource, sys
sys.path.insert(0, {here!r})
import fake_shards
from homodyne.cli.program import run
from homodyne.errors import ExecutionError
from homodyne.data.readers.process import open_in_process
from homodyne.optimization.cmc.backends.base import BackendOptions
from homodyne.optimization.cmc.backends.multiprocessing import MultiprocessingBackend
import pickle, queue, homodyne.optimization.cmc.types, homodyne.device.config

if os.geteuid() == 0:
    os.setuid(65534)  # root has no limit
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
try:
    MultiprocessingBackend(BackendOptions(num_workers=2, run="fake_shards:run")).run(
        [fake_shards.FakeTask(0)], on_result=print)
except ExecutionError as error:
    print(error)
try:
    with open_in_process("a.h5", None, None):
        pass
except ExecutionError as error:
    print(error)
sys.stderr = sys.stdout
print(run(["simulate", "a.h5"]))
"""


@pytest.mark.slow
def test_where_no_process_can_be_started_a_sentence_says_so():
    done = subprocess.run([sys.executable, "-c", LIMITED.format(here=str(HERE))], capture_output=True, text=True)
    first, second, third, code = done.stdout.splitlines()
    assert first.startswith("a worker process cannot be started ([Errno 11] Resource temporarily unavailable")
    assert "raise the limit of processes (ulimit -u)" in first
    assert second.startswith("the process that reads files cannot be started: Resource temporarily unavailable")
    assert third.startswith("error: compiled code needs about ")
    assert third.endswith("raise the limit of processes (ulimit -u), or end some")
    assert (code, done.returncode, done.stderr) == ("4", 0, "")


SCRIPT = """
from dataclasses import dataclass
from homodyne.optimization.cmc.backends.base import BackendOptions
from homodyne.optimization.cmc.backends.multiprocessing import MultiprocessingBackend

@dataclass(frozen=True)
class Task:
    shard_id: int
    threads: int = 1
    attempt: int = 0
    caution: int = 0

def double(task):
    return 2 * task.shard_id

def main():
    options = BackendOptions(num_workers=1, run=double)
    failures = MultiprocessingBackend(options).run([Task(4)], on_result=print)
    print(*(failure.reason for failure in failures))

{guard}main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("guard", "as_file", "expected"),
    [
        ('if __name__ == "__main__": ', True, "4 8"),
        ("", True, "put that call under: if __name__ == '__main__'"),
        ("", False, "is defined in an interactive session"),
    ],
)
def test_a_model_that_is_defined_in_the_program(guard, as_file, expected, tmp_path):
    text = SCRIPT.format(guard=guard)
    (tmp_path / "script.py").write_text(text)
    command = [sys.executable, tmp_path / "script.py"] if as_file else [sys.executable, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True)
    assert expected in done.stdout + done.stderr


PLACES = """
from homodyne.errors import InputError
from homodyne.optimization.cmc.backends.child import encode

def above(): ...
class Above: ...
try:
    def either(): ...
except ImportError:
    pass
if __name__ == "__main__":
    def below(): ...
    class Below: ...
    def either(): ...
    for one in (above, Above(), either, below, Below(), [Below]):
        try:
            encode(one)
        except InputError as error:
            print(error)
    encode(below, stays=True)
"""


def test_what_only_the_program_itself_defines_is_not_sent(tmp_path):
    (tmp_path / "script.py").write_text(PLACES)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True)
    told = done.stdout.splitlines()
    assert [line.split("do not find ")[1].split()[0] for line in told] == ["'below'", "'Below'", "'Below'"]
    assert "define it above that line, or in a module of its own, or use the backend 'sequential'" in told[0]


def hardware(cores, **more):
    return HardwareConfig(cores, cores, 2**34, 2**34, **more)


def test_the_machine_decides():
    backend = select_backend(hardware(4), num_shards=8)
    assert backend.get_backend_name() == "multiprocessing"
    assert backend.num_workers == 4
    assert backend.reason == "multiprocessing: there are 4 cores and 8 shards"
    assert select_backend(hardware(4), "auto", options=BackendOptions(num_workers=3)).num_workers == 3
    assert select_backend(hardware(1), num_shards=8).reason == "sequential: there is one core"
    assert select_backend(hardware(4), num_shards=1).reason == "sequential: there is one shard"
    assert select_backend(hardware(4), "sequential").get_backend_name() == "sequential"
    with pytest.raises(
        InputError, match="unknown backend 'pigeon'; expected one of auto, dask, executor, multiprocessing, "
    ):
        select_backend(hardware(4), "pigeon")


@pytest.mark.parametrize(
    ("more", "how", "reason"),
    [
        ({"gpus": ("H200",)}, {"pure_jax": True}, "pjit: JAX sees H200"),
        ({"gpus": ("H200",)}, {"pure_jax": True, "num_shards": 1}, "sequential: there is one shard"),
        (
            {"gpus": ("H200",)},
            {},
            "multiprocessing: there are 4 cores; the model is computed on the host, accelerators ",
        ),
        ({"gpus": ()}, {"pure_jax": True}, "multiprocessing: there are 4 cores"),
        ({"batch_system": "slurm"}, {}, "multiprocessing: there are 4 cores; slurm is here too: ask for that backend"),
        (
            {"batch_system": "pbs", "scheduler": "pbs", "nodes": 3},
            {"num_shards": 9},
            "multiprocessing: there are 4 cores and 9 shards; "
            "the other 2 nodes of this job are idle, dask, parsl or ray",
        ),
        ({"batch_system": "pbs", "scheduler": "pbs"}, {}, "multiprocessing: there are 4 cores"),
    ],
)
def test_a_scheduler_is_suggested_and_never_taken(more, how, reason):
    name, told = choose_backend(hardware(4, **more), **how)
    assert told.startswith(reason)
    assert reason.endswith((" ", "backend", "ray")) or told == reason
    assert name == reason.split(":")[0]


def test_a_backend_can_be_added():
    with pytest.raises(InputError, match="'sequential' of a backend is taken"):
        backends.register_backend("sequential", SequentialBackend)
    with pytest.raises(InputError, match="taken"):
        backends.register_backend("auto", SequentialBackend)
    backends.register_backend("mine", SequentialBackend)
    assert isinstance(backends.find_backend("mine")(BackendOptions()), SequentialBackend)


def test_the_sequential_backend_says_that_it_keeps_no_time(caplog):
    SequentialBackend(BackendOptions(timeout=5.0))
    assert "cannot keep a time limit" in caplog.text


@pytest.mark.parametrize(
    "wrong", [{"num_workers": 0}, {"timeout": 0.0}, {"max_attempts": 0}, {"early_stop": -1}, {"silence": float("nan")}]
)
def test_wrong_options(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is"):
        BackendOptions(**wrong)
