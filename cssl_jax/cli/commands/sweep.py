"""Command `sweep`: many runs of one recipe with other values."""

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
    """Run a recipe many times with other values and report which were best; needs Optuna.

    A sweep that is in the folder is resumed, after a kill as well as for more trials.

    Attributes:
        recipe: Name of a recipe (see `cssl-jax recipes`), or a .py or .json file; its values are
            the defaults of the other options.
        space: Python file with a function space(trial) that returns config fields and their values.
        workdir: Folder of the sweep; every trial has a run folder in it.
        trials: Total number of trials.
        seed: Seed of the sampler.
        sampler: Choice of values: "tpe" learns from earlier trials (Optuna's default), "random"
            does not.
        pruner: Early stopping: "median" ends a trial that is worse than the median of earlier
            trials at the same epoch.
        prune_after: Number of epochs before which no trial is ended.
        storage: Address of a database that several folders share, each with its own command; ""
            uses a file in the folder.
        study: Name of the study in that database; "" is the name of the folder.
        figures: Write the report's plots as PNG as well.
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


def run(argv: Sequence[str]) -> int:
    """`cssl-jax sweep RECIPE --space space.py [--trials 20] [--section.field VALUE ...]`."""
    from cssl_jax.sweeps.sweep import sweep
    from cssl_jax.sweeps.sweep_report import write_report

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
    print("\n" + "\n".join(found.summary) + f"\n\n{path}, {found.path / 'trials.csv'}")
    return 0
