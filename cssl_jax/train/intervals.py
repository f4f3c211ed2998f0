"""When a run evaluates and saves."""

import time

from cssl_jax.config import TrainConfig


class Intervals:
    """Which steps are due, as a function of the step, and what the clock adds.

    A regular step is due by steps or epochs: the same in every run of a config, however often it
    was interrupted. What the clock and signals add changes no figure.
    """

    def __init__(self, config: TrainConfig, steps_per_epoch: int) -> None:
        self._evaluate = config.evaluate_every * steps_per_epoch
        self._save = (config.checkpoint_every * steps_per_epoch, config.checkpoint_steps)
        self._total = config.epochs * steps_per_epoch
        self._seconds = 60.0 * config.checkpoint_minutes
        self.saved()

    def evaluates(self, step: int) -> bool:
        """Whether the encoder is judged after ``step`` steps: every so many epochs, and at last."""
        return step == self._total or _due(step, self._evaluate)

    def regular(self, step: int) -> bool:
        """Whether every run saves after ``step`` steps."""
        return self.evaluates(step) or any(_due(step, interval) for interval in self._save)

    def overdue(self) -> bool:
        """Whether ``checkpoint_minutes`` have passed since the last save, or the start."""
        return 0.0 < self._seconds <= time.monotonic() - self._last

    def saved(self) -> None:
        """Starts the clock anew."""
        self._last = time.monotonic()


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
