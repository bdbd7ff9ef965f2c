"""Shards as jobs, on a real Slurm and on the double of PBS: the draws of an undisturbed run, whatever goes wrong."""

import logging
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from running import outcome, until

from homodyne import load_result
from homodyne.cli.program import run as homodyne
from homodyne.config.schema import JobsConfig
from homodyne.errors import ExecutionError
from homodyne.optimization.cmc import sample_consensus
from homodyne.optimization.cmc.backends import BACKENDS
from homodyne.optimization.cmc.backends.arrays import Pace
from homodyne.optimization.cmc.backends.base import BackendOptions, SequentialBackend
from homodyne.optimization.cmc.backends.jobs import FORGOTTEN, recorded
from homodyne.optimization.cmc.store.shards import Manifest, ShardStore
from homodyne.optimization.cmc.types import Initialization, ShardTask
from homodyne.optimization.nuts import NutsSettings

HERE = Path(__file__).parent
SLURM = HERE / "slurm.sh"
PACE = Pace(first=0.2, longest=0.5, command=20.0, file_delay=0.5)
CANCEL = {"slurm": ("scancel", "{0}_{1}"), "pbs": ("qdel", "{0}[{1}]"), "torque": ("qdel", "{0}[{1}]")}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(HERE)


def jobs(**changes):
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "XLA_FLAGS")
    environment = {
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "optimization" / "cmc")]),
        **{name: os.environ[name] for name in names},
    }
    return JobsConfig(**({"environment": environment, "memory_gb": 0.7, "walltime": "00:10:00"} | changes))


def backend_of(scheduler, **changes):
    settings = {"run": "faulty_shards:run", "early_stop": 0, "jobs": jobs(), "num_workers": 1} | changes
    backend = BACKENDS[scheduler.name](BackendOptions(**settings))
    backend.pace = PACE
    return backend


def store_of(folder, count=8):
    from faulty_shards import MODEL, REFERENCE, data

    rows = data(50 * count)
    manifest = Manifest("d", REFERENCE, {}, MODEL.names, (50,) * count, 1, setup={"model": REFERENCE})
    store = ShardStore.create(folder, manifest)
    for shard_id in range(count):
        part = slice(50 * shard_id, 50 * shard_id + 50)
        store.write_shard(shard_id, {name: values[part] for name, values in rows.items()})
    store.finish_setup()
    return store


def tasks_of(store, points=None):
    from faulty_shards import MODEL

    settings = NutsSettings(num_warmup=20, num_samples=50, num_chains=2)
    start = Initialization(np.array([1.0, 0.5]), np.eye(2) / 50.0, "nlsq")
    count = store.manifest.num_shards
    return [
        ShardTask(shard_id, MODEL, store.shard_path(shard_id), 1 / count, settings, start, 1, points)
        for shard_id in range(count)
    ]


def same(tasks, results, missing=()):
    """Whether draws are those of one shard after the other in this process."""
    alone, _ = outcome(SequentialBackend(), [task for task in tasks if task.shard_id not in missing])
    assert alone.keys() == results.keys()
    return all(np.array_equal(alone[shard_id].samples, results[shard_id].samples) for shard_id in alone)


