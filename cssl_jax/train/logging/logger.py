"""Logger of a training run: metrics, timings, views, boards and console messages."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cssl_jax import recipes
from cssl_jax.data.profile.advice import advice
from cssl_jax.data.view_log.writer import FOLDER, ViewLogWriter
from cssl_jax.evaluate import verdicts
from cssl_jax.evaluate.accuracy import shows_top5
from cssl_jax.methods.registry import method_entry
from cssl_jax.optim.norms import parameter_groups
from cssl_jax.runtime import multihost, process
from cssl_jax.train.guards import nonfinite
from cssl_jax.train.guards.nonfinite import NonFiniteGuard, RollbackRequest
from cssl_jax.train.hooks import Hook, Run
from cssl_jax.train.logging.console import say
from cssl_jax.train.logging.writers import (
    InputWatch,
    JsonLines,
    Meter,
    Progress,
    TensorBoard,
    WandB,
)

IN_FLIGHT = 2  # steps: keeps the device busy without accumulating inputs on it


@dataclasses.dataclass
class _Step:
    number: int
    metrics: dict[str, jax.Array]
    timing: dict[str, float] | None = None  # set for logged steps only


class RunLogger(Hook):
    """Logs all output of a run; metrics are fetched two steps late.

    In a multi-process run only the primary process writes and prints. All processes decide
    identically whether to continue.

    For a step that is not logged, only its flag "finite" is copied to the host. The copy starts
    when the step is dispatched.
    """

    def __init__(self, run: Run, report_startup: bool = False) -> None:
        """Opens the files of a run; lines of steps after ``run.step`` are removed.

        If the evaluation at that step was interrupted, its lines are removed too: it runs again.

        Args:
            run: The run at its first step of this process.
            report_startup: Whether to print the time from the start of the process to the first
                step. In a later run of the same process it would include the earlier runs.
        """
        config, pipeline, total_steps = run.config, run.experiment.pipeline, run.total_steps
        self._every = config.train.log_every
        self._batch_size = config.train.batch_size
        self._pipeline = pipeline
        self._steps_per_epoch = pipeline.sampler.steps_per_epoch
        entry = method_entry(config.method.name)
        self._chance = entry.chance_level(config)
        self._total_steps = total_steps
        self._guard = NonFiniteGuard(
            run.folder / nonfinite.FOLDER,
            config.train,
            pipeline,
            parameter_groups(run.state.params),
            {"config_hash": recipes.config_hash(config), "versions": process.versions()},
        )
        self._startup_pending = report_startup
        self._in_flight: collections.deque[_Step] = collections.deque()
        self._facts = None  # the other diagnostics are about features
        if entry.evaluation == "features":
            self._facts = verdicts.facts(config, self._steps_per_epoch)
        self._recent: collections.deque[dict[str, Any]] = collections.deque(maxlen=verdicts.LINES)
        self._reported: set[str] = set()  # kinds of verdicts
        self._meter, self._watch = Meter(), InputWatch()
        writes = multihost.is_primary()
        self._progress = Progress(total_steps, run.step, shown=writes)
        self._metrics: JsonLines | None = None
        self._timings: JsonLines | None = None
        self._views: ViewLogWriter | None = None
        self._boards: list[TensorBoard | WandB] = []
        if not writes:
            return
        folder = run.folder
        repeated = _is_score if run.unscored else None
        self._metrics = JsonLines(folder / "metrics.jsonl", keep_until=run.step, again=repeated)
        self._timings = JsonLines(folder / "timings.jsonl", keep_until=run.step)
        if config.train.record_views:
            rows = np.arange(config.train.batch_size)
            job = dataclasses.replace(pipeline.view_job, rows=rows)
            self._views = ViewLogWriter(folder / FOLDER, job, run.step)
        if config.train.tensorboard:
            self._boards.append(TensorBoard(folder / "tensorboard", start_step=run.step))
        if config.train.wandb:
            self._boards.append(WandB(config.train.wandb, folder, recipes.to_dict(config)))

    def on_end(self, run: Run, error: BaseException | None) -> None:
        """Writes the steps in flight, unless the run has failed, and closes the files."""
        if error is None:
            self._flush()
        self._progress.close()
        for writer in (self._metrics, self._timings, *self._boards, self._views):
            if writer is not None:
                writer.close()

    def after_step(self, run: Run, metrics: dict[str, jax.Array], wait: float) -> None:
        """Records a dispatched step; blocks only on the step two before it.

        Raises:
            RunError, RollbackRequest: The older step was not finite; see ``NonFiniteGuard.handle``.
        """
        step = run.step
        self._meter.add(self._batch_size, wait)
        self._progress.advance(step)
        if self._views is not None:
            self._views.advance(step)
        metrics["finite"].copy_to_host_async()
        self._in_flight.append(_Step(step, metrics))
        while len(self._in_flight) > IN_FLIGHT:
            self._settle()
        if step % self._every == 0 or step in (1, self._total_steps):
            self._in_flight[-1].timing = self._meter.read()

    def before_save(self, run: Run) -> None:
        """Waits for all dispatched steps and writes them.

        Raises:
            RunError, RollbackRequest: A step was not finite, so that its state must not be saved as
                it is; see ``NonFiniteGuard.handle``.
        """
        self._flush()

    def _flush(self) -> None:
        while self._in_flight:
            self._settle()
        if self._views is not None:
            self._views.wait()

    def after_evaluation(self, run: Run, scores: dict[str, float]) -> None:
        """Writes and prints metrics of an online evaluation; its time is excluded from timings."""
        step = run.step
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
            limit = scores["features.rank_limit"]
            shown.append(f"RankMe {scores['features.rankme']:.1f} of {limit:.0f}")
        say(f"step {step}: {', '.join(shown)}")
        if self._facts is not None:
            self._report_once(step, verdicts.check_features({"step": step, **scores}, self._facts))
        self._meter.read()  # start a new interval

    def _settle(self) -> None:
        """Waits for the oldest dispatched step, writes it, and handles non-finite values."""
        oldest = self._in_flight.popleft()
        finite = bool(oldest.metrics["finite"])
        if self._startup_pending:
            self._startup_pending = False
            if (age := process.process_age()) is not None:
                say(f"first step done {age:.1f} s after the process was started")
        if finite and oldest.timing is None:
            return
        arrays = jax.device_get(oldest.metrics)
        values = _scalars(arrays)
        if oldest.timing is not None:
            self._write(oldest.number, values, oldest.timing)
        if finite:
            return
        row = int(arrays["skipped"][1])
        try:
            say(self._guard.handle(oldest.number, values, arrays["norms"], row))
        except RollbackRequest:
            self._in_flight.clear()  # computed from weights that the rollback discards
            raise

    def _report_once(self, step: int, current: Sequence[verdicts.Verdict]) -> None:
        """Prints each kind of verdict once, at the first step at which it holds."""
        for verdict in current:
            if verdict.kind not in self._reported:
                self._reported.add(verdict.kind)
                say(f"step {step}: {verdict}")

    def _write(self, step: int, values: dict[str, float], timing: dict[str, float]) -> None:
        # A method whose chance level depends on the batch reports its own.
        values = {**values, "chance_level": values.get("chance_level", self._chance)}
        self._guard.remember(step, values)
        self._progress.show(values, timing)
        if waiting := self._watch.check(timing):
            for verdict in verdicts.check_input(waiting, advice(self._pipeline)):
                say(str(verdict))  # the watch limits how often this is printed
        if self._facts is not None:
            self._recent.append({"step": step, **values})
            self._report_once(step, verdicts.check_steps(self._recent, self._facts))
        epoch = step / self._steps_per_epoch
        if self._metrics is not None and self._timings is not None:
            self._metrics.write(step, {"epoch": epoch, **values})
            self._timings.write(step, timing)
        for board in self._boards:
            board.write(step, {**values, **timing})


def _scalars(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Scalar metrics of a step, and the total number of skipped steps."""
    others = ("finite", "skipped", "norms")
    values = {name: float(value) for name, value in arrays.items() if name not in others}
    return {**values, "skipped_steps": int(arrays["skipped"][0])}


def _is_score(line: dict[str, Any]) -> bool:
    return "loss" not in line
