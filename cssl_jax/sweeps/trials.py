"""Runs the trials of a sweep one after another, and records the outcome of each."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from cssl_jax.errors import InterruptedRunError, RunError, StoppedRunError, UserError
from cssl_jax.files import write_json
from cssl_jax.runtime import process
from cssl_jax.sweeps import objective, study, sweep_results
from cssl_jax.sweeps.space import Space
from cssl_jax.sweeps.sweep_results import Sweep
from cssl_jax.train.pretrain import pretrain

RUNS = "trials"
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """The outcome of one trial.

    Attributes:
        state: "complete", "pruned" or "failed".
        message: Score of a complete trial; reason why another one was pruned or failed.
        score: Score of a complete trial in [0, 1]; None for other states.
        attributes: Further values that the study stores with the trial.
    """

    state: str
    message: str
    score: float | None = None
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)


class Trials:
    """Runner of the remaining trials of a sweep; also writes the tables of all trials.

    Args:
        folder: Folder of the sweep.
        space: Search space that maps an Optuna trial to a config.
        opened: Optuna study of the sweep.
        signals: Signal state of this process.
        metric: Name in ``objective.METRICS`` of the metric that ranks trials.
        most: Total number of trials.
        about: Content of ``results.SETTINGS``: recipe, config, space and settings.
        say: Receives one line of text at the start and at the end of every trial.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        space: Space,
        opened: study.Study,
        signals: process.SignalRecorder,
        metric: str,
        most: int,
        about: dict[str, Any],
        say: Say,
    ) -> None:
        self._folder, self._space, self._study = folder, space, opened
        self._signals, self._metric = signals, metric
        self._most, self._about, self._say = most, about, say

    def run(self) -> Sweep:
        """Runs all remaining trials.

        Raises:
            InterruptedRunError, RunError: See ``sweep``.
        """
        while trial := self._study.next(self._most):
            self._say(f"trial {trial.number} of {self._most}")
            try:
                outcome = self._run_and_record(trial)
            except InterruptedRunError as stopped:
                raise InterruptedRunError(f"trial {trial.number}: {stopped}") from stopped
            finally:
                self.write()
            self._say(f"trial {trial.number} {outcome.state}: {outcome.message}")
        finished = self.write()
        if not finished.count("complete"):
            failed = [trial for trial in finished.trials if trial.message]
            reason = f"; {failed[-1].message}" if failed else ""
            raise RunError(f"none of {len(finished.trials)} trials was completed{reason}")
        return finished

    def _run_and_record(self, trial: Any) -> _Outcome:
        """Runs a trial to its end and stores its outcome in the study."""
        run = self._folder / RUNS / f"{trial.number:04}"
        try:
            outcome = self._outcome(trial, run)
        except InterruptedRunError:
            raise
        except (UserError, RunError, jax.errors.JaxRuntimeError, MemoryError) as error:
            # A full disk is not caused by the trial's parameters: the sweep ends instead.
            if isinstance(error.__cause__, OSError):
                raise
            outcome = _Outcome("failed", " ".join(str(error).split()) or type(error).__name__)
        attributes = dict(outcome.attributes)
        if run.is_dir():  # a config that is refused creates no folder
            attributes |= {"run": f"{RUNS}/{run.name}", "folder": str(self._folder)}
        if outcome.state != "complete":
            attributes["message"] = outcome.message
        self._study.end(trial, outcome.state, outcome.score, **attributes)
        return outcome

    def _outcome(self, trial: Any, run: pathlib.Path) -> _Outcome:
        """Starts or resumes a trial's run. The folder may already hold the complete run."""
        config = self._space.config(trial)
        callback = objective.PruningCallback(trial, self._metric, config.train.epochs)
        if reason := callback.replay(run):
            return _Outcome("pruned", reason)
        self._stop_if_asked()
        try:
            results = pretrain(config, run, hooks=[callback])
        except StoppedRunError as stopped:
            return _Outcome("pruned", str(stopped))
        # Covers evaluations before a resume, and a run that was complete before this call.
        callback.replay(run)
        title = objective.METRICS[self._metric]
        if not callback.scores:
            return _Outcome("failed", f"no evaluation has a {title} on the selection examples")
        score, best = max(callback.scores.values()), results.best
        selection = results.selection.images if results.selection else None
        images = [selection or 0, (best and best.images) or 0]
        attributes = {"reported": objective.reported_metrics(best), "images": images}
        return _Outcome("complete", f"{title} {100 * score:.1f} %", score, attributes)

    def _stop_if_asked(self) -> None:
        if name := self._signals.name:
            raise InterruptedRunError(
                f"{name} before its first step; run the same command to resume"
            )

    def write(self) -> Sweep:
        """Updates the tables and settings in the sweep's folder. Returns the current state."""
        current = Sweep(
            path=self._folder,
            most=self._most,
            metric=objective.METRICS[self._metric],
            images=self._study.images(),
            axes=self._study.axes(),
            trials=sweep_results.ranked(self._study.trials()),
            importance=self._study.importance(),
            **self._about,
        )
        stored = json.loads((self._folder / sweep_results.SETTINGS).read_text())
        about = {**stored, **self._about, "most": self._most, "metric": current.metric}
        write_json(self._folder / sweep_results.SETTINGS, about)
        sweep_results.write(current)
        return current
