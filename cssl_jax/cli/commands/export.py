"""Command `export`: a run's encoder for other libraries."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from cssl_jax.cli.parsing import Folder, Run, parse


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a run's encoder for other libraries, with a model card.

    Attributes:
        run: Run folder of the encoder.
        output: Folder to write; it must be empty or missing.
        format: Kind of files: torchvision (safetensors with torchvision's names), timm (a folder
            that timm opens), huggingface (a folder that transformers opens), safetensors (this
            package's own names, any encoder), stablehlo (a compiled function for CPU, CUDA and
            TPU), onnx, savedmodel (TensorFlow), or sentence-transformers (a folder that it opens;
            encoders of text).
        checkpoint: Checkpoint of the run to export: the last one, or the best one.
    """

    run: Run
    output: Folder
    format: Literal[
        "torchvision",
        "timm",
        "huggingface",
        "safetensors",
        "stablehlo",
        "onnx",
        "savedmodel",
        "sentence-transformers",
    ] = "torchvision"
    checkpoint: Literal["last", "best"] = "last"


def run(argv: Sequence[str]) -> int:
    """`cssl-jax export RUN --output FOLDER [--format FORMAT]`."""
    from cssl_jax.export.exported import export_run
    from cssl_jax.files import existing_run

    options = parse(Export, "export", argv)
    existing_run(options.run)
    exported = export_run(
        options.run, options.output, format=options.format, checkpoint=options.checkpoint
    )
    for note in exported.notes:
        print(f"note: {note}")
    names = ", ".join(sorted(path.name for path in exported.folder.iterdir()))
    print(
        f"{options.output}: {names}\n"
        f"read back: features differ by {exported.difference:.1e} of the largest feature"
    )
    return 0
