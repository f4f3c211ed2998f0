"""Seeded views of held-out examples in their original order, for metrics that need no labels."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from cssl_jax.augment.image.batched import apply_views
from cssl_jax.augment.image.policy import ImagePolicy, sample_views
from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.data.pipeline import painter
from cssl_jax.data.pipeline import threads as thread_pipeline
from cssl_jax.data.pipeline.host_draws import ViewJob
from cssl_jax.data.sampler import Sampler, example_key
from cssl_jax.data.sources.base import ArraySource, Source

GROUP = "main"  # name of the only view group
ROWS = 256  # examples per block, which bounds the memory


def view_pairs(
    source: Source, policy: ImagePolicy, *, size: int, seed: int
) -> Iterator[np.ndarray]:
    """Yields two views of every example, block by block, in the order of the source.

    Args:
        source: Examples to draw views of.
        policy: Augmentation policy.
        size: Side of a view in pixels.
        seed: Seed from which the example keys are derived.

    Yields:
        Views uint8 [r, 2, size, size, C] of the next r examples, r at most 256.
    """
    if isinstance(source, ArraySource):
        yield from _views_on_device(source, policy, size, seed)
        return
    rows = min(ROWS, len(source))
    job = ViewJob(
        source=source,
        sampler=_SequentialSampler(size=len(source), batch_size=rows, seed=seed),
        groups={GROUP: SizedGroup(count=2, size=size, policy=policy)},
        rows=np.arange(rows),
        kernels=painter.kernels(policy, source.channels, whole=True),
    )
    done = 0
    for batch in thread_pipeline.batches(job, 0, -(-len(source) // rows)):
        yield batch["views"][GROUP][: len(source) - done]
        done += rows


def _views_on_device(
    source: ArraySource, policy: ImagePolicy, size: int, seed: int
) -> Iterator[np.ndarray]:
    keys = example_key(seed, np.uint32(0), np.arange(len(source)))
    for i in range(0, len(source), ROWS):
        images, key = source.images[i : i + ROWS], keys[i : i + ROWS]
        yield np.asarray(_draw_views(images, key, policy=policy, size=size))


@functools.partial(jax.jit, static_argnames=("policy", "size"))
def _draw_views(images: jax.Array, key: jax.Array, *, policy: ImagePolicy, size: int) -> jax.Array:
    views = apply_views(images, sample_views(key, policy, 2), policy=policy, size=size)
    return (views * 255 + 0.5).astype(np.uint8)  # + 0.5 rounds: the cast truncates


@dataclasses.dataclass(frozen=True)
class _SequentialSampler(Sampler):
    """One unshuffled pass over the examples; rows beyond the end repeat the last example."""

    def draw(self, step: Any, rows: Any, xp: Any = np) -> tuple[Any, Any]:
        index = np.minimum(step * self.batch_size + rows, self.size - 1).astype(np.int32)
        return index, example_key(self.seed, np.uint32(0), index)
