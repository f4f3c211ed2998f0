"""Writer of TensorFlow's SavedModel, by ``jax2tf``."""

import importlib
import pathlib
from typing import Any

import jax
import numpy as np

from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.features import encoder_variables
from cssl_jax.evaluate.encoders.load import Encoder

FOLDER = "saved_model"
USAGE = (
    "import tensorflow as tf\n\n"
    f'encode = tf.saved_model.load("{FOLDER}")\n'
    'features = encode.signatures["serving_default"](images=images)["features"]\n'
    "# images: uint8 [N, H, W, C] of the side below, any N"
)


def require_tensorflow() -> Any:
    """The package ``tensorflow``.

    Raises:
        UserError: It is not installed.
    """
    try:
        import tensorflow
    except ImportError as error:
        raise UserError(f"--format savedmodel needs TensorFlow: {error}") from error
    return tensorflow


def write(folder: pathlib.Path, encoder: Encoder) -> None:
    """Writes a function from images uint8 [N, H, H, C], of any N, to features float32 [N, D].

    The weights and the normalisation are in the files. H is the side that the encoder crops from.
    The function is one operation with StableHLO for CPU, CUDA and TPU.

    Raises:
        UserError: TensorFlow is not installed, or the encoder has an operation that cannot be
            converted.
    """
    tf: Any = require_tensorflow()
    jax2tf: Any = importlib.import_module("jax.experimental.jax2tf")
    spec = encoder.spec
    assert isinstance(spec, ImageSpec)
    module, prepare = encoder.method.encoder, encoder.modality.prepare
    variables: Any = jax.device_get(encoder_variables(encoder.model))

    def encode(variables: Any, images: jax.Array) -> jax.Array:
        outputs: Any = module.apply(variables, prepare({"image": images}, spec), train=False)
        features: jax.Array = outputs["features"]
        return features

    side, channels = spec.resized, spec.channels
    convert = jax2tf.convert(
        encode,
        polymorphic_shapes=[None, f"(n, {side}, {side}, {channels})"],
        native_serialization_platforms=("cpu", "cuda", "tpu"),
        with_gradient=False,
    )
    holder = tf.Module()
    # As variables, the weights are stored beside the graph, which may have 2 GiB at most.
    holder.weights = tf.nest.map_structure(lambda x: tf.Variable(x, trainable=False), variables)
    shape = tf.TensorSpec([None, side, side, channels], tf.uint8, name="images")
    holder.encode = tf.function(
        lambda images: {"features": convert(holder.weights, images)},
        autograph=False,
        input_signature=[shape],
    )
    try:
        signatures = {"serving_default": holder.encode}
        tf.saved_model.save(holder, str(folder / FOLDER), signatures=signatures)
    except (ValueError, NotImplementedError, TypeError) as error:
        raise UserError(f"this encoder cannot be converted: {error}") from error


def run(folder: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """Features of images by the written files; called with two numbers of images."""
    tf: Any = require_tensorflow()
    encode = tf.saved_model.load(str(folder / FOLDER)).signatures["serving_default"]
    parts = [encode(images=tf.constant(part))["features"] for part in (images[:1], images[1:])]
    return np.concatenate([part.numpy() for part in parts])
