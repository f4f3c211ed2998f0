#!/usr/bin/env bash
# Creates a Cloud TPU VM, installs this checkout on it, runs a command, brings the logs back.
#
#   launch/tpu_vm.sh --name NAME --zone ZONE [options] [-- COMMAND...]
#
#   --name NAME      of the TPU VM and of its queued resource
#   --zone ZONE      such as us-central2-b
#   --type TYPE      accelerator type (default v4-8)
#   --runtime IMAGE  (default tpu-ubuntu2204-base; v2-alpha-tpuv5-lite for v5e, v2-alpha-tpuv6e for
#                    v6e: docs.cloud.google.com/tpu/docs/runtimes)
#   --project ID     of Google Cloud (default: gcloud's own)
#   --spot           preemptible and cheaper; --reserved: of a reservation
#   --logs DIR       where logs come to (default runs/NAME)
#   --timeout MIN    minutes to wait for the resource (default 120)
#   --delete         delete the TPU and its queued resource at the end
#   --delete-only    do nothing else
#   --dry-run        print the commands
#
# One host or many: every worker gets the same files and runs the same command, which is how JAX
# wants it (docs.jax.dev/en/latest/multi_process.html). COMMAND is `cssl-jax demo` unless given.
# Today `cssl-jax pretrain` runs on one host (v4-8, v5litepod-8, v6e-8); on several it says so.
# The stock images have Python 3.10, this package needs 3.11: uv brings one of its own.
#
# Every flag is in the reference, docs.cloud.google.com/sdk/gcloud/reference/compute/tpus: pages
# queued-resources (create, describe, delete) and tpu-vm (ssh, scp, describe); the states of a
# queued resource in docs.cloud.google.com/tpu/docs/queued-resources; uv in docs.astral.sh/uv.

set -euo pipefail
cd "$(dirname "$0")/.."
. launch/common.sh

name='' zone='' type=v4-8 runtime=tpu-ubuntu2204-base project='' kind='' logs='' minutes=120
delete=0 only_delete=0
while [ $# -gt 0 ]; do
    case $1 in
    --name) name=${2:?--name needs a value}; shift 2 ;;
    --zone) zone=${2:?--zone needs a value}; shift 2 ;;
    --type) type=${2:?--type needs a value}; shift 2 ;;
    --runtime) runtime=${2:?--runtime needs a value}; shift 2 ;;
    --project) project=${2:?--project needs a value}; shift 2 ;;
    --logs) logs=${2:?--logs needs a folder}; shift 2 ;;
    --timeout) minutes=${2:?--timeout needs minutes}; shift 2 ;;
    --spot | --reserved) kind=$1; shift ;;
    --delete) delete=1; shift ;;
    --delete-only) only_delete=1; shift ;;
    --dry-run) DRY_RUN=1; shift ;;
    -h | --help) usage ;;
    --) shift; break ;;
    *) die "unknown option $1; see --help, and put the command after --" ;;
    esac
done
[ -n "$name" ] && [ -n "$zone" ] || die "give --name and --zone; see --help"
[ $# -gt 0 ] || set -- cssl-jax demo
need gcloud "see cloud.google.com/sdk/docs/install"
logs=${logs:-runs/$name}
where=(--zone "$zone")
[ -z "$project" ] || where+=(--project "$project")

tpus() { run gcloud compute tpus "$@" "${where[@]}"; }

# On every worker at once.
everywhere() { tpus tpu-vm ssh "$name" --worker all --command "$1"; }

remove() { tpus queued-resources delete "$name" --force --quiet; }

state() {
    gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format 'value(state.state)'
}

wait_until_active() {
    tpus queued-resources describe "$name" --format 'value(state.state)'
    [ "$DRY_RUN" = 0 ] || return 0
    local end=$((SECONDS + 60 * minutes)) now=''
    while [ "$SECONDS" -lt "$end" ]; do
        now=$(state)
        case $now in
        ACTIVE) return 0 ;;
        FAILED | SUSPENDED | SUSPENDING | DELETING)
            die "the queued resource is $now; look at it with gcloud compute tpus queued-resources describe $name, and delete it" ;;
        esac
        sleep 30
    done
    die "the queued resource is still $now after $minutes minutes; run the same command to go on waiting"
}

if [ "$only_delete" = 1 ]; then
    remove
    exit
fi

# A second run goes on with what is there.
if [ "$DRY_RUN" = 1 ] || ! state >/dev/null 2>&1; then
    create=(queued-resources create "$name" --node-id "$name" --accelerator-type "$type")
    create+=(--runtime-version "$runtime")
    [ -z "$kind" ] || create+=("$kind")
    tpus "${create[@]}"
fi
wait_until_active

# What git tracks, and no more: no environment, no runs.
archive=$(mktemp -u /tmp/cssl-jax-XXXXXX.tar.gz)
[ "$DRY_RUN" = 0 ] || archive=/tmp/cssl-jax.tar.gz
run git archive --format tar.gz --output "$archive" HEAD
tpus tpu-vm scp "$archive" "$name:cssl-jax.tar.gz" --worker all
everywhere 'mkdir -p cssl-jax && tar -xzf cssl-jax.tar.gz -C cssl-jax'
everywhere 'command -v ~/.local/bin/uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh'
# shellcheck disable=SC2088 # the remote shell expands it
everywhere '~/.local/bin/uv venv --allow-existing --python 3.12 ~/venv'
everywhere 'cd cssl-jax && ~/.local/bin/uv pip install --python ~/venv/bin/python "jax[tpu]>=0.10,<0.13" .'

status=0
everywhere "cd cssl-jax && set -o pipefail && PATH=~/venv/bin:\$PATH $(quoted "$@") 2>&1 | tee ~/run.log" ||
    status=$?

# The log of every worker and the runs of the first.
run mkdir -p "$logs"
workers=1
if [ "$DRY_RUN" = 0 ]; then
    workers=$(gcloud compute tpus tpu-vm describe "$name" "${where[@]}" \
        --format 'value(networkEndpoints.len())')
fi
for ((worker = 0; worker < workers; worker++)); do
    tpus tpu-vm scp "$name:run.log" "$logs/worker$worker.log" --worker "$worker" || status=1
done
tpus tpu-vm scp --recurse "$name:cssl-jax/runs" "$logs" --worker 0 || status=1

[ "$delete" = 0 ] || remove
exit "$status"
