"""Decodes JPEGs with simplejpeg (libjpeg-turbo): faster than Pillow, with identical pixels."""

import functools
import importlib
from typing import Any

import numpy as np


@functools.cache
def _decoder() -> Any:
    """The package ``simplejpeg``; None if it is not installed."""
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None


def decode(
    content: bytes, shape: tuple[int, int, int], memory: np.ndarray | None = None
) -> np.ndarray | None:
    """Decodes a JPEG that is plain, see ``ImageSource.plain_jpeg``.

    The pixels are identical to those of Pillow and TensorFlow.

    Args:
        content: Bytes of the file.
        shape: Height, width and channels (1 or 3) of the result. The sides are those of the header,
            halved up to three times and rounded up.
        memory: uint8 [n], buffer that the pixels are written to if it is large enough, which saves
            the time to allocate one.

    Returns:
        uint8 of that shape; None if the package is missing, the file is damaged, or it has another
        shape. The caller then decodes with Pillow, whose errors are more detailed.
    """
    package = _decoder()
    if package is None:
        return None
    height, width, channels = shape
    size, buffer = height * width * channels, None
    if memory is not None and size <= len(memory):
        buffer = memory[:size].reshape(shape)
    try:
        pixels = package.decode_jpeg(
            content,
            "RGB" if channels == 3 else "GRAY",
            min_height=height,
            min_width=width,
            buffer=buffer,
        )
    except ValueError:
        return None
    return pixels if pixels.shape == shape else None
