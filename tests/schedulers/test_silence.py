"""What a scheduler does not say: nothing is sent twice, nothing is left behind, and no reason is replaced.

The scheduler is three files: what it says of jobs with their history, what it says of those that are there, and the
exit code of that. Nobody works: statistics are kept by the tests.
"""

import shlex
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from running import outcome, until

from homodyne.config.schema import JobsConfig
from homodyne.errors import ExecutionError
from homodyne.optimization.cmc.backends import arrays
from homodyne.optimization.cmc.backends.arrays import ArrayBackend, Pace, cancel
from homodyne.optimization.cmc.backends.base import BackendOptions, Clock
from homodyne.optimization.cmc.backends.child import Failed
from homodyne.optimization.cmc.backends.jobs import Job, State, recorded
from homodyne.optimization.cmc.backends.pbs import PBS
from homodyne.optimization.cmc.store.rounds import Round
from homodyne.optimization.cmc.store.shards import Manifest, ShardStore
from homodyne.optimization.cmc.types import Initialization, ShardTask
from homodyne.optimization.nuts import NutsSettings
from homodyne.registries import BACKENDS

PACE = Pace(first=0.01, longest=0.01, command=5.0, file_delay=0.05, silence=0.1, patience=30.0)
RUNNING = "".join(f"Job Id: 7[{k}].host\n    job_state = R\n" for k in range(2))
POINTS = np.zeros((2, 1))


class Scripted(PBS):
    """PBS whose commands read and write files of a folder."""

    name = "scripted"

    def __init__(self, folder):
        self.folder = folder
        self.says()
        for file in ("submitted", "cancelled", "asked"):
            (folder / file).touch()

    def says(self, history="", now="", error="", code=0):
        for file, text in {"history": history, "now": now, "error": error, "code": code}.items():
            part = self.folder / f"{file}.part"
            part.write_text(f"{text}")
            part.rename(self.folder / file)

    def lines(self, file):
        return (self.folder / file).read_text().split()

    def do(self, command):
        return ["bash", "-c", f"cd {shlex.quote(str(self.folder))}; {command}"]

    def submit_command(self, script):
        return self.do(f"echo {script.name} >> submitted; [ ! -e slow ] || exec sleep 60; echo '7[].host'")

    def find_command(self, name):
        return self.do("[ ! -e listed ] || echo '7[].host'")

    def status_commands(self, job):
        return [self.do("echo . >> asked; cat history"), self.do("cat now; cat error >&2; exit $(cat code)")]

    def cancel_command(self, job, element=None):
        name = super().cancel_command(job, element)[1]
        return self.do(
            f"echo '{name}' >> cancelled; [ ! -e over ] || {{ echo 'qdel: Job has finished' >&2; exit 35; }}"
        )


@pytest.fixture
def dialect(tmp_path):
    (tmp_path / "scheduler").mkdir()
    return Scripted(tmp_path / "scheduler")


@pytest.fixture
def backend(dialect, monkeypatch):
    def make(options=None, pace=PACE):
        return type("Backend", (ArrayBackend,), {"dialect": dialect})(options, pace)

    monkeypatch.setitem(BACKENDS, "scripted", make)
    return lambda **changes: make(BackendOptions(jobs=JobsConfig(evaluate_in_jobs=True), early_stop=0, **changes))


@pytest.fixture
def tasks(tmp_path):
    store = ShardStore.create(tmp_path / "store", Manifest("d", "m", {}, ("x",), (3, 3), 1, setup={"model": "m:M"}))
    for shard_id in range(2):
        store.write_shard(shard_id, {"y": np.arange(3.0)})
    store.finish_setup()
    start = Initialization(np.zeros(1), np.eye(1), "nlsq")
    return [ShardTask(k, None, store.shard_path(k), 0.5, NutsSettings(), start, 1, POINTS) for k in range(2)]


def store_of(tasks):
    return ShardStore.open(tasks[0].data.parent.parent)


def work_of(tasks):
    store = store_of(tasks)
    until(lambda: list((store.path / "rounds").glob("*/task.json")))
    return Round.read(store, next((store.path / "rounds").glob("*")).name)


def finish(tasks, shards=(0, 1)):
    for shard in shards:
        work_of(tasks).keep(shard, np.full((2, 3), float(shard)))


def beside(action):
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def asked(dialect, more):
    before = len(dialect.lines("asked"))
    until(lambda: len(dialect.lines("asked")) >= before + more)


