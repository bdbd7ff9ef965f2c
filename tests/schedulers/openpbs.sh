#!/usr/bin/env bash
# A real OpenPBS on this machine, for trying the scheduler tests by hand; as root, without systemd, not in CI.
# THIS SCRIPT HAS NOT BEEN RUN YET: it follows the notes of an installation that was made by hand.
#
#   openpbs.sh build SOURCE FOLDER   builds the sources of openpbs/openpbs, tag v23.06.06, into FOLDER (12 minutes);
#                                    needs a C compiler, autotools, libtool, hwloc, libedit, expat, PostgreSQL with its
#                                    headers, Tcl/Tk and Python 3.11 with its headers
#   openpbs.sh start FOLDER [nohistory]   server, scheduler and one node in a network namespace of their own
#   openpbs.sh run FOLDER COMMAND...      a command in that namespace, with qsub, qstat and qdel in its path:
#                                         openpbs.sh run FOLDER qstat -B
#   openpbs.sh stop FOLDER           ends the daemons by the numbers in their files, and removes the namespace
#
# The server refuses 127.x, so the namespace has a dummy device with an address of its own, whose host name is in
# /etc/netns/NAMESPACE/hosts: nothing outside the namespace sees either.
set -euo pipefail

case ${1:-} in build) folder=$(realpath -m "$3") ;; start | run | stop) folder=$(realpath -m "$2") ;; *)
  sed -n '2,17p' "$0" >&2
  exit 2
  ;;
esac
space=homodyne-pbs
host=pbs-tests
address=192.0.2.1 # for documentation and tests (RFC 5737)
export PBS_CONF_FILE=$folder/pbs.conf

inside() { ip netns exec "$space" unshare --uts bash -c 'hostname "$0"; exec "$@"' "$host" "$@"; }

case $1 in
build)
  work=$folder/build
  mkdir -p "$work"
  cp -a "$2/." "$work"
  cd "$work"
  ./autogen.sh
  ./configure --prefix="$folder/pbs" --with-pbs-server-home="$folder/home" --with-pbs-conf-file="$PBS_CONF_FILE" \
    --disable-ptl
  make -j "$(nproc)"
  make install
  chmod 4755 "$folder/pbs/sbin/pbs_iff" "$folder/pbs/sbin/pbs_rcp"
  ;;
start)
  ip netns add "$space"
  mkdir -p "/etc/netns/$space"
  printf '127.0.0.1 localhost\n%s %s\n' "$address" "$host" > "/etc/netns/$space/hosts"
  ip -n "$space" link set lo up
  ip -n "$space" link add pbs0 type dummy
  ip -n "$space" address add "$address/24" dev pbs0
  ip -n "$space" link set pbs0 up
  cat > "$PBS_CONF_FILE" << CONF
PBS_EXEC=$folder/pbs
PBS_HOME=$folder/home
PBS_SERVER=$host
PBS_START_SERVER=1
PBS_START_SCHED=1
PBS_START_COMM=1
PBS_START_MOM=1
CONF
  [ -e "$folder/home/server_priv" ] || inside "$folder/pbs/libexec/pbs_postinstall" server
  printf '$clienthost %s\n$usecp *:/ /\n' "$host" > "$folder/home/mom_priv/config"
  inside "$folder/pbs/libexec/pbs_init.d" start
  qmgr=$folder/pbs/bin/qmgr
  inside "$qmgr" -c "create node $host" || true
  history=True
  [ "${3:-}" != nohistory ] || history=False
  for setting in "job_history_enable = $history" "flatuid = True" "scheduler_iteration = 1" "acl_roots += root"; do
    inside "$qmgr" -c "set server $setting"
  done
  ;;
run)
  shift 2
  PATH=$folder/pbs/bin:$PATH inside "$@"
  ;;
stop)
  inside "$folder/pbs/libexec/pbs_init.d" stop || true
  for file in "$folder"/home/{server,sched,mom,comm}_priv/*.lock "$folder"/home/server_priv/comm.lock; do
    [ ! -s "$file" ] || kill "$(cat "$file")" 2> /dev/null || true
  done
  ip netns delete "$space"
  rm -r "/etc/netns/$space"
  ;;
esac
