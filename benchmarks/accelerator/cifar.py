"""Section ``cifar``: the command line from data to results, stopped once by SIGTERM and resumed."""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from accelerator.recorder import Recorder

EPOCHS = "KIT_EPOCHS"
DATA = "KIT_DATA"  # directory with cifar10_train.npz and cifar10_test1000.npz; "" is none
RUN = "cifar_run"  # below the output directory
STOP_AFTER = 4  # lines of timings.jsonl
BATCH = 512
RESERVE = 12.0  # seconds kept to stop and to save
# Given, so that half of the images compile to the program of all (docs of CIFAR-10's statistics).
L2_VALUES = ("1e-6", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def run(record: Recorder, *, small: bool) -> None:
    """Pretrains; the run directory is kept.

    Args:
        record: Where measurements go.
        small: The digits recipe for three epochs instead.
    """
    data = pathlib.Path(os.environ[DATA]) if os.environ[DATA] else None
    if data is None and not small:
        record.put("cifar", skipped="no --data with cifar10_train.npz was given")
        return
    folder = record.out / RUN
    command = [sys.executable, "-m", "cssl_jax", "pretrain", *_words(small, data)]
    command += ["--train.no-tensorboard", "--workdir", str(folder)]
    start = time.time()
    child = _start(command, record.out)
    while child.poll() is None and len(_lines(folder, "timings")) < STOP_AFTER:
        time.sleep(0.1)
    until_then = time.time() - start
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    start = time.time()
    status = child.wait()
    record.put("stopped by SIGTERM", status=status, seconds=time.time() - start, after=until_then)

    start, seen = time.time(), len(_lines(folder, "timings"))
    child = _start(command, record.out)
    while child.poll() is None and len(_lines(folder, "timings")) <= seen:
        time.sleep(0.1)
    record.put("resumed", seconds_to_next_line=time.time() - start)
    while child.poll() is None:
        if record.left() < RESERVE:
            child.send_signal(signal.SIGTERM)
            child.wait()
        time.sleep(0.2)
    record.put("ended", status=child.returncode, seconds=time.time() - start)
    _results(record, folder)


def _words(small: bool, data: pathlib.Path | None) -> list[str]:
    if small or data is None:
        return ["digits", "--train.epochs", "3", "--train.log-every", "5"]
    train = data / "cifar10_train.npz"
    steps = len(np.load(train)["labels"]) // BATCH
    words = ["cifar10_resnet18", "--data.source", str(train)]
    words += ["--data.validation-source", str(data / "cifar10_test1000.npz")]
    words += ["--model.dtype", "bfloat16", "--train.epochs", os.environ.get(EPOCHS, "100")]
    words += ["--train.evaluate-every", "25", "--train.log-every", str(steps)]
    words += ["--data.mean", *map(str, MEAN), "--data.std", *map(str, STD)]
    words += ["--evaluate.probe-seeds", "1", "--evaluate.l2-values", *L2_VALUES]
    return words


def _start(command: list[str], out: pathlib.Path) -> subprocess.Popen[bytes]:
    with (out / "cifar.txt").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _lines(folder: pathlib.Path, name: str) -> list[dict[str, Any]]:
    """Complete lines of a run's journal."""
    path = folder / f"{name}.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]


def _results(record: Recorder, folder: pathlib.Path) -> None:
    times = [line["seconds"] for line in _lines(folder, "timings") if "seconds" in line]
    metrics = _lines(folder, "metrics")
    kept = ("step", "epoch", "linear.top1", "knn.top1", "loss")
    evaluations = [{k: m[k] for k in kept if k in m} for m in metrics if "knn.top1" in m]
    median = statistics.median(times) if times else None
    record.put("run", evaluations=evaluations, seconds_per_line=median, lines=len(times))
    if (folder / "results.json").exists():
        record.put("results", **json.loads((folder / "results.json").read_text()))
