"""Reads the encoded image and the label of a TFDS example."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import PIL.Image

from cssl_jax.data.formats.schema import choose_field
from cssl_jax.data.pipeline.thread_map import map_ahead
from cssl_jax.errors import UserError
from cssl_jax.progress import bar

_CHUNK = 256  # examples per task of a thread
_PNG_CHANNELS = (1, 2, 3, 4)


def choose_features(
    features: Any, image_key: str, label_key: str, where: str
) -> tuple[str, str | None]:
    """Chooses the features of the image and the label.

    Args:
        features: Features of the set.
        image_key: Name of the image feature; "" to choose automatically.
        label_key: Name of the label feature; "" to choose automatically.
        where: Name of the data set, for messages.

    Returns:
        Names of the image feature and of the label feature; the latter is None without labels.

    Raises:
        UserError: There is no image feature, a named feature does not exist, or several features
            are possible.
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
            f"{where} has no Image, only {', '.join(fields) or 'features without names'}; choose a "
            "feature with images by --data.image-key, or another set"
        )
    return image, choose_field("label", label_key, labels, list(fields), where)


def image_extractor(features: Any, image: str, where: str) -> Callable[[bytes], bytes]:
    """Builds the function from a serialised example to its encoded image.

    The function decodes no other feature of the example. A feature that is stored as an array
    becomes a PNG.

    Args:
        features: Features of the set.
        image: Name of the image feature.
        where: Name of the data set, for messages.

    Raises:
        UserError: The feature is not an image of 8 or 16 bits.
    """
    import tensorflow_datasets as tfds

    field = features[image]
    dtype, shape = field.np_dtype, field.shape  # dictionaries if the feature is nested
    is_image = isinstance(field, tfds.features.Image) and dtype in (np.uint8, np.uint16)
    is_bytes = shape == () and dtype == np.object_
    is_array = dtype == np.uint8 and (
        len(shape) == 2 or (len(shape) == 3 and shape[-1] in _PNG_CHANNELS)
    )
    if not (is_image or is_bytes or is_array):
        raise UserError(
            f"{where}: feature {image!r} is {field!r}, which is not an image of 8 or 16 bits; "
            "choose another feature by --data.image-key"
        )
    only_image = tfds.features.FeaturesDict({image: field})
    decoders = {image: tfds.decode.SkipDecoding()} if is_image or is_bytes else None

    def extract_image(serialized: bytes) -> bytes:
        value = only_image.deserialize_example_np(serialized, decoders=decoders)[image]
        if value is None:
            raise OSError(f"the example has no {image!r}")
        return value if isinstance(value, bytes) else encode_png(value)

    return extract_image


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an array as PNG, without loss.

    Args:
        image: uint8 [h, w] or [h, w, C] with 1 to 4 channels.
    """
    file = io.BytesIO()
    grey = image.ndim == 3 and image.shape[-1] == 1
    PIL.Image.fromarray(image[..., 0] if grey else image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def read_labels(
    features: Any,
    label: str,
    read_serialized: Callable[[int], bytes],
    names: Sequence[str],
    where: str,
) -> list[Any]:
    """Reads the label of every example, in threads and with a progress bar.

    Args:
        features: Features of the set.
        label: Name of the label feature.
        read_serialized: Function from the index of an example to its serialised tf.train.Example.
        names: Name of every example, for messages.
        where: Name of the data set, for messages.

    Returns:
        Whole number or name of every example.

    Raises:
        UserError: An example cannot be read.
    """
    import tensorflow_datasets as tfds

    only_label = tfds.features.FeaturesDict({label: features[label]})

    def values(start: int) -> list[Any]:
        return [value(index) for index in range(start, min(start + _CHUNK, len(names)))]

    def value(index: int) -> Any:
        try:
            content = only_label.deserialize_example_np(read_serialized(index))[label]
        except Exception as error:  # ArrayRecord and protobuf raise many types of exceptions
            raise UserError(
                f"{where}: {names[index]} cannot be read: {error}; copy the file again or prepare "
                "the set again"
            ) from error
        if isinstance(content, bytes):
            return content.decode(errors="backslashreplace")
        return content.tolist() if isinstance(content, (np.generic, np.ndarray)) else content

    labels: list[Any] = []
    with bar(total=len(names), desc=f"labels of {where}", unit="example", delay=2.0) as progress:
        for chunk in map_ahead(values, range(0, len(names), _CHUNK)):
            labels += chunk
            progress.update(len(chunk))
    return labels
