#!/bin/sh
# Prints an interpreter of Python 3.11 or newer that really runs.
# usage: find_python.sh [PYTHON] [MINOR]
#   PYTHON  the only one to try, if given
#   MINOR   look for 3.MINOR or newer, and not for python3 first (default: 11, python3 first)
set -u
minor=${2:-11}

runs() {
    "$1" -c "import sys, venv; sys.exit(sys.version_info < (3, $minor))" >/dev/null 2>&1
}

if [ -n "${1:-}" ]; then
    if runs "$1"; then
        echo "$1"
        exit 0
    fi
    echo "PYTHON=$1 is not a Python of 3.$minor or newer that runs" >&2
    exit 1
fi
if [ -z "${2:-}" ] && runs python3; then
    echo python3
    exit 0
fi
# The newest that the requirements have wheels for comes first; pyenv's own folders are tried too,
# since its shims answer only for the version that is switched on.
for version in 13 12 11; do
    [ "$version" -ge "$minor" ] || continue
    for candidate in "python3.$version" \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$version".*/bin/python3; do
        if runs "$candidate"; then
            echo "$candidate"
            exit 0
        fi
    done
done
echo "no Python of 3.$minor or newer runs here; install one, or name it: make PYTHON=/path/to/python3" >&2
exit 1
