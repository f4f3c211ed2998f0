#!/usr/bin/env bash
# Runs a command in several processes on this machine, which join under JAX's distributed runtime.
#
#   launch/local_processes.sh [--devices K] [--timeout SECONDS] [--dry-run] N COMMAND...
#
#   launch/local_processes.sh --devices 2 4 cssl-jax pretrain digits --workdir runs/four
#
# --devices K gives each process K simulated CPU devices; without it each takes the devices that it
# sees (of several GPUs, process i the i-th). Each line is prefixed with its process; a signal goes
# to all of them. When one fails, the others have --timeout seconds (default 20) to end by
# themselves, then they are stopped; the exit status is that of the first that failed.

set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
. launch/common.sh

devices='' grace=20
while [ $# -gt 0 ]; do
    case $1 in
    --devices) devices=${2:?--devices needs a number}; shift 2 ;;
    --timeout) grace=${2:?--timeout needs seconds}; shift 2 ;;
    --dry-run) DRY_RUN=1; shift ;;
    -h | --help) usage ;;
    -*) die "unknown option $1; see --help" ;;
    *) break ;;
    esac
done
for number in "${1:-}" "${devices:-1}" "$grace"; do
    case $number in '' | *[!0-9]* | 0) die "give the number of processes, then the command; see --help" ;; esac
done
count=$1
shift
[ $# -gt 0 ] || die "give the command after the number of processes; see --help"
[ -z "${VIRTUAL_ENV:-}" ] && [ -d .venv/bin ] && PATH=$PWD/.venv/bin:$PATH
cd "$here"

port=47000
[ "$DRY_RUN" = 1 ] ||
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
shared=("JAX_COORDINATOR_ADDRESS=127.0.0.1:$port" "JAX_NUM_PROCESSES=$count" PYTHONUNBUFFERED=1)
[ -z "$devices" ] || shared+=(JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$devices")

pids=()
for ((id = 0; id < count; id++)); do
    own=("JAX_PROCESS_ID=$id")
    [ -n "$devices" ] || ! command -v nvidia-smi >/dev/null || own+=("JAX_LOCAL_DEVICE_IDS=$id")
    if [ "$DRY_RUN" = 1 ]; then
        run env "${shared[@]}" "${own[@]}" "$@"
    else
        env "${shared[@]}" "${own[@]}" "$@" > >(sed -u "s/^/[$id] /") 2> >(sed -u "s/^/[$id] /" >&2) &
        pids+=($!)
    fi
done
[ "$DRY_RUN" = 0 ] || exit 0

to_all() {
    for pid in "${pids[@]}"; do kill "-$1" "$pid" 2>/dev/null || true; done
}
trap 'to_all TERM' TERM INT # what runs in a shell's background is deaf to INT
trap 'to_all KILL' EXIT

status=0 end=''
while [ ${#pids[@]} -gt 0 ]; do
    left=()
    for pid in "${pids[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then
            left+=("$pid")
            continue
        fi
        code=0
        wait "$pid" || code=$?
        if [ "$code" != 0 ] && [ "$status" = 0 ]; then
            status=$code end=$((SECONDS + grace))
        fi
    done
    pids=("${left[@]}")
    if [ -n "$end" ] && [ "$SECONDS" -ge "$end" ]; then
        echo "local_processes.sh: stopping ${#pids[@]} process(es) that did not end by themselves" >&2
        to_all KILL
        end=$((SECONDS + grace))
    fi
    sleep 0.1 || true
done
exit "$status"
