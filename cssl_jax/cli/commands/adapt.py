"""Command `adapt`: domain adaptation of a pretrained run."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from cssl_jax.cli.parsing import Folder, Run, parse, run_first
from cssl_jax.config import Config


@dataclasses.dataclass(frozen=True)
class Adapt:
    """Adapt a run's encoder to a domain without labels; compare with bounds and baselines.

    Attributes:
        run: Run folder of the pretrained encoder.
        workdir: Folder for the results: a run folder per training run, and adaptation.json.
        target: Images of the domain without labels, given as data.source; short for --adapt.target.
        methods: Methods to compare: bn uses the target's BatchNorm statistics without training,
            coral aligns covariances, dann trains against a domain classifier.
        seeds: Number of seeds per setting.
        config: Every field of the training runs' config; defaults are those of the run, with the
            SimCLR paper's fine-tuning. See the options --adapt.* and --classifier.*.
    """

    run: Run
    workdir: Folder
    target: str = ""
    methods: tuple[Literal["bn", "coral", "dann"], ...] = ("bn", "coral", "dann")
    seeds: int = 3
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


def run(argv: Sequence[str]) -> int:
    """`cssl-jax adapt RUN --target SOURCE --workdir DIR [--section.field VALUE ...]`."""
    from cssl_jax.recipes import with_method
    from cssl_jax.runtime import multihost
    from cssl_jax.transfer.adapt.run import adapt
    from cssl_jax.transfer.finetune import finetune_config
    from cssl_jax.transfer.transfer_report import ADAPTATION
    from cssl_jax.transfer.transfer_tables import format_results

    folder = run_first("adapt", "--target SOURCE --workdir FOLDER ", argv)
    config = finetune_config(folder) if folder else with_method(Config(), "classifier")
    options = parse(Adapt, "adapt", argv, Adapt(tyro.MISSING, tyro.MISSING, config=config))
    config = options.config
    if options.target:
        config = config.replace({"adapt.target": options.target})
    results = adapt(
        options.run,
        options.workdir,
        methods=options.methods,
        seeds=options.seeds,
        config=config,
    )
    if multihost.is_primary():
        print(f"\n{format_results(results)}\n\nresults: {options.workdir / ADAPTATION}")
    return 0
