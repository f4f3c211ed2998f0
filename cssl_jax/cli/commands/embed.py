"""Command `embed`: features of a set of images."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import tyro

from cssl_jax.cli.parsing import File, Run, parse
from cssl_jax.config import Config, DataConfig, ImageData
from cssl_jax.config.images import ImageOptions
from cssl_jax.outputs import check_output, open_output, stdout_kept_for
from cssl_jax.recipes import validate

REJECTED_SHOWN = 20  # omitted images that are printed; the file holds all


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedSource:
    """Examples to embed; they are read as in the run.

    Attributes:
        source: Examples of the run's modality, given as data.source of a run.
    """

    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedData(ImageOptions, EmbedSource):
    """Images to embed; they are read as in the run unless an option says otherwise.

    Attributes:
        source: Images, given as data.source of a run: an .npz file, a folder, a .csv list, ...
    """


def _images() -> EmbedSource:
    return EmbedData(source=tyro.MISSING)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embed:
    """Write the features of a set of examples to an .npz file.

    Attributes:
        run: Run folder of the encoder.
        data: Examples to embed.
        output: File to write (.npz); - is standard output. It holds features (float32 [N, D]) and,
            where there are some, labels, classes (names of the labels), names of the files, and
            rejected (name and reason of each file that is omitted).
        batch_size: Number of examples embedded at once; 0 uses the run's evaluate.batch_size.
    """

    run: Run
    data: EmbedSource = dataclasses.field(default_factory=_images)
    output: File
    batch_size: int = 0


def _defaults(own: DataConfig) -> EmbedSource:
    """The options of the run's modality, read as in the run."""
    if not isinstance(own, ImageData):
        return EmbedSource(source=tyro.MISSING)
    read: dict[str, Any] = {
        field.name: getattr(own, field.name) for field in dataclasses.fields(ImageOptions)
    }
    # The labels and the memory of the run's data are no property of other data.
    return EmbedData(source=tyro.MISSING, **{**read, "labels": "auto", "in_memory": None})


def run(argv: Sequence[str]) -> int:
    """`cssl-jax embed RUN --data.source SOURCE --output features.npz`."""
    import numpy as np

    from cssl_jax import recipes
    from cssl_jax.data.sources.base import Source
    from cssl_jax.data.sources.open import load_source
    from cssl_jax.evaluate.encoders.load import load_encoder
    from cssl_jax.runtime import multihost

    named = pathlib.Path(argv[0] if argv else "").expanduser() / "config.json"
    own = recipes.read_json(named).data if named.is_file() else ImageData()
    data = _defaults(own)
    options = parse(Embed, "embed", argv, Embed(run=tyro.MISSING, data=data, output=tyro.MISSING))
    check_output(options.output, ".npz")
    encoder = load_encoder(options.run, batch_size=options.batch_size)
    if isinstance(options.data, EmbedData):
        validate(Config(data=ImageData(**dataclasses.asdict(options.data))))
        source: Source = load_source(options.data.source, options.data)
    else:
        source = encoder.modality.open(options.data.source, own.for_other_source())
    arrays = {"features": encoder.embed(source)}
    if not multihost.is_primary():
        return 0
    arrays |= {
        name: value for name in ("labels", "names") if (value := getattr(source, name)) is not None
    }
    rejected = [(name, reason) for name, reason, _ in source.rejected]
    if rejected:
        arrays["rejected"] = np.array(rejected, str)
    if source.labels is not None and source.classes:
        arrays["classes"] = np.array(source.classes, str)
    with open_output(options.output) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    shape = arrays["features"].shape
    also = "".join(f", {name}" for name in arrays if name != "features")
    with stdout_kept_for(options.output):
        print(f"{options.output}: features float32 [{shape[0]}, {shape[1]}]{also}")
        if preparation := encoder.spec.preparation:
            print(f"input: {preparation}")
        if rejected:
            every = len(rejected) + len(source)
            print(f"{len(rejected)} of {every} {encoder.modality.noun} omitted:")
            shown = [f"  {name}: {reason}" for name, reason in rejected[:REJECTED_SHOWN]]
            hidden = len(rejected) - len(shown)
            print("\n".join(shown + ([f"  ... and {hidden} more"] if hidden else [])))
    return 0
