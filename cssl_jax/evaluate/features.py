"""Computes features of images: by a compiled encoder, or raw pixels as the baseline."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from cssl_jax.augment.image import batched, geometry
from cssl_jax.data.input_spec import PIXEL_SIDE
from cssl_jax.data.sources.base import Source
from cssl_jax.runtime import spmd

PyTree = Any
Model = dict[str, PyTree]  # {"params": {"encoder": ...}, "model_state": {"encoder": ...}}
IMAGE_SIDE = 4 * PIXEL_SIDE  # side in pixels at which images are read for the raw-pixel features
Block = TypeVar("Block", covariant=True)


def encoder_variables(model: Model) -> dict[str, PyTree]:
    """Variables of a model's encoder, {"params", "batch_stats"}, as its ``apply`` takes them."""
    return {
        "params": model["params"]["encoder"],
        "batch_stats": model["model_state"]["encoder"],
    }


def preprocess(
    images: jax.Array, *, size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> jax.Array:
    """Test-time preprocessing: crops the centre square, resizes it bilinearly and normalises it.

    Args:
        images: Images, uint8 [n, H, W, C].
        size: Side of the result in pixels.
        mean: Mean per channel on the scale [0, 1].
        std: Standard deviation per channel on the scale [0, 1].

    Returns:
        Normalised images, float [n, size, size, C].
    """
    x = batched.to_float(images)
    height, width = x.shape[1:3]
    if (height, width) != (size, size):
        side = min(height, width)
        box = ((height - side) // 2, (width - side) // 2, side, side)
        boxes = tuple(jnp.full(len(x), value) for value in box)
        x = geometry.crop_and_resize(x, boxes, size, "bilinear")
    return batched.normalize(x, mean, std)


class Applies(Protocol):
    """Interface of an encoder: a Flax module or an object with the same ``apply``."""

    def apply(self, variables: Any, images: jax.Array, *, train: bool) -> Any:
        """Computes {"features": [n, D], ...} of normalised images [n, H, W, C]."""
        ...


def make_embed(
    encoder: nn.Module | Applies,
    mesh: Mesh,
    *,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int,
) -> Callable[[dict[str, PyTree], Source], np.ndarray]:
    """Returns a compiled function (variables, source of N images) -> features float32 [N, D].

    Images are embedded in batches over the mesh. The last batch is padded and its result is cut, so
    that no image is dropped. With several processes, each one reads only its rows of a batch, and
    all processes receive the features of all rows.

    Args:
        encoder: Encoder whose output has "features".
        mesh: Devices that a batch is sharded over.
        size: Side of the encoder's input in pixels.
        mean: Mean per channel on the scale [0, 1].
        std: Standard deviation per channel on the scale [0, 1].
        batch_size: Number of images per batch, rounded up to a multiple of the devices.
    """
    embed_batch = functools.partial(_embed_batch, encoder=encoder, size=size, mean=mean, std=std)
    rows = -(-batch_size // mesh.size) * mesh.size
    process_rows = spmd.process_rows(rows, mesh)

    def embed(variables: dict[str, PyTree], source: Source) -> np.ndarray:
        starts = range(0, len(source), rows)
        blocks = own_blocks(source, starts, process_rows, size)
        batches = []
        for start, block in zip(starts, blocks, strict=False):
            padding = [(0, len(process_rows) - len(block))] + [(0, 0)] * 3
            batch = spmd.put_batch(np.pad(block, padding), mesh)
            features = multihost_utils.process_allgather(embed_batch(variables, batch), tiled=True)
            batches.append(np.asarray(features, np.float32)[: len(source) - start])
        return np.concatenate(batches)

    return embed


@functools.partial(jax.jit, static_argnames=("encoder", "size", "mean", "std"))
def _embed_batch(
    variables: dict[str, PyTree],
    images: jax.Array,
    *,
    encoder: nn.Module | Applies,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> jax.Array:
    """Features [n, D] of images uint8 [n, H, W, C]."""
    x = preprocess(images, size=size, mean=mean, std=std)
    encoded: Any = encoder.apply(variables, x, train=False)
    features: jax.Array = encoded["features"]
    return features


class Blocks(Protocol[Block]):
    """Interface of examples that are read in blocks: a ``Source`` or a ``MaskedSource``."""

    def __len__(self) -> int: ...

    def take(self, index: np.ndarray) -> "Blocks[Block]":
        """Selects examples by their row numbers, like ``Source.take``."""
        ...

    def blocks(self, rows: int, size: int) -> Iterator[Block]:
        """Yields blocks of images, or of images and masks, like ``Source.blocks``."""
        ...


def own_blocks(
    source: Blocks[Block], starts: range, process_rows: np.ndarray, size: int
) -> Iterator[Block]:
    """Yields this process's rows of every batch.

    Args:
        source: Examples of all processes.
        starts: First row of every batch; the step of the range is the batch size.
        process_rows: This process's rows of a batch, int [r], ascending; see
            ``spmd.process_rows``.
        size: Side of the images in pixels, see ``Source.blocks``.

    Yields:
        One block of r rows per batch. The block of the last batch has fewer rows if the source
        ends. It holds arbitrary rows if none of the last batch belongs to this process. With
        several processes the last block repeats without end: stop after the last batch.
    """
    if len(process_rows) == starts.step:  # single process
        yield from source.blocks(len(process_rows), size)
        return
    numbers = (np.asarray(starts)[:, None] + process_rows).ravel()
    numbers = numbers[numbers < len(source)]
    # Every process must contribute a block to every batch, since the embedding is a collective
    # call. Results beyond the source are cut off by the caller, so that any row will do.
    if not len(numbers):
        numbers = np.zeros(1, int)
    for block in source.take(numbers).blocks(len(process_rows), size):
        yield block
    yield from itertools.repeat(block)  # for batches after this process's last row


def pixels(source: Source) -> np.ndarray:
    """Raw pixels as features, the baseline of the protocols.

    Args:
        source: N images. Each one is area-resized to at most 32 x 32 pixels.

    Returns:
        Features float32 [N, height x width x channels], in [0, 1].
    """
    blocks = []
    for block in source.blocks(1024, IMAGE_SIDE):
        _, height, width, _ = block.shape
        rows = area_matrix(height, min(height, PIXEL_SIDE))
        columns = area_matrix(width, min(width, PIXEL_SIDE))
        x = block / np.float32(255)
        x = np.einsum("sh,nhwc,tw->nstc", rows, x, columns, optimize=True)
        blocks.append(x.reshape(len(block), -1))
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
