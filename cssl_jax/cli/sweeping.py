"""The command that runs a recipe many times with other values."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from cssl_jax.cli.parsing import File, Folder, Recipe, fit_warmup, parse, recipe_first
from cssl_jax.config import Config


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Run a recipe with other values, many times, and say which were best; needs Optuna.

    On a folder with a sweep in it, goes on with it: also after a kill, and for more trials.

    Attributes:
        recipe: As for pretrain.
        space: Python file with a function space(trial) that returns config fields and their values.
        workdir: Folder of the sweep; each trial is a run folder in it.
        trials: In all.
        seed: Of what is drawn.
        sampler: "tpe" learns from the trials before (Optuna's default), "random" does not.
        pruner: "median" ends a trial that is worse than the median of those before at an epoch.
        prune_after: Epochs before which no trial is ended.
        storage: Address of a database that several folders share, each with a command of its own.
            Without it, "", a file in the folder.
        study: Name there; "" is the folder's.
        figures: Write the report's figures as PNG too.
        config: Every field of the config; defaults are the recipe's.
    """

    recipe: Recipe
    space: File
    workdir: Folder = pathlib.Path("runs/sweep")
    trials: int = 20
    seed: int = 0
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "none"] = "median"
    prune_after: int = 0
    storage: str = ""
    study: str = ""
    figures: bool = True
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def sweep(argv: Sequence[str]) -> int:
    """`cssl-jax sweep RECIPE --space space.py [--trials 20] [--section.field VALUE ...]`."""
    from cssl_jax.sweeps.report import write_report
    from cssl_jax.sweeps.sweep import sweep

    config = recipe_first("sweep", "--space space.py", argv)
    options = parse(Sweep, "sweep", argv, Sweep(tyro.MISSING, tyro.MISSING, config=config))
    found = sweep(
        fit_warmup(options.config, config, argv),
        options.workdir,
        options.space,
        trials=options.trials,
        seed=options.seed,
        sampler=options.sampler,
        pruner=options.pruner,
        prune_after=options.prune_after,
        storage=options.storage,
        study_name=options.study,
        recipe=options.recipe,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    path = write_report(options.workdir, figures=options.figures)
    print("\n" + "\n".join(found.words) + f"\n\n{path}, {found.path / 'trials.csv'}")
    return 0
