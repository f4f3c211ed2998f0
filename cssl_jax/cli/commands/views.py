"""Command `views`: draw images and their augmented views."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Annotated

import tyro

from cssl_jax.cli.parsing import File, Recipe, fit_warmup, parse, recipe_first
from cssl_jax.config import Config


@dataclasses.dataclass(frozen=True)
class Views:
    """Draw images and their views as training sees them, with each view's augmentations.

    Attributes:
        recipe: Name of a recipe (see `cssl-jax recipes`), or a .py or .json file; its values are
            the defaults of the other options.
        output: File to write (.png); - is standard output.
        examples: Number of images, taken from the start of the step's batch.
        step: Number of the step whose batch is drawn, from 0.
        config: Every field of the config; defaults are the recipe's.
    """

    recipe: Recipe
    output: File
    examples: int = 6
    step: int = 0
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def run(argv: Sequence[str]) -> int:
    """`cssl-jax views RECIPE --output views.png [--section.field VALUE ...]`."""
    from cssl_jax.outputs import check_output, stdout_kept_for, write_output
    from cssl_jax.report.views import draw_views

    config = recipe_first("views", "--output views.png", argv)
    options = parse(Views, "views", argv, Views(tyro.MISSING, tyro.MISSING, config=config))
    check_output(options.output, ".png")
    chosen = fit_warmup(options.config, config, argv)
    sheet = draw_views(chosen, step=options.step, examples=options.examples)
    content = io.BytesIO()
    sheet.save(content, "PNG", optimize=True)
    write_output(options.output, content.getvalue())
    with stdout_kept_for(options.output):
        print(f"{options.output}: {options.examples} images and their views at step {options.step}")
    return 0
