"""Result types of ``cssl-jax plan``: memory, operations and collectives of a training step."""

import dataclasses
from collections import Counter
from typing import Any

from cssl_jax.config import Config
from cssl_jax.planning import formulas
from cssl_jax.planning.shapes import DataShapes

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Sizes of one step that are known without compiling it.

    Attributes:
        arguments: Bytes that a device holds throughout: state, constants, its rows of the batch.
        peak: Maximum bytes alive besides the arguments, see ``jaxpr.peak_bytes``.
        collectives: Bytes of collectives by kind, see ``jaxpr.collective_bytes``.
        cost: Operations and bytes by closed formulas.
    """

    arguments: int
    peak: int
    collectives: Counter[str]
    cost: formulas.Cost

    @property
    def held(self) -> int:
        """Maximum bytes that a device holds."""
        return self.arguments + self.peak


@dataclasses.dataclass(frozen=True)
class Plan:
    """What ``cssl-jax plan`` prints.

    Attributes:
        config: Config of the run.
        given: Shapes and pipeline of the run's data.
        devices: Number of devices that a batch is split over.
        shapes: Sizes of the step by array shapes.
        compiled: Results of ``compile_worker.main``; empty if nothing was compiled.
        compiler: Kind of device that the step was compiled for.
        memory: Memory of one device in bytes.
        largest: Kind of step -> largest global batch that fits; 0 if none fits.
        micro_batch: Examples per device that GradCache encodes at a time.
        warnings: Settings that cost accuracy, see ``advice.warnings``.
    """

    config: Config
    given: DataShapes
    devices: int
    shapes: Shapes
    compiled: dict[str, Any]
    compiler: str
    memory: int
    largest: dict[str, int]
    micro_batch: int
    warnings: list[str]
