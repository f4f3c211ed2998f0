"""An encoder as one compiled function in StableHLO, by ``jax.export``."""

import datetime
import pathlib
from typing import Any

import jax
import numpy as np
from jax import export

from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.features import encoder_variables
from cssl_jax.evaluate.encoders.load import Encoder

FILE = "encoder.stablehlo"
USAGE = (
    "import pathlib\n\n"
    "from jax import export\n\n"
    f'encode = export.deserialize(bytearray(pathlib.Path("{FILE}").read_bytes())).call\n'
    "features = encode(images)  # uint8 [N, H, W, C] of the side below, any N"
)
_PLATFORMS = ("cpu", "cuda", "tpu")
_MONTHS = 6  # backward compatibility that JAX's documentation of export promises


def write(path: pathlib.Path, encoder: Encoder) -> None:
    """Writes a function from images uint8 [N, H, H, C], of any N, to features float32 [N, D].

    The weights and the normalisation are in the file. H is the side that the encoder crops from.

    Raises:
        UserError: The encoder has an operation that cannot be exported.
    """
    spec = encoder.spec
    assert isinstance(spec, ImageSpec)
    module, prepare = encoder.method.encoder, encoder.modality.prepare
    variables: Any = jax.device_get(encoder_variables(encoder.model))

    def encode(images: jax.Array) -> jax.Array:
        outputs: Any = module.apply(variables, prepare({"image": images}, spec), train=False)
        features: jax.Array = outputs["features"]
        return features

    shape = export.symbolic_shape(f"n, {spec.resized}, {spec.resized}, {spec.channels}")
    argument = jax.ShapeDtypeStruct(shape, np.uint8)
    try:
        exported = export.export(jax.jit(encode), platforms=_PLATFORMS)(argument)
    except (ValueError, NotImplementedError, TypeError) as error:
        raise UserError(f"this encoder cannot be exported: {error}") from error
    path.write_bytes(exported.serialize())


def run(path: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """Features of images by the function in a file; called with two numbers of images."""
    exported: Any = export.deserialize(bytearray(path.read_bytes()))
    encode = exported.call
    return np.concatenate([np.asarray(encode(images[:1])), np.asarray(encode(images[1:]))])


def expiry() -> str:
    """Sentence on how long the file is sure to be read."""
    last = datetime.date.today() + datetime.timedelta(days=30 * _MONTHS)
    return (
        f"JAX promises to read the file for {_MONTHS} months, until about {last.isoformat()}: "
        "export again from the run for newer versions"
    )
