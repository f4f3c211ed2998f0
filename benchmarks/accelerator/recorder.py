"""Where sections write their measurements: one JSON line each, on the disk at once."""

import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

RESULTS = "results.jsonl"


class Recorder:
    """Appends the measurements of one section to ``OUT/results.jsonl``.

    Every line is flushed to the disk at once, so that a killed process loses nothing it measured.
    """

    def __init__(self, out: pathlib.Path, section: str, end: float) -> None:
        """Opens the file.

        Args:
            out: Output directory of the kit.
            section: Name written into every line.
            end: Time, in seconds since the epoch, at which the section will be killed.
        """
        self.out, self.section, self.end = out, section, end

    def put(self, figure: str, **values: Any) -> None:
        """Appends one measurement under the name ``figure``; values are anything JSON can hold."""
        line = {"section": self.section, "figure": figure, "time": round(time.time(), 1), **values}
        append(self.out / RESULTS, line)

    def left(self) -> float:
        """Seconds until the section is killed."""
        return self.end - time.time()

    def attempt(self, figure: str, measure: Callable[[], Any], *, seconds: float = 5) -> Any:
        """Runs ``measure`` unless fewer than ``seconds`` are left; a failure becomes a line.

        Returns:
            What ``measure`` returned, or None where it failed or was skipped.
        """
        if self.left() < seconds:
            self.put(figure, skipped=f"{self.left():.0f} s were left, {seconds:.0f} are needed")
            return None
        start = time.time()
        try:
            return measure()
        except Exception as error:  # one failure must not cost the rest of the section
            message = f"{type(error).__name__}: {error}"[:400]
            self.put(figure, failed=message, seconds=round(time.time() - start, 1))
            return None


def append(path: pathlib.Path, line: dict[str, Any]) -> None:
    """Appends one JSON line and waits until the disk has it."""
    with path.open("a") as file:
        file.write(json.dumps(line, default=float) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """All complete lines of ``results.jsonl``; a last line cut short by a kill is dropped."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def seconds_per_call(
    call: Callable[[], Any], seconds: float = 1.0, *, in_flight: int = 2, minimum: int = 3
) -> float:
    """Mean seconds per call of an asynchronous JAX function, after two untimed calls.

    The host runs at most ``in_flight`` calls ahead of the device, as the training loop does.
    """
    import jax

    for _ in range(2):
        jax.block_until_ready(call())
    pending: list[Any] = []
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or count < minimum:
        pending.append(call())
        count += 1
        if len(pending) > in_flight:
            jax.block_until_ready(pending.pop(0))
    jax.block_until_ready(pending)
    return (time.perf_counter() - start) / count
