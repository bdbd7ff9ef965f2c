import os
import subprocess
import sys
from pathlib import Path

import pytest

from homodyne.device.config import GIB, HardwareConfig, detect_hardware


def machine(root: Path, files: dict[str, str]) -> Path:
    """A file system that describes a machine with 64 GiB, of which 32 GiB are available."""
    meminfo = f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: {32 * GIB // 1024} kB\nHugePages_Total: 0\n"
    for name, text in {"proc/meminfo": meminfo, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def detect(root: Path, environ: dict[str, str] | None = None) -> HardwareConfig:
    return detect_hardware(root=root, environ=environ or {})


def test_machine_without_limits(tmp_path):
    found = detect(machine(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}))
    assert found.total_memory == 64 * GIB
    assert found.available_memory == 32 * GIB
    assert found.machine_cores == os.cpu_count()
    assert found.cores == len(os.sched_getaffinity(0))
    assert (found.scheduler, found.job_id, found.nodes, found.tasks, found.gpus) == (None, None, 1, 1, None)


def test_container_of_the_second_generation(tmp_path):
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/jobs/42\n",
            "sys/fs/cgroup/jobs/42/memory.max": "max\n",
            "sys/fs/cgroup/jobs/42/cpu.max": "max 100000\n",
            "sys/fs/cgroup/jobs/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/jobs/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/jobs/memory.stat": f"anon 5\ninactive_file {2 * GIB}\n",
            "sys/fs/cgroup/jobs/cpu.max": "150000 100000\n",
        },
    )
    found = detect(root)
    assert found.total_memory == 4 * GIB
    assert found.available_memory == 3 * GIB  # 3 GiB used, of which 2 GiB are file cache
    assert found.cores == 1


def test_container_of_the_first_generation(tmp_path):
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/job\n3:cpuset:/\n1:cpu,cpuacct:/job\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{8 * GIB}\n",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{1 * GIB}\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
        },
    )
    found = detect(root)
    assert (found.total_memory, found.available_memory, found.cores) == (8 * GIB, 7 * GIB, 1)


def test_unlimited_quota_and_absurd_memory_limit_change_nothing(tmp_path):
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n1:cpu:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    found = detect(root)
    assert (found.total_memory, found.cores) == (64 * GIB, len(os.sched_getaffinity(0)))


def test_memory_over_its_limit_is_not_negative(tmp_path):
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": f"{GIB}\n",
            "sys/fs/cgroup/memory.current": f"{2 * GIB}\n",
        },
    )
    assert detect(root).available_memory == 0


def test_a_limit_of_the_address_space_counts(tmp_path):
    code = (
        "import resource; from homodyne.device.config import detect_hardware as detect;"
        f"resource.setrlimit(resource.RLIMIT_AS, ({6 * GIB}, {6 * GIB})); found = detect();"
        "print(found.total_memory, found.available_memory)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    total, available = map(int, done.stdout.split())
    assert total == min(6 * GIB, detect_hardware().total_memory)
    assert 0 < available < 6 * GIB
    root = machine(tmp_path, {"proc/self/statm": "0 0 0 0 0 0 0\n"})
    assert detect(root).total_memory == 64 * GIB


@pytest.mark.parametrize(("command", "found"), [("sbatch", "slurm"), ("qsub", "pbs"), ("make", None)])
def test_the_command_of_a_scheduler_is_found(command, found, tmp_path):
    program = tmp_path / "bin" / command
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    hardware = detect(machine(tmp_path, {}), {"PATH": str(program.parent)})
    assert hardware.batch_system == found
    assert (f"jobs       {found}, by its command" if found else "no scheduler found") in str(hardware)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "4", "SLURM_NTASKS": "16"},
            ("slurm", "77", 4, 16),
        ),
        ({"SLURM_JOB_ID": "78"}, ("slurm", "78", 1, 1)),
        ({"PBS_JOBID": "9.server"}, ("pbs", "9.server", 1, 1)),
    ],
)
def test_allocation(tmp_path, environ, expected):
    found = detect(machine(tmp_path, {}), environ)
    assert (found.scheduler, found.job_id, found.nodes, found.tasks) == expected


def test_hosts_of_a_pbs_allocation_are_counted(tmp_path):
    hosts = tmp_path / "nodes"
    hosts.write_text("a\na\nb\nb\n")
    found = detect(machine(tmp_path, {}), {"PBS_JOBID": "9.server", "PBS_NODEFILE": str(hosts)})
    assert (found.nodes, found.tasks) == (2, 4)


def test_this_machine_reads_as_text():
    found = detect_hardware()
    assert found.cores >= 1
    assert 0 < found.available_memory <= found.total_memory
    assert "not looked for" in str(found)
    assert "none" in str(HardwareConfig(2, 4, GIB, GIB, gpus=()))
    job = HardwareConfig(2, 4, GIB, GIB, gpus=("X",), scheduler="pbs", job_id="9", nodes=2, tasks=4)
    assert "pbs job 9: 2 node(s), 4 task(s)" in str(job)
