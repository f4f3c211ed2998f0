"""Traces selected steps for xprof (TensorBoard's profile plugin) or Perfetto."""

import pathlib
import re

import jax

from cssl_jax.errors import UserError
from cssl_jax.train.hooks import Hook, Run

FOLDER = "profile"  # inside a run folder


class Profile(Hook):
    """Traces the steps FIRST to LAST of a run, counted as in metrics.jsonl, into RUN/profile.

    A run that is resumed after FIRST traces the remaining steps.
    """

    def __init__(self, folder: pathlib.Path, steps: str) -> None:
        """Reads ``steps``: "FIRST:LAST", or "" to trace nothing.

        Raises:
            UserError: ``steps`` has another form.
        """
        match = re.fullmatch(r"(\d+):(\d+)", steps)
        if steps and not (match and 0 < int(match[1]) <= int(match[2])):
            raise UserError(f"--profile-steps is {steps!r}; give FIRST:LAST, such as 10:20")
        self._first, self._last = map(int, match.groups()) if match else (0, 0)
        self._folder, self._tracing = folder, False

    def before_step(self, run: Run) -> None:
        """Starts the trace if the next step is to be traced."""
        if self._first <= run.step + 1 <= self._last and not self._tracing:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after_step(self, run: Run, metrics: dict[str, jax.Array], wait: float) -> None:
        """Writes the trace after its last step."""
        if not self._tracing or run.step < self._last:
            return
        jax.block_until_ready(metrics)
        self._close()
        run.say(f"step {run.step}: traced into {self._folder}")

    def on_rollback(self, run: Run) -> None:
        """Writes the trace of the steps before the non-finite one."""
        self._close()

    def on_end(self, run: Run, error: BaseException | None) -> None:
        """Writes the trace of the steps so far."""
        self._close()

    def _close(self) -> None:
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
