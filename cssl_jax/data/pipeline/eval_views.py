"""Seeded views of held-out examples in their original order, for metrics that need no labels."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.data.pipeline import threads as thread_pipeline
from cssl_jax.data.pipeline.base import ViewFunctions
from cssl_jax.data.pipeline.host_draws import ViewJob
from cssl_jax.data.pipeline.rendering import painter
from cssl_jax.data.sampler import Sampler, example_key
from cssl_jax.data.sources.base import ArraySource, Examples, Source

GROUP = "main"  # name of the only view group
ROWS = 256  # examples per block, which bounds the memory


def view_pairs(
    source: Source, policy: Any, *, size: int, seed: int, modality: ViewFunctions
) -> Iterator[Examples]:
    """Yields two views of every example, block by block, in the order of the source.

    Args:
        source: Examples to draw views of.
        policy: Augmentation policy.
        size: Size of a view, such as the side of an image in pixels.
        seed: Seed from which the example keys are derived.
        modality: Functions that turn examples into views.

    Yields:
        Views of the next r examples as examples, tree of arrays [r, 2, ...], r at most 256.
    """
    group = SizedGroup(count=2, size=size, policy=policy)
    if isinstance(source, ArraySource):
        yield from _views_on_device(source, group, seed, modality)
        return
    images: Any = source  # only images are not arrays in memory
    rows = min(ROWS, len(images))
    job = ViewJob(
        source=images,
        sampler=_SequentialSampler(size=len(images), batch_size=rows, seed=seed),
        groups={GROUP: group},
        rows=np.arange(rows),
        kernels=painter.kernels(policy, images.channels, whole=True),
    )
    done = 0
    for batch in thread_pipeline.batches(job, 0, -(-len(images) // rows)):
        yield {"image": batch["views"][GROUP][: len(images) - done]}
        done += rows


def _views_on_device(
    source: ArraySource, group: SizedGroup, seed: int, modality: ViewFunctions
) -> Iterator[Examples]:
    keys = example_key(seed, np.uint32(0), np.arange(len(source)))
    done = 0
    for examples in source.blocks(ROWS, group.size):
        rows = len(jax.tree.leaves(examples)[0])
        key = keys[done : done + rows]
        yield jax.device_get(_draw_views(examples, key, group=group, modality=modality))
        done += rows


@functools.partial(jax.jit, static_argnames=("group", "modality"))
def _draw_views(
    examples: Examples, key: jax.Array, *, group: SizedGroup, modality: ViewFunctions
) -> Examples:
    drawn = modality.sample_views(key, group.policy, group.count, group.first)
    return modality.view_examples(examples, drawn, group)


@dataclasses.dataclass(frozen=True)
class _SequentialSampler(Sampler):
    """One unshuffled pass over the examples; rows beyond the end repeat the last example."""

    def draw(self, step: Any, rows: Any, xp: Any = np) -> tuple[Any, Any]:
        index = np.minimum(step * self.batch_size + rows, self.size - 1).astype(np.int32)
        return index, example_key(self.seed, np.uint32(0), index)
