#!/usr/bin/env bash
# A slice of several hosts: launch/tpu_vm.sh with a pod's defaults.
#
#   launch/tpu_pod.sh --name NAME --zone ZONE [options of tpu_vm.sh, --dry-run too] [-- COMMAND...]
#
# The default is --type v4-32 (4 hosts). A queued resource is created, waited for until ACTIVE, and
# given a Python of 3.11 or newer, this checkout and jax[tpu] on every worker; all workers run the
# same command; their logs come back as runs/NAME/worker0.log, worker1.log, ...; the exit status is
# not 0 if any worker failed.
# `cssl-jax pretrain` on several hosts is one run: give it a --workdir that all of them see, by
# --bucket; the log of the first worker is the run's. `cssl-jax doctor` shows all devices.

set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=launch/common.sh
. "$checkout/launch/common.sh"

for word in "$@"; do
    case $word in
    -h | --help) cd "$checkout" && usage ;;
    --) break ;; # what follows is the command's
    esac
done
exec bash "$checkout/launch/tpu_vm.sh" --type v4-32 "$@"
