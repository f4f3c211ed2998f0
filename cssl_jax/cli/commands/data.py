"""Commands `data check` and `data split`: examine a set of images, write lists of it."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from cssl_jax.cli.parsing import Folder, OptionalFile, Source, parse
from cssl_jax.config import Config, DataConfig
from cssl_jax.config.images import ImageOptions
from cssl_jax.errors import UserError
from cssl_jax.outputs import check_output, stdout_kept_for, write_json_output, write_output
from cssl_jax.recipes import validate


@dataclasses.dataclass(frozen=True)
class DataCheck:
    """Examine a set of images: damaged files, duplicates, sizes, classes.

    Attributes:
        source: Images: a folder, a .csv list, tfds:NAME@SPLIT, wds:SHARDS.tar or a .parquet file.
        options: How images are read; the options of a run named data.*.
        rejected: File (.csv) for the images that a run would exclude, with the reasons; - is
            standard output.
        json: File (.json) for all metrics; - is standard output.
    """

    source: Source
    options: Annotated[ImageOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=ImageOptions
    )
    rejected: OptionalFile = None
    json: OptionalFile = None


@dataclasses.dataclass(frozen=True)
class DataSplit:
    """Write train.csv, validation.csv and test.csv: lists for data.source.

    Every list has the same fraction of each class, near-duplicates are in the same list, and the
    same images and seed give the same lists on any machine.

    Attributes:
        source: Folder or .csv list of images.
        output: Folder to write the lists to.
        fractions: Fractions of the images in train.csv, validation.csv and test.csv.
        seed: Seed of the random split.
        options: How images are read; the options of a run named data.*.
    """

    source: Source
    output: Folder
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    options: Annotated[ImageOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=ImageOptions
    )


def check_data(argv: Sequence[str]) -> int:
    """`cssl-jax data check SOURCE [--rejected FILE] [--json FILE]`."""
    from cssl_jax.data.cleaning import check, scan

    options = parse(DataCheck, "data check", argv)
    for option in ("rejected", "json"):
        if path := getattr(options, option):
            check_output(path, option=f"--{option}")
    with stdout_kept_for(options.rejected, options.json):
        records, index, groups = check.scan_source(options.source, _within_limits(options.options))
        print(check.report(records, index, groups))
        try:
            scan.check_rejected_fraction(index, records.name, options.options.max_rejected)
        except UserError as error:
            print(f"\na run would stop: {error}")
    if options.rejected:
        write_output(options.rejected, scan.rejected_csv(scan.rejected(records.names, index)))
    if options.json:
        write_json_output(options.json, check.summarize(records, index, groups))
    return 0


def _within_limits(options: ImageOptions) -> ImageOptions:
    """The options, checked as those of a run are."""
    validate(Config(data=DataConfig(**dataclasses.asdict(options))))
    return options


def split_data(argv: Sequence[str]) -> int:
    """`cssl-jax data split SOURCE --output FOLDER`."""
    from cssl_jax.data.cleaning import splits

    options = parse(DataSplit, "data split", argv)
    for path, count in splits.split_source(
        options.source,
        options.output,
        _within_limits(options.options),
        fractions=options.fractions,
        seed=options.seed,
    ):
        print(f"{path}: {count} images")
    return 0
