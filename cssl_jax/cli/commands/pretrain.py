"""Command `pretrain`: train an encoder."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from cssl_jax.cli.parsing import Folder, Recipe, fit_warmup, parse, recipe_first
from cssl_jax.config import Config


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Train an encoder on unlabelled images, or resume the run in the folder.

    Attributes:
        recipe: Name of a recipe (see `cssl-jax recipes`), or a .py or .json file; its values are
            the defaults of the other options.
        workdir: Folder of the run; a run that is in it is resumed.
        init: Folder of an earlier run, or file of weights, to take the initial weights from; short
            for --train.init.
        profile_steps: First and last step to trace for the profiler xprof, such as 10:20; the trace
            is written to RUN/profile.
        config: Every field of the config; defaults are the recipe's.
    """

    recipe: Recipe
    workdir: Folder
    init: str = ""
    profile_steps: str = ""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def run(argv: Sequence[str]) -> int:
    """`cssl-jax pretrain RECIPE --workdir RUN [--init RUN] [--section.field VALUE ...]`."""
    config = recipe_first("pretrain", "--workdir RUN", argv)
    default = Pretrain(tyro.MISSING, tyro.MISSING, config=config)
    options = parse(Pretrain, "pretrain", argv, default)
    fitted = fit_warmup(options.config, config, argv, options.workdir.expanduser())
    return train(dataclasses.replace(options, config=fitted))


def train(options: Pretrain) -> int:
    """Trains, prints the results and verdicts on the primary process, returns the exit status."""
    from cssl_jax.report.results_table import format_results
    from cssl_jax.report.run_reader import open_run
    from cssl_jax.runtime import multihost
    from cssl_jax.train.pretrain import pretrain

    config = options.config
    if options.init:
        config = config.replace({"train.init": options.init})
    results = pretrain(
        config, options.workdir, profile_steps=options.profile_steps, report_startup=True
    )
    if not multihost.is_primary():
        return 0
    print(f"\n{format_results(results)}\n")
    for verdict in open_run(options.workdir).verdicts:
        print(f"{verdict.grade:<8} {verdict}")
    print(f"\nresults: {options.workdir / 'results.json'}")
    return 0
