#!/usr/bin/env bash
# A Slurm of two nodes, both on loopback of this machine, for the tests; as root, without systemd.
#
#   slurm.sh start FOLDER   everything it writes lies there; FOLDER/etc/slurm.conf is the SLURM_CONF to use;
#                           SLURM_TEST_PORT is the first of its three ports
#   slurm.sh controller-stop FOLDER | controller-start FOLDER
#   slurm.sh node-kill FOLDER NODE | node-start FOLDER NODE
#   slurm.sh stop FOLDER    ends its daemons, by the numbers in their pid files
set -euo pipefail

stop_one() {  # wait for the end of the process in a pid file
  local number
  number=$(cat "$1" 2>/dev/null) || return 0
  kill "$number" 2>/dev/null || return 0
  for _ in $(seq 200); do kill -0 "$number" 2>/dev/null || return 0; sleep 0.1; done
  kill -KILL "$number" 2>/dev/null || true
}

root=$(realpath -m "$2")
host=$(hostname -s)
port=${SLURM_TEST_PORT:-36817}              # and the next two
nodes=("node$port-1" "node$port-2") # several of these can run side by side
export SLURM_CONF=$root/etc/slurm.conf

case $1 in
  controller-start) slurmctld; exit 0 ;;
  controller-stop) stop_one "$root/run/slurmctld.pid"; exit 0 ;;
  node-kill) kill -KILL "$(cat "$root/run/slurmd-$3.pid")"; exit 0 ;;
  node-start) slurmd -N "$3"; exit 0 ;;
  stop)
    timeout 20 scancel --full --user "$(id -un)" 2>/dev/null || true
    for _ in $(seq 50); do [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break; sleep 0.2; done
    for daemon in "${nodes[@]/#/slurmd-}" slurmctld munged; do stop_one "$root/run/$daemon.pid"; done
    for node in "${nodes[@]}"; do
      rmdir /sys/fs/cgroup/*/slurm_"$node"/system /sys/fs/cgroup/*/slurm_"$node" 2>/dev/null || true
    done
    exit 0 ;;
  start) ;;
  *) echo "unknown: $1" >&2; exit 2 ;;
esac

mkdir -p "$root"/{etc,run,log,munge,state} "${nodes[@]/#/$root/spool/}"
chmod 755 "$root" "$root/run"
chmod 700 "$root/munge"
[ -s "$root/munge/key" ] || (umask 077; head -c 1024 /dev/urandom > "$root/munge/key")
munged --force --key-file="$root/munge/key" --seed-file="$root/munge/seed" --socket="$root/run/munge" \
  --pid-file="$root/run/munged.pid" --log-file="$root/log/munged.log" 2>> "$root/log/start.log"

# Limits of memory need control groups of version 1 that may be written; without them the processes are only followed.
track=proctrack/linuxproc
plugin=task/none
if [ -w /sys/fs/cgroup/memory ] && [ -w /sys/fs/cgroup/freezer ] && [ -w /sys/fs/cgroup/cpuset ]; then
  track=proctrack/cgroup
  plugin=task/cgroup
  printf '%s\n' CgroupMountpoint=/sys/fs/cgroup CgroupPlugin=cgroup/v1 ConstrainRAMSpace=yes > "$root/etc/cgroup.conf"
fi
cat > "$SLURM_CONF" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$root/run/munge
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool/%n
SlurmctldPidFile=$root/run/slurmctld.pid
SlurmdPidFile=$root/run/slurmd-%n.pid
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdLogFile=$root/log/slurmd-%n.log
MpiDefault=none
ProctrackType=$track
TaskPlugin=$plugin
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
MinJobAge=3600
KillWait=2
MessageTimeout=5
ReturnToService=2
DefMemPerCPU=500
NodeName=node$port-[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=1 \
  RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=node$port-[1-2] Default=YES MaxTime=60 DefaultTime=10 State=UP
CONF
slurmctld
for node in "${nodes[@]}"; do slurmd -N "$node"; done
for _ in $(seq 150); do
  if [ "$(sinfo -h -o %T 2>/dev/null)" = idle ]; then exit 0; fi
  sleep 0.2
done
echo "Slurm did not start" >&2
tail -n 20 "$root"/log/*.log >&2
exit 1