FAULTS = {0: "leave", 1: "die", 3: "hang", 4: "spoil", 5: "always leave"}
TOLD = {0: "ended with exit code 7", 1: "was killed by signal 9", 4: "without a valid result"}
CANCELLED = {"slurm": "was cancelled", "pbs": "was terminated: cancelled", "torque": "was killed by signal 9"}


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"], indirect=True)
def test_what_goes_wrong_is_named_and_costs_no_other_draws(scheduler, tmp_path, caplog):
    store = store_of(tmp_path / "store")
    faults = FAULTS | ({2: "eat", 6: "hang"} if scheduler.name == "slurm" else {})
    for shard_id, fault in faults.items():
        (store.path / f"fault-{shard_id}").write_text(fault)

    def end_two():
        until(lambda: (store.path / "hangs-3").exists())
        command, name = CANCEL[scheduler.name]
        job = recorded(store.path)[0].job.partition("[")[0]
        scheduler.call(command, name.format(job, 3))
        if 6 in faults:  # as if its wall time, of a minute at least, were over; Slurm looks every 30 s
            until(lambda: (store.path / "hangs-6").exists())
            scheduler.call("scontrol", "update", f"JobId={job}_6", "EndTime=now")

    canceller = threading.Thread(target=end_two)
    canceller.start()
    tasks = tasks_of(store)
    with caplog.at_level(logging.INFO, "homodyne"):
        results, failures = outcome(backend_of(scheduler), tasks)
    canceller.join()
    assert [(failure.shard_id, failure.attempts) for failure in failures] == [(5, 2)]
    assert "ended with exit code 7" in failures[0].reason
    told = (
        TOLD
        | {3: CANCELLED[scheduler.name]}
        | ({2: "out of memory", 6: "reached its time limit"} if 2 in faults else {})
    )
    for shard_id, words in told.items():
        assert any(f"shard {shard_id} is tried again" in text and words in text for text in caplog.messages), shard_id
    assert same(tasks, results, missing=[5])
    assert not same([replace(task, seed=2) for task in tasks], results, missing=[5])  # planted: another seed
    assert {shard_id: result.attempts for shard_id, result in results.items()} == {
        shard_id: 2 if shard_id in told else 1 for shard_id in results
    }
    assert store.pending() == [5]
    again, failures = outcome(backend_of(scheduler, max_attempts=1), [task for task in tasks if task.shard_id < 5])
    assert (len(again), failures) == (5, [])
    assert sum(len(job.elements) for job in recorded(store.path)) == 8 + len(faults)  # nothing finished runs again


@pytest.mark.parametrize("scheduler", ["pbs"], indirect=True)
def test_openpbs_without_history_as_it_was_seen(scheduler, tmp_path, caplog):
    """`qstat -x` says nothing, `qstat` the exit code of another element: nothing is sent twice, or told wrongly."""
    scheduler.keep_history(False)
    store = store_of(tmp_path / "store", 4)
    for shard_id, fault in {0: "die", 1: "hang"}.items():
        (store.path / f"fault-{shard_id}").write_text(fault)

    def delete():
        until(lambda: (store.path / "hangs-1").exists())
        scheduler.call("qdel", recorded(store.path)[0].job.replace("[]", "[1]"))

    helper = threading.Thread(target=delete)
    helper.start()
    try:
        with caplog.at_level(logging.INFO, "homodyne"):
            results, failures = outcome(backend_of(scheduler), tasks_of(store))
    finally:
        helper.join()
        scheduler.keep_history(True)
    assert failures == []
    assert {k: result.attempts for k, result in results.items()} == {0: 2, 1: 2, 2: 1, 3: 1}
    assert sum(len(job.elements) for job in recorded(store.path)) == 6  # two once more, nothing twice
    again = [text for text in caplog.messages if "is tried again" in text]
    assert [any(known in text for known in ("keeps no exit codes", FORGOTTEN)) for text in again] == [True, True]


def test_a_scheduler_passes_the_suite_of_all_backends(scheduler, tmp_path):
    """The worker of one shard is killed at its first attempt, which changes no draw; failures are told alike."""
    from homodyne.testing import regression as jax_shards
    from homodyne.testing.backends import Run, compare, make_tasks

    tasks = make_tasks(tmp_path)
    backend = backend_of(scheduler, run="homodyne.testing.regression:run_killed_once")
    compare(Run(backend, tasks), Run(SequentialBackend(), tasks), [jax_shards.KILLED])


def test_statistics_are_those_of_this_process(scheduler, tmp_path):
    store = store_of(tmp_path / "store", 2)
    tasks = tasks_of(store, np.random.default_rng(1).normal(size=(5, 2)))
    alone, _ = outcome(SequentialBackend(), tasks)
    results, failures = outcome(backend_of(scheduler, jobs=jobs(evaluate_in_jobs=True)), tasks)
    assert failures == []
    assert all(np.array_equal(alone[shard_id], results[shard_id]) for shard_id in (0, 1))
    assert recorded(store.path)[0].job
    assert list((store.path / "rounds").iterdir()) == []  # handed over


