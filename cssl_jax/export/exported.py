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
from cssl_jax.interop import safetensors
from cssl_jax.interop.peer_export import PeerExport, peer_export
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
    """Writer of a state dict with torchvision's names and of the lines that build its module."""
    peer = _peer_of(encoder, "torchvision")

    def write(folder: pathlib.Path) -> tuple[np.ndarray, str, tuple[str, ...]]:
        _write_weights(folder, encoder, peer, "torchvision")
        return _read_back(folder, encoder), peer.torchvision_lines(), peer.notes

    return write


def _timm(encoder: Encoder) -> Writer:
    """Writer of a folder that ``timm.create_model("local-dir:FOLDER")`` opens."""
    peer = _peer_of(encoder, "timm")

    def write(folder: pathlib.Path) -> tuple[np.ndarray, str, tuple[str, ...]]:
        _write_weights(folder, encoder, peer, "timm")
        spec, config = _image_spec(encoder), peer.timm_config()
        features = _read_back(folder, encoder)
        pretrained = {
            "input_size": [spec.channels, spec.size, spec.size],
            "mean": spec.mean,
            "std": spec.std,
            "interpolation": spec.interpolation,
            "crop_pct": spec.crop_fraction,
            "num_classes": 0,
            **config.pop("pretrained_cfg"),
        }
        sizes = {"num_classes": 0, "num_features": features.shape[1]}
        write_json(folder / "config.json", {**config, **sizes, "pretrained_cfg": pretrained})
        usage = (
            "import timm\n\n"
            f'model = timm.create_model("local-dir:{folder.name}", pretrained=True).eval()'
        )
        return features, usage, ()

    return write


def _huggingface(encoder: Encoder) -> Writer:
    """Writer of a folder that ``transformers.AutoModel.from_pretrained`` opens."""
    peer = _peer_of(encoder, "huggingface")

    def write(folder: pathlib.Path) -> None:
        _write_weights(folder, encoder, peer, "huggingface")

    def read(folder: pathlib.Path) -> np.ndarray:
        return _read_back(folder, encoder)

    return transformers_folder.writer(peer, _image_spec(encoder), write, read)


def _safetensors(encoder: Encoder) -> Writer:
    """Writer of one file with this package's own names, for encoders of any kind."""
    return own_names.writer(encoder, _features)


def _onnx(encoder: Encoder) -> Writer:
    """Writer of an ONNX model from images to features."""
    architecture, spec = _architecture(encoder), _image_spec(encoder)
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
    """Options of a ResNet; refuses other encoders."""
    model = encoder.config.model
    blocks_of(model.encoder)
    options = {name: getattr(model, name) for name in ("encoder", "width", "stem", "variant")}
    return Architecture(**options, channels=_image_spec(encoder).channels)


def _peer_of(encoder: Encoder, format: str) -> PeerExport:
    """The encoder in the terms of other libraries; refuses one that a format cannot express."""
    spec, module = _image_spec(encoder), encoder.method.encoder
    variables: dict[str, Any] = jax.device_get(encoder_variables(encoder.model))
    constants = module.constants(spec.size) if hasattr(module, "constants") else {}
    peer = peer_export(
        dataclasses.asdict(encoder.config.model),
        channels=spec.channels,
        size=spec.size,
        variables={**variables, "params": {**variables["params"], **constants}},
    )
    if refusal := peer.refusal(format):
        raise UserError(refusal)
    return peer


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


def _write_weights(folder: pathlib.Path, encoder: Encoder, peer: PeerExport, format: str) -> None:
    stored = {
        "input": dataclasses.asdict(_image_spec(encoder)),
        "model": peer.stored,
        "step": encoder.step,
    }
    metadata = {"format": "pt", KEY: json.dumps(stored)}
    safetensors.write(folder / WEIGHTS, peer.state_dict(format), metadata)


def _read_back(folder: pathlib.Path, encoder: Encoder) -> np.ndarray:
    """Features of the written encoder, read as any file of weights."""
    return load_encoder(folder / WEIGHTS)(_images(encoder))
