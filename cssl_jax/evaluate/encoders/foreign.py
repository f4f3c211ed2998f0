"""Weights of other libraries as an encoder of this package: config, input and variables."""

import dataclasses
import os
import pathlib
from typing import Any

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.data.input_spec import ImageSpec, InputSpec
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders import own_file
from cssl_jax.evaluate.encoders.features import Model
from cssl_jax.interop import sentence_transformers, weight_files
from cssl_jax.interop.encoders import FoundEncoder, find_encoder
from cssl_jax.interop.file_uses import Use
from cssl_jax.interop.preprocessing import Preprocessing
from cssl_jax.interop.weight_files import WeightFile

_STORED = "stored in the file"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignWeights:
    """An encoder from a file of weights.

    Attributes:
        config: Config that the weights imply; its data and training options are defaults.
        spec: Size and normalisation of the encoder's input.
        model: {"params", "model_state"} of the encoder, and of SimCLR's projector if the file has
            it.
        meta: JSON: "imported" names the file, its SHA-256, the branch and the preprocessing.
        uses: What became of the arrays of the file.
        preprocessing: Preparation of the images; None for encoders of other examples.
        description: The encoder and its options in one line.
    """

    config: Config
    spec: InputSpec
    model: Model
    meta: dict[str, Any]
    uses: tuple[Use, ...]
    preprocessing: Preprocessing | None
    description: str

    def describe(self) -> str:
        """Lines on the architecture, the arrays of the file, and the preprocessing."""
        origin = _STORED if self.preprocessing is None else self.preprocessing.origin
        rows = [(use.status, f"{use.count:,}", use.what) for use in self.uses]
        width = max(len(count) for _, count, _ in rows)
        return "\n".join(
            [
                f"encoder  {self.description}",
                *(f"{status:<8} {count:>{width}}  {what}" for status, count, what in rows),
                f"input    {self.spec.preparation or self.spec.kind}; {origin}",
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
        place: File (safetensors, PyTorch, .npz, a TensorFlow checkpoint's .index), or a folder of
            timm, Hugging Face or TensorFlow.
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
    if own_file.is_own(file):
        return _of_own_file(file, prefix, prepared)
    try:
        variant = str(file.stored.get("model", {}).get("variant", "torchvision"))
        found = find_encoder(file.tree, prefix, heads or file.heads, variant)
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from error
    prepared = prepared or file.preprocessing or found.assumed
    if len(prepared.mean) != found.channels:
        raise UserError(
            f"{file.path}: the preprocessing has {len(prepared.mean)} means and the encoder takes "
            f"{found.channels} channels"
        )
    spec = _spec(prepared, found.channels)
    config = _config(found, spec)
    return ForeignWeights(
        config=config,
        spec=spec,
        model=_model(found),
        meta=_meta(file, config, spec, str(found.branch), prepared.origin),
        uses=found.uses,
        preprocessing=prepared,
        description=found.description,
    )


def _of_own_file(file: WeightFile, prefix: str, prepared: Preprocessing | None) -> ForeignWeights:
    """The encoder of a file with this package's own names, which states its config and input."""
    if prefix:
        raise UserError(f"{file.path} has one encoder, without a prefix; omit {prefix!r}")
    config, spec, model = own_file.open_own(file)
    if prepared is not None:
        if not isinstance(spec, ImageSpec):
            raise UserError(f"{file.path} holds an encoder of {spec.kind}, not of images")
        spec = _spec(prepared, spec.channels)
    origin = _STORED if prepared is None else prepared.origin
    return ForeignWeights(
        config=config,
        spec=spec,
        model=model,
        meta=_meta(file, config, spec, "own names", origin),
        uses=(Use("taken", len(file.tree), "all arrays: a file of cssl_jax"),),
        preprocessing=prepared or file.preprocessing,
        description=f"{config.model.encoder}, width {config.model.width:g}, modality {spec.kind}",
    )


def _spec(prepared: Preprocessing, channels: int) -> ImageSpec:
    return ImageSpec(
        size=prepared.size,
        channels=channels,
        mean=prepared.mean,
        std=prepared.std,
        interpolation=prepared.interpolation,
        crop_fraction=prepared.crop_fraction,
    )


def _config(found: FoundEncoder, spec: ImageSpec) -> Config:
    """Default config with the encoder, the head and the input of a file of weights."""
    return recipes.canonical(
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


def _model(found: FoundEncoder) -> Model:
    """{"params", "model_state"} of the encoder and, where the file has it, the projector."""
    modules = {"encoder": found.variables}
    if found.projector is not None:
        modules["projector"] = found.projector
    return {
        ours: {name: variables.get(theirs, {}) for name, variables in modules.items()}
        for ours, theirs in (("params", "params"), ("model_state", "batch_stats"))
    }


def _meta(
    file: WeightFile, config: Config, spec: InputSpec, branch: str, origin: str
) -> dict[str, Any]:
    """Metadata of the checkpoint of an imported run."""
    imported = {
        "file": str(file.path),
        "sha256": file.sha256,
        "branch": branch,
        "preprocessing": origin,
    }
    return {
        "config": recipes.to_dict(config),
        "input": dataclasses.asdict(spec),
        "imported": imported,
    }
