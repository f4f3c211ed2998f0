"""Writes a run's encoder for other libraries, and checks what was written."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.errors import RunError, UserError
from cssl_jax.evaluate.encoders.features import encoder_variables
from cssl_jax.evaluate.encoders.load import Encoder, load_encoder
from cssl_jax.export import (
    card,
    onnx_graph,
    own_names,
    saved_model,
    sentence_transformer,
    stablehlo,
    transformers_folder,
)
from cssl_jax.files import require_empty, write_json, write_text
from cssl_jax.interop import resnet_export, safetensors
from cssl_jax.interop.preprocessing import KEY
from cssl_jax.interop.resnet_weights import Architecture, blocks_of
from cssl_jax.modalities.text import TextSpec

WEIGHTS = "model.safetensors"
_CHECKED = 8  # images on which the written encoder is compared with the run's
# Largest difference of a feature, relative to the largest feature. Both sides compute in float32.
_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported encoder.

    Attributes:
        folder: Folder with the weights and README.md, the model card.
        difference: Largest difference of a feature from the run's, relative to the largest feature.
        notes: What the target cannot express, and other remarks.
    """

    folder: pathlib.Path
    difference: float
    notes: tuple[str, ...]


def export_run(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    format: str = "torchvision",
    checkpoint: str = "last",
) -> Exported:
    """Writes the encoder of a run for another library, with a model card, and checks it.

    What was written is read back, and its features of 8 random images or texts are compared with
    the run's.

    Args:
        run: Folder of the run.
        output: Folder to write; it must be empty or missing.
        format: Key of ``FORMATS``.
        checkpoint: "last" or "best", see ``load_encoder``.

    Raises:
        UserError: The format is unknown or cannot express the encoder, or the folder is not empty.
        RunError: The features of the written encoder differ from the run's.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r} is unknown; use {' or '.join(FORMATS)}")
    folder = pathlib.Path(output).expanduser().absolute()
    require_empty(folder, "--output")
    encoder = load_encoder(pathlib.Path(run), checkpoint=checkpoint)
    write = FORMATS[format](encoder)  # refuses before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    features, usage, notes = write(folder)
    expected = _features(encoder)
    difference = float(np.abs(features - expected).max() / np.abs(expected).max())
    if not difference <= _TOLERANCE:
        raise RunError(
            f"the features of the encoder in {folder} differ from the run's by {difference:.1e} of "
            "the largest feature; please report this with the run's config"
        )
    text = card.model_card(encoder, format=format, usage=usage, difference=difference, notes=notes)
    write_text(folder / "README.md", text)
    return Exported(folder=folder, difference=difference, notes=notes)


Writer = Callable[[pathlib.Path], tuple[np.ndarray, str, tuple[str, ...]]]


def _torchvision(encoder: Encoder) -> Writer:
    """Writer of a state dict with torchvision's names, which any ResNet of images has."""
    architecture = _architecture(encoder)
    obstacles = tuple(resnet_export.obstacles(architecture))
    lines = resnet_export.torch_lines(architecture, _image_spec(encoder).size)
    resnet_export.check(architecture)

    def write(folder: pathlib.Path) -> tuple[np.ndarray, str, tuple[str, ...]]:
        _write_weights(folder, encoder, architecture)
        notes = tuple(f"torchvision and timm: {text}" for text in obstacles)
        return _read_back(folder, encoder), lines, notes

    return write


def _timm(encoder: Encoder) -> Writer:
    """Writer of a folder that ``timm.create_model("local-dir:FOLDER")`` opens."""
    architecture = _architecture(encoder)
    if obstacles := resnet_export.obstacles(architecture):
        remedy = "--format safetensors writes any encoder"
        if architecture.variant == "torchvision":
            remedy = (
                "--format torchvision writes the same weights with the Python lines that build the "
                "module"
            )
        raise UserError(f"timm cannot build this encoder: {'; '.join(obstacles)}. {remedy}")

    def write(folder: pathlib.Path) -> tuple[np.ndarray, str, tuple[str, ...]]:
        _write_weights(folder, encoder, architecture)
        spec = _image_spec(encoder)
        features = _read_back(folder, encoder)
        write_json(
            folder / "config.json",
            {
                "architecture": architecture.encoder,
                "num_classes": 0,
                "num_features": features.shape[1],
                "global_pool": "avg",
                "model_args": {"in_chans": architecture.channels},
                "pretrained_cfg": {
                    "input_size": [architecture.channels, spec.size, spec.size],
                    "mean": spec.mean,
                    "std": spec.std,
                    "interpolation": spec.interpolation,
                    "crop_pct": spec.crop_fraction,
                    "num_classes": 0,
                    "pool_size": None,
                    "first_conv": "conv1",
                    "classifier": "fc",
                },
            },
        )
        usage = (
            "import timm\n\n"
            f'model = timm.create_model("local-dir:{folder.name}", pretrained=True).eval()'
        )
        return features, usage, ()

    return write


def _huggingface(encoder: Encoder) -> Writer:
    """Writer of a folder that ``transformers.AutoModel.from_pretrained`` opens."""
    architecture = _architecture(encoder)

    def write(folder: pathlib.Path) -> None:
        _write_weights(folder, encoder, architecture, resnet_export.huggingface_name)

    def read(folder: pathlib.Path) -> np.ndarray:
        return _read_back(folder, encoder)

    return transformers_folder.writer(architecture, _image_spec(encoder), write, read)


