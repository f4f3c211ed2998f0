"""JPEGs decoded by simplejpeg (libjpeg-turbo): the bits of Pillow and TensorFlow in less time."""

import functools
import importlib
from typing import Any

import numpy as np


@functools.cache
def _decoder() -> Any:
    """The package ``simplejpeg``; None where it is not installed."""
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None


def decode(
    content: bytes, shape: tuple[int, int, int], memory: np.ndarray | None = None
) -> np.ndarray | None:
    """Decodes a ``ImageSource.plain_jpeg`` to what its header says.

    Args:
        content: The file.
        shape: Height, width and channels (1 or 3) of the result; the sides are those of the header,
            halved up to three times, odd ones rounded up.
        memory: uint8 [n], written to where it is large enough: fresh memory takes time too.

    Returns:
        uint8 of that shape; None where the package is missing, the file is damaged or it is another
        than expected, which Pillow then tells more of.
    """
    package = _decoder()
    if package is None:
        return None
    height, width, channels = shape
    size, place = height * width * channels, None
    if memory is not None and size <= len(memory):
        place = memory[:size].reshape(shape)
    try:
        pixels = package.decode_jpeg(
            content,
            "RGB" if channels == 3 else "GRAY",
            min_height=height,
            min_width=width,
            buffer=place,
        )
    except ValueError:
        return None
    return pixels if pixels.shape == shape else None
