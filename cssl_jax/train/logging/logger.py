"""What a run writes down while it steps."""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cssl_jax.config import Config
from cssl_jax.data.pipeline.base import Pipeline
from cssl_jax.data.profile.advice import advice
from cssl_jax.data.view_log.writer import FOLDER, ViewRecord
from cssl_jax.evaluate import verdicts
from cssl_jax.evaluate.accuracy import shows_top5
from cssl_jax.methods.registry import method_entry
from cssl_jax.recipes import to_dict
from cssl_jax.runtime import multihost, process
from cssl_jax.train.guards.nonfinite import NonFiniteGuard, RollBack
from cssl_jax.train.logging.writers import (
    InputWatch,
    JsonLines,
    Meter,
    Progress,
    TensorBoard,
    WandB,
)

IN_FLIGHT = 2  # steps: the device is never idle, and inputs do not pile up on it


@dataclasses.dataclass
class _Step:
    number: int
    metrics: dict[str, jax.Array]
    timing: dict[str, float] | None = None  # of a step that is logged


class RunLogger:
    """Everything a run writes down while it steps; figures are fetched two steps late.

    Of several processes the first writes and speaks; all of them judge, alike, whether to go on.

    Of a step that is not logged only whether it was finite comes to the host, in a copy that began
    when the step was sent off.
    """

    _start_told = False  # of this process, whatever it trains

    def __init__(
        self,
        run: pathlib.Path,
        config: Config,
        pipeline: Pipeline,
        start: int,
        total_steps: int,
        sickness: NonFiniteGuard,
        *,
        unscored: bool = False,
    ) -> None:
        """Opens the files of a run that has ``start`` steps behind it; lines beyond go.

        With ``unscored`` the evaluation of step ``start`` is to be made again.
        """
        self._every = config.train.log_every
        self._batch_size = config.train.batch_size
        self._pipeline = pipeline
        self._steps_per_epoch = pipeline.sampler.steps_per_epoch
        entry = method_entry(config.method.name)
        self._chance = entry.chance_level(config)
        self._total_steps = total_steps
        self._guard, self._begun = sickness, False
        self._in_flight: collections.deque[_Step] = collections.deque()
        self._facts = None  # of what verdicts are about: a contrast and its features
        if entry.contrastive:
            self._facts = verdicts.facts(config, self._steps_per_epoch)
        self._newest: collections.deque[dict[str, Any]] = collections.deque(maxlen=verdicts.LINES)
        self._told: set[str] = set()
        self._meter, self._watch = Meter(), InputWatch()
        writes = multihost.is_primary()
        self._progress = Progress(total_steps, start, shown=writes)
        self._metrics: JsonLines | None = None
        self._timings: JsonLines | None = None
        self._views: ViewRecord | None = None
        self._boards: list[TensorBoard | WandB] = []
        if not writes:
            return
        again = _is_score if unscored else None
        self._metrics = JsonLines(run / "metrics.jsonl", keep_until=start, again=again)
        self._timings = JsonLines(run / "timings.jsonl", keep_until=start)
        if config.train.record_views:
            rows = np.arange(config.train.batch_size)
            work = dataclasses.replace(pipeline.work, rows=rows)
            self._views = ViewRecord(run / FOLDER, work, start)
        if config.train.tensorboard:
            self._boards.append(TensorBoard(run / "tensorboard", start_step=start))
        if config.train.wandb:
            self._boards.append(WandB(config.train.wandb, run, to_dict(config)))

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.flush()
        self._progress.close()
        for writer in (self._metrics, self._timings, *self._boards, self._views):
            if writer is not None:
                writer.close()

    def add(self, step: int, metrics: dict[str, jax.Array], wait: float) -> None:
        """Notes one step that was sent off; waits only for the one before the last.

        Raises:
            RunError, RollBack: That one was not finite; see ``Sickness.judge``.
        """
        self._meter.add(self._batch_size, wait)
        self._progress.advance(step)
        if self._views is not None:
            self._views.add(step)
        metrics["finite"].copy_to_host_async()
        self._in_flight.append(_Step(step, metrics))
        while len(self._in_flight) > IN_FLIGHT:
            self._settle()
        if step % self._every == 0 or step in (1, self._total_steps):
            self._in_flight[-1].timing = self._meter.read()

    def flush(self) -> None:
        """Waits for what is in flight, and writes it; all of it is on file before a state is saved.

        Raises:
            RunError, RollBack: A step was not finite; see ``Sickness.judge``.
        """
        while self._in_flight:
            self._settle()
        if self._views is not None:
            self._views.wait()

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._progress.say(text)

    def scores(self, step: int, scores: dict[str, float]) -> None:
        """Writes the figures of an online evaluation, whose time counts for no interval."""
        if self._metrics is not None:
            self._metrics.write(step, {"epoch": step / self._steps_per_epoch, **scores})
        for board in self._boards:
            board.write(step, scores)
        top5 = shows_top5(self._pipeline.source.num_classes)
        shown = [
            f"{name} {value:.4f}"
            for name, value in scores.items()
            if not name.startswith("features.") and (top5 or not name.endswith(".top5"))
        ]
        if "features.rankme" in scores:
            most = scores["features.rank_limit"]
            shown.append(f"RankMe {scores['features.rankme']:.1f} of {most:.0f}")
        self._progress.say(f"step {step}: {', '.join(shown)}")
        if self._facts is not None:
            self._tell(step, verdicts.of_features({"step": step, **scores}, self._facts))
        self._meter.read()

    def _settle(self) -> None:
        """Waits for the oldest step in flight, writes it, and judges whether it was finite."""
        oldest = self._in_flight.popleft()
        finite = bool(oldest.metrics["finite"])
        if not self._begun:
            self._begun = True
            self._tell_start()
        if finite and oldest.timing is None:
            return
        arrays = jax.device_get(oldest.metrics)
        values = _figures(arrays)
        if oldest.timing is not None:
            self._write(oldest.number, values, oldest.timing)
        if finite:
            return
        row = int(arrays["skipped"][1])
        try:
            self.say(self._guard.judge(oldest.number, values, arrays["norms"], row))
        except RollBack:
            self._in_flight.clear()  # made from weights that are given up
            raise

    def _tell_start(self) -> None:
        """Says once how long a process took to a first step; later trainings began in it."""
        age = None if RunLogger._start_told else process.process_age()
        RunLogger._start_told = True
        if age is not None:
            self.say(f"first step done {age:.1f} s after the process was started")

    def _tell(self, step: int, found: Sequence[verdicts.Verdict]) -> None:
        """Says each kind of verdict once, at the step at which it first holds."""
        for verdict in found:
            if verdict.kind not in self._told:
                self._told.add(verdict.kind)
                self.say(f"step {step}: {verdict}")

    def _write(self, step: int, values: dict[str, float], timing: dict[str, float]) -> None:
        values = {**values, "chance_level": self._chance}
        self._guard.remember(step, values)
        self._progress.show(values, timing)
        if share := self._watch.judge(timing):
            for verdict in verdicts.of_input(share, advice(self._pipeline)):
                self.say(str(verdict))  # again where it got worse: the watch decides
        if self._facts is not None:
            self._newest.append({"step": step, **values})
            self._tell(step, verdicts.of_steps(self._newest, self._facts))
        epoch = step / self._steps_per_epoch
        if self._metrics is not None and self._timings is not None:
            self._metrics.write(step, {"epoch": epoch, **values})
            self._timings.write(step, timing)
        for board in self._boards:
            board.write(step, {**values, **timing})


def _figures(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """The scalars of a step, and how many steps were skipped so far."""
    apart = ("finite", "skipped", "norms")
    values = {name: float(value) for name, value in arrays.items() if name not in apart}
    return {**values, "skipped_steps": int(arrays["skipped"][0])}


def _is_score(line: dict[str, Any]) -> bool:
    return "loss" not in line
