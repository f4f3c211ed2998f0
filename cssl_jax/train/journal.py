"""What a run writes down while it steps."""

import dataclasses
import math
import pathlib

import jax
import numpy as np

from cssl_jax.config import Config
from cssl_jax.data.advice import advice
from cssl_jax.data.pipeline import Pipeline
from cssl_jax.data.record import FOLDER, ViewRecord
from cssl_jax.errors import RunError
from cssl_jax.losses.ntxent import chance_level
from cssl_jax.recipes import to_dict
from cssl_jax.train.metrics import InputWatch, JsonLines, Meter, Progress, TensorBoard, WandB


class Journal:
    """Everything a run writes down while it steps; figures are fetched two steps late."""

    def __init__(
        self, run: pathlib.Path, config: Config, pipeline: Pipeline, start: int, total_steps: int
    ) -> None:
        self._every = config.train.log_every
        self._batch_size = config.train.batch_size
        self._pipeline = pipeline
        self._steps_per_epoch = pipeline.sampler.steps_per_epoch
        self._chance = chance_level(config.train.batch_size)
        self._total_steps = total_steps
        self._pending: tuple[int, dict[str, jax.Array], dict[str, float]] | None = None
        self._in_flight: list[jax.Array] = []
        self._meter, self._watch = Meter(), InputWatch()
        self._progress = Progress(total_steps, start, config.train.batch_size)
        self._metrics = JsonLines(run / "metrics.jsonl", keep_until=start)
        self._timings = JsonLines(run / "timings.jsonl", keep_until=start)
        self._views: ViewRecord | None = None
        if config.train.record_views:
            rows = np.arange(config.train.batch_size)
            work = dataclasses.replace(pipeline.work, rows=rows)
            self._views = ViewRecord(run / FOLDER, work, start)
        self._boards: list[TensorBoard | WandB] = []
        if config.train.tensorboard:
            self._boards.append(TensorBoard(run / "tensorboard", start_step=start))
        if config.train.wandb:
            self._boards.append(WandB(config.train.wandb, run, to_dict(config)))

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.flush()
        self._progress.close()
        for writer in (self._metrics, self._timings, *self._boards, self._views):
            if writer is not None:
                writer.close()

    def add(self, step: int, metrics: dict[str, jax.Array], wait: float) -> None:
        """Notes one step that was sent off; does not wait for it."""
        self._meter.add(self._batch_size, wait)
        self._progress.advance()
        if self._views is not None:
            self._views.add(step)
        # Two steps stay in flight: the device is never idle, and inputs do not pile up on it.
        self._in_flight.append(metrics["loss"])
        if len(self._in_flight) > 2:
            jax.block_until_ready(self._in_flight.pop(0))
        if self._pending is not None and step >= self._pending[0] + 2:
            self.flush()  # has been waited for already
        if step % self._every == 0 or step in (1, self._total_steps):
            self.flush()
            self._pending = (step, metrics, self._meter.read())

    def flush(self) -> None:
        """Fetches and writes what is pending.

        Raises:
            RunError: The loss or the gradient is not finite.
        """
        if self._pending is None:
            return
        step, metrics, timing = self._pending
        self._pending = None
        values = finite(step, metrics)
        values["chance_level"] = self._chance
        self._progress.show(values, timing)
        if share := self._watch.judge(timing):
            self._progress.say(
                f"waiting for input {100 * share:.0f} % of the time: {advice(self._pipeline)}"
            )
        epoch = step / self._steps_per_epoch
        self._metrics.write(step, {"epoch": epoch, **values})
        self._timings.write(step, timing)
        for board in self._boards:
            board.write(step, {**values, **timing})

    def scores(self, step: int, scores: dict[str, float]) -> None:
        """Writes the figures of an online evaluation, whose time counts for no interval."""
        self._metrics.write(step, {"epoch": step / self._steps_per_epoch, **scores})
        for board in self._boards:
            board.write(step, scores)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        self._progress.say(f"step {step}: {shown}")
        self._meter.read()


def finite(step: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
    """The metrics of a step on the host.

    Raises:
        RunError: The loss or the gradient is not finite.
    """
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    for name in ("loss", "gradient_norm"):
        if not math.isfinite(values[name]):
            raise RunError(
                f"{name} is {values[name]} at step {step}; checkpoints saved before stand. Lower "
                "optimizer.learning_rate, lengthen optimizer.warmup_epochs, set "
                "optimizer.clip_norm, or raise method.temperature"
            )
    return values
