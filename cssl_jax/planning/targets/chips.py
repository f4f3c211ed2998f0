"""Accelerators that ``plan --target`` compiles for: vendors' stated rates, topology names."""

import dataclasses
import math

from cssl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """Rates that the vendor states for one chip.

    Attributes:
        flops: Dense bfloat16 floating-point operations per second.
        memory: Bytes of device memory.
        bandwidth: Bandwidth of the device memory in bytes per second.
        interconnect: Bytes per second that the chip sends to other chips, in one direction.
        source: Document that states the rates.
    """

    flops: float
    memory: float
    bandwidth: float
    interconnect: float
    source: str


_TPU = "docs.cloud.google.com/tpu/docs/"
_NVIDIA = "NVIDIA's datasheet, SXM, dense"
TPUS = {
    # The documents state the sum of both directions of the interconnect; half of it is sent.
    "v4": Chip(275e12, 32e9, 1.2e12, 150e9, f"{_TPU}v4"),
    "v5e": Chip(197e12, 16e9, 819e9, 200e9, f"{_TPU}v5e"),
    "v5p": Chip(459e12, 95e9, 2765e9, 300e9, f"{_TPU}v5p"),
    "v6e": Chip(918e12, 32e9, 1638e9, 400e9, f"{_TPU}v6e"),
}
GPUS = {
    "a100": Chip(312e12, 80e9, 2.039e12, 300e9, _NVIDIA),
    "h100": Chip(989e12, 80e9, 3.35e12, 450e9, _NVIDIA),
    "h200": Chip(989e12, 141e9, 4.8e12, 450e9, _NVIDIA),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """Accelerators that a step is compiled for.

    Attributes:
        name: Name that the user gave, such as "tpu:v5e:4x8".
        platform: "tpu" or "cuda".
        model: Key of ``TPUS`` or ``GPUS``.
        topology: Chips along each axis, such as "4x8"; for GPUs the number of GPUs.
        chips: Number of chips.
        chip: Stated rates of one chip.
    """

    name: str
    platform: str
    model: str
    topology: str
    chips: int
    chip: Chip


def parse_target(name: str) -> Target:
    """Parses a target name such as "tpu:v5e:4x8", "cuda:h100" or "cuda:h100:8".

    Raises:
        UserError: The platform, the chip or the topology is unknown; the message lists the known
            chips.
    """
    platform, _, rest = name.partition(":")
    model, _, topology = rest.partition(":")
    known = {"tpu": TPUS, "cuda": GPUS}
    if platform not in known or model not in known[platform]:
        choices = [f"{p}:{m}" for p, models in known.items() for m in models]
        raise UserError(f"--target {name!r} is unknown; give one of {', '.join(choices)}")
    if not topology and platform == "tpu":
        raise UserError(f"--target {name!r} has no topology; give the chips, e.g. tpu:{model}:2x4")
    sides = (topology or "1").split("x")
    if any(not side.isdigit() or side == "0" for side in sides):
        raise UserError(
            f"--target {name!r} has the topology {topology!r}; give chips per axis, such as "
            f"{'4x8' if platform == 'tpu' else '8'}"
        )
    chip = known[platform][model]
    return Target(name, platform, model, topology or "1", math.prod(map(int, sides)), chip)
