"""What of a TFDS example is read: the encoded picture and the label."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import PIL.Image

from cssl_jax.data.formats.schema import choose_field
from cssl_jax.data.pipeline.thread_map import ahead
from cssl_jax.errors import UserError
from cssl_jax.progress import bar

_CHUNK = 256  # examples a task of a thread
_MODES = (1, 2, 3, 4)  # channels that a PNG may have


def choose_features(
    features: Any, image_key: str, label_key: str, where: str
) -> tuple[str, str | None]:
    """Names of the features that are the picture and the label (None where there is none).

    Raises:
        UserError: There is no picture, or several may be meant.
    """
    import tensorflow_datasets as tfds

    fields = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    images = [
        name
        for name, field in fields.items()
        if isinstance(field, tfds.features.Image)
        and not isinstance(field, tfds.features.LabeledImage)
    ]
    labels = [name for name, field in fields.items() if isinstance(field, tfds.features.ClassLabel)]
    if "label" in fields and fields["label"].shape == ():
        labels.append("label")
    image = choose_field("image", image_key, images, list(fields), where)
    if image is None:
        raise UserError(
            f"{where} has no Image, only {', '.join(fields) or 'no features by name'}; choose one "
            "that holds pictures by --data.image-key, or another set"
        )
    return image, choose_field("label", label_key, labels, list(fields), where)


def image_decoder(features: Any, image: str, where: str) -> Callable[[bytes], bytes]:
    """From a serialised example to the encoded picture; nothing else of the example is decoded.

    A feature that is stored as an array becomes a PNG.

    Raises:
        UserError: The feature is no picture.
    """
    import tensorflow_datasets as tfds

    field = features[image]
    kind, shape = field.np_dtype, field.shape  # dictionaries, of a feature that holds others
    is_image = isinstance(field, tfds.features.Image) and kind in (np.uint8, np.uint16)
    is_bytes = shape == () and kind == np.object_
    is_array = kind == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and shape[-1] in _MODES))
    if not (is_image or is_bytes or is_array):
        raise UserError(
            f"{where}: feature {image!r} is {field!r}, which is no picture of 8 or 16 bits; choose "
            "another by --data.image-key"
        )
    part = tfds.features.FeaturesDict({image: field})
    decoders = {image: tfds.decode.SkipDecoding()} if is_image or is_bytes else None

    def picture(serialized: bytes) -> bytes:
        value = part.deserialize_example_np(serialized, decoders=decoders)[image]
        if value is None:
            raise OSError(f"the example has no {image!r}")
        return value if isinstance(value, bytes) else encode_png(value)

    return picture


def encode_png(image: np.ndarray) -> bytes:
    """Uint8 [h, w] or [h, w, 1 to 4] as PNG, without loss."""
    file = io.BytesIO()
    grey = image.ndim == 3 and image.shape[-1] == 1
    PIL.Image.fromarray(image[..., 0] if grey else image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def read_labels(
    features: Any, label: str, serialized: Callable[[int], bytes], names: Sequence[str], where: str
) -> list[Any]:
    """Whole numbers and names, by reading every example, in threads.

    Raises:
        UserError: An example cannot be read.
    """
    import tensorflow_datasets as tfds

    part = tfds.features.FeaturesDict({label: features[label]})

    def values(start: int) -> list[Any]:
        return [value(index) for index in range(start, min(start + _CHUNK, len(names)))]

    def value(index: int) -> Any:
        try:
            content = part.deserialize_example_np(serialized(index))[label]
        except Exception as error:  # of whatever kind ArrayRecord and protobuf raise
            raise UserError(
                f"{where}: {names[index]} cannot be read: {error}; copy the file again or prepare "
                "the set anew"
            ) from error
        if isinstance(content, bytes):
            return content.decode(errors="backslashreplace")
        return content.tolist() if isinstance(content, (np.generic, np.ndarray)) else content

    found: list[Any] = []
    with bar(total=len(names), desc=f"labels of {where}", unit="example", delay=2.0) as progress:
        for part_of_them in ahead(values, range(0, len(names), _CHUNK)):
            found += part_of_them
            progress.update(len(part_of_them))
    return found
