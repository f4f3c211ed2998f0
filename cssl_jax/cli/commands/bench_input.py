"""Command `bench-input`: speed of each stage of a recipe's input."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from cssl_jax.cli.parsing import Recipe, fit_warmup, parse, recipe_first
from cssl_jax.config import Config


@dataclasses.dataclass(frozen=True)
class BenchInput:
    """Measure each stage of a recipe's input and report which one limits it.

    Attributes:
        recipe: Name of a recipe (see `cssl-jax recipes`), or a .py or .json file; its values are
            the defaults of the other options.
        seconds: Duration of each measurement in seconds.
        config: Every field of the config; defaults are the recipe's.
    """

    recipe: Recipe
    seconds: float = 3.0
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def run(argv: Sequence[str]) -> int:
    """`cssl-jax bench-input RECIPE [--seconds 3] [--section.field VALUE ...]`."""
    from cssl_jax.experiment.input_profile import bench_input

    config = recipe_first("bench-input", "[--seconds 3]", argv)
    default = BenchInput(tyro.MISSING, config=config)
    options = parse(BenchInput, "bench-input", argv, default)
    chosen = fit_warmup(options.config, config, argv)
    print(bench_input(chosen, seconds=options.seconds))
    return 0
