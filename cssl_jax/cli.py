"""The commands. The only module that sees argv; everything it does can be called from Python."""

import dataclasses
import difflib
import io
import logging
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeVar

from cssl_jax.errors import RunError, UserError
from cssl_jax.version import __version__

try:
    import tyro

    from cssl_jax.config import Config, DataConfig, validate
    from cssl_jax.data.options import PictureOptions
except (ImportError, RuntimeError) as error:  # no command can be defined: only the doctor can speak
    from cssl_jax.doctor import instead_of_commands

    instead_of_commands(error)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Train an encoder on unlabelled pictures; on a folder with a run in it, go on with that run.

    Attributes:
        recipe: Name of a recipe (see `cssl-jax recipes`), or a .py or .json file.
        workdir: Run folder.
        config: Every field of the config; defaults are the recipe's.
    """

    recipe: tyro.conf.Positional[str]
    workdir: pathlib.Path
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


@dataclasses.dataclass(frozen=True)
class Views:
    """Draw pictures and their views as training sees them, with what each underwent in words.

    Attributes:
        recipe: As for pretrain.
        output: File to write (.png).
        examples: Pictures, the first of the batch.
        step: Of the run, from 0.
        config: Every field of the config; defaults are the recipe's.
    """

    recipe: tyro.conf.Positional[str]
    output: pathlib.Path
    examples: int = 6
    step: int = 0
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


@dataclasses.dataclass(frozen=True)
class BenchInput:
    """Measure what each part of a recipe's input costs, and say what limits it.

    Attributes:
        recipe: As for pretrain.
        seconds: Of each measurement.
        config: Every field of the config; defaults are the recipe's.
    """

    recipe: tyro.conf.Positional[str]
    seconds: float = 3.0
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Config)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure a run's encoder beside the untrained one and raw pixels.

    Attributes:
        run: Run folder.
        protocol: One protocol instead of both.
    """

    run: tyro.conf.Positional[pathlib.Path]
    protocol: Literal["knn", "linear"] | None = None


@dataclasses.dataclass(frozen=True)
class EmbedData:
    """What to embed.

    Attributes:
        source: As data.source of a run: an .npz file, a folder of pictures, a .csv list, ...
        labels: As data.labels of a run.
    """

    source: str
    labels: str = "auto"


@dataclasses.dataclass(frozen=True)
class Embed:
    """Write the features of a set of pictures to an .npz file.

    Attributes:
        run: Run folder of the encoder.
        data: What to embed.
        output: File to write: features float32 [N, D] and, where there are some, labels and names.
    """

    run: tyro.conf.Positional[pathlib.Path]
    data: EmbedData
    output: pathlib.Path


