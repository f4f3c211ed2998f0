"""Process start to first step, as a person starts it."""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time


def run(options: argparse.Namespace) -> dict:
    found = {}
    with tempfile.TemporaryDirectory() as root:
        cache = {"CSSL_JAX_CACHE": str(pathlib.Path(root) / "cache")}
        for name in ("cold cache", "warm cache", "resume"):
            run_folder = pathlib.Path(root) / ("one" if name != "warm cache" else "two")
            found[name] = seconds_to_first_step(options.recipe, run_folder, cache)
    return {"seconds": found}


def table(section: dict) -> str:
    return "\n".join(f"{name:<12}{s:>8.1f} s" for name, s in section["seconds"].items())


def seconds_to_first_step(recipe: str, folder: pathlib.Path, cache: dict[str, str]) -> float:
    """Until the first line that this process writes; then it is asked to save and end."""
    arguments = ["pretrain", recipe, "--workdir", str(folder), "--train.log-every", "1"]
    path = folder / "metrics.jsonl"
    before = path.read_text().count("\n") if path.exists() else 0
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "cssl_jax", *arguments],
        env={**os.environ, **cache},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (path.exists() and path.read_text().count("\n") > before):
        if process.poll() is not None:
            raise RuntimeError(f"the run ended with {process.returncode} before its first step")
        time.sleep(0.005)
    seconds = time.perf_counter() - begun
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=120)
    return seconds
