#!/usr/bin/env bash
# Installs for an NVIDIA GPU of this machine and runs a command there.
#
#   launch/local_gpu.sh [--cuda 12|13] [--venv DIR] [--python PATH] [--dry-run] [-- COMMAND...]
#
# COMMAND is `cssl-jax demo` unless given, and runs in the checkout, where relative paths begin, e.g.
#   launch/local_gpu.sh -- cssl-jax pretrain folder --data.source images --workdir runs/mine
# CUDA comes from pip (docs.jax.dev/en/latest/installation.html); jax[cuda13] needs driver 580 or
# newer, jax[cuda12] 525; the driver's version decides unless --cuda says.

set -euo pipefail
cd "$(dirname "$0")/.."
. launch/common.sh

cuda='' venv=.venv python=''
while [ $# -gt 0 ]; do
    case $1 in
    --cuda) cuda=${2:?--cuda needs 12 or 13}; shift 2 ;;
    --venv) venv=${2:?--venv needs a folder}; shift 2 ;;
    --python) python=${2:?--python needs a path}; shift 2 ;;
    --dry-run) DRY_RUN=1; shift ;;
    -h | --help) usage ;;
    --) shift; break ;;
    *) die "unknown option $1; see --help, and put the command after --" ;;
    esac
done
[ $# -gt 0 ] || set -- cssl-jax demo

if [ -z "$cuda" ]; then
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1) || true
    if [ -z "$driver" ] && [ "$DRY_RUN" = 0 ]; then
        die "nvidia-smi finds no NVIDIA driver; install it, or say --cuda 12 or --cuda 13"
    fi
    cuda=13
    [ "${driver%%.*}" -ge 580 ] 2>/dev/null || [ -z "$driver" ] || cuda=12
fi
case $cuda in 12 | 13) ;; *) die "--cuda is $cuda; give 12 or 13" ;; esac

if [ ! -x "$venv/bin/python" ]; then
    python=$(sh launch/find_python.sh "$python")
    run "$python" -m venv "$venv"
fi
run "$venv/bin/python" -m pip install --upgrade "jax[cuda$cuda]>=0.10,<0.13"
run "$venv/bin/python" -m pip install .
run "$venv/bin/cssl-jax" doctor
if [ "$1" = cssl-jax ]; then
    shift
    set -- "$venv/bin/cssl-jax" "$@"
fi
run "$@"
