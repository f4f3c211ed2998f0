"""From images to features: the encoder under jit, and raw pixels as the floor to beat."""

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
IMAGE_SIDE = 4 * PIXEL_SIDE  # of the centre squares that pictures are reduced from
Block = TypeVar("Block", covariant=True)


def encoder_variables(model: Model) -> dict[str, PyTree]:
    """The encoder's part of a model, as its ``apply`` takes it."""
    return {
        "params": model["params"]["encoder"],
        "batch_stats": model["model_state"]["encoder"],
    }


def preprocess(
    images: jax.Array, *, size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> jax.Array:
    """Test-time input: the centre square resized to ``size``, normalised.

    Args:
        images: uint8 [n, H, W, C].
        size: Side in pixels.
        mean: A channel, on the scale [0, 1].
        std: A channel.

    Returns:
        float [n, size, size, C].
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
    """An encoder, or what is applied as one is."""

    def apply(self, variables: Any, images: jax.Array, *, train: bool) -> Any:
        """{"features": [n, D], ...} of normalised images [n, H, W, C]."""
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
    """Compiles ``(variables, source of N images) -> features float32 [N, D]``.

    Images are embedded in batches over the mesh; the last one is padded and cut, never dropped.
    Each of several processes reads its own rows only, and all get the features of all rows.
    """
    embed_batch = functools.partial(_embed_batch, encoder=encoder, size=size, mean=mean, std=std)
    rows = -(-batch_size // mesh.size) * mesh.size
    mine = spmd.process_rows(rows, mesh)

    def embed(variables: dict[str, PyTree], source: Source) -> np.ndarray:
        starts = range(0, len(source), rows)
        blocks = own_blocks(source, starts, mine, size)
        parts = []
        for start, block in zip(starts, blocks, strict=False):
            padding = [(0, len(mine) - len(block))] + [(0, 0)] * 3
            batch = spmd.put_batch(np.pad(block, padding), mesh)
            features = multihost_utils.process_allgather(embed_batch(variables, batch), tiled=True)
            parts.append(np.asarray(features, np.float32)[: len(source) - start])
        return np.concatenate(parts)

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
    x = preprocess(images, size=size, mean=mean, std=std)
    encoded: Any = encoder.apply(variables, x, train=False)
    return encoded["features"]


class Blocks(Protocol[Block]):
    """Examples that come in blocks: a ``Source``, or one with masks."""

    def __len__(self) -> int: ...

    def take(self, index: np.ndarray) -> "Blocks[Block]":
        """As ``Source.take``."""
        ...

    def blocks(self, rows: int, size: int) -> Iterator[Block]:
        """As ``Source.blocks``; of images alone or with what belongs to them."""
        ...


def own_blocks(
    source: Blocks[Block], starts: range, mine: np.ndarray, size: int
) -> Iterator[Block]:
    """This process's rows of every batch, as the source's ``blocks``.

    Args:
        source: Of all rows.
        starts: First rows of the batches; its step is their size.
        mine: int [r], this process's rows of a batch, ascending; see ``spmd.process_rows``.
        size: Of the images, as for ``Source.blocks``.

    Yields:
        A block of r rows a batch; of the last one those that there are, or any where there are
        none.
    """
    if len(mine) == starts.step:
        yield from source.blocks(len(mine), size)
        return
    numbers = (np.asarray(starts)[:, None] + mine).ravel()
    numbers = numbers[numbers < len(source)]
    if not len(numbers):  # what it feeds is cut off, but it must feed something
        numbers = np.zeros(1, int)
    for block in source.take(numbers).blocks(len(mine), size):
        yield block
    yield from itertools.repeat(block)  # likewise, where its last row was in an earlier batch


def pixels(source: Source) -> np.ndarray:
    """Raw input as features: area-resized to at most 32 px a side, float32 [N, D]."""
    parts = []
    for block in source.blocks(1024, IMAGE_SIDE):
        _, height, width, _ = block.shape
        rows = area_matrix(height, min(height, PIXEL_SIDE))
        columns = area_matrix(width, min(width, PIXEL_SIDE))
        x = block / np.float32(255)
        x = np.einsum("sh,nhwc,tw->nstc", rows, x, columns, optimize=True)
        parts.append(x.reshape(len(block), -1))
    return np.concatenate(parts)


def area_matrix(in_size: int, out_size: int) -> np.ndarray:
    """Weights float32 [out, in]: each output pixel is the mean of the input it covers."""
    edges = np.arange(out_size + 1) * in_size / out_size
    pixel = np.arange(in_size)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    covered = np.maximum(covered, 0.0)
    return (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)
