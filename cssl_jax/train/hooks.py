"""Hooks: what a training run does beside its steps, and where a user adds duties of their own.

The loop (``trainer.Trainer``) calls the hooks in this order, each event for every hook in turn:

    on_start                                 once, before the first step
    before_step, after_step                  at every step
    before_save, after_evaluation, after_save   where an evaluation or a save is due
    on_rollback                              after the weights of an older checkpoint were restored
    on_end                                   once, in the reverse order, also after an error

The run's own duties are hooks: ``profile.Profile``, ``logging.logger.RunLogger`` and
``guards.replica_check.ReplicaCheck``, before those of the user.
"""

import dataclasses
import pathlib

import jax

from cssl_jax.config import Config
from cssl_jax.experiment.experiment import Experiment
from cssl_jax.step.state import TrainState
from cssl_jax.train.logging import console


@dataclasses.dataclass
class Run:
    """A training run between two steps, as hooks see it.

    Attributes:
        folder: Run folder.
        experiment: Data, method, input and optimizer of the run.
        state: State after ``step`` steps, on the devices. The next step donates its buffers: copy
            what is needed longer (``jax.device_get``).
        step: Number of steps that were dispatched.
        unscored: True if the evaluation of the first ``step`` was interrupted; it runs again.
    """

    folder: pathlib.Path
    experiment: Experiment
    state: TrainState
    step: int = 0
    unscored: bool = False

    @property
    def config(self) -> Config:
        """Config of the run."""
        return self.experiment.config

    @property
    def total_steps(self) -> int:
        """Number of steps of the whole run."""
        return self.experiment.total_steps

    @property
    def epoch(self) -> float:
        """Number of epochs that were dispatched, with its fraction."""
        return self.step / self.experiment.sampler.steps_per_epoch

    def say(self, text: str) -> None:
        """Prints a line on standard error, above the progress bar; on the primary process only."""
        console.say(text)


class Hook:
    """Base class of hooks, whose methods do nothing.

    Every process calls the hooks, at the same steps and in the same order. A hook that starts a
    collective operation, or that ends the run, must do so on all processes at the same step. An
    exception ends the run as a crash would: what was saved before stands.
    """

    def on_start(self, run: Run) -> None:
        """Prepares for the steps after ``run.step``, which is not 0 in a resumed run.

        An exception on one process ends the run on all of them.
        """

    def before_step(self, run: Run) -> None:
        """Acts before the next step is dispatched."""

    def after_step(self, run: Run, metrics: dict[str, jax.Array], wait: float) -> None:
        """Acts after step ``run.step`` was dispatched; the devices may still compute it.

        Args:
            run: The run; its state is the step's result.
            metrics: Metrics of the step on the devices; reading a value waits for the step.
            wait: Seconds that the loop waited for the input of this step.
        """

    def before_save(self, run: Run) -> None:
        """Acts before a state is evaluated or saved. An exception prevents both."""

    def after_evaluation(self, run: Run, scores: dict[str, float]) -> None:
        """Acts after an online evaluation, before its state is saved.

        Args:
            run: The run.
            scores: Metrics of the evaluation by name, as in metrics.jsonl.
        """

    def after_save(self, run: Run, scores: dict[str, float]) -> None:
        """Acts after a state was passed on to be saved.

        Args:
            run: The run.
            scores: Metrics of the online evaluation at this step; empty without one.

        Raises:
            StoppedRunError: The run shall stop here; the loop waits until the state is saved.
        """

    def on_rollback(self, run: Run) -> None:
        """Acts after a non-finite step, when the weights of an older checkpoint were restored."""

    def on_end(self, run: Run, error: BaseException | None) -> None:
        """Closes what the hook has opened.

        Args:
            run: The run.
            error: Exception that ends the run; None after the last step.
        """