def finish_later(dialect, tasks):
    """Write the results once the scheduler was asked three times more."""
    asked(dialect, 3)
    finish(tasks)


@pytest.mark.parametrize("seen", [False, True])
def test_silence_is_no_end_until_the_result_is_there(dialect, backend, tasks, seen):
    dialect.says(now=RUNNING if seen else "")

    def work():
        asked(dialect, 3)
        dialect.says()  # exit 0, nothing printed
        asked(dialect, 3)
        finish(tasks)

    helper = beside(work)
    made = backend()
    made.pace = replace(PACE, silence=30.0)
    results, failures = outcome(made, tasks)
    helper.join()
    assert (sorted(results), failures) == ([0, 1], [])
    assert dialect.lines("submitted") == ["0000.sh"]
    assert dialect.lines("cancelled") == []


def test_jobs_that_the_history_hides_are_found_among_those_that_are_there(dialect):
    """OpenPBS without history: `qstat -x` exits 0 with empty output while the job runs."""
    dialect.says(now=RUNNING)
    assert dialect.status("7[].host", 3, 5.0) == [State("running"), State("running"), State("unknown")]
    dialect.says()
    assert dialect.status("7[].host", 2, 5.0) == [State("unknown")] * 2
    dialect.says(error="qstat: Unknown Job Id 7[].host", code=153)  # that is a statement
    assert {state.phase for state in dialect.status("7[].host", 2, 5.0)} == {"ended"}
    dialect.says(history=RUNNING.replace("= R", "= F\n    Exit_status = 7"), error="nonsense", code=1)
    assert dialect.status("7[].host", 1, 5.0) == [State("ended", "ended with exit code 7")]


def test_what_was_seen_and_is_not_heard_of_is_ended_before_it_is_sent_again(dialect, backend, tasks):
    dialect.says(now=RUNNING)

    def work():
        asked(dialect, 3)
        finish(tasks, [0])
        dialect.says()
        until(lambda: dialect.lines("submitted") == ["0000.sh", "0001.sh"])
        assert dialect.lines("cancelled") == ["7[1].host"]
        finish(tasks, [1])

    helper = beside(work)
    results, failures = outcome(backend(), tasks)
    helper.join()
    assert (sorted(results), failures) == ([0, 1], [])
    assert dialect.lines("submitted") == ["0000.sh", "0001.sh"]
    assert [len(job.elements) for job in recorded(store_of(tasks).path)] == [2, 1]


ENDED = "".join(f"Job Id: 7[{k}].host\n    job_state = F\n    Exit_status = 0\n" for k in range(2))


def test_results_that_a_shared_file_system_shows_late_are_waited_for(dialect, backend, tasks):
    dialect.says(history=ENDED)
    made = backend(max_attempts=1)
    made.pace = replace(PACE, file_delay=30.0)
    helper = beside(lambda: finish_later(dialect, tasks))
    results, failures = outcome(made, tasks)
    helper.join()
    assert (sorted(results), failures) == ([0, 1], [])
    assert dialect.lines("submitted") == ["0000.sh"]


def test_results_that_never_come_have_failed_with_the_reason_of_the_scheduler(dialect, backend, tasks):
    """Planted: the end of the wait above."""
    dialect.says(history=ENDED.replace("Exit_status = 0", "Exit_status = 7"))
    _, failures = outcome(backend(max_attempts=1), tasks)
    assert ["exit code 7" in failure.reason for failure in failures] == [True, True]


def test_a_coordinator_that_was_stopped_has_not_waited_meanwhile(dialect, backend, tasks, monkeypatch):
    """Hours pass between two looks, as they do for a laptop that sleeps: no job is given up for that."""
    dialect.says(now=RUNNING)
    ahead = [0.0]
    own = time.monotonic
    made = backend()
    made.pace = replace(PACE, longest=0.5, silence=60.0, patience=60.0)
    stopping = Clock(2.0, lambda: own() + ahead[0])
    monkeypatch.setattr(arrays, "Clock", lambda most: stopping)

    def work():
        asked(dialect, 3)
        dialect.says()  # nothing is said of jobs that were seen
        asked(dialect, 3)
        ahead[0] += 1e5
        asked(dialect, 3)
        dialect.says(error="away", code=1)  # nor is the scheduler in reach
        asked(dialect, 3)
        ahead[0] += 1e5
        asked(dialect, 3)
        finish(tasks)

    helper = beside(work)
    results, failures = outcome(made, tasks)
    helper.join()
    assert (sorted(results), failures) == ([0, 1], [])
    assert dialect.lines("submitted") == ["0000.sh"]
    assert dialect.lines("cancelled") == []


