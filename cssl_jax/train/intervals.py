"""Steps after which a run evaluates and saves."""

import time

from cssl_jax.config import TrainConfig


class Intervals:
    """Decides by the step, and by the clock, when to evaluate and save.

    A regular save is due by steps or epochs: the same in every run of a config, however often the
    run is interrupted. Saves by the clock or a signal change no result.
    """

    def __init__(self, config: TrainConfig, steps_per_epoch: int) -> None:
        self._evaluate = config.evaluate_every * steps_per_epoch
        self._save = (config.checkpoint_every * steps_per_epoch, config.checkpoint_steps)
        self._total = config.epochs * steps_per_epoch
        self._seconds = 60.0 * config.checkpoint_minutes
        self.saved()

    def evaluates(self, step: int) -> bool:
        """True if the encoder is evaluated after ``step`` steps, as it is at the end of a run."""
        return step == self._total or _due(step, self._evaluate)

    def regular(self, step: int) -> bool:
        """True if every run of this config saves after ``step`` steps."""
        return self.evaluates(step) or any(_due(step, interval) for interval in self._save)

    def overdue(self) -> bool:
        """True if ``checkpoint_minutes`` have passed since the last save, or since the start."""
        return 0.0 < self._seconds <= time.monotonic() - self._last

    def saved(self) -> None:
        """Restarts the clock."""
        self._last = time.monotonic()


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