@dataclasses.dataclass(frozen=True)
class DataCheck:
    """Say what is in a set of pictures: broken files, duplicates, sizes, classes.

    Attributes:
        source: Folder, .csv list, tfds:NAME@SPLIT, wds:SHARDS.tar or .parquet file.
        options: How pictures are read; the data.* options of a run with the same names.
        rejected: File to write the pictures to that would be left out, with the reason (.csv).
        json: File to write all figures to.
    """

    source: tyro.conf.Positional[str]
    options: Annotated[PictureOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=PictureOptions
    )
    rejected: pathlib.Path | None = None
    json: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class DataSplit:
    """Write train.csv, validation.csv and test.csv: lists that data.source takes.

    Classes keep their shares, near-duplicates stay on one side, and the same pictures and seed give
    the same lists on any machine.

    Attributes:
        source: Folder or .csv list of pictures.
        output: Folder to write the lists to.
        fractions: Of train, validation and test.
        seed: Of the split.
        options: How pictures are read; the data.* options of a run with the same names.
    """

    source: tyro.conf.Positional[str]
    output: pathlib.Path
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    options: Annotated[PictureOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=PictureOptions
    )


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Show devices, versions and memory, what is wrong, and how to mend it."""


@dataclasses.dataclass(frozen=True)
class Recipes:
    """List the recipes that come with the package."""


@dataclasses.dataclass(frozen=True)
class RecipesDiff:
    """Show the fields in which two recipes differ.

    Attributes:
        a: Name of a recipe, or a .py or .json file (a run's config.json).
        b: The other.
    """

    a: tyro.conf.Positional[str]
    b: tyro.conf.Positional[str]


@dataclasses.dataclass(frozen=True)
class Demo:
    """Train on the embedded digits and show what was learnt: a few minutes on a laptop.

    Attributes:
        workdir: Run folder; a run that is there already is gone on with.
        recipe: Recipe to run.
    """

    workdir: pathlib.Path = pathlib.Path("runs/demo")
    recipe: str = "digits"


def pretrain(argv: Sequence[str]) -> int:
    """`cssl-jax pretrain RECIPE --workdir RUN [--section.field VALUE ...]`."""
    config = _recipe_first("pretrain", "--workdir RUN", argv)
    default = Pretrain(tyro.MISSING, tyro.MISSING, config)
    return _run(_parse(Pretrain, "pretrain", argv, default))


def _recipe_first(command: str, needed: str, argv: Sequence[str]) -> Config:
    """The recipe that is named first: its values are the defaults of every other option."""
    from cssl_jax import recipes

    asks_for_help = not {"-h", "--help"}.isdisjoint(argv)
    named = [word for word in argv[:1] if not word.startswith("-")]
    if not named and not asks_for_help:
        raise UserError(
            f"name the recipe first: cssl-jax {command} RECIPE {needed} [options]; "
            f"there are {', '.join(recipes.recipe_names())}"
        )
    return recipes.load(named[0]) if named else Config()


def _run(options: Pretrain) -> int:
    from cssl_jax.evaluate.protocols import table
    from cssl_jax.train.loop import pretrain

    results = pretrain(options.config, options.workdir)
    print(f"\n{table(results)}\n\nresults: {options.workdir / 'results.json'}")
    return 0


def demo(argv: Sequence[str]) -> int:
    """`cssl-jax demo [--workdir DIR]`."""
    from cssl_jax import recipes

    options = _parse(Demo, "demo", argv)
    return _run(Pretrain(options.recipe, options.workdir, recipes.load(options.recipe)))


def views(argv: Sequence[str]) -> int:
    """`cssl-jax views RECIPE --output views.png [--section.field VALUE ...]`."""
    from cssl_jax.files import write_bytes
    from cssl_jax.train.views import draw_views

    config = _recipe_first("views", "--output views.png", argv)
    options = _parse(Views, "views", argv, Views(tyro.MISSING, tyro.MISSING, config=config))
    if options.output.suffix != ".png":
        raise UserError(f"--output {options.output} must end in .png")
    _check_parent(options.output, "--output")
    sheet = draw_views(options.config, step=options.step, examples=options.examples)
    content = io.BytesIO()
    sheet.save(content, "PNG", optimize=True)
    write_bytes(options.output, content.getvalue())
    print(f"{options.output}: {options.examples} pictures and their views at step {options.step}")
    return 0


def bench_input(argv: Sequence[str]) -> int:
    """`cssl-jax bench-input RECIPE [--seconds 3] [--section.field VALUE ...]`."""
    from cssl_jax.train.bench_input import bench_input

    config = _recipe_first("bench-input", "[--seconds 3]", argv)
    default = BenchInput(tyro.MISSING, config=config)
    options = _parse(BenchInput, "bench-input", argv, default)
    print(bench_input(options.config, seconds=options.seconds))
    return 0


def evaluate(argv: Sequence[str]) -> int:
    """`cssl-jax evaluate RUN [--protocol knn|linear]`."""
    from cssl_jax.evaluate.encoder import evaluate_run
    from cssl_jax.evaluate.protocols import table

    options = _parse(Evaluate, "evaluate", argv)
    results = evaluate_run(options.run, options.protocol)
    print(f"step {results['step']} of {options.run}\n\n{table(results)}")
    return 0


def embed(argv: Sequence[str]) -> int:
    """`cssl-jax embed RUN --data.source SOURCE --output features.npz`."""
    import numpy as np

    from cssl_jax.data.loading import load_source
    from cssl_jax.evaluate.encoder import load_encoder

    options = _parse(Embed, "embed", argv)
    if options.output.suffix != ".npz":
        raise UserError(f"--output {options.output} must end in .npz")
    _check_parent(options.output, "--output")
    encoder = load_encoder(options.run)
    read = dataclasses.replace(encoder.config.data, labels=options.data.labels)
    source = load_source(options.data.source, read)
    arrays = {"features": encoder.embed(source)}
    arrays |= {
        name: value for name in ("labels", "names") if (value := getattr(source, name)) is not None
    }
    try:
        np.savez(options.output, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise UserError(f"cannot write {options.output}: {error.strerror}") from error
    shape = arrays["features"].shape
    also = "".join(f", {name}" for name in arrays if name != "features")
    print(f"{options.output}: features float32 [{shape[0]}, {shape[1]}]{also}")
    return 0


def _check_parent(path: pathlib.Path, option: str) -> None:
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: the folder does not exist; make it first")


def data_check(argv: Sequence[str]) -> int:
    """`cssl-jax data check SOURCE [--rejected FILE] [--json FILE]`."""
    from cssl_jax.data import check, scan
    from cssl_jax.files import write_json

    options = _parse(DataCheck, "data check", argv)
    for option in ("rejected", "json"):
        if path := getattr(options, option):
            _check_parent(path, f"--{option}")
    records, index, groups = check.examine(options.source, _within_limits(options.options))
    print(check.report(records, index, groups))
    try:
        scan.check_share(index, records.name, options.options.max_rejected)
    except UserError as error:
        print(f"\na run would stop: {error}")
    if options.rejected:
        scan.write_rejected(options.rejected, scan.rejected(records.names, index))
    if options.json:
        write_json(options.json, check.figures(records, index, groups))
    return 0


def _within_limits(options: PictureOptions) -> PictureOptions:
    """The options, after the same checks as a run's."""
    validate(Config(data=DataConfig(**dataclasses.asdict(options))))
    return options


def data_split(argv: Sequence[str]) -> int:
    """`cssl-jax data split SOURCE --output FOLDER`."""
    from cssl_jax.data import lists

    options = _parse(DataSplit, "data split", argv)
    for path, count in lists.split_source(
        options.source,
        options.output,
        _within_limits(options.options),
        fractions=options.fractions,
        seed=options.seed,
    ):
        print(f"{path}: {count} pictures")
    return 0


def doctor(argv: Sequence[str]) -> int:
    """`cssl-jax doctor`."""
    from cssl_jax.doctor import examine

    _parse(Doctor, "doctor", argv)
    report, healthy = examine()
    print(report)
    return 0 if healthy else 1


def list_recipes(argv: Sequence[str]) -> int:
    """`cssl-jax recipes`."""
    from cssl_jax import recipes

    _parse(Recipes, "recipes", argv)
    for name in recipes.recipe_names():
        print(f"{name:<24} {recipes.recipe_summary(name)}")
    return 0


def diff_recipes(argv: Sequence[str]) -> int:
    """`cssl-jax recipes diff A B`."""
    from cssl_jax import recipes

    options = _parse(RecipesDiff, "recipes diff", argv)
    print(recipes.diff(options.a, options.b))
    return 0


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], type]] = {
    "pretrain": (pretrain, Pretrain),
    "views": (views, Views),
    "bench-input": (bench_input, BenchInput),
    "evaluate": (evaluate, Evaluate),
    "embed": (embed, Embed),
    "data check": (data_check, DataCheck),
    "data split": (data_split, DataSplit),
    "recipes": (list_recipes, Recipes),
    "recipes diff": (diff_recipes, RecipesDiff),
    "doctor": (doctor, Doctor),
    "demo": (demo, Demo),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0 done, 1 a run failed, 2 wrong use."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be in no encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"cssl-jax {__version__}")
        return 0
    words = 2 if " ".join(argv[:2]) in COMMANDS else 1
    name = " ".join(argv[:words])
    try:
        if name not in COMMANDS:
            near = [known for known in COMMANDS if known.startswith(name + " ")]
            near = near or difflib.get_close_matches(" ".join(argv[:2]), COMMANDS, n=1)
            near = near or difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"no command {name!r}; {hint}there are {', '.join(COMMANDS)}")
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's notes are not the user's
        return COMMANDS[name][0](argv[words:])
    except UserError as error:
        print(f"cssl-jax {name}: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"cssl-jax {name}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # a reader such as `head` has seen enough
        sys.stderr.close()
        return 1
    except OSError as error:
        print(f"cssl-jax {name}: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1


def _overview() -> str:
    lines = ["usage: cssl-jax COMMAND [options]", ""]
    for name, (_, options) in COMMANDS.items():
        lines.append(f"  {name:<13} {(options.__doc__ or '').splitlines()[0]}")
    return "\n".join([*lines, "", "cssl-jax COMMAND --help tells the options of a command."])


def _parse(cls: type[T], name: str, argv: Sequence[str], default: T | None = None) -> T:
    options = {} if default is None else {"default": default}
    return tyro.cli(cls, prog=f"cssl-jax {name}", args=list(argv), **options)  # type: ignore[call-overload]
