"""Traces selected steps for xprof (TensorBoard's profile plugin) or Perfetto."""

import pathlib
import re
from typing import Any

import jax

from cssl_jax.errors import UserError

FOLDER = "profile"  # inside a run folder


class Profile:
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

    def before(self, step: int) -> None:
        """Starts the trace if ``step`` is to be traced."""
        if self._first <= step <= self._last and not self._tracing:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after(self, step: int, results: Any) -> bool:
        """Ends the trace after its last step; returns True if it did."""
        if not self._tracing or step < self._last:
            return False
        jax.block_until_ready(results)
        self.close()
        return True

    def close(self) -> None:
        """Writes the trace."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
