"""Where a run's figures go: JSON lines, TensorBoard events, the progress bar."""

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
    """Appends one JSON object a line; ``metrics.jsonl`` holds deterministic figures only.

    A number that is not finite becomes null, since JSON has no word for it.
    """

    def __init__(
        self,
        path: pathlib.Path,
        *,
        keep_until: int,
        again: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        """Opens ``path``; lines beyond step ``keep_until`` (a resumed run rewrites them) go.

        So do lines of that very step that ``again`` picks.
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
        """Appends one line."""
        plain = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in values.items()
        }
        self._file.write(json.dumps({"step": step, **plain}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _parse(line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError:
        return {}  # cut short by a kill: dropped
    return content if isinstance(content, dict) else {}


class TensorBoard:
    """Writes scalar events without TensorFlow."""

    def __init__(self, folder: pathlib.Path, *, start_step: int) -> None:
        # tensorboard's own EventFileWriter would load TensorFlow where it is installed.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._put(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        # Tells TensorBoard to forget what an interrupted run wrote beyond this step.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._put(self._event(wall_time=time.time(), step=start_step + 1, session_log=start))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes every number of ``values`` as a scalar."""
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
    """Logs to Weights & Biases; a resumed run goes on as the same run there.

    Only figures and the config are sent, no code and no files. WANDB_MODE=offline keeps them here.
    """

    def __init__(self, project: str, run: pathlib.Path, config: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"train.wandb is {project!r}, but wandb is not installed: pip install wandb, or "
                "leave train.wandb out"
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
                f"train.wandb is {project!r}, but W&B refuses: {str(error).rstrip('.')}; or set "
                "WANDB_MODE=offline, or leave train.wandb out"
            ) from error
        if not (self._run.offline or self._run.disabled):
            print(f"W&B: {self._run.url}", file=sys.stderr)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Logs every number of ``values``; W&B itself drops steps that it has already."""
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        self._run.log(numbers, step=step)

    def close(self) -> None:
        """Sends what is left."""
        self._run.finish()


class Progress:
    """A bar with loss, chance level, images/s, waiting for input, and time left.

    Its clock starts with the first step that is sent off: what was compiled before says nothing of
    the time that is left. Where it is not ``shown`` nothing is printed at all.
    """

    def __init__(self, total: int, done: int, *, shown: bool = True) -> None:
        terminal = sys.stderr.isatty()
        self._begun = False
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
        """Shows that ``done`` steps were sent off."""
        if self._bar.disable:
            return
        if self._begun:
            self._bar.update(done - self._bar.n)
            return
        self._begun = True
        self._bar.n = self._bar.initial = self._bar.last_print_n = done
        self._bar.unpause()
        self._bar.set_description_str("running ")

    def show(self, values: dict[str, float], timing: dict[str, float]) -> None:
        """Shows the newest figures that have come back."""
        self._bar.set_description_str(
            f"loss {values['loss']:.3f} (chance {values['chance_level']:.3f}) ", refresh=False
        )
        self._bar.set_postfix_str(
            f"{timing['images_per_second']:.0f} images/s, "
            f"{100 * timing['input_wait']:.0f}% waiting for input",
            refresh=False,
        )

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if not self._bar.disable:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()


class Meter:
    """Throughput and the share of time spent waiting for input, an interval at a time."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._wait = 0.0
        self._images = 0

    def add(self, images: int, wait: float) -> None:
        """Counts one step of ``images`` examples that waited ``wait`` seconds for its input."""
        self._images += images
        self._wait += wait

    def read(self) -> dict[str, float]:
        """Figures since the last reading: images_per_second, input_wait (share), seconds."""
        seconds = time.perf_counter() - self._start
        figures = {
            "images_per_second": self._images / seconds,
            "input_wait": self._wait / seconds,
            "seconds": seconds,
        }
        self._start, self._wait, self._images = time.perf_counter(), 0.0, 0
        return figures


class InputWatch:
    """Decides when waiting for input is worth a sentence: once, and again where it got far worse.

    Attributes:
        seconds: Of steps that are judged together; a short stall is no finding.
        share: Of time spent waiting that is too much.
        worse: By how much a share must exceed the one that was told last.
    """

    seconds, share, worse = 2.0, INPUT_WAIT, 0.2

    def __init__(self) -> None:
        self._compiled = False
        self._told = 0.0
        self._time = self._wait = 0.0

    def judge(self, timing: dict[str, float]) -> float | None:
        """The share of waiting to tell of, or None; takes what ``Meter.read`` gives."""
        if not self._compiled:  # the first interval waits for the compiler
            self._compiled = True
            return None
        self._time += timing["seconds"]
        self._wait += timing["input_wait"] * timing["seconds"]
        if self._time < self.seconds:
            return None
        share = self._wait / self._time
        self._time = self._wait = 0.0
        if share <= max(self.share, self._told + self.worse if self._told else 0.0):
            return None
        self._told = share
        return share
