"""A trace of some steps, for xprof (TensorBoard's profile plugin) or Perfetto."""

import pathlib
import re
from typing import Any

import jax

from cssl_jax.errors import UserError

FOLDER = "profile"  # in a run's


class Profile:
    """Traces the steps FIRST to LAST of a run, counted as in metrics.jsonl, into RUN/profile.

    A run that goes on beyond FIRST traces what is left of them.
    """

    def __init__(self, folder: pathlib.Path, steps: str) -> None:
        """``steps`` is "FIRST:LAST"; "" traces nothing.

        Raises:
            UserError: It is something else.
        """
        match = re.fullmatch(r"(\d+):(\d+)", steps)
        if steps and not (match and 0 < int(match[1]) <= int(match[2])):
            raise UserError(f"--profile-steps is {steps!r}; give FIRST:LAST, such as 10:20")
        self._first, self._last = map(int, match.groups()) if match else (0, 0)
        self._folder, self._tracing = folder, False

    def before(self, step: int) -> None:
        """Starts the trace, where it is due."""
        if self._first <= step <= self._last and not self._tracing:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after(self, step: int, results: Any) -> bool:
        """Ends the trace once its last step is done; tells whether it did."""
        if not self._tracing or step < self._last:
            return False
        jax.block_until_ready(results)
        self.close()
        return True

    def close(self) -> None:
        """Writes what was traced."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