def _safetensors(encoder: Encoder) -> Writer:
    """Writer of one file with this package's own names, for encoders of any kind."""
    return own_names.writer(encoder, _features)


def _onnx(encoder: Encoder) -> Writer:
    """Writer of an ONNX model from images to features."""
    architecture, spec = _architecture(encoder), _image_spec(encoder)
    blocks_of(architecture.encoder)  # refuses other encoders than ResNets
    onnx_graph.require_onnx()
    file = "encoder.onnx"

    def write(folder: pathlib.Path) -> tuple[np.ndarray, str, tuple[str, ...]]:
        variables: dict[str, Any] = jax.device_get(encoder_variables(encoder.model))
        onnx_graph.write(folder / file, variables, architecture, spec)
        features, program = onnx_graph.run(folder / file, _images(encoder))
        usage = (
            "import onnxruntime\n\n"
            f'session = onnxruntime.InferenceSession("{file}")\n'
            f'features = session.run(None, {{"{onnx_graph.INPUT}": images}})[0]'
            "  # uint8 [N, H, W, C] of the side below, any N"
        )
        return features, usage, (f"checked with {program}",)

    return write


def _savedmodel(encoder: Encoder) -> Writer:
    """Writer of a SavedModel from images to features."""
    _image_spec(encoder)
    saved_model.require_tensorflow()

    def write(folder: pathlib.Path) -> tuple[np.ndarray, str, tuple[str, ...]]:
        saved_model.write(folder, encoder)
        return saved_model.run(folder, _images(encoder)), saved_model.USAGE, ()

    return write


def _stablehlo(encoder: Encoder) -> Writer:
    """Writer of a compiled function from images to features."""

    def write(folder: pathlib.Path) -> tuple[np.ndarray, str, tuple[str, ...]]:
        stablehlo.write(folder / stablehlo.FILE, encoder)
        features = stablehlo.run(folder / stablehlo.FILE, _images(encoder))
        return features, stablehlo.USAGE, (stablehlo.expiry(),)

    _image_spec(encoder)
    return write


def _sentence_transformers(encoder: Encoder) -> Writer:
    """Writer of a folder that ``sentence_transformers.SentenceTransformer`` opens."""
    return sentence_transformer.writer(encoder, _examples)


FORMATS: dict[str, Callable[[Encoder], Writer]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "huggingface": _huggingface,
    "safetensors": _safetensors,
    "stablehlo": _stablehlo,
    "onnx": _onnx,
    "savedmodel": _savedmodel,
    "sentence-transformers": _sentence_transformers,
}


def _image_spec(encoder: Encoder) -> ImageSpec:
    if not isinstance(encoder.spec, ImageSpec):
        raise UserError(
            f"this format takes encoders of images; this is one of {encoder.modality.noun}"
        )
    return encoder.spec


def _architecture(encoder: Encoder) -> Architecture:
    model = encoder.config.model
    return Architecture(
        encoder=model.encoder,
        width=model.width,
        stem=model.stem,
        variant=model.variant,
        channels=_image_spec(encoder).channels,
    )


def _examples(encoder: Encoder) -> Any:
    """Random images, or texts of 1 to 8 words for an encoder of text."""
    if isinstance(encoder.spec, TextSpec):
        return [
            " ".join(["text", "of", "some", "words"][i % 4] for i in range(n)) for n in range(1, 9)
        ]
    return _images(encoder)


def _features(encoder: Encoder) -> np.ndarray:
    """Features of the check's images or texts; of other examples those of random views."""
    spec = encoder.spec
    if isinstance(spec, ImageSpec | TextSpec):
        return encoder(_examples(encoder))
    rng = np.random.default_rng(0)

    def random(leaf: Any) -> Any:
        array = np.asarray(leaf)[:, 0]
        floats = np.issubdtype(array.dtype, np.floating)
        return rng.normal(size=array.shape).astype(array.dtype) if floats else array

    views = jax.tree.map(random, encoder.modality.zeros(spec, spec.size, _CHECKED, 1))
    encode = jax.jit(lambda variables, x: encoder.method.encoder.apply(variables, x)["features"])
    return np.asarray(encode(jax.device_get(encoder_variables(encoder.model)), views))


def _images(encoder: Encoder) -> np.ndarray:
    """Random images of the side that the encoder crops from, uint8 [8, H, H, C]."""
    spec = _image_spec(encoder)
    shape = (_CHECKED, spec.resized, spec.resized, spec.channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _write_weights(
    folder: pathlib.Path,
    encoder: Encoder,
    architecture: Architecture,
    rename: Callable[[str], str] = str,
) -> None:
    """Writes the weights with torchvision's names, or with those that ``rename`` gives."""
    variables: dict[str, Any] = jax.device_get(encoder_variables(encoder.model))
    stored = {
        "input": dataclasses.asdict(_image_spec(encoder)),
        "model": dataclasses.asdict(architecture),
        "step": encoder.step,
    }
    metadata = {"format": "pt", KEY: json.dumps(stored)}
    arrays = resnet_export.torch_state_dict(variables)
    named = {rename(key): array for key, array in arrays.items()}
    safetensors.write(folder / WEIGHTS, named, metadata)


def _read_back(folder: pathlib.Path, encoder: Encoder) -> np.ndarray:
    """Features of the written encoder, read as any file of weights."""
    return load_encoder(folder / WEIGHTS)(_images(encoder))