def test_a_lost_answer_to_a_submission_sends_nothing_twice(dialect, backend, tasks):
    (dialect.folder / "slow").touch()
    (dialect.folder / "listed").touch()
    dialect.says(now=RUNNING)
    made = backend()
    made.pace = replace(PACE, command=0.5)

    def work():
        asked(dialect, 2)
        finish(tasks)

    helper = beside(work)
    results, _ = outcome(made, tasks)
    helper.join()
    assert sorted(results) == [0, 1]
    assert dialect.lines("submitted") == ["0000.sh"]
    assert [job.job for job in recorded(store_of(tasks).path)] == ["7[].host"]


def test_the_next_coordinator_does_not_send_again_what_may_run(dialect, backend, tasks):
    store, work = store_of(tasks), Round.write(tasks, BackendOptions().run)
    (store.path / "jobs").mkdir()
    Job(0, "scripted", "7[].host", work.name, ((0, 0, 0), (1, 0, 0)), str(store.path)).write(store.path)

    helper = beside(lambda: finish_later(dialect, tasks))
    results, failures = outcome(backend(), tasks)
    helper.join()
    assert (sorted(results), failures) == ([0, 1], [])
    assert dialect.lines("submitted") == []


def test_a_note_of_an_earlier_run_is_not_taken_for_one_of_this(dialect, backend, tasks):
    Round.write(tasks, BackendOptions().run).keep_failure(1, 0, Failed("of yesterday", retry=False))
    dialect.says(now=RUNNING)

    helper = beside(lambda: finish_later(dialect, tasks))
    _, failures = outcome(backend(), tasks)
    helper.join()
    assert failures == []


def test_a_note_of_the_worker_is_the_reason_whatever_the_scheduler_says(dialect, backend, tasks):
    dialect.says(now=RUNNING)

    def work():
        asked(dialect, 2)
        work_of(tasks).keep_failure(1, 0, Failed("no start", retry=False))
        finish(tasks, [0])

    helper = beside(work)
    results, failures = outcome(backend(), tasks)
    helper.join()
    assert list(results) == [0]
    assert [failure.reason for failure in failures] == ["no start"]


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize(("error", "ended"), [(ExecutionError("the disk is full"), True), (KeyboardInterrupt(), False)])
def test_a_run_that_fails_ends_what_it_has_sent_and_keeps_its_reason(
    dialect, backend, tasks, error, ended, over, caplog
):
    dialect.says(now=RUNNING)
    if over:
        (dialect.folder / "over").touch()  # qdel exits 35

    def refuse(shard_id, found):
        raise error

    helper = beside(lambda: (asked(dialect, 2), finish(tasks, [0])))
    with pytest.raises(type(error)) as caught:
        backend().run(tasks, on_result=refuse)
    helper.join()
    assert caught.value is error
    assert dialect.lines("cancelled") == (["7[].host"] if ended else [])
    assert any("homodyne cancel" in text for text in caplog.messages) == (not ended)
    assert not any("has finished" in text for text in caplog.messages)


def test_cancel_ends_jobs_of_which_nothing_is_said(dialect, backend, tasks):
    store = store_of(tasks)
    (store.path / "jobs").mkdir()
    job = Job(0, "scripted", "7[].host", "sampling", ((0, 0, 0), (1, 0, 0)), str(store.path)).write(store.path)
    assert cancel(store.path) == [replace(job, cancelled=True)]
    assert dialect.lines("cancelled") == ["7[].host"]
    dialect.says(error="qstat: Unknown Job Id", code=153)
    assert cancel(store.path) == []


def test_last_words_are_those_of_the_job_where_the_worker_has_none(tmp_path):
    job = Job(3, "pbs", "12[].host", "sampling", ((0, 0, 0), (1, 0, 0)), str(tmp_path))
    assert job.last_words(1) == ""
    (tmp_path / "homodyne1a2b3c.o12.1").write_text("=>> PBS: job killed: walltime 61 exceeded limit 60\n")
    assert "walltime 61 exceeded" in job.last_words(1)
    (tmp_path / "0003-1.out").write_text("bash: line 9: /store/jobs/0003-1.log: No such file or directory\n")
    assert "No such file" in job.last_words(1)
    (tmp_path / "0003-1.log").write_text("a\nb\nTraceback\n\n  in \x1b[31mline\nImportError: no jax\n")
    assert job.last_words(1) == "Traceback; in  [31mline; ImportError: no jax"
