"""Command `finetune`: train a run's encoder further, with labels."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from cssl_jax.cli.parsing import Folder, Run, parse, run_first
from cssl_jax.config import FINETUNE_STEPS, Config


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Fine-tune a run's encoder with labels; compare with random weights and raw pixels.

    Attributes:
        run: Run folder of the pretrained encoder.
        workdir: Folder for the results: a run folder per training run, and finetune.json.
        fractions: Fractions of each class's training labels to train on, such as 0.01 0.1 1.
        min_steps: Minimum number of steps per training run: if --train.epochs gives fewer, as with
            a dozen labels, the number of epochs is increased. 0 uses --train.epochs.
        config: Every field of the training runs' config; defaults are those of the run, with the
            SimCLR paper's fine-tuning. See the options --classifier.*.
    """

    run: Run
    workdir: Folder
    fractions: tuple[float, ...] = (1.0,)
    min_steps: int = FINETUNE_STEPS
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def run(argv: Sequence[str]) -> int:
    """`cssl-jax finetune RUN --workdir DIR [--fractions 0.1 1] [--section.field VALUE ...]`."""
    from cssl_jax.recipes import with_method
    from cssl_jax.runtime import multihost
    from cssl_jax.transfer.finetune import finetune, finetune_config
    from cssl_jax.transfer.transfer_report import FINETUNE
    from cssl_jax.transfer.transfer_tables import format_results

    folder = run_first("finetune", "--workdir FOLDER ", argv)
    config = finetune_config(folder) if folder else with_method(Config(), "classifier")
    default = Finetune(tyro.MISSING, tyro.MISSING, config=config)
    options = parse(Finetune, "finetune", argv, default)
    results = finetune(
        options.run,
        options.workdir,
        fractions=options.fractions,
        min_steps=options.min_steps,
        config=options.config,
    )
    if multihost.is_primary():
        print(f"\n{format_results(results)}\n\nresults: {options.workdir / FINETUNE}")
    return 0
