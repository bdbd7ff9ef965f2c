#!/usr/bin/env bash
# A real OpenPBS on this machine, for trying the scheduler tests by hand; as root, without systemd, not in CI.
#
#   openpbs.sh install               the packages of Debian that build and server need
#   openpbs.sh build SOURCE FOLDER   builds the sources of openpbs/openpbs, tag v23.06.06, into FOLDER; MAKEFLAGS=-j4
#                                    does it with four processes; PBS refuses a FOLDER under one that everybody may
#                                    write to, as /tmp
#   openpbs.sh start FOLDER [nohistory]   server, scheduler and one node in a network namespace of their own
#   openpbs.sh run FOLDER COMMAND...      a command in that namespace, with qsub, qstat and qdel in its path:
#                                         openpbs.sh run FOLDER qstat -B
#                                         openpbs.sh run FOLDER python -m pytest tests/schedulers -k pbs
#   openpbs.sh stop FOLDER           ends the daemons and removes the namespace
#
# The server refuses 127.x, so loopback of the namespace has one more address, whose host name is in
# /etc/netns/NAMESPACE/hosts: nothing outside the namespace sees either.
set -euo pipefail

case ${1:-} in install) folder= ;; build) folder=$(realpath -m "$3") ;; start | run | stop) folder=$(realpath -m "$2") ;; *)
  sed -n '2,15p' "$0" >&2
  exit 2
  ;;
esac
space=homodyne-pbs
host=pbs-tests
address=192.0.2.1 # for documentation and tests (RFC 5737)
export PBS_CONF_FILE=$folder/pbs.conf

inside() { ip netns exec "$space" unshare --uts bash -c 'hostname "$0"; exec "$@"' "$host" "$@"; }

case $1 in
install)
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    gcc g++ make perl autoconf automake libtool libtool-bin pkg-config swig libhwloc-dev libx11-dev libxt-dev \
    libxext-dev libxft-dev libedit-dev libical-dev libncurses-dev libexpat1-dev libssl-dev zlib1g-dev libpq-dev \
    postgresql postgresql-server-dev-all postgresql-contrib tcl-dev tk-dev python3 python3-dev iproute2 > /dev/null
  ;;
build)
  work=$folder/build
  mkdir -p "$work"
  cp -a "$2/." "$work"
  cd "$work"
  sed -i 's/<eval.h>/<Python.h>/' src/lib/Libpython/pbs_python_external.c # Python 3.11, as later versions have it
  ./autogen.sh
  ./configure --prefix="$folder/pbs" --with-pbs-server-home="$folder/home" --with-pbs-conf-file="$PBS_CONF_FILE" \
    --disable-ptl PYTHON=/usr/bin/python3 CPPFLAGS=-DPY_SSIZE_T_CLEAN
  make
  make install
  chmod 4755 "$folder/pbs/sbin/pbs_iff" "$folder/pbs/sbin/pbs_rcp"
  ;;
start)
  ip netns add "$space"
  mkdir -p "/etc/netns/$space"
  printf '127.0.0.1 localhost\n%s %s\n' "$address" "$host" > "/etc/netns/$space/hosts"
  ip -n "$space" address add "$address/32" dev lo
  ip -n "$space" link set lo up
  cat > "$PBS_CONF_FILE" << CONF
PBS_EXEC=$folder/pbs
PBS_HOME=$folder/home
PBS_SERVER=$host
PBS_START_SERVER=1
PBS_START_SCHED=1
PBS_START_COMM=1
PBS_START_MOM=1
CONF
  [ -e "$folder/home/pbs_version" ] || inside "$folder/pbs/libexec/pbs_habitat"
  printf '$clienthost %s\n$usecp *:/ /\n' "$host" > "$folder/home/mom_priv/config"
  inside "$folder/pbs/libexec/pbs_init.d" start
  qmgr=$folder/pbs/bin/qmgr
  history=True
  [ "${3:-}" != nohistory ] || history=False
  for setting in "job_history_enable = $history" "flatuid = True" "scheduler_iteration = 1" "acl_roots = root"; do
    inside "$qmgr" -c "set server $setting"
  done
  ;;
run)
  shift 2
  OPENPBS=$folder PATH=$folder/pbs/bin:$PATH inside "$@"
  ;;
stop)
  inside "$folder/pbs/libexec/pbs_init.d" stop || true
  ip netns delete "$space"
  rm -r "/etc/netns/$space"
  ;;
esac