def test_status_and_cancel_of_a_run_that_somebody_else_has_started(scheduler, tmp_path, capsys):
    store = store_of(tmp_path / "store", 4)
    for shard_id in (1, 2, 3):
        (store.path / f"fault-{shard_id}").write_text("hang")
    found = []
    runner = threading.Thread(target=lambda: found.append(outcome(backend_of(scheduler), tasks_of(store))))
    runner.start()
    until(lambda: len(list(store.path.glob("hangs-*"))) == 2 and len(store.pending()) == 3)
    job = recorded(store.path)[0].job
    assert homodyne(["status", str(store.path)]) == 0
    said = capsys.readouterr().out
    assert "4: 1 done, 3 without a result" in said
    assert f"job        {job} ({scheduler.name}, sampling): 1 queued, 2 running, 1 ended" in said
    assert homodyne(["cancel", str(store.path)]) == 0
    assert f"cancelled job {job}" in capsys.readouterr().out
    runner.join()
    (results, failures), *_ = found
    assert list(results) == [0]
    assert {failure.reason for failure in failures} == {f"job {job} was cancelled by homodyne cancel"}
    assert homodyne(["cancel", str(store.path)]) == 0
    assert "no job is running" in capsys.readouterr().out
    assert homodyne(["status", str(store.path)]) == 0
    assert "4 ended, cancelled" in capsys.readouterr().out


@pytest.mark.parametrize("scheduler", ["pbs"], indirect=True)
def test_a_straggler_is_named(scheduler, tmp_path, caplog):
    store = store_of(tmp_path / "store", 2)
    (store.path / "fault-1").write_text("wait")

    def go_on():
        until(lambda: any("shard 1 has been running for" in text for text in caplog.messages))
        (store.path / "go").touch()

    watcher = threading.Thread(target=go_on)
    watcher.start()
    results, failures = outcome(backend_of(scheduler, straggler=0.2), tasks_of(store))
    watcher.join()
    assert failures == []
    assert {result.attempts for result in results.values()} == {1}  # named, not run a second time


COORDINATOR = """
import sys
sys.path[:0] = {paths!r}
from types import SimpleNamespace
from test_jobs import backend_of, tasks_of
from homodyne.optimization.cmc.store.shards import ShardStore
store = ShardStore.open(sys.argv[1])
with store.lock():
    pending = set(store.pending())
    backend = backend_of(SimpleNamespace(name=sys.argv[2]))
    print(backend.run([task for task in tasks_of(store) if task.shard_id in pending], on_result=lambda *outcome: None))
"""


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"], indirect=True)
def test_a_killed_coordinator_loses_nothing(scheduler, tmp_path):
    store = store_of(tmp_path / "store", 4)
    for shard_id in (1, 2):
        (store.path / f"fault-{shard_id}").write_text("wait")
    program = tmp_path / "program.py"
    program.write_text(COORDINATOR.format(paths=[str(HERE), str(HERE.parent / "optimization" / "cmc")]))
    command = [sys.executable, program, store.path, scheduler.name]
    with subprocess.Popen(command) as first:
        try:
            until(lambda: len(list(store.path.glob("hangs-*"))) == 2 and len(store.pending()) == 3)
        finally:
            first.kill()
    round_file = store.path / "rounds" / "sampling" / "task.json"
    before = round_file.stat().st_mtime_ns
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second:
        until(lambda: round_file.stat().st_mtime_ns > before)
        (store.path / "go").touch()
        said, _ = second.communicate()
    assert said == "[]\n"
    assert len(recorded(store.path)) == 1  # the second has taken over the job of the first
    assert same(tasks_of(store), {result.shard_id: result for result in store.results()})


def test_a_controller_that_is_away_for_a_while(slurm, tmp_path, caplog):
    """A shard that fails meanwhile is tried again when it is back, one that succeeds is taken at once."""
    store = store_of(tmp_path / "store", 3)
    (store.path / "fault-1").write_text("wait")
    (store.path / "fault-2").write_text("wait and leave")
    found = []
    runner = threading.Thread(target=lambda: found.append(outcome(backend_of(slurm), tasks_of(store))))
    runner.start()
    until(lambda: len(list(store.path.glob("hangs-*"))) == 2)
    subprocess.run([SLURM, "controller-stop", slurm.folder], check=True)
    (store.path / "go").touch()
    until(lambda: store.pending() == [2])
    until(lambda: any("slurm is asked again" in text for text in caplog.messages))
    subprocess.run([SLURM, "controller-start", slurm.folder], check=True)
    runner.join()
    (results, failures), *_ = found
    assert failures == []
    assert same(tasks_of(store), results)
    assert [len(job.elements) for job in recorded(store.path)] == [3, 1]


