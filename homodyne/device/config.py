"""What this process may use: cores, memory, GPUs, and the batch scheduler it runs under.

`detect_hardware` reads limits instead of machine sizes: a process pinned to two cores of a 128-core node, or
kept in a container with 4 GB, learns of two cores and 4 GB.
"""

import os
import resource
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30


@dataclass(frozen=True)
class HardwareConfig:
    """Resources of this process.

    Attributes
    ----------
    cores
        Cores this process may keep busy: the affinity mask, lowered by a cgroup quota.
    machine_cores
        Cores of the whole machine.
    total_memory
        Bytes this process may use at most: the smallest of the machine's memory, the cgroup limit and the limit of
        the address space (``ulimit -v``).
    available_memory
        Bytes free for a new allocation now.
    gpus
        Names of the accelerators JAX sees; None when they were not looked for.
    scheduler
        "slurm", "pbs" or None: the batch system whose allocation this process runs in.
    job_id
        Id of that job, or None.
    nodes, tasks
        Nodes and tasks of the allocation (1 outside of one).
    batch_system
        "slurm" or "pbs" when its command for submitting jobs is on the PATH, or None.
    """

    cores: int
    machine_cores: int
    total_memory: int
    available_memory: int
    gpus: tuple[str, ...] | None = None
    scheduler: str | None = None
    job_id: str | None = None
    nodes: int = 1
    tasks: int = 1
    batch_system: str | None = None

    def __str__(self) -> str:
        cores = f"{self.cores} usable of {self.machine_cores}"
        memory = f"{self.available_memory / GIB:.1f} GiB available of {self.total_memory / GIB:.1f} GiB"
        gpus = "not looked for" if self.gpus is None else ", ".join(self.gpus) or "none"
        job = "none"
        if self.scheduler is not None:
            job = f"{self.scheduler} job {self.job_id}: {self.nodes} node(s), {self.tasks} task(s)"
        jobs = f"{self.batch_system}, by its command" if self.batch_system else "no scheduler found"
        return f"cores      {cores}\nmemory     {memory}\nGPUs       {gpus}\nallocation {job}\njobs       {jobs}"


def detect_hardware(
    *, gpus: bool = False, root: Path = Path("/"), environ: Mapping[str, str] | None = None
) -> HardwareConfig:
    """Find out what this process may use.

    Parameters
    ----------
    gpus
        Also ask JAX for accelerators; this imports JAX and starts its backend, which takes a second.
    root
        Where ``proc`` and ``sys`` are mounted.
    environ
        Environment to read the scheduler's variables from; that of the process by default.
    """
    environ = os.environ if environ is None else environ
    cgroups = _cgroup_folders(root)
    total, available = _machine_memory(root)
    for folder in cgroups:
        limit = _limit(folder, "memory.max", "memory.limit_in_bytes")
        if limit is not None and limit < total:
            total, available = limit, min(available, max(limit - _used_memory(folder), 0))
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        total, available = min(total, address_space), min(available, max(address_space - taken_address_space(root), 0))
    scheduler, job_id, nodes, tasks = _allocation(environ)
    return HardwareConfig(
        cores=usable_cores(root),
        machine_cores=os.cpu_count() or 1,
        total_memory=total,
        available_memory=available,
        gpus=_gpu_names() if gpus else None,
        scheduler=scheduler,
        job_id=job_id,
        nodes=nodes,
        tasks=tasks,
        batch_system=_batch_system(environ),
    )


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may keep busy: the affinity mask, where the system has one, lowered by a cgroup quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *filter(None, map(_quota, _cgroup_folders(root)))]))


