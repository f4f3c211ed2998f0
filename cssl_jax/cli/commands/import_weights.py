"""Command `import`: a run folder from weights of another library."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from cssl_jax.cli.parsing import Folder, parse
from cssl_jax.errors import UserError

Weights = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="WEIGHTS")]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Import:
    """Make a run folder from weights of another library.

    Attributes:
        weights: File of weights (.safetensors, .pth, .pt, .ckpt, .npz), or a folder of timm,
            Hugging Face or sentence-transformers with model.safetensors. Nothing in the file is
            executed.
        workdir: Run folder to write; it must be empty or missing.
        encoder: Encoder that the weights must be of, such as resnet50; "" takes any ResNet or
            Vision Transformer.
        prefix: Beginning of the encoder's keys, such as module.encoder_k.; "" takes the encoder
            that the method's own evaluation takes.
        heads: Number of attention heads of a Vision Transformer; 0: that which the file states. The
            shapes of the weights do not determine it: vit_small of timm and DINO has 6, that of
            MoCo v3 has 12.
        source: Images for later commands, as data.source of a run; "" names none.
        size: Side of the encoder's input in pixels; 0 takes that of the file, or the usual one.
        mean: Mean per channel on [0, 1]; empty takes that of the file, or the usual one.
        std: Standard deviation per channel on [0, 1]; given together with mean.
        interpolation: Kernel that images are resized with; "" takes that of the file, or bilinear.
        crop_fraction: Side of the centre crop as a fraction of the image's shorter side; 0 takes
            that of the file, or the usual one.
    """

    weights: Weights
    workdir: Folder
    encoder: str = ""
    prefix: str = ""
    heads: int = 0
    source: str = ""
    size: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    interpolation: Literal["", "bilinear", "bicubic"] = ""
    crop_fraction: float = 0.0


def run(argv: Sequence[str]) -> int:
    """`cssl-jax import WEIGHTS --workdir RUN [--encoder NAME] [--prefix PREFIX]`."""
    from cssl_jax.evaluate.encoders.foreign import open_weights
    from cssl_jax.interop import sentence_transformers
    from cssl_jax.train.imported_run import import_weights
    from cssl_jax.train.text_import import import_sentence_transformer

    options = parse(Import, "import", argv)
    if sentence_transformers.is_bert(options.weights):
        if options != Import(weights=options.weights, workdir=options.workdir):
            raise UserError(
                f"{options.weights} holds an encoder of text; give --workdir alone, since the "
                "other options describe encoders of images"
            )
        import_sentence_transformer(options.weights, options.workdir)
        print(
            f"weights  BERT encoder and tokenizer of {options.weights}\nrun      {options.workdir}"
        )
        return 0
    given = {
        name: value
        for name in ("size", "mean", "std", "interpolation", "crop_fraction")
        if (value := getattr(options, name))
    }
    prepared = None
    if given:
        found = open_weights(options.weights, prefix=options.prefix, heads=options.heads)
        prepared = found.preprocessing.changed(**given)
    imported = import_weights(
        options.weights,
        options.workdir,
        encoder=options.encoder,
        prefix=options.prefix,
        heads=options.heads,
        prepared=prepared,
        source=options.source,
    )
    print(f"{imported.describe()}\nrun      {options.workdir}")
    return 0
