"""A verdict, and the facts of a run that the rules for verdicts depend on."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cssl_jax.methods.registry import method_entry

Metrics = Mapping[str, Any]
Grade = Literal["bad", "warning", "good"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Result of one rule on the metrics of a run.

    Attributes:
        kind: Identifier of the rule, independent of the numbers. A log prints each kind once.
        grade: "bad" if the run is unusable, "warning" if it deserves attention, else "good".
        title: Summary in a few words.
        detail: Metrics that the verdict rests on, and what to change.
    """

    kind: str
    grade: Grade
    title: str
    detail: str

    def __str__(self) -> str:
        return f"{self.title}: {self.detail}"


@dataclasses.dataclass(frozen=True)
class Facts:
    """Properties of a run that the rules depend on.

    Attributes:
        pairs: Number of positive pairs N per batch, the number of examples per batch.
        chance: Chance level of the loss; None if it has none that training must leave.
        temperature: Temperature of NT-Xent; None for another loss.
        total_steps: Number of optimizer steps of the whole run.
        applies_from: First step to which the rules apply; earlier steps are warm-up.
        trust_coefficient: Coefficient eta of LARS.
        weight_decay: Coefficient lambda of the optimizer's weight decay.
    """

    pairs: int
    chance: float | None
    temperature: float | None
    total_steps: int
    applies_from: int
    trust_coefficient: float = 0.001
    weight_decay: float = 0.0


def facts(config: Any, steps_per_epoch: int) -> Facts:
    """Derives the facts of a run from its config.

    The rules apply from the latest of three steps: the end of the learning rate's warm-up, the end
    of the first epoch, and the smaller of 500 steps and a tenth of the run.

    Args:
        config: Config of the run.
        steps_per_epoch: Number of optimizer steps per epoch.
    """
    entry = method_entry(config.method.name)
    total = config.train.epochs * steps_per_epoch
    warmup = round(config.optimizer.warmup_epochs * steps_per_epoch)
    return Facts(
        pairs=config.train.batch_size,
        chance=entry.chance_level(config) if entry.contrastive else None,
        temperature=entry.temperature(config),
        total_steps=total,
        applies_from=min(max(warmup, steps_per_epoch, min(total // 10, 500)), total),
        trust_coefficient=config.optimizer.trust_coefficient,
        weight_decay=config.optimizer.weight_decay,
    )


def is_finite(value: Any) -> bool:
    """Whether a metric is a finite number; it is null where the update was skipped."""
    return value is not None and math.isfinite(value)


def mean(lines: Sequence[Metrics], name: str, default: float = math.nan) -> float:
    """Mean of a metric over the lines that have it; ``default`` if none has."""
    values = [line[name] for line in lines if is_finite(line.get(name))]
    return sum(values) / len(values) if values else default
