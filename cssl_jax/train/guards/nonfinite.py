"""Steps whose loss or gradient is not finite: what to do, and what to write down."""

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

FOLDER = "nonfinite"  # in a run's
DUMPS = 50  # at most, the newest: a run that skips for hours is no reason to fill a disk
_TRAIL = 20  # logged steps that led there
_ADVICE = (
    "Lower optimizer.learning_rate, lengthen optimizer.warmup_epochs, set optimizer.clip_norm, or "
    "raise method.temperature, in another --workdir (--init with this run starts from its weights)"
)


class RollBack(Exception):  # noqa: N818 - no error: the run goes on
    """The run goes on from an earlier state, with the batch after ``step``.

    Attributes:
        step: That was not finite.
        skipped: Steps of the run that were not, this one included.
        row: How many of them in a row.
        words: What happened.
    """

    def __init__(self, step: int, skipped: int, row: int, words: str) -> None:
        super().__init__(words)
        self.step, self.skipped, self.row, self.words = step, skipped, row, words


class NonFiniteGuard:
    """Judges every step, writes RUN/nonfinite/STEP.json for one that is not finite, and decides.

    A dump holds what the step saw: its examples (numbers in the training part, and their names),
    loss, norm of parameters and gradient of every parameter group, and the logged steps before. The
    batch can be drawn again from its step alone: ``cssl-jax views RECIPE --step``.

    Args:
        folder: RUN/nonfinite; made when it is needed.
        config: ``on_nonfinite`` and ``nonfinite_limit``.
        pipeline: Of the run.
        groups: Names of the parameter groups, see ``norms.parameter_groups``.
        facts: Put into every dump: the config's hash, versions.
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
        self._trail: collections.deque[dict[str, Any]] = collections.deque(maxlen=_TRAIL)

    def remember(self, step: int, values: dict[str, float]) -> None:
        """Notes a logged step, for the dump of a later one."""
        self._trail.append({"step": step, **_plain(values)})

    def judge(self, step: int, values: dict[str, float], norms: np.ndarray, row: int) -> str:
        """Writes down a step that is not finite; returns words for the console.

        Args:
            step: From 1, as in metrics.jsonl.
            values: Its metrics.
            norms: [2, groups], as the step gives them.
            row: How many in a row were not finite, this one included.

        Raises:
            RunError: The run is to stop, or the limit is reached.
            RollBack: The run is to go on from an earlier state.
        """
        path = self._dump(step, values, norms, row)
        name = next(n for n in ("loss", "gradient_norm") if not math.isfinite(values[n]))
        what = f"{name} is {values[name]} at step {step}"
        told = f"its examples and norms are in {path}" if path else "it could not be written down"
        mode = self._config.on_nonfinite
        if mode == "stop":
            raise RunError(
                f"{what}; {told}; checkpoints saved before stand. {_ADVICE}; or go on without this "
                "batch: the same command with --train.on-nonfinite skip (or rollback)"
            )
        skipped = int(values["skipped_steps"])
        self.limit(row, f"{what}; {told}", "in a row")
        if mode == "rollback":
            raise RollBack(step, skipped, row, f"{what}; {told}")
        return f"{what}: update skipped, {skipped} so far; {told}"

    def limit(self, lost: int, words: str, where: str) -> None:
        """Raises RunError where too many steps were lost."""
        if lost >= self._config.nonfinite_limit:
            raise RunError(
                f"{words}; it was the {_ordinal(lost)} {where} (train.nonfinite_limit is "
                f"{self._config.nonfinite_limit}); checkpoints saved before stand. {_ADVICE}"
            )

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
            "metrics": _plain(values),
            "norms": {
                group: _plain({"parameters": parameters, "gradient": gradient})
                for group, parameters, gradient in columns
            },
            "examples": index.tolist(),
            "example_names": names,
            "before": [line for line in self._trail if line["step"] < step],
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
            for old in written[:-DUMPS]:
                old.unlink()
        except OSError:
            return None  # what the run does next matters more
        return path


def _plain(values: dict[str, float]) -> dict[str, float | str]:
    """JSON has no words for what is not finite: "nan", "inf", "-inf"."""
    return {k: v if math.isfinite(v) else str(float(v)) for k, v in values.items()}


def _ordinal(n: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(0 if n % 100 in (11, 12, 13) else n % 10, "th")
    return f"{n}{ending}"
