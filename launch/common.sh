# Shared by the scripts of this folder: read by them, not run by itself.
# shellcheck shell=bash

DRY_RUN=${DRY_RUN:-0}

# Runs a command, or prints it exactly as it would run, quoted for a shell.
run() {
    if [ "$DRY_RUN" = 1 ]; then
        printf '%q ' "$@" | sed 's/ $//'
        printf '\n'
    else
        "$@"
    fi
}

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 2
}

# The comment at the head of the calling script is its help; every script runs in the checkout.
usage() {
    sed -n '/^#[!S]/d; /^#/!q; s/^# \{0,1\}//p' "launch/$(basename "$0")"
    exit 0
}

need() {
    [ "$DRY_RUN" = 1 ] || command -v "$1" >/dev/null || die "$1 is not installed: $2"
}

# The words of a command as one line for a remote shell.
quoted() {
    printf '%q ' "$@" | sed 's/ $//'
}
