"""Commands `data check` and `data split`: examine and split images, series, recordings, texts."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import tyro

from cssl_jax.cli.parsing import Folder, OptionalFile, Source, parse
from cssl_jax.config.images import ImageOptions
from cssl_jax.outputs import check_output, stdout_kept_for, write_json_output, write_output


@dataclasses.dataclass(frozen=True)
class DataCheck:
    """Examine images, series, recordings or texts: damaged files, duplicates, sizes, classes.

    Attributes:
        source: Images: a folder, a .csv list, tfds:NAME@SPLIT, wds:SHARDS.tar, a .parquet file or
            file.py:NAME:PLACE. Series: an .npz file, a .csv or .parquet table or a .ts file.
            Recordings: a folder or a .csv list. Texts: a .txt, .jsonl or .tsv file, or one of
            the tables with a column text.
        options: How images are read; the options of a run named data.*.
        rejected: File (.csv) for the files that a run would exclude, with the reasons; - is
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
    """Write lists train.csv, validation.csv and test.csv; .npz files of series, .jsonl of texts.

    Every list has the same fraction of each class, near-duplicates are in the same list, and the
    same images and seed give the same lists on any machine. Groups stay together.

    Attributes:
        source: Folder or .csv list of images or recordings, or a file of series or texts.
        output: Folder to write the lists or files to.
        fractions: Fractions of the examples in the training, validation and test split.
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


class DataSet(Protocol):
    """What an examination finds, as the command prints and writes it."""

    def to_json(self) -> dict[str, Any]: ...  # noqa: D102
    def rejected_csv(self) -> str: ...  # noqa: D102


def check_data(argv: Sequence[str]) -> int:
    """`cssl-jax data check SOURCE [--rejected FILE] [--json FILE]`."""
    from cssl_jax.experiment.example_sets import check_data

    options = parse(DataCheck, "data check", argv)
    for option in ("rejected", "json"):
        if path := getattr(options, option):
            check_output(path, option=f"--{option}")
    with stdout_kept_for(options.rejected, options.json):
        found: DataSet = check_data(options.source, options.options)
        print(found)
    if options.rejected:
        write_output(options.rejected, found.rejected_csv())
    if options.json:
        write_json_output(options.json, found.to_json())
    return 0


def split_data(argv: Sequence[str]) -> int:
    """`cssl-jax data split SOURCE --output FOLDER`."""
    from cssl_jax.experiment.example_sets import split_data
    from cssl_jax.modalities.registry import modality_of_source

    options = parse(DataSplit, "data split", argv)
    parts = split_data(
        options.source,
        options.output,
        options.options,
        fractions=options.fractions,
        seed=options.seed,
    )
    noun = modality_of_source(options.source).noun
    for path, count in parts:
        print(f"{path}: {count} {noun}")
    return 0
