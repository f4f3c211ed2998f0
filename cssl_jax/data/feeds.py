"""Each step's input on the devices, made ahead of the step that takes it."""

from collections.abc import Generator, Iterator
from typing import Any

from jax.sharding import Mesh

from cssl_jax import parallel
from cssl_jax.data.pipeline import Pipeline, prefetch


def placed_feeds(
    pipeline: Pipeline, mesh: Mesh, backend: str, start: int, stop: int
) -> Generator[Any]:
    """What the steps [start, stop) are fed; for resident data one transfer serves them all.

    Args:
        pipeline: Where the input is made.
        mesh: Of devices.
        backend: As for ``parallel.data_parallel``.
        start: First step.
        stop: One past the last.
    """
    feeds = pipeline.feeds(start, stop)
    if pipeline.constant_feed:
        return _repeat(feeds, mesh, backend)
    return prefetch(feeds, lambda feed: parallel.put_batch(feed, mesh, backend))


def _repeat(feeds: Iterator[Any], mesh: Mesh, backend: str) -> Generator[Any]:
    placed = None
    for feed in feeds:
        if placed is None:
            placed = parallel.put_batch(feed, mesh, backend)
        yield placed
