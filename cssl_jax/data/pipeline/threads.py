"""The policy applied on the host by threads: the twin of ``tf_pipeline`` without TensorFlow."""

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from cssl_jax.data.pipeline import host_draws, painter
from cssl_jax.data.pipeline.host_draws import PREFETCH, Work
from cssl_jax.data.pipeline.render import vectors, viewer

HostBatch = dict[str, np.ndarray]


def batches(work: Work, start: int, stop: int) -> Iterator[HostBatch]:
    """Yields what ``pipeline.tf.batches`` yields, by the same contract.

    Memory holds ``PREFETCH`` batches of views besides the one in use, and one decoded image a
    worker.
    """
    draw = host_draws.draws(work, vectors(work.policy))
    together, paint = _painter(work)
    channels, rows = work.source.channels, len(work.rows)
    pool = ThreadPoolExecutor(work.workers, thread_name_prefix="cssl-views")
    pending: collections.deque[tuple[HostBatch, list[Future]]] = collections.deque()

    def finished() -> HostBatch:
        host_batch, tasks = pending.popleft()
        for task in tasks:
            task.result()
        return host_batch

    try:
        for step in range(start, stop):
            index, key = work.sampler.draw(step, work.rows)
            drawn = draw(index, key)
            views = np.empty((rows, work.views, work.size, work.size, channels), np.uint8)
            inputs = index, drawn["halvings"], drawn["box"], drawn["vector"], views
            tasks = [
                pool.submit(paint, *(x[first : first + together] for x in inputs))
                for first in range(0, rows, together)
            ]
            pending.append(({"views": views, "index": index, "key": key}, tasks))
            if len(pending) > PREFETCH:
                yield finished()
        while pending:
            yield finished()
    finally:
        pool.shutdown(cancel_futures=True)


def _painter(work: Work) -> tuple[int, painter.Paint]:
    """Examples in a task, and what makes their views; compiled JAX where OpenCV is missing."""
    if work.kernels == "opencv":
        return painter.TOGETHER, painter.painter(work)
    make = viewer(work)

    def paint(
        examples: np.ndarray,
        halvings: np.ndarray,
        boxes: np.ndarray,
        drawn: np.ndarray,
        out: np.ndarray,
    ) -> None:
        for number, example in enumerate(examples):
            image = work.source.image(int(example), int(halvings[number]))
            out[number] = make(image, boxes[number], drawn[number])

    return 1, paint
