"""Command `selfcheck`: results of a recipe on several numbers of devices."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from cssl_jax.cli.brief_help import asks_for_help
from cssl_jax.cli.parsing import Recipe, fit_warmup, parse, recipe_first
from cssl_jax.config import Config


@dataclasses.dataclass(frozen=True)
class SelfCheck:
    """Train a few steps of a recipe on 1, 2, 4, ... devices and compare the results.

    Attributes:
        recipe: Name of a recipe (see `cssl-jax recipes`), or a .py or .json file; its values are
            the defaults of the other options.
        devices: Maximum number of devices: accelerators if there are two or more, else simulated
            CPUs.
        steps: Number of steps in float64; float32 compares one step.
        full: Keep the recipe's own encoder, batch and image size instead of reducing them.
        timeout: Maximum time in seconds per group of processes.
        config: Every field of the config; defaults are the recipe's.
    """

    recipe: Recipe
    devices: int = 8
    steps: int = 20
    full: bool = False
    timeout: float = 900.0
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def run(argv: Sequence[str]) -> int:
    """`cssl-jax selfcheck [RECIPE] [--devices 8] [--section.field VALUE ...]`."""
    from cssl_jax.selfcheck.run import say, selfcheck

    if not argv or (argv[0].startswith("-") and not asks_for_help(argv)):
        argv = ["debug", *argv]
    config = recipe_first("selfcheck", "[--devices 8]", argv)
    default = SelfCheck("debug", config=config)
    options = parse(SelfCheck, "selfcheck", argv, default)
    result = selfcheck(
        fit_warmup(options.config, config, argv),
        devices=options.devices,
        steps=options.steps,
        full=options.full,
        timeout=options.timeout,
        progress=say,
    )
    print(result)
    return 0 if result.passed else 1
