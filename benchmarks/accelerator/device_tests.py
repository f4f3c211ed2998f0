"""Section ``tests``: those of the suite's tests that one device is enough for."""

import os
import pathlib
import re
import subprocess
import sys

from accelerator.recorder import Recorder

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FILES = ("models/test_pooling.py", "models/test_normalization.py", "losses/test_ntxent.py")


def run(record: Recorder, *, small: bool) -> None:
    """Runs them on the default backend, with the CPU beside it."""
    import jax

    files = [f"tests/{name}" for name in (FILES[:1] if small else FILES)]
    platform = "cpu" if jax.default_backend() == "cpu" else "cuda,cpu"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "not slow", *files, "-p", "no:cacheprovider"],
        cwd=REPOSITORY,
        env={**os.environ, "CSSL_TEST_PLATFORM": platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=max(5.0, record.left()),
    )
    (record.out / "tests.txt").write_text(done.stdout + done.stderr)
    counts = [line for line in done.stdout.splitlines() if re.search(r"\d+ (passed|failed)", line)]
    record.put("pytest", status=done.returncode, counts=counts[-1] if counts else "no summary")
