"""Commands about many devices: whether a recipe computes the same on them, and what it costs."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from cssl_jax.commands.parsing import parse, recipe_first
from cssl_jax.config import Config


@dataclasses.dataclass(frozen=True)
class SelfCheckOptions:
    """Take steps of a recipe on 1, 2, 4, ... devices and compare what they compute.

    Attributes:
        recipe: As for pretrain; debug where none is given.
        devices: The most to try: accelerators where there are two or more, else simulated CPUs.
        steps: In float64; in float32 it is one.
        full: Do not reduce the recipe: its own encoder, batch and size.
        timeout: Seconds for each group of processes.
        config: Every field of the config; defaults are the recipe's.
    """

    recipe: tyro.conf.Positional[str]
    devices: int = 8
    steps: int = 20
    full: bool = False
    timeout: float = 900.0
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def selfcheck(argv: Sequence[str]) -> int:
    """`cssl-jax selfcheck [RECIPE] [--devices 8] [--section.field VALUE ...]`."""
    from cssl_jax.train.selfcheck import say, selfcheck

    if not argv or (argv[0].startswith("-") and {"-h", "--help"}.isdisjoint(argv)):
        argv = ["debug", *argv]
    config = recipe_first("selfcheck", "[--devices 8]", argv)
    default = SelfCheckOptions(tyro.MISSING, config=config)
    options = parse(SelfCheckOptions, "selfcheck", argv, default)
    found = selfcheck(
        options.config,
        devices=options.devices,
        steps=options.steps,
        full=options.full,
        timeout=options.timeout,
        progress=say,
    )
    print(found)
    return 0 if found.passed else 1
