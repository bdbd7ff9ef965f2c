"""What schedulers are told and what they say: scripts, quoting, recorded answers. Nothing is run but bash."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from homodyne.cli.program import run as homodyne
from homodyne.config.io import load_config
from homodyne.config.schema import JobsConfig
from homodyne.errors import ConfigError, ExecutionError, InputError
from homodyne.optimization.cmc.backends.base import BackendOptions
from homodyne.optimization.cmc.backends.jobs import Job, State, ask, job_script, recorded
from homodyne.optimization.cmc.backends.pbs import PBS, PBSBackend, Torque
from homodyne.optimization.cmc.backends.slurm import Slurm, SlurmBackend
from homodyne.optimization.cmc.store.files import write_json
from homodyne.optimization.cmc.store.rounds import Round
from homodyne.optimization.cmc.store.shards import Manifest, ShardStore
from homodyne.optimization.cmc.types import Initialization, ShardTask
from homodyne.optimization.nuts import NutsSettings

KEY = "optimization.cmc.backend.jobs"
DIALECTS = [Slurm(), PBS(), Torque()]

# Slurm 22.05 on one node, as `scontrol show job -o` has printed it; fields that nobody reads are left out.
SLURM = """\
JobId=3 ArrayJobId=3 ArrayTaskId=3-5,8%1 ArrayTaskThrottle=1 JobName=homodyne JobState=PENDING \
Reason=JobArrayTaskLimit Dependency=(null) Requeue=1 ExitCode=0:0 RunTime=00:00:00
JobId=6 ArrayJobId=3 ArrayTaskId=2 JobName=homodyne JobState=RUNNING Reason=None ExitCode=0:0 RunTime=00:00:04
JobId=5 ArrayJobId=3 ArrayTaskId=1 JobName=homodyne JobState=TIMEOUT Reason=TimeLimit Requeue=1 ExitCode=0:15
JobId=4 ArrayJobId=3 ArrayTaskId=0 JobName=homodyne JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:125
"""
SLURM_PLAIN = "JobId=1 JobName=homodyne UserId=root(0) JobState=FAILED Reason=NonZeroExitCode Restarts=0 ExitCode=7:0\n"

# OpenPBS 23.06.06 on one node, as `qstat -x -t -f` has printed elements of several jobs; most fields are left out.
PBS_PRO = """\
Job Id: 1[].pbs-tests
    job_state = B
    comment = Job Array Began at Mon Nov 30 at 15:18
    Exit_status = 0
    array_state_count = Queued:1 Running:1 Exiting:0 Expired:5
    array_indices_submitted = 0-6

Job Id: 1[0].pbs-tests
    job_state = F
    substate = 92
    Variable_List = PBS_O_HOME=/home/someone,PBS_O_LANG=C.UTF-8,
\tPBS_O_PATH=/opt/pbs/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bi
\tn:/usr/bin,PBS_O_SHELL=/bin/bash,job_state = R
    comment = Job run at Mon Nov 30 at 15:18 on (pbs-tests:ncpus=1:mem=734208kb
\t) and finished
    Exit_status = 0
    array_id = 1[].pbs-tests
    array_index = 0

Job Id: 1[1].pbs-tests
    job_state = X
    substate = 93
    comment = Job run at Mon Nov 30 at 15:18 on (pbs-tests:ncpus=1:mem=734208kb
\t) and failed
    Exit_status = 7

Job Id: 1[2].pbs-tests
    job_state = F
    substate = 93
    comment = Job run at Mon Nov 30 at 15:25 on (pbs-tests:ncpus=1:mem=734208kb
\t) and failed
    Exit_status = -29

Job Id: 1[3].pbs-tests
    job_state = F
    substate = 93
    comment = Job run at Mon Nov 30 at 15:18 on (pbs-tests:ncpus=1:mem=734208kb
\t) and failed
    Exit_status = 137

Job Id: 1[4].pbs-tests
    job_state = F
    substate = 91
    comment = Job run at Mon Nov 30 at 15:18 on (pbs-tests:ncpus=1:mem=734208kb
\t) and terminated by root@pbs-tests
    Exit_status = 0