@pytest.mark.parametrize("requeue", [False, True])
def test_a_node_that_dies_costs_its_shard_one_attempt(requeue, slurm, tmp_path, caplog):
    """Its daemons and its job are killed; the controller is told what it would find out itself in five minutes.

    Slurm starts the job again elsewhere by itself where a site allows that, otherwise the coordinator does.
    """
    store = store_of(tmp_path / "store", 2)
    (store.path / "fault-1").write_text("hang")
    directives = ["--requeue" if requeue else "--no-requeue"]
    found = []
    caplog.set_level(logging.INFO, "homodyne")
    backend = backend_of(slurm, jobs=jobs(directives=directives))
    runner = threading.Thread(target=lambda: found.append(outcome(backend, tasks_of(store))))
    runner.start()
    until((store.path / "hangs-1").exists)
    name = f"{recorded(store.path)[0].job}_1"
    node = slurm.call("squeue", "-h", "-j", name, "-o", "%N").strip()
    worker = worker_on(store, 1)
    step = worker.parent()
    subprocess.run([SLURM, "node-kill", slurm.folder, node], check=True)
    step.kill()
    worker.kill()
    slurm.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=dead")
    if requeue:  # it would wait for two minutes
        until(lambda: "PENDING" in slurm.call("squeue", "-h", "-j", name, "-o", "%T"))
        slurm.call("scontrol", "update", f"JobId={name}", "StartTime=now")
    runner.join()
    subprocess.run([SLURM, "node-start", slurm.folder, node], check=True)
    until(lambda: "idle" in slurm.call("sinfo", "-h", "-n", node, "-o", "%T"))
    (results, failures), *_ = found
    assert failures == []
    assert same(tasks_of(store), results)
    assert [len(job.elements) for job in recorded(store.path)] == ([2] if requeue else [2, 1])
    assert requeue or any("its node failed" in text for text in caplog.messages)


def worker_on(store, shard_id):
    """The process that works on a shard."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command[2:6] == ["homodyne", "worker", str(store.path), str(shard_id)]:
            return process
    pytest.fail("nobody works on the shard")


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"], indirect=True)
def test_submissions_that_are_refused_end_the_run_with_the_reason(scheduler, tmp_path):
    backend = backend_of(scheduler, jobs=jobs(queue="absent"))
    with pytest.raises(ExecutionError, match=r"sbatch failed.*invalid partition|qsub failed.*: qsub: Unknown queue"):
        outcome(backend, tasks_of(store_of(tmp_path / "store", 2)))


def test_a_model_given_by_its_name(slurm, tmp_path):
    from faulty_shards import REFERENCE, data

    found = [
        sample_consensus(
            REFERENCE, data(), num_shards=2, seed=1, backend=name, store=tmp_path / name,
            options=BackendOptions(num_workers=1, jobs=jobs()),
        )
        for name in ("sequential", "slurm")
    ]  # fmt: skip
    assert found[0].verdict != "REFUSED"
    assert all(np.array_equal(found[0].samples[name], found[1].samples[name]) for name in ("level", "slope"))
    assert [len(job.elements) for job in recorded(tmp_path / "slurm")] == [2]


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"], indirect=True)
def test_a_fit_on_a_scheduler_is_the_fit_on_this_machine(scheduler, file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    changes = ["sharding.num_shards=2", "escalate=false", "validation.strict=false", "backend.jobs.memory_gb=1"]
    changes += [f"per_shard_mcmc.{few}" for few in ("num_warmup=50", "num_samples=100", "num_chains=2")]
    common = ["fit", str(file), "--method", "cmc", "--mode", "static", "--no-figures", "--no-report"]
    common += ["optimization.nlsq.num_candidates=200", "optimization.nlsq.num_starts=3"]
    common += [f"optimization.cmc.{change}" for change in changes]
    for name in ("sequential", scheduler.name):
        place = [f"optimization.cmc.backend.name={name}", "--output", name]
        assert homodyne([*common, *place]) in (0, 3), capsys.readouterr().err
    first, second = (load_result(f"{name}/result.nc") for name in ("sequential", scheduler.name))
    assert first.samples.keys() == second.samples.keys()
    assert all(np.array_equal(first.samples[name], second.samples[name]) for name in first.samples)
    assert len(recorded(Path(f"{scheduler.name}.store"))) == 1
