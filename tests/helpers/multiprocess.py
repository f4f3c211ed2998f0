"""Real processes of one run under JAX's distributed runtime, on simulated CPU devices."""

import os
import pathlib
import socket
import subprocess
import sys
from typing import NamedTuple

from helpers import compilation

TESTS = pathlib.Path(__file__).resolve().parents[1]
# The command line, with the small encoder of ``helpers.tiny`` among its encoders.
CLI = (
    "import sys; from helpers import tiny; from cssl_jax.cli.main import main; "
    "sys.exit(main(sys.argv[1:]))"
)
# Several commands, one after another; the last argument is a JSON file with the words of each.
CLI_SEVERAL = (
    "import json, pathlib, sys; from helpers import tiny; from cssl_jax.cli.main import main; "
    "calls = json.loads(pathlib.Path(sys.argv[-1]).read_text()); "
    "sys.exit(max(main([*sys.argv[1:-1], *words]) for words in calls))"
)


class End(NamedTuple):
    status: int
    out: str
    err: str


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(devices=1, **variables):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "SLURM_"))}
    return {
        **kept,
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XLA_FLAGS": os.environ["CSSL_TEST_XLA_FLAGS"],
        **compilation.environment(),
        **variables,
    }


def start(code, words, count, *, devices=1, timeout=60, before=None, of_rank=None):
    """Starts ``python -c code`` with the options that join, then the words, ``count`` times.

    ``before``: of a rank, words in front of its command; ``of_rank``: words behind it.
    """
    port, children = free_port(), []
    for rank in range(count):
        joining = ["--coordinator", f"127.0.0.1:{port}", f"--num-processes={count}"]
        joining += ["--process-id", str(rank), "--timeout", str(timeout)]
        command = [sys.executable, "-c", code, *(joining if count > 1 else [])]
        children.append(
            subprocess.Popen(
                [*(before or {}).get(rank, []), *command, *words, *(of_rank or {}).get(rank, [])],
                env=environment(devices),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return children


def ends(children, timeout=240):
    """How each ended; what still runs is killed, so that a hang is a failure and no more."""
    try:
        told = [child.communicate(timeout=timeout) for child in children]
    finally:
        for child in children:
            child.kill()
    return [End(c.returncode, *both) for c, both in zip(children, told, strict=True)]


def run(code, words, count, **options):
    return ends(start(code, words, count, **options))
