"""Kills a run at random instants, again and again, and compares it with one that was left alone.

    python tests/helpers/kills.py --kills 50
    python tests/helpers/kills.py --kills 10 --epochs 20 --modality text

One run on the embedded digits, or on small series, recordings or texts, is killed by SIGKILL, and
now and then by SIGTERM: while it starts, between steps, while it saves. It is started again each
time as a person starts it. At the end all that it computed must equal the other run's, bit for
bit: every array of the last checkpoint, metrics.jsonl, results.json and the record of views.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np

import cssl_jax
from cssl_jax.checkpoint.checkpoints import FOLDER

TIMEOUT = 300
ENCODER = f"{pathlib.Path(__file__).with_name('tiny_encoder.py')}:LINEAR"
# Most of a start is tracing: the encoder is small, and views are cropped and flipped only.
VIEWS = [f"--augment.{name}" for name in ("jitter", "grayscale", "blur", "solarize")]
ARGUMENTS = [
    *("--train.log-every", "3", "--runtime.devices", "1"),
    *("--train.checkpoint-steps", "30", "--train.checkpoint-every", "0"),
    *("--train.no-tensorboard",),
    # Few probes: what is killed is the run, and evaluating takes a third of a short one.
    *("--evaluate.probe-seeds", "1", "--evaluate.l2-values", "0.01"),
    *("--evaluate.online-l2-values", "0.01"),
]


class Subject(NamedTuple):
    """A run that can be killed: the words of its recipe, and its steps per epoch."""

    words: tuple[str, ...]
    steps: int


DIGITS = Subject(
    (
        *("debug", "--model.encoder", ENCODER),
        *(word for option in VIEWS for word in (option, "0")),
        *("--train.batch-size", "64", "--train.record-views"),
    ),
    1437 // 64,
)


def modality_subject(name, folder):
    """A run on series, recordings or texts, which are written to the folder."""
    from helpers import modality_runs

    size, batch = 240, 16
    recipe = modality_runs.write_recipe(name, folder, size)
    fraction = modality_runs.config(name, "").data.validation_fraction
    return Subject((str(recipe),), (size - round(fraction * size)) // batch)


def start(folder, epochs, words=(), subject=DIGITS):
    rest = ["--train.epochs", str(epochs), "--train.evaluate-every", str(max(epochs // 2, 1))]
    options = [*subject.words, *ARGUMENTS, *rest, *words]
    command = [sys.executable, "-m", "cssl_jax", "pretrain", *options]
    command += ["--workdir", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def steps_logged(folder, since=0.0):
    """The last step that was written down by a process that began after ``since``."""
    path = folder / "metrics.jsonl"
    try:
        if path.stat().st_mtime < since:
            return 0  # lines of an earlier process, of which it may cut some
        lines = path.read_text().splitlines()
        return json.loads(lines[-1])["step"] if lines else 0
    except (OSError, ValueError):
        return 0


def is_saving(folder, since=0.0):
    """Whether a checkpoint is unfinished that was begun after ``since``, a time of the clock."""
    for path in (folder / FOLDER).glob("*tmp*"):
        try:
            if path.stat().st_mtime >= since:
                return True
        except OSError:
            pass  # finished meanwhile
    return False


def newest(folder):
    names = [path.name for path in (folder / FOLDER).glob("*") if path.name.isdigit()]
    return max(map(int, names), default=0)


def wait(process, condition):
    """Until the condition holds, or the process has ended."""
    deadline = time.monotonic() + TIMEOUT
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline, "the run hangs"
        time.sleep(0.001)


class Killer:
    """One kill after another, at instants that a seed decides.

    ``moments`` are the first kills: whether during "start", "step" or "save", and the signal.
    """

    def __init__(self, folder, epochs, kills, seed, words=(), subject=DIGITS, moments=()):
        self.words, self.subject, self.moments = words, subject, list(moments)
        self.folder, self.epochs = folder, epochs
        self.draw = random.Random(seed)
        self.total = epochs * subject.steps
        self.left = kills
        self.done = {"while starting": 0, "between steps": 0, "while saving": 0}
        self.done["by request at a step"] = 0
        self.lost = []

    def next_kill(self):
        """The moment of the next kill, and its signal."""
        if self.moments:
            return self.moments.pop(0)
        moment = self.draw.choices(["start", "step", "save"], [1, 3, 3])[0]
        number = self.draw.choices([signal.SIGKILL, signal.SIGTERM], [3, 1])[0]
        return moment, signal.SIGKILL if moment == "start" else number

    def kill(self):
        """Starts the run and kills it; False where it came to its end before."""
        before, begun = newest(self.folder), time.time()
        process = start(self.folder, self.epochs, self.words, self.subject)
        moment, number = self.next_kill()
        if moment == "start":
            time.sleep(self.draw.uniform(0.0, 4.0))
        else:
            share = 2 * (self.total - before) / max(self.left, 1)
            target = before + 1 + self.draw.uniform(0.0, share)
            wait(process, lambda: steps_logged(self.folder, begun) >= min(target, self.total))
            if moment == "save":
                wait(process, lambda: is_saving(self.folder, begun))
            time.sleep(self.draw.uniform(0.0, 0.03))
        reached, saving = steps_logged(self.folder, begun), is_saving(self.folder, begun)
        sent = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT)
        if process.returncode == 0:
            return False
        if number != signal.SIGKILL:
            assert process.returncode == 75, (process.returncode, errors)
            assert number.name in errors
            assert time.monotonic() - sent < 15  # docs/robustness.md
            if f"{number.name} at step" in errors:  # else it came outside the steps
                assert newest(self.folder) >= reached
                self.done["by request at a step"] += 1
        else:
            assert process.returncode == -signal.SIGKILL, (process.returncode, errors)
        where = "between steps" if reached > before else "while starting"
        self.done["while saving" if saving else where] += 1
        self.lost.append(max(reached - newest(self.folder), 0))
        self.left -= 1
        return True


def finish(folder, epochs, words=(), subject=DIGITS):
    process = start(folder, epochs, words, subject)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors


def views(folder):
    found = {}
    for path in sorted((folder / "views").glob("*.npz")):
        with np.load(path, allow_pickle=False) as content:
            found |= {(path.name, name): content[name] for name in content.files}
    return found


def digests(folder):
    step = newest(folder)
    (meta,) = (folder / FOLDER / str(step) / "meta").glob("metadata")
    return step, json.loads(meta.read_text())["digests"]


def assert_same(killed, whole):
    """All that a run computes, to the bit."""
    assert digests(killed) == digests(whole)
    with cssl_jax.trusting_code():
        models = [cssl_jax.load_encoder(folder).model for folder in (killed, whole)]
    for a, b in zip(*map(_leaves, models), strict=True):
        np.testing.assert_array_equal(a, b)
    for name in ("metrics.jsonl", "results.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    ours, theirs = views(killed), views(whole)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key])
    left = [path.name for path in killed.iterdir() if path.name.endswith(".tmp")]
    assert not left
    assert not is_saving(killed)


def _leaves(tree):
    import jax

    return jax.tree.leaves(jax.device_get(tree))


def torture(
    root, *, kills, epochs, seed=0, words=(), say=lambda text: None, subject=DIGITS, moments=()
):
    """Returns how often the run was killed when, and how many steps were lost.

    ``words`` are more options of the run of ``subject``; ``moments`` are those of ``Killer``.
    """
    whole, killed = root / "whole", root / "killed"
    begun = time.monotonic()
    finish(whole, epochs, words, subject)
    seconds = time.monotonic() - begun
    killer = Killer(killed, epochs, kills, seed, words, subject, moments)
    while killer.left and killer.kill():
        say(f"{killer.left} kills left, at step {newest(killed)} of {killer.total}: {killer.done}")
    finish(killed, epochs, words, subject)
    assert_same(killed, whole)
    return {
        "kills": kills - killer.left,
        "steps": killer.total,
        **killer.done,
        "most logged steps lost by a kill": max(killer.lost, default=0),
        "seconds of the run left alone": round(seconds, 1),
        "seconds of the killed one": round(time.monotonic() - begun - seconds, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modality", default="image", choices=["image", "series", "audio", "text"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        subject = DIGITS
        if options.modality != "image":
            sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
            subject = modality_subject(options.modality, pathlib.Path(root))
        report = torture(
            pathlib.Path(root),
            kills=options.kills,
            epochs=options.epochs,
            seed=options.seed,
            say=lambda text: print(text, flush=True),
            subject=subject,
        )
    print(json.dumps(report, indent=2))
    print("equal to the bit: every array, metrics.jsonl, results.json, the record of views")
    return 0 if report["kills"] == options.kills else 1


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
