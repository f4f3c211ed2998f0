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
from cssl_jax.interop import preprocessing, sentence_transformers, weight_files
from cssl_jax.interop.preprocessing import Preprocessing, of_simclr
from cssl_jax.interop.resnet_weights import Architecture, ResNetWeights, Use, find_resnet
from cssl_jax.interop.tf_files import simclr_weights
from cssl_jax.interop.tf_files.tf_checkpoint import Checkpoint
from cssl_jax.interop.weight_files import WeightFile


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
    """

    config: Config
    spec: InputSpec
    model: Model
    meta: dict[str, Any]
    uses: tuple[Use, ...]
    preprocessing: Preprocessing | None

    def describe(self) -> str:
        """Lines on the architecture, the arrays of the file, and the preprocessing."""
        model = self.config.model
        rows = [(use.status, f"{use.count:,}", use.what) for use in self.uses]
        width = max(len(count) for _, count, _ in rows)
        variant = "" if model.variant == "torchvision" else f"variant {model.variant}, "
        spec, prepared = self.spec, self.preprocessing
        stem = ""
        if isinstance(spec, ImageSpec):
            stem = f", stem {model.stem}, {variant}{spec.channels} channels"
        return "\n".join(
            [
                f"encoder  {model.encoder}, width {model.width:g}{stem}",
                *(f"{status:<8} {count:>{width}}  {what}" for status, count, what in rows),
                f"input    {spec.preparation or spec.kind}; "
                f"{prepared.origin if prepared else 'stored in the file'}",
            ]
        )


def is_foreign(place: str | os.PathLike[str]) -> bool:
    """True for a file, and for a folder with a file of weights of another library."""
    return weight_files.weights_in(pathlib.Path(place).expanduser()) is not None


def open_weights(
    place: str | os.PathLike[str], *, prefix: str = "", prepared: Preprocessing | None = None
) -> ForeignWeights:
    """Reads an encoder from a file of weights; the architecture is that which its shapes imply.

    Args:
        place: File (safetensors, PyTorch, .npz, a TensorFlow checkpoint's .index), or a folder of
            timm, Hugging Face or TensorFlow.
        prefix: Beginning of the encoder's keys, such as "module.encoder_k."; "" chooses the one
            that the method's own evaluation takes.
        prepared: Preparation of the images; None: that which the file states, or the usual one.

    Raises:
        UserError: The file cannot be read, or holds no encoder of this package.
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
        found = _find(file, prefix)
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from error
    prepared = _prepared(file, found.architecture, prepared)
    architecture = found.architecture
    spec = ImageSpec(
        size=prepared.size,
        channels=architecture.channels,
        mean=prepared.mean,
        std=prepared.std,
        interpolation=prepared.interpolation,
        crop_fraction=prepared.crop_fraction,
    )
    config = _config(found, spec)
    return ForeignWeights(
        config=config,
        spec=spec,
        model=_model(found),
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
    )


def _of_own_file(file: WeightFile, prefix: str, prepared: Preprocessing | None) -> ForeignWeights:
    """The encoder of a file with this package's own names, which states its config and input."""
    if prefix:
        raise UserError(f"{file.path} has one encoder, without a prefix; omit {prefix!r}")
    config, spec, model = own_file.open_own(file)
    if prepared is not None:
        if not isinstance(spec, ImageSpec):
            raise UserError(f"{file.path} holds an encoder of {spec.kind}, not of images")
        shown = {name: getattr(prepared, name) for name in ("size", "mean", "std", "interpolation")}
        spec = dataclasses.replace(spec, **shown, crop_fraction=prepared.crop_fraction)
    origin = "stored in the file" if prepared is None else prepared.origin
    imported = {
        "file": str(file.path),
        "sha256": file.sha256,
        "branch": "own names",
        "preprocessing": origin,
    }
    return ForeignWeights(
        config=config,
        spec=spec,
        model=model,
        meta={
            "config": recipes.to_dict(config),
            "input": dataclasses.asdict(spec),
            "imported": imported,
        },
        uses=(Use("taken", len(file.tree), "all arrays: a file of cssl_jax"),),
        preprocessing=prepared or file.preprocessing,
    )


def _find(file: WeightFile, prefix: str) -> ResNetWeights:
    """The encoder in a file of weights."""
    if isinstance(file.tree, Checkpoint) and simclr_weights.is_simclr(file.tree):
        return simclr_weights.find_simclr(file.tree, prefix)
    found = find_resnet(file.tree, prefix)
    # Shapes do not show how the max-pool is padded; exported weights say it.
    if file.stored.get("model", {}).get("variant") == "simclr":
        architecture = dataclasses.replace(found.architecture, variant="simclr")
        found = dataclasses.replace(found, architecture=architecture)
    return found


def _prepared(
    file: WeightFile, architecture: Architecture, given: Preprocessing | None
) -> Preprocessing:
    """Preparation that is given, else that which the file states, else the usual one."""
    usual = preprocessing.assumed if architecture.variant == "torchvision" else of_simclr
    prepared = given or file.preprocessing or usual(architecture.stem, architecture.channels)
    if len(prepared.mean) != architecture.channels:
        raise UserError(
            f"{file.path}: the preprocessing has {len(prepared.mean)} means and the encoder takes "
            f"{architecture.channels} channels"
        )
    return prepared


def _config(found: ResNetWeights, spec: ImageSpec) -> Config:
    """Default config with the encoder, the head and the input of a file of weights."""
    architecture, head = found.architecture, found.head
    values = {
        "model.encoder": architecture.encoder,
        "model.width": architecture.width,
        "model.stem": architecture.stem,
        "model.variant": architecture.variant,
        "data.channels": architecture.channels,
        "data.size": spec.size,
        "data.mean": spec.mean,
        "data.std": spec.std,
        "data.source": "",
    }
    if head is not None:
        values |= {"model.projector_layers": head.layers, "model.projector_dim": head.out}
    return recipes.canonical(Config().replace(values))


def _model(found: ResNetWeights) -> Model:
    """{"params", "model_state"} of the encoder and, where the file has it, the projector."""
    modules = {"encoder": found.variables}
    if found.head is not None:
        modules["projector"] = found.head.variables
    return {
        ours: {name: variables[theirs] for name, variables in modules.items()}
        for ours, theirs in (("params", "params"), ("model_state", "batch_stats"))
    }
