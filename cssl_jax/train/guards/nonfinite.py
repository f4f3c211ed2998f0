"""Guard against steps with a non-finite loss or gradient: dumps, and stop, skip or roll back."""

import collections
import math
import pathlib
import re
from typing import Any

import numpy as np

from cssl_jax.config import TrainConfig
from cssl_jax.data.pipeline.base import Pipeline
from cssl_jax.errors import RunError
from cssl_jax.files import write_json
from cssl_jax.runtime import multihost

FOLDER = "nonfinite"  # sub-folder of a run
DUMPS = 50  # maximum number of dumps; the newest are kept, so that long skipping fills no disk
_HISTORY = 20  # number of preceding logged steps in a dump
_ADVICE = (
    "Lower optimizer.learning_rate, lengthen optimizer.warmup_epochs, set optimizer.clip_norm, or "
    "raise method.temperature, in another --workdir (--init with this run starts from its weights)"
)


class RollbackRequest(Exception):  # noqa: N818 - control flow: training continues from a checkpoint
    """Requests a rollback to an earlier state; training continues with the batch after ``step``.

    Attributes:
        step: Number of the non-finite step, from 1.
        skipped: Total number of non-finite steps of the run, this one included.
        row: Number of consecutive non-finite steps, this one included.
        description: Text on the event for the console.
    """

    def __init__(self, step: int, skipped: int, row: int, message: str) -> None:
        super().__init__(message)
        self.step, self.skipped, self.row, self.description = step, skipped, row, message


class NonFiniteGuard:
    """Handles non-finite steps: writes RUN/nonfinite/STEP.json, then stops, skips or rolls back.

    A dump contains the examples of the step (indices in the training split and names), its metrics,
    the norms of parameters and gradient per parameter group, and the preceding logged steps. The
    batch can be drawn again from the step number alone: ``cssl-jax views RECIPE --step``.

    Args:
        folder: Folder for dumps, RUN/nonfinite; created on demand.
        config: Training section of the config; its fields ``on_nonfinite`` and ``nonfinite_limit``
            are used.
        pipeline: Input pipeline of the run, which determines the examples of a step.
        groups: Names of the parameter groups; see ``norms.parameter_groups``.
        facts: Entries for every dump, such as config hash and versions.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        config: TrainConfig,
        pipeline: Pipeline,
        groups: list[str],
        facts: dict[str, Any],
    ) -> None:
        self._folder, self._config, self._pipeline = folder, config, pipeline
        self._groups, self._facts = groups, facts
        self._history: collections.deque[dict[str, Any]] = collections.deque(maxlen=_HISTORY)

    def remember(self, step: int, values: dict[str, float]) -> None:
        """Stores the metrics of a logged step for the dump of a later step."""
        self._history.append({"step": step, **_json_values(values)})

    def handle(self, step: int, values: dict[str, float], norms: np.ndarray, row: int) -> str:
        """Writes the dump of a non-finite step and applies ``train.on_nonfinite``.

        Args:
            step: Number of the step, from 1, as in metrics.jsonl.
            values: Metrics of the step.
            norms: Norms of parameters and gradient per group, float [2, groups], from the step.
            row: Number of consecutive non-finite steps, this one included.

        Returns:
            Message for the console, if the step is skipped.

        Raises:
            RunError: ``on_nonfinite`` is "stop", or the limit is reached.
            RollbackRequest: ``on_nonfinite`` is "rollback".
        """
        path = self._dump(step, values, norms, row)
        name = next(n for n in ("loss", "gradient_norm") if not math.isfinite(values[n]))
        event = f"{name} is {values[name]} at step {step}"
        dump = f"its examples and norms are in {path}" if path else "its dump could not be written"
        mode = self._config.on_nonfinite
        if mode == "stop":
            raise RunError(
                f"{event}; {dump}; earlier checkpoints remain valid. {_ADVICE}; or continue "
                "without this batch: the same command with --train.on-nonfinite skip (or rollback)"
            )
        skipped = int(values["skipped_steps"])
        check_limit(
            self._config.nonfinite_limit, row, f"{event}; {dump}", "consecutive non-finite step"
        )
        if mode == "rollback":
            raise RollbackRequest(step, skipped, row, f"{event}; {dump}")
        return f"{event}: update skipped, {skipped} skipped in total; {dump}"

    def _dump(
        self, step: int, values: dict[str, float], norms: np.ndarray, row: int
    ) -> pathlib.Path | None:
        sampler, source = self._pipeline.sampler, self._pipeline.source
        index, _ = sampler.draw(step - 1, np.arange(sampler.batch_size))
        names = None if source.names is None else [str(source.names[i]) for i in index]
        columns = zip(self._groups, *norms.tolist(), strict=True)
        content = {
            "step": step,
            "epoch": step / sampler.steps_per_epoch,
            **self._facts,
            "in_a_row": row,
            "metrics": _json_values(values),
            "norms": {
                group: _json_values({"parameters": parameters, "gradient": gradient})
                for group, parameters, gradient in columns
            },
            "examples": index.tolist(),
            "example_names": names,
            "before": [line for line in self._history if line["step"] < step],
        }
        path = self._folder / f"{step:08}.json"
        if not multihost.is_primary():
            return path
        try:
            self._folder.mkdir(exist_ok=True)
            write_json(path, content)
            written = sorted(
                p for p in self._folder.iterdir() if re.fullmatch(r"\d+\.json", p.name)
            )
            for dump in written[:-DUMPS]:
                dump.unlink()
        except OSError:
            return None  # a failed dump must not change how the run continues
        return path


def check_limit(limit: int, lost: int, message: str, counted: str) -> None:
    """Raises RunError if the number of lost steps reaches the limit.

    Args:
        limit: ``train.nonfinite_limit``.
        lost: Number of lost steps.
        message: Description of the last event.
        counted: Text that follows the ordinal number and says which steps are counted.
    """
    if lost >= limit:
        raise RunError(
            f"{message}; it was the {_ordinal(lost)} {counted} (train.nonfinite_limit is {limit}); "
            f"earlier checkpoints remain valid. {_ADVICE}"
        )


def _json_values(values: dict[str, float]) -> dict[str, float | str]:
    """Replaces non-finite numbers, which JSON cannot represent, by "nan", "inf" or "-inf"."""
    return {k: v if math.isfinite(v) else str(float(v)) for k, v in values.items()}


def _ordinal(n: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(0 if n % 100 in (11, 12, 13) else n % 10, "th")
    return f"{n}{ending}"
