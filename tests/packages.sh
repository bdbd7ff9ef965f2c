#!/usr/bin/env bash
# Install what tests need beside Python packages, as root on Debian: a Slurm, and a browser; only what is missing.
set -euo pipefail

missing=()
command -v slurmctld slurmd sbatch munged >/dev/null || missing+=(slurmctld slurmd slurm-client munge)
command -v chromium >/dev/null || command -v google-chrome >/dev/null || missing+=(chromium)
if [ ${#missing[@]} = 0 ]; then exit 0; fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
