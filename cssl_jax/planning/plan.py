"""What a plan holds: the memory, operations and collectives of one training step."""

import dataclasses
from collections import Counter
from typing import Any

from cssl_jax.config import Config
from cssl_jax.planning import formulas
from cssl_jax.planning.shapes import Input

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Of one step, known without compiling.

    Attributes:
        arguments: Bytes that a device holds throughout: state, constants, its rows of the batch.
        peak: Most bytes alive beside them, see ``jaxpr.peak_bytes``.
        collectives: Bytes by kind, see ``jaxpr.collective_bytes``.
        cost: By hand.
    """

    arguments: int
    peak: int
    collectives: Counter[str]
    cost: formulas.Cost

    @property
    def held(self) -> int:
        """Bytes of a device in all."""
        return self.arguments + self.peak


@dataclasses.dataclass(frozen=True)
class Plan:
    """What ``cssl-jax plan`` prints.

    Attributes:
        config: The run.
        given: Its data.
        devices: That share a batch.
        shapes: Of the step.
        compiled: What the child told; empty where nothing was compiled.
        compiler: For which device it was compiled.
        memory: Bytes of one device.
        largest: Global batch that fits, by kind of step; 0 is none.
        micro_batch: Examples a device that GradCache encodes at a time.
        warnings: See ``advice.warnings``.
    """

    config: Config
    given: Input
    devices: int
    shapes: Shapes
    compiled: dict[str, Any]
    compiler: str
    memory: int
    largest: dict[str, int]
    micro_batch: int
    warnings: list[str]
