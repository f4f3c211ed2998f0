"""Writers of metrics: JSON lines, TensorBoard, Weights & Biases and the progress bar."""

import json
import math
import pathlib
import secrets
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from cssl_jax.errors import UserError
from cssl_jax.evaluate.verdicts import INPUT_WAIT
from cssl_jax.files import write_text
from cssl_jax.progress import bar


class JsonLines:
    """Writer of one JSON object per line; ``metrics.jsonl`` has deterministic metrics only.

    A non-finite number is written as null, because JSON cannot represent it.
    """

    def __init__(
        self,
        path: pathlib.Path,
        *,
        keep_until: int,
        again: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        """Opens a file and removes the lines that a resumed run writes again.

        Args:
            path: File to append to; created if it does not exist.
            keep_until: Last step to keep; lines of later steps are removed.
            again: Predicate of a line's content; lines of step ``keep_until`` for which it holds
                are removed. None: keep all lines of that step.
        """

        def keep(line: str) -> bool:
            content = _parse(line)
            step = content.get("step", math.inf)
            return step < keep_until or (step == keep_until and not (again and again(content)))

        kept = []
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if keep(line)]
        write_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a")

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Appends one line with the step and the values."""
        finite = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in values.items()
        }
        self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _parse(line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError:
        return {}  # truncated when the process was killed: removed
    return content if isinstance(content, dict) else {}


class TensorBoard:
    """Writer of TensorBoard scalar events that does not load TensorFlow."""

    def __init__(self, folder: pathlib.Path, *, start_step: int) -> None:
        # tensorboard's own EventFileWriter would load TensorFlow if it is installed.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._put(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        # This event makes TensorBoard discard what an interrupted run wrote after this step.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._put(self._event(wall_time=time.time(), step=start_step + 1, session_log=start))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes every number in ``values`` as a scalar; other values are skipped."""
        scalars = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
            if isinstance(value, int | float)
        ]
        summary = self._summary(value=scalars)
        self._put(self._event(wall_time=time.time(), step=step, summary=summary))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _put(self, event: Any) -> None:
        self._records.write(event.SerializeToString())


class WandB:
    """Writer to Weights & Biases; a resumed run continues the same W&B run.

    Only metrics and the config are sent, no code and no files. WANDB_MODE=offline stores them
    locally.
    """

    def __init__(self, project: str, run: pathlib.Path, config: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"train.wandb is {project!r}, but wandb is not installed: pip install wandb, or "
                "omit train.wandb"
            ) from error
        identity = run / "wandb_id.txt"
        if not identity.exists():
            write_text(identity, secrets.token_hex(6) + "\n")
        try:
            self._run = wandb.init(
                project=project,
                name=run.name,
                id=identity.read_text().strip(),
                dir=str(run),
                config=config,
                resume="allow",
                settings=wandb.Settings(save_code=False, disable_git=True, silent=True),
            )
        except wandb.Error as error:
            raise UserError(
                f"train.wandb is {project!r}, but W&B reports: {str(error).rstrip('.')}; or set "
                "WANDB_MODE=offline, or omit train.wandb"
            ) from error
        if not (self._run.offline or self._run.disabled):
            print(f"W&B: {self._run.url}", file=sys.stderr)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Logs every number in ``values``; W&B ignores steps that it already has."""
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        self._run.log(numbers, step=step)

    def close(self) -> None:
        """Sends the remaining data and ends the W&B run."""
        self._run.finish()


class Progress:
    """Progress bar with loss, chance level, examples/s, time waiting for input and remaining time.

    The clock starts when the first step is dispatched, because compile time would distort the
    estimate of the remaining time.
    """

    def __init__(self, total: int, done: int, *, shown: bool = True) -> None:
        """Creates the bar.

        Args:
            total: Number of steps of the run.
            done: Number of completed steps.
            shown: False to print nothing at all.
        """
        terminal = sys.stderr.isatty()
        self._running = False
        self._bar = bar(
            disable=not shown,
            total=total,
            initial=done,
            unit="step",
            dynamic_ncols=terminal,
            ncols=None if terminal else 110,
            smoothing=0.05,
            desc="compiling ",
            bar_format="{desc}{percentage:3.0f}%|{bar:12}| {n_fmt}/{total_fmt} "
            "[{elapsed}<{remaining}{postfix}]",
        )

    def advance(self, done: int) -> None:
        """Shows that ``done`` steps were dispatched."""
        if self._bar.disable:
            return
        if self._running:
            self._bar.update(done - self._bar.n)
            return
        self._running = True
        self._bar.n = self._bar.initial = self._bar.last_print_n = done
        self._bar.unpause()
        self._bar.set_description_str("running ")

    def show(self, values: dict[str, float], timing: dict[str, float]) -> None:
        """Shows the newest available metrics and timings."""
        self._bar.set_description_str(
            f"loss {values['loss']:.3f} (chance {values['chance_level']:.3f}) ", refresh=False
        )
        self._bar.set_postfix_str(
            f"{timing['images_per_second']:.0f} examples/s, "
            f"{100 * timing['input_wait']:.0f}% waiting for input",
            refresh=False,
        )

    def close(self) -> None:
        """Closes the bar and leaves its last state on the screen."""
        self._bar.close()


class Meter:
    """Measures throughput and the fraction of time spent waiting for input, per interval."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._wait = 0.0
        self._images = 0

    def add(self, images: int, wait: float) -> None:
        """Adds one step with ``images`` examples that waited ``wait`` seconds for input."""
        self._images += images
        self._wait += wait

    def read(self) -> dict[str, float]:
        """Returns the timings since the last call and starts a new interval.

        Returns:
            "images_per_second", "input_wait" (fraction of the time in [0, 1]) and "seconds".
        """
        seconds = time.perf_counter() - self._start
        timings = {
            "images_per_second": self._images / seconds,
            "input_wait": self._wait / seconds,
            "seconds": seconds,
        }
        self._start, self._wait, self._images = time.perf_counter(), 0.0, 0
        return timings


class InputWatch:
    """Rate-limits the warning about waiting for input: once, and again if it becomes much worse.

    Attributes:
        seconds: Minimum duration of the steps that are evaluated together, in seconds. Shorter
            stalls are ignored.
        threshold: Fraction of time spent waiting above which a warning is printed.
        increase: Minimum increase of that fraction since the last warning for another warning.
    """

    seconds, threshold, increase = 2.0, INPUT_WAIT, 0.2

    def __init__(self) -> None:
        self._compiled = False
        self._reported = 0.0
        self._time = self._wait = 0.0

    def check(self, timing: dict[str, float]) -> float | None:
        """Returns the fraction of waiting to warn about; None if no warning is due.

        Args:
            timing: Timings of an interval, from ``Meter.read``.
        """
        if not self._compiled:  # the first interval includes compilation
            self._compiled = True
            return None
        self._time += timing["seconds"]
        self._wait += timing["input_wait"] * timing["seconds"]
        if self._time < self.seconds:
            return None
        waiting = self._wait / self._time
        self._time = self._wait = 0.0
        minimum = self._reported + self.increase if self._reported else 0.0
        if waiting <= max(self.threshold, minimum):
            return None
        self._reported = waiting
        return waiting
