"""Commands that take a recipe: train, fine-tune, draw views, measure the input, demo."""

import dataclasses
import io
import pathlib
from collections.abc import Sequence
from typing import Annotated

import tyro

from cssl_jax.cli.parsing import (
    File,
    Folder,
    Recipe,
    Run,
    fit_warmup,
    parse,
    recipe_first,
    run_first,
)
from cssl_jax.config import FINETUNE_STEPS, Config


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Train an encoder on unlabelled images, or resume the run in the folder.

    Attributes:
        recipe: Name of a recipe (see `cssl-jax recipes`), or a .py or .json file.
        workdir: Run folder.
        init: Run to take the initial weights from; short for --train.init.
        profile_steps: Steps FIRST:LAST to trace into RUN/profile for xprof, such as 10:20.
        config: Every field of the config; defaults are the recipe's.
    """

    recipe: Recipe
    workdir: Folder
    init: str = ""
    profile_steps: str = ""
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Fine-tune a run's encoder with labels; compare with random weights and raw pixels.

    Attributes:
        run: Run folder of the pretrained encoder.
        workdir: Output folder: one run per training run, and finetune.json.
        fractions: Fractions of each class's training labels, such as 0.01 0.1 1.
        min_steps: Minimum number of steps per training run: if --train.epochs give fewer, as with a
            dozen labels, the number of epochs is increased. 0 uses --train.epochs.
        config: Every field of the training runs' config; defaults are those of the run, with the
            SimCLR paper's fine-tuning. See the options --classifier.*.
    """

    run: Run
    workdir: Folder
    fractions: tuple[float, ...] = (1.0,)
    min_steps: int = FINETUNE_STEPS
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


@dataclasses.dataclass(frozen=True)
class Views:
    """Draw images and their views as training sees them, with each view's augmentations.

    Attributes:
        recipe: Name of a recipe (see `cssl-jax recipes`), or a .py or .json file.
        output: File to write (.png); - is standard output.
        examples: Number of images, the first of the batch.
        step: Step of the run, from 0.
        config: Every field of the config; defaults are the recipe's.
    """

    recipe: Recipe
    output: File
    examples: int = 6
    step: int = 0
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


@dataclasses.dataclass(frozen=True)
class BenchInput:
    """Measure each stage of a recipe's input and report which one limits it.

    Attributes:
        recipe: Name of a recipe (see `cssl-jax recipes`), or a .py or .json file.
        seconds: Duration of each measurement in seconds.
        config: Every field of the config; defaults are the recipe's.
    """

    recipe: Recipe
    seconds: float = 3.0
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


@dataclasses.dataclass(frozen=True)
class Demo:
    """Train on the embedded digits and evaluate the encoder: a few minutes on a laptop.

    Attributes:
        workdir: Run folder; a run that is in it is resumed.
        recipe: Recipe to run.
    """

    workdir: Folder = pathlib.Path("runs/demo")
    recipe: str = "digits"


def pretrain(argv: Sequence[str]) -> int:
    """`cssl-jax pretrain RECIPE --workdir RUN [--init RUN] [--section.field VALUE ...]`."""
    config = recipe_first("pretrain", "--workdir RUN", argv)
    default = Pretrain(tyro.MISSING, tyro.MISSING, config=config)
    options = parse(Pretrain, "pretrain", argv, default)
    fitted = fit_warmup(options.config, config, argv, options.workdir.expanduser())
    return _run(dataclasses.replace(options, config=fitted))


def _run(options: Pretrain) -> int:
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


def finetune(argv: Sequence[str]) -> int:
    """`cssl-jax finetune RUN --workdir DIR [--fractions 0.1 1] [--section.field VALUE ...]`."""
    from cssl_jax.runtime import multihost
    from cssl_jax.transfer.finetune import finetune, finetune_config, format_results

    run = run_first("finetune", "--workdir FOLDER ", argv)
    config = finetune_config(run) if run else Config()
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
        print(f"\n{format_results(results)}\n\nresults: {options.workdir / 'finetune.json'}")
    return 0


def demo(argv: Sequence[str]) -> int:
    """`cssl-jax demo [--workdir DIR]`."""
    from cssl_jax import recipes

    options = parse(Demo, "demo", argv)
    return _run(Pretrain(options.recipe, options.workdir, config=recipes.load(options.recipe)))


def views(argv: Sequence[str]) -> int:
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


def bench_input(argv: Sequence[str]) -> int:
    """`cssl-jax bench-input RECIPE [--seconds 3] [--section.field VALUE ...]`."""
    from cssl_jax.experiment.input_profile import bench_input

    config = recipe_first("bench-input", "[--seconds 3]", argv)
    default = BenchInput(tyro.MISSING, config=config)
    options = parse(BenchInput, "bench-input", argv, default)
    chosen = fit_warmup(options.config, config, argv)
    print(bench_input(chosen, seconds=options.seconds))
    return 0