def _read(path: Path) -> str | None:
    """Text of a small system file, or None when it is absent or may not be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _cgroup_folders(root: Path) -> list[Path]:
    """Folders holding the limits of this process, its own first, then every parent, for cgroup v2 and v1."""
    mount = root / "sys/fs/cgroup"
    folders: list[Path] = []
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        bases = [mount] if not controllers else [mount / c for c in (controllers, *controllers.split(","))]
        inside = Path(path.lstrip("/"))
        for base in bases:
            folders += [base / part for part in (inside, *inside.parents)]
    return list(dict.fromkeys(folders))


def _limit(folder: Path, *names: str) -> int | None:
    """First of several files of a cgroup that holds a number ("max" means no limit)."""
    for name in names:
        text = _read(folder / name)
        if text is not None and text.isdigit():
            return int(text)
    return None


def _used_memory(folder: Path) -> int:
    """Bytes a cgroup holds, without the file cache that the kernel gives back when asked for memory."""
    used = _limit(folder, "memory.current", "memory.usage_in_bytes") or 0
    for line in (_read(folder / "memory.stat") or "").splitlines():
        if line.startswith("inactive_file "):
            used -= int(line.split()[1])
    return used


def taken_address_space(root: Path = Path("/")) -> int:
    """Bytes of address space that this process has already taken; 0 where the system does not say."""
    words = (_read(root / "proc/self/statm") or "0").split()
    return int(words[0]) * resource.getpagesize()


def _quota(folder: Path) -> int | None:
    """Whole cores that the quota of a cgroup allows, or None without one."""
    words = (_read(folder / "cpu.max") or "").split()
    if not words:
        words = [_read(folder / "cpu.cfs_quota_us") or "", _read(folder / "cpu.cfs_period_us") or ""]
    if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]) > 0:
        return max(1, int(words[0]) // int(words[1]))
    return None


def _machine_memory(root: Path) -> tuple[int, int]:
    """Total and available bytes of the machine."""
    fields = {}
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        name, value = line.split(":", 1)
        fields[name] = int(value.split()[0]) * 1024
    if "MemTotal" in fields:
        return fields["MemTotal"], fields.get("MemAvailable", fields["MemTotal"])
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total, total


def _gpu_names() -> tuple[str, ...]:
    import jax

    return tuple(str(device.device_kind) for device in jax.devices() if device.platform != "cpu")


def _allocation(environ: Mapping[str, str]) -> tuple[str | None, str | None, int, int]:
    """Scheduler, job id, nodes and tasks, from the variables that Slurm and PBS set inside a job."""
    if "SLURM_JOB_ID" in environ:
        nodes = environ.get("SLURM_JOB_NUM_NODES") or environ.get("SLURM_NNODES", "1")
        tasks = environ.get("SLURM_NTASKS", "1")
        return "slurm", environ["SLURM_JOB_ID"], _count(nodes), _count(tasks)
    if "PBS_JOBID" in environ:
        hosts = (_read(Path(environ.get("PBS_NODEFILE", ""))) or "").split()
        return "pbs", environ["PBS_JOBID"], len(set(hosts)) or 1, len(hosts) or 1
    return None, None, 1, 1


def _batch_system(environ: Mapping[str, str]) -> str | None:
    """Scheduler whose command is on the PATH; whether it answers is not tried."""
    for command, name in {"sbatch": "slurm", "qsub": "pbs"}.items():
        if shutil.which(command, path=environ.get("PATH", "")):
            return name
    return None


def _count(text: str) -> int:
    return int(text) if text.isdigit() else 1


@dataclass(frozen=True)
class CMCDecision:
    """Whether to split the data over shards, and why; true or false itself."""

    use: bool
    reason: str

    def __bool__(self) -> bool:
        return self.use


def should_use_cmc(
    dataset_size: int, hardware: HardwareConfig, *, min_points: int = 200_000_000, bytes_per_point: float = 12.0
) -> CMCDecision:
    """Decide between one sampler over all data and Consensus Monte Carlo.

    One sampler has no merging error and needs no more time on the same cores (both spend the same gradients per
    point), so shards are for data that do not fit, or that would take hours.

    Parameters
    ----------
    dataset_size
        Pairs of frames.
    hardware
        What this process may use.
    min_points
        Pairs from which shards are preferred whatever the memory: four thousand gradients of 200 million pairs take
        half an hour on two cores.
    bytes_per_point
        Memory that one sampler needs per pair, with the copies it makes on the way.
    """
    need, free = dataset_size * bytes_per_point, hardware.available_memory
    size = f"{dataset_size:,} pairs"
    if need > free:
        return CMCDecision(True, f"cmc: {size} need {need / GIB:.1f} GiB at once, {free / GIB:.1f} GiB are free")
    if dataset_size >= min_points:
        return CMCDecision(True, f"cmc: {size} are at least {min_points:,}")
    return CMCDecision(False, f"nuts: {size} are fewer than {min_points:,} and fit into memory")
