"""Computes features of examples by a compiled encoder."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from cssl_jax.data.input_spec import InputSpec
from cssl_jax.data.sources.base import Examples, Source
from cssl_jax.modalities.base import Modality
from cssl_jax.modalities.registry import modality_entry
from cssl_jax.runtime import spmd

PyTree = Any
Model = dict[str, PyTree]  # {"params": {"encoder": ...}, "model_state": {"encoder": ...}}
Block = TypeVar("Block", covariant=True)


def encoder_variables(model: Model) -> dict[str, PyTree]:
    """Variables of a model's encoder, {"params", "batch_stats"}, as its ``apply`` takes them."""
    return {
        "params": model["params"]["encoder"],
        "batch_stats": model["model_state"]["encoder"],
    }


class Applies(Protocol):
    """Interface of an encoder: a Flax module or an object with the same ``apply``."""

    def apply(self, variables: Any, x: Any, *, train: bool) -> Any:
        """Computes {"features": [n, D], ...} of inputs, such as normalised images [n, H, W, C]."""
        ...


def make_embed(
    encoder: nn.Module | Applies,
    mesh: Mesh,
    spec: InputSpec,
    *,
    batch_size: int,
) -> Callable[[dict[str, PyTree], Source], np.ndarray]:
    """Returns a compiled function (variables, source of N examples) -> features float32 [N, D].

    Examples are embedded in batches over the mesh. The last batch is padded and its result is cut,
    so that no example is dropped. With several processes, each one reads only its rows of a batch,
    and all processes receive the features of all rows.

    Args:
        encoder: Encoder whose output has "features".
        mesh: Devices that a batch is sharded over.
        spec: Size and normalisation of the encoder's input, and its modality.
        batch_size: Number of examples per batch, rounded up to a multiple of the devices.
    """
    modality = modality_entry(spec.kind)
    embed_batch = functools.partial(_embed_batch, encoder=encoder, modality=modality, spec=spec)
    rows = -(-batch_size // mesh.size) * mesh.size
    process_rows = spmd.process_rows(rows, mesh)

    def embed(variables: dict[str, PyTree], source: Source) -> np.ndarray:
        source = modality.to_arrays(source, spec)
        starts = range(0, len(source), rows)
        blocks = own_blocks(source, starts, process_rows, **spec.reading)
        batches = []
        for start, block in zip(starts, blocks, strict=False):
            batch = spmd.put_batch(padded(block, len(process_rows)), mesh)
            features = multihost_utils.process_allgather(embed_batch(variables, batch), tiled=True)
            batches.append(np.asarray(features, np.float32)[: len(source) - start])
        return np.concatenate(batches)

    return embed


def padded(examples: Examples, rows: int) -> Examples:
    """Examples with rows of zeros added up to a number of rows; one program serves all blocks."""

    def pad(x: np.ndarray) -> np.ndarray:
        return np.pad(x, [(0, rows - len(x)), *[(0, 0)] * (x.ndim - 1)])

    padded_examples: Examples = jax.tree.map(pad, examples)
    return padded_examples


@functools.partial(jax.jit, static_argnames=("encoder", "modality", "spec"))
def _embed_batch(
    variables: dict[str, PyTree],
    examples: Examples,
    *,
    encoder: nn.Module | Applies,
    modality: Modality,
    spec: InputSpec,
) -> jax.Array:
    """Features [n, D] of n examples."""
    encoded: Any = encoder.apply(variables, modality.prepare(examples, spec), train=False)
    features: jax.Array = encoded["features"]
    return features


class Blocks(Protocol[Block]):
    """Interface of examples that are read in blocks: a ``Source`` or a ``MaskedSource``."""

    def __len__(self) -> int: ...

    def take(self, index: np.ndarray) -> "Blocks[Block]":
        """Selects examples by their row numbers, like ``Source.take``."""
        ...

    def blocks(self, rows: int, size: int, interpolation: str = "bilinear") -> Iterator[Block]:
        """Yields blocks of examples, or of images and masks, like ``Source.blocks``."""
        ...


def own_blocks(
    source: Blocks[Block], starts: range, process_rows: np.ndarray, size: int, **reading: Any
) -> Iterator[Block]:
    """Yields this process's rows of every batch.

    Args:
        source: Examples of all processes.
        starts: First row of every batch; the step of the range is the batch size.
        process_rows: This process's rows of a batch, int [r], ascending; see
            ``spmd.process_rows``.
        size: Side of the images in pixels, see ``Source.blocks``.
        reading: Other arguments of ``Source.blocks``.

    Yields:
        One block of r rows per batch. The block of the last batch has fewer rows if the source
        ends. It holds arbitrary rows if none of the last batch belongs to this process. With
        several processes the last block repeats without end: stop after the last batch.
    """
    if len(process_rows) == starts.step:  # single process
        yield from source.blocks(len(process_rows), size, **reading)
        return
    numbers = (np.asarray(starts)[:, None] + process_rows).ravel()
    numbers = numbers[numbers < len(source)]
    # Every process must contribute a block to every batch, since the embedding is a collective
    # call. Results beyond the source are cut off by the caller, so that any row will do.
    if not len(numbers):
        numbers = np.zeros(1, int)
    for block in source.take(numbers).blocks(len(process_rows), size, **reading):
        yield block
    yield from itertools.repeat(block)  # for batches after this process's last row
