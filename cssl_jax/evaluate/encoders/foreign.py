"""Weights of other libraries as an encoder of this package: config, input and variables."""

import dataclasses
import os
import pathlib
from typing import Any

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.features import Model
from cssl_jax.interop import sentence_transformers, weight_files
from cssl_jax.interop.encoders import find_encoder
from cssl_jax.interop.file_uses import Use
from cssl_jax.interop.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignWeights:
    """An encoder from a file of weights.

    Attributes:
        config: Config that the weights imply; its data and training options are defaults.
        spec: Size and normalisation of the encoder's input.
        model: {"params", "model_state"} of the encoder alone.
        meta: JSON: "imported" names the file, its SHA-256, the branch and the preprocessing.
        uses: What became of the arrays of the file.
        preprocessing: Preparation of the images.
        description: The encoder and its options in one line.
    """

    config: Config
    spec: ImageSpec
    model: Model
    meta: dict[str, Any]
    uses: tuple[Use, ...]
    preprocessing: Preprocessing
    description: str

    def describe(self) -> str:
        """Lines on the architecture, the arrays of the file, and the preprocessing."""
        rows = [(use.status, f"{use.count:,}", use.what) for use in self.uses]
        width = max(len(count) for _, count, _ in rows)
        return "\n".join(
            [
                f"encoder  {self.description}",
                *(f"{status:<8} {count:>{width}}  {what}" for status, count, what in rows),
                f"input    {self.spec.preparation}; {self.preprocessing.origin}",
            ]
        )


def is_foreign(place: str | os.PathLike[str]) -> bool:
    """True for a file, and for a folder with a file of weights of another library."""
    return weight_files.weights_in(pathlib.Path(place).expanduser()) is not None


def open_weights(
    place: str | os.PathLike[str],
    *,
    prefix: str = "",
    prepared: Preprocessing | None = None,
    heads: int = 0,
) -> ForeignWeights:
    """Reads an encoder from a file of weights; the architecture is that which its shapes imply.

    Args:
        place: File (safetensors, PyTorch, .npz), or a timm or Hugging Face folder.
        prefix: Beginning of the encoder's keys, such as "module.encoder_k."; "" chooses the one
            that the method's own evaluation takes.
        prepared: Preparation of the images; None: that which the file states, or the usual one.
        heads: Number of attention heads of a Vision Transformer; 0: that which the file states.

    Raises:
        UserError: The file cannot be read, or holds no encoder of this package, or one whose number
            of attention heads is not known.
    """
    path = pathlib.Path(place).expanduser().absolute()
    if sentence_transformers.is_bert(path):
        raise UserError(
            f"{path} holds an encoder of text; `cssl-jax import {path} --workdir RUN` makes a run "
            "of it, which takes its place here"
        )
    file = weight_files.read_weights(path)
    try:
        found = find_encoder(file.tree, prefix, heads or file.heads)
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from error
    prepared = prepared or file.preprocessing or found.assumed
    if len(prepared.mean) != found.channels:
        raise UserError(
            f"{file.path}: the preprocessing has {len(prepared.mean)} means and the encoder takes "
            f"{found.channels} channels"
        )
    spec = ImageSpec(
        size=prepared.size,
        channels=found.channels,
        mean=prepared.mean,
        std=prepared.std,
        interpolation=prepared.interpolation,
        crop_fraction=prepared.crop_fraction,
    )
    config = recipes.canonical(
        Config().replace(
            {
                **{f"model.{name}": value for name, value in found.model.items()},
                "data.channels": found.channels,
                "data.size": spec.size,
                "data.mean": spec.mean,
                "data.std": spec.std,
                "data.source": "",
            }
        )
    )
    return ForeignWeights(
        config=config,
        spec=spec,
        model={
            "params": {"encoder": found.variables["params"]},
            "model_state": {"encoder": found.variables["batch_stats"]},
        },
        meta={
            "config": recipes.to_dict(config),
            "input": dataclasses.asdict(spec),
            "imported": {
                "file": str(file.path),
                "sha256": file.sha256,
                "branch": str(found.branch),
                "preprocessing": prepared.origin,
            },
        },
        uses=found.uses,
        preprocessing=prepared,
        description=found.description,
    )
