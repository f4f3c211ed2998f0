"""Raw pixels as features: the baseline of images."""

import numpy as np

from cssl_jax.data.sources.base import ArraySource, Source

PIXEL_SIDE = 32  # pixels; larger images are reduced to this side
IMAGE_SIDE = 4 * PIXEL_SIDE  # side in pixels at which encoded images are read


def pixel_sides(source: Source) -> tuple[int, int]:
    """Height and width in pixels to which the raw-pixel baseline brings the images of a source."""
    if not isinstance(source, ArraySource):
        return PIXEL_SIDE, PIXEL_SIDE
    height, width = source.images.shape[1:3]
    return min(height, PIXEL_SIDE), min(width, PIXEL_SIDE)


def pixels(source: Source) -> np.ndarray:
    """Raw pixels as features, the baseline of the protocols.

    Args:
        source: N images. Each one is area-resized to at most 32 x 32 pixels.

    Returns:
        Features float32 [N, height x width x channels], in [0, 1].
    """
    blocks = []
    for block in source.blocks(1024, IMAGE_SIDE):
        images = block["image"]
        _, height, width, _ = images.shape
        rows = area_matrix(height, min(height, PIXEL_SIDE))
        columns = area_matrix(width, min(width, PIXEL_SIDE))
        x = images / np.float32(255)
        x = np.einsum("sh,nhwc,tw->nstc", rows, x, columns, optimize=True)
        blocks.append(x.reshape(len(images), -1))
    return np.concatenate(blocks)


def area_matrix(in_size: int, out_size: int) -> np.ndarray:
    """Weights float32 [out_size, in_size] of an area resize along one axis.

    Each output pixel is the mean of the input that it covers, fractions of pixels included.
    """
    edges = np.arange(out_size + 1) * in_size / out_size
    pixel = np.arange(in_size)
    covered: np.ndarray = np.minimum(edges[1:, None], pixel + 1) - np.maximum(
        edges[:-1, None], pixel
    )
    covered = np.maximum(covered, 0.0)
    covered /= covered.sum(axis=1, keepdims=True)
    return covered.astype(np.float32)