Job Id: 1[5].pbs-tests
    job_state = R
    substate = 42
    comment = Job run at Mon Nov 30 at 15:21 on (pbs-tests:ncpus=1)

Job Id: 1[6].pbs-tests
    job_state = Q
"""

# The same without job history, by `qstat -t -f`: the exit codes of these elements were 7 and 137.
FORGETFUL = """\
Job Id: 10[].pbs-tests
    job_state = B
    substate = 70
    comment = Job Array Began at Mon Nov 30 at 15:21
    Exit_status = 0

Job Id: 10[0].pbs-tests
    job_state = X
    substate = 70
    comment = Subjob finished
    Exit_status = 0

Job Id: 10[1].pbs-tests
    job_state = X
    substate = 70
    comment = Subjob finished
    Exit_status = 0
"""

# Written after the manuals and public records of Torque 6; nobody has run this here.
TORQUE = """\
Job Id: 189[3].head.cluster
    Job_Name = homodyne-3
    job_state = C
    exit_status = -11

Job Id: 189[4].head.cluster
    job_state = H
"""


def test_answers_of_slurm():
    assert Slurm().parse_status(SLURM) == {
        **dict.fromkeys((3, 4, 5, 8), State("queued", "JobArrayTaskLimit")),
        2: State("running"),
        1: State("ended", "reached its time limit: give the jobs more (walltime), or make more shards"),
        0: State("ended", "out of memory: give the jobs more (memory_gb), or make more shards"),
    }
    assert Slurm().parse_status(SLURM_PLAIN) == {0: State("ended", "ended with exit code 7")}
    assert Slurm().parse_status("") == {}
    assert Slurm().parse_id("12\n") == Slurm().parse_id("12;cluster\n") == "12"


# Slurm 22.05 with slurmdbd, as `sacct -X -n -P -o JobID,State,ExitCode` has printed it; the last three are made up.
ACCOUNTS = """\
1_0|FAILED|7:0
1_1|FAILED|0:9
1_2|COMPLETED|0:0
1_3|OUT_OF_MEMORY|0:125
1_4|CANCELLED by 0|0:0
1_5|RUNNING|0:0
1_[6-7]|PENDING|0:0
"""


def test_accounts_of_slurm():
    """An element that they call running has ended without a trace: the controller does not know it any more."""
    assert Slurm().parse_accounts(ACCOUNTS) == {
        0: State("ended", "ended with exit code 7"),
        1: State("ended", "was killed by signal 9"),
        2: State("ended", "ended with exit code 0"),
        3: State("ended", "out of memory: give the jobs more (memory_gb), or make more shards"),
        4: State("ended", "was cancelled"),
    }
    assert Slurm().parse_accounts("1|FAILED|1:0\n") == {0: State("ended", "ended with exit code 1")}


def test_answers_of_pbs():
    found = PBS().parse_status(PBS_PRO)
    assert {index: state.phase for index, state in found.items()} == {
        **dict.fromkeys(range(5), "ended"), 5: "running", 6: "queued",
    }  # fmt: skip
    assert [found[k].reason for k in (0, 1)] == ["ended with exit code 0", "ended with exit code 7"]
    assert "time limit" in found[2].reason
    assert found[3].reason.startswith("was killed by signal 9")
    assert "was terminated" in found[4].reason
    assert "root@pbs-tests" in found[4].reason
    assert {state.reason for state in PBS().parse_status(FORGETFUL).values()} == {
        "ended; the server keeps no exit codes"
    }  # planted: the code of the whole array, which is there
    assert PBS().parse_status(PBS_PRO.replace("    Exit_status = 7\n", ""))[1].reason.endswith("keeps no exit codes")
    assert PBS().parse_status("Job Id: 7.pbs01\n    job_state = E\n") == {0: State("running")}
    killed = "Job Id: 7.pbs01\n    job_state = F\n    Exit_status = 271\n"  # of other versions
    assert "was killed by signal 15" in PBS().parse_status(killed)[0].reason
    assert PBS().parse_status(killed.replace("271", "200"))[0].reason == "ended with exit code 200"
    torque = Torque().parse_status(TORQUE)
    assert (torque[3].phase, torque[4].phase) == ("ended", "queued")
    assert "time limit" in torque[3].reason
    assert PBS().parse_id("Welcome to the cluster\n1234[].pbs01\n") == "1234[].pbs01"
    assert PBS().parse_id("77.pbs01") == "77.pbs01"


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda each: each.name)
def test_an_answer_without_a_number_is_an_error(dialect):
    with pytest.raises(ExecutionError, match="expected the number of a job"):
        dialect.parse_id("error: the queue is closed")


WRONG = {
    "account": ["x; rm -rf /", "a b", "-A", "$(id)", "`id`", "x\n#SBATCH --uid=0", ""],
    "queue": ["main&"],
    "walltime": ["1h", "00:61:00", "10", 30, "01:00:00\n", "٠١:٠٠:٠٠", "1-24", "-1-00:00:00"],
    "select": ["1:ncpus=4;id", "1 -A other", "١:ncpus=4"],
    "directives": [["--comment=$(id)"], ["rm -rf"], ["--x\n#PBS -A other"]],
    "modules": [["python; id"]],
    "environment": [{"A B": "1"}, {"X;id": "1"}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_what_would_mean_something_to_a_shell_is_refused(key, value):
    with pytest.raises(ConfigError, match=rf"{KEY}\.{key}"):
        load_config({"optimization": {"cmc": {"backend": {"jobs": {key: value}}}}})


FULL = {
    "account": "xpcs", "queue": "gpu", "walltime": "02:30:00", "cpus": 4, "memory_gb": 1.5, "gpus": 1,
    "directives": ["-l filesystems=home:eagle"], "modules": ["cray-python/3.11"], "max_running": 3,
    "environment": {"NOTE": "it's; $(touch hacked)"}, "log_directory": "my logs", "python": "/opt/a b/python",
}  # fmt: skip
HEADS = {
    "slurm": ["--array=0-9%3", "--account=xpcs", "--partition=gpu", "--time=02:30:00", "--mem=1536M", "--gres=gpu:1"],
    "pbs": ["-J 0-9%3", "-A xpcs", "-q gpu", "-l walltime=02:30:00", "-l select=1:ncpus=4:mem=1536mb:ngpus=1"],
    "torque": ["-t 0-9%3", "-A xpcs", "-q gpu", "-l nodes=1:ppn=4:gpus=1", "-l mem=1536mb"],
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda each: each.name)
def test_scripts(dialect, tmp_path, monkeypatch):
    """The script asks for what was given, and bash makes of it the command that was meant."""
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "a 'store'"
    (store / "jobs").mkdir(parents=True)
    (tmp_path / "my logs").mkdir()
    (store / "jobs" / "0002.txt").write_text("5 0 0\n7 1 0\n")
    script = job_script(dialect, JobsConfig(**FULL), store, "sampling", 2, 10)
    mark = "#SBATCH " if dialect.name == "slurm" else "#PBS "
    head = [line.removeprefix(mark) for line in script.splitlines() if line.startswith(mark)]
    assert set(HEADS[dialect.name]) <= set(head)
    assert "-l filesystems=home:eagle" in head
    assert {"slurm": "--output=/dev/null"}.get(dialect.name, "-o /dev/null") in head  # the path has a quote in it
    assert "JAX_PLATFORMS" not in script  # there is a GPU
    program = tmp_path / "python"
    program.write_text('#!/bin/bash\nprintf "%s|" "$@"\necho "$NOTE $NPROC $OMP_NUM_THREADS"\n')
    program.chmod(0o755)
    text = script.replace("'/opt/a b/python'", str(program))
    environment = {"PATH": os.environ["PATH"], dialect.array_index: "1", "BASH_FUNC_module%%": "() { echo module $*; }"}
    subprocess.run(["bash", "-c", text], env=environment, cwd="/", check=True)
    said = (tmp_path / "my logs" / "0002-1.log").read_text().splitlines()
    assert said[0] == "module load cray-python/3.11"
    told = f"-m|homodyne|worker|{store}|7|--round|sampling|--attempt|1|--caution|0|"
    assert said[1] == f"{told}it's; $(touch hacked) 4 4"
    assert not (tmp_path / "hacked").exists()
    plain = job_script(dialect, JobsConfig(), store, "sampling", 0, 1)
    assert "0-0" not in plain
    assert dialect.array_index not in plain


def test_what_scheduler_and_bash_say_has_a_file():
    outputs = Path("/store/jobs/0003")
    assert "#SBATCH --output=/store/jobs/0003-%a.out" in Slurm().directives(JobsConfig(), 4, outputs)
    assert "#SBATCH --output=/store/jobs/0003-0.out" in Slurm().directives(JobsConfig(), 1, outputs)
    assert "#PBS -o /store/jobs/0003-^array_index^.out" in PBS().directives(JobsConfig(), 4, outputs)
    assert "#PBS -o /store/jobs/" in Torque().directives(JobsConfig(), 4, outputs)


def test_what_a_scheduler_does_not_have():
    with pytest.raises(InputError, match="select is for pbs"):
        SlurmBackend(BackendOptions(jobs=JobsConfig(select="1:ncpus=3")))
    assert "#PBS -l select=2:ncpus=3" in PBS().directives(JobsConfig(select="2:ncpus=3"), 4)
    assert "#PBS -l nodes=1:ppn=36" in Torque().directives(JobsConfig(select="1:ppn=36", memory_gb=3), 4)


def test_a_time_limit_is_told_to_every_scheduler_in_one_form():
    assert JobsConfig(walltime="1-12:00:00").walltime == "36:00:00"
    assert JobsConfig(walltime="2:30:00").walltime == "02:30:00"
    assert "#SBATCH --time=36:00:00" in Slurm().directives(JobsConfig(walltime="1-12:00:00"), 2)
    with pytest.raises(ConfigError, match="walltime: 30 given, .* seconds to PBS and minutes to Slurm"):
        load_config(None, [f"{KEY}.walltime=30"])


@pytest.mark.parametrize(
    ("dialect", "select", "threads", "gpu"),
    [
        (PBS(), "1:ncpus=8:mem=16gb", 8, False),
        (PBS(), "1:ncpus=8:ngpus=2", 8, True),
        (Torque(), "1:ppn=36", 36, False),
        (Torque(), "1:ppn=4:gpus=1", 4, True),
        (PBS(), "1:mem=16gb", 3, False),
    ],
)
def test_threads_and_gpus_are_those_that_select_asks_for(dialect, select, threads, gpu, tmp_path):
    script = job_script(dialect, JobsConfig(select=select, cpus=3), tmp_path, "sampling", 0, 4)
    assert f"export OMP_NUM_THREADS={threads}\n" in script
    assert ("JAX_PLATFORMS" not in script) == gpu


def test_commands_that_fail():
    assert ask([sys.executable, "-c", "print(3)"], 60.0) == "3\n"
    with pytest.raises(ExecutionError, match="exit code 3: no such queue"):
        ask([sys.executable, "-c", "import sys; print('no such queue', file=sys.stderr); sys.exit(3)"], 60.0)
    with pytest.raises(ExecutionError, match=r"no answer within 0\.1 s"):
        ask(["sleep", "60"], 0.1)
    with pytest.raises(InputError, match="no command 'absent-sbatch' here"):
        ask(["absent-sbatch"], 60.0)


def small_store(folder: Path, setup: dict) -> ShardStore:
    store = ShardStore.create(folder, Manifest("d", "m", {}, ("x",), (3, 3), 1, setup=setup))
    for shard_id in range(2):
        store.write_shard(shard_id, {"y": np.arange(3.0)})
    store.finish_setup()
    return store


def task(data: Path, points=None) -> ShardTask:
    return ShardTask(0, None, data, 0.5, NutsSettings(), Initialization(np.zeros(1), np.eye(1), "nlsq"), 1, points)


def test_a_model_that_jobs_cannot_build_is_refused(tmp_path):
    store = small_store(tmp_path / "store", {})
    with pytest.raises(InputError, match=r"memory of this process only.*sequential, multiprocessing"):
        PBSBackend().run([task(store.shard_path(0))], on_result=print)
    (tmp_path / "loose").mkdir()
    with pytest.raises(InputError, match="which is no store"):
        PBSBackend().run([task(tmp_path / "loose")], on_result=print)
    assert not (store.path / "rounds").exists()


def test_rounds_are_told_apart_and_checked(tmp_path):
    store = small_store(tmp_path / "store", {"model": "somewhere:MODEL"})
    points = np.linspace(0.0, 1.0, 4)[:, None]
    first, second = (Round.write([task(store.shard_path(0), each)], "m:f") for each in (points, points + 1.0))
    assert first.name != second.name
    assert Round.write([task(store.shard_path(0), points)], "m:f").name == first.name
    first.keep(1, np.ones((4, 3)))
    again = Round.read(store, first.name)
    assert np.array_equal(again.points, points)
    assert np.array_equal(again.result(1), np.ones((4, 3)))
    assert again.result(0) is None
    file = first.folder / "0001.npz"
    for damage in (file.read_bytes()[:-9], b"", b"nonsense"):
        file.write_bytes(damage)
        assert again.result(1) is None
    again.keep(1, np.ones((5, 3)))  # of other points
    assert again.result(1) is None
    (first.folder / "0000.npz").write_bytes(file.read_bytes())
    assert again.result(0) is None
    for name in ("../jobs", "absent"):
        with pytest.raises(InputError):
            Round.read(store, name)
    points = first.folder / "points.npy"
    good = points.read_bytes()
    points.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(InputError, match=r"points\.npy' is damaged"):
        Round.read(store, first.name)
    points.write_bytes(good)
    (first.folder / "task.json").write_text('{"fingerprint": "other"}')
    with pytest.raises(InputError, match="SHA-256 is wrong"):
        Round.read(store, first.name)
    write_json(first.folder / "task.json", {"fingerprint": "other"})
    with pytest.raises(InputError, match="belongs to another run"):
        Round.read(store, first.name)


def test_records_of_jobs_are_checked(tmp_path):
    store = small_store(tmp_path / "store", {})
    (store.path / "jobs").mkdir()
    job = Job(0, "multiprocessing", "12", "sampling", ((3, 0, 0), (5, 1, 0)), str(tmp_path)).write(store.path)
    assert recorded(store.path) == [job]
    assert job.last_words(1) == ""
    (tmp_path / "0000-1.log").write_text("one\nmodule: command not found\n\n")
    assert job.last_words(1) == "one; module: command not found"
    assert homodyne(["status", str(store.path)]) == 2  # not the name of a scheduler
    write_json(store.path / "jobs" / "0000.json", {"elements": [["a"]]})
    with pytest.raises(InputError, match="no record of a job"):
        recorded(store.path)


@pytest.mark.parametrize("arguments", [["worker", "absent", "0"], ["status", "absent"], ["cancel", "absent"]])
def test_what_is_no_store(arguments, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "homodyne", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "is not a consensus store" in done.stderr


def test_the_job_of_a_fit_is_shown_and_nothing_is_done(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit = [
        "fit",
        str(file),
        "--method",
        "cmc",
        "--mode",
        "static",
        "--dry-run",
        "optimization.cmc.sharding.num_shards=7",
    ]
    assert homodyne([*fit, "optimization.cmc.backend.name=pbs", f"{KEY}.account=xpcs"]) == 0
    said = capsys.readouterr().out
    assert "#PBS -J 0-6\n" in said
    assert "#PBS -A xpcs\n" in said
    assert f'worker {tmp_path}/homodyne_result.store "$shard" --round' in said
    assert homodyne(fit) == 2
    assert "backend.name=slurm or pbs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
