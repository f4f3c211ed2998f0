#!/usr/bin/env bash
# Creates a Cloud TPU VM, installs this checkout on it, runs a command, brings the logs back.
#
#   launch/tpu_vm.sh --name NAME --zone ZONE [options] [-- COMMAND...]
#
#   --name NAME      of the TPU VM and of its queued resource
#   --zone ZONE      such as us-central2-b
#   --type TYPE      accelerator type (default v4-8)
#   --runtime IMAGE  (default tpu-ubuntu2204-base, for v4 and older; v5p v2-alpha-tpuv5, v5e
#                    v2-alpha-tpuv5-lite, v6e v2-alpha-tpuv6e: docs.cloud.google.com/tpu/docs/runtimes)
#   --project ID     of Google Cloud (default: gcloud's own)
#   --spot           preemptible and cheaper; --reserved: of a reservation
#   --upload PATH    a folder or file to copy to every worker, such as your images; the command
#                    finds it by its last name
#   --bucket NAME    a Cloud Storage bucket to mount on every worker, which needs gcsfuse there and a
#                    service account that may write (docs.cloud.google.com/storage/docs/gcs-fuse)
#   --logs DIR       where logs come to (default runs/NAME)
#   --timeout MIN    minutes to wait for the resource (default 120)
#   --delete         delete the TPU and its queued resource at the end
#   --delete-only    do nothing else
#   --dry-run        print the commands
#
#   launch/tpu_vm.sh --name mine --zone us-central2-b --upload ~/images -- \
#       cssl-jax pretrain folder --data.source images --workdir runs/mine
#
# Sent is the checkout as committed. Where a connection breaks, the same line continues with the TPU that
# is there, and pretrain with its run; a Spot TPU that is taken away takes the run along.
# One host or many: every worker gets the same files and runs the same command, which is how JAX
# wants it (docs.jax.dev/en/latest/multi_process.html). COMMAND is `cssl-jax demo` unless given.
# On several hosts the run's folder must be one that all of them see: with --bucket NAME the Cloud
# Storage bucket NAME is mounted as `bucket` in the checkout of every worker, for
#   --workdir bucket/mine
# The stock images have Python 3.10, this package needs 3.11: uv brings one of its own.
#
# Every flag is in the reference, docs.cloud.google.com/sdk/gcloud/reference/compute/tpus: pages
# queued-resources (create, describe, delete) and tpu-vm (ssh, scp, describe); the states of a
# queued resource in docs.cloud.google.com/tpu/docs/queued-resources; uv in docs.astral.sh/uv.

set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
. launch/common.sh

name='' zone='' type=v4-8 runtime=tpu-ubuntu2204-base project='' kind='' upload='' bucket='' logs='' minutes=120
delete=0 only_delete=0
while [ $# -gt 0 ]; do
    case $1 in
    --name) name=${2:?--name needs a value}; shift 2 ;;
    --zone) zone=${2:?--zone needs a value}; shift 2 ;;
    --type) type=${2:?--type needs a value}; shift 2 ;;
    --runtime) runtime=${2:?--runtime needs a value}; shift 2 ;;
    --project) project=${2:?--project needs a value}; shift 2 ;;
    --upload) upload=${2:?--upload needs a folder or file}; shift 2
        [[ $upload = /* ]] || upload=$here/$upload ;;
    --bucket) bucket=${2:?--bucket needs a name}; shift 2 ;;
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
[ -z "$upload" ] || [ "$DRY_RUN" = 1 ] || [ -e "$upload" ] || die "--upload $upload does not exist"
need gcloud "see cloud.google.com/sdk/docs/install"
if [ "$DRY_RUN" = 0 ] && [ "$only_delete" = 0 ]; then
    git rev-parse --quiet --verify HEAD >/dev/null 2>&1 ||
        die "$PWD is no git checkout, and what git tracks is what is sent; clone the repository"
    git diff --quiet HEAD || echo "note: changes that are not committed are not sent" >&2
fi
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
            die "the queued resource is $now; look at it with gcloud compute tpus queued-resources describe $name, and delete it with --delete-only" ;;
        esac
        sleep 30
    done
    die "the queued resource is still $now after $minutes minutes; run the same command to continue waiting"
}

if [ "$only_delete" = 1 ]; then
    remove
    exit
fi

# A second run uses what is there.
if [ "$DRY_RUN" = 1 ] || ! state >/dev/null 2>&1; then
    create=(queued-resources create "$name" --node-id "$name" --accelerator-type "$type")
    create+=(--runtime-version "$runtime")
    [ -z "$kind" ] || create+=("$kind")
    tpus "${create[@]}"
fi
wait_until_active

packed=/tmp/cssl-jax
[ "$DRY_RUN" = 1 ] || packed=$(mktemp -d)

# Unpacks an archive of this machine into the checkout of every worker.
send() {
    tpus tpu-vm scp "$packed/$1" "$name:$1" --worker all
    everywhere "mkdir -p cssl-jax && tar -xzf $1 -C cssl-jax && rm $1"
}

# What git tracks, and no more: no environment, no runs.
run git archive --format tar.gz --output "$packed/checkout.tar.gz" HEAD
send checkout.tar.gz
if [ -n "$upload" ]; then
    run tar -chzf "$packed/upload.tar.gz" -C "$(dirname "$upload")" "$(basename "$upload")"
    send upload.tar.gz
fi
run rm -r "$packed"
everywhere 'command -v ~/.local/bin/uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh'
# shellcheck disable=SC2088 # the remote shell expands it
everywhere '~/.local/bin/uv venv --allow-existing --python 3.12 ~/venv'
everywhere 'cd cssl-jax && ~/.local/bin/uv pip install --python ~/venv/bin/python --reinstall-package cssl-jax "jax[tpu]>=0.10,<0.13" .'

if [ -n "$bucket" ]; then
    everywhere 'command -v gcsfuse >/dev/null || { echo "gcsfuse is not installed here: see the address at --bucket" >&2; exit 1; }'
    # A checkpoint is committed by renaming its folder, which a bucket does file by file.
    everywhere "mkdir -p cssl-jax/bucket && { mountpoint -q cssl-jax/bucket || gcsfuse --implicit-dirs --rename-dir-limit 200000 $(quoted "$bucket") cssl-jax/bucket; }"
fi

status=0
everywhere "cd cssl-jax && set -o pipefail && PATH=~/venv/bin:\$PATH $(quoted "$@") 2>&1 | tee ~/run.log" ||
    status=$?

# The log of every worker and the runs of the first, unless a bucket has them.
run mkdir -p "$logs"
workers=1
if [ "$DRY_RUN" = 0 ]; then
    workers=$(gcloud compute tpus tpu-vm describe "$name" "${where[@]}" \
        --format 'value(networkEndpoints.len())')
fi
for ((worker = 0; worker < workers; worker++)); do
    tpus tpu-vm scp "$name:run.log" "$logs/worker$worker.log" --worker "$worker" || status=1
done
[ -n "$bucket" ] || tpus tpu-vm scp --recurse "$name:cssl-jax/runs" "$logs" --worker 0 || status=1

[ "$delete" = 0 ] || remove
exit "$status"
