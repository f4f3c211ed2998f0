"""A sweep's trials, one after another, each counted as what came of it."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from cssl_jax.errors import InterruptedRunError, RunError, StoppedRunError, UserError
from cssl_jax.files import write_json
from cssl_jax.runtime import process
from cssl_jax.sweeps import objective, study
from cssl_jax.sweeps import results as sweep_results
from cssl_jax.sweeps.results import Sweep
from cssl_jax.sweeps.space import Space
from cssl_jax.train.pretrain import pretrain

RUNS = "trials"
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """What came of a trial.

    Attributes:
        state: "complete", "pruned" or "failed".
        words: Why, or its score.
        score: Of a complete trial, in [0, 1].
        attributes: Of it beside that, for the study.
    """

    state: str
    words: str
    score: float | None = None
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)


class Trials:
    """Those that a sweep has left to run, and what it wrote down of all.

    Args:
        place: The sweep's folder.
        space: Where their configs come from.
        opened: The study.
        interruption: Of this process.
        metric: Which figure of ``selection.METRICS`` selects.
        most: Trials that there are to be.
        about: Of ``record.SETTINGS``: recipe, config, space, settings.
        say: Is told of every trial.
    """

    def __init__(
        self,
        place: pathlib.Path,
        space: Space,
        opened: study.Study,
        interruption: process.Interruption,
        metric: str,
        most: int,
        about: dict[str, Any],
        say: Say,
    ) -> None:
        self._place, self._space, self._study = place, space, opened
        self._interruption, self._metric = interruption, metric
        self._most, self._about, self._say = most, about, say

    def run(self) -> Sweep:
        """All trials that are left.

        Raises:
            InterruptedRunError, RunError: See ``sweep``.
        """
        while trial := self._study.next(self._most):
            self._say(f"trial {trial.number} of {self._most}")
            try:
                found = self._try(trial)
            except InterruptedRunError as stopped:
                raise InterruptedRunError(f"trial {trial.number}: {stopped}") from stopped
            finally:
                self.write()
            self._say(f"trial {trial.number} {found.state}: {found.words}")
        whole = self.write()
        if not whole.count("complete"):
            failed = [trial for trial in whole.trials if trial.message]
            reason = f"; {failed[-1].message}" if failed else ""
            raise RunError(f"none of {len(whole.trials)} trials was completed{reason}")
        return whole

    def _try(self, trial: Any) -> _Outcome:
        """Runs a trial to its end and counts it."""
        place = self._place / RUNS / f"{trial.number:04}"
        try:
            found = self._outcome(trial, place)
        except InterruptedRunError:
            raise
        except (UserError, RunError, jax.errors.JaxRuntimeError, MemoryError) as error:
            if isinstance(error.__cause__, OSError):  # a full disk is no trial's fault
                raise
            found = _Outcome("failed", " ".join(str(error).split()) or type(error).__name__)
        attributes = dict(found.attributes)
        if place.is_dir():  # a config that is refused leaves no folder
            attributes |= {"run": f"{RUNS}/{place.name}", "folder": str(self._place)}
        if found.state != "complete":
            attributes["message"] = found.words
        self._study.end(trial, found.state, found.score, **attributes)
        return found

    def _outcome(self, trial: Any, place: pathlib.Path) -> _Outcome:
        """Runs a trial on from what its folder holds, which may already be the end of it."""
        config = self._space.config(trial)
        watch = objective.Watch(trial, self._metric, config.train.epochs)
        if reason := watch.replay(place):
            return _Outcome("pruned", reason)
        self._stop_if_asked()
        try:
            results = pretrain(config, place, watch=watch)
        except StoppedRunError as stopped:
            return _Outcome("pruned", str(stopped))
        watch.replay(place)  # evaluations before a resume, and of a run that was already complete
        words = objective.METRICS[self._metric]
        if not watch.scores:
            return _Outcome("failed", f"no evaluation has a {words} on images that select")
        score, best = max(watch.scores.values()), results.get("best", {})
        images = [results["selection"]["images"], best.get("images", 0)]
        attributes = {"reported": objective.reported(best), "images": images}
        return _Outcome("complete", f"{words} {100 * score:.1f} %", score, attributes)

    def _stop_if_asked(self) -> None:
        if name := self._interruption.name:
            raise InterruptedRunError(f"{name} before its steps; run the same command to go on")

    def write(self) -> Sweep:
        """Brings the folder's tables up to date."""
        found = Sweep(
            path=self._place,
            most=self._most,
            metric=objective.METRICS[self._metric],
            images=self._study.images(),
            axes=self._study.axes(),
            trials=sweep_results.ranked(self._study.trials()),
            importance=self._study.importance(),
            **self._about,
        )
        known = json.loads((self._place / sweep_results.SETTINGS).read_text())
        about = {**known, **self._about, "most": self._most, "metric": found.metric}
        write_json(self._place / sweep_results.SETTINGS, about)
        sweep_results.write(found)
        return found
