"""Command `demo`: train and evaluate on the embedded digits."""

import dataclasses
import pathlib
from collections.abc import Sequence

from cssl_jax.cli.commands.pretrain import Pretrain, train
from cssl_jax.cli.parsing import Folder, parse


@dataclasses.dataclass(frozen=True)
class Demo:
    """Train on the embedded digits and evaluate the encoder: a few minutes on a laptop.

    Attributes:
        workdir: Run folder; a run that is in it is resumed.
        recipe: Recipe to run instead of the digits.
    """

    workdir: Folder = pathlib.Path("runs/demo")
    recipe: str = "digits"


def run(argv: Sequence[str]) -> int:
    """`cssl-jax demo [--workdir DIR]`."""
    from cssl_jax import recipes

    options = parse(Demo, "demo", argv)
    return train(Pretrain(options.recipe, options.workdir, config=recipes.load(options.recipe)))
