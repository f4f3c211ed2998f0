"""Host backend on Python threads: equivalent to ``pipeline.tf``, without TensorFlow."""

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from cssl_jax.data.pipeline import host_draws
from cssl_jax.data.pipeline.host_draws import PREFETCH, Drawn, ViewJob
from cssl_jax.data.pipeline.rendering import painter
from cssl_jax.data.pipeline.rendering.render import pack, viewer

HostBatch = dict[str, Any]


def batches(job: ViewJob, start: int, stop: int) -> Iterator[HostBatch]:
    """Yields the augmented batches of the steps [start, stop), like ``pipeline.tf.batches``.

    Memory holds ``PREFETCH`` batches of views in addition to the one in use, and one decoded image
    per worker.

    Args:
        job: Description of the views.
        start: First step.
        stop: Last step plus one.

    Yields:
        views uint8 [r, count, size, size, C] (rounded) by group, index int32 [r] and key uint32
        [r, 2].

    Raises:
        UserError: JAX runs without its CPU backend.
        RunError: An image has changed since it was scanned.
    """
    draw = host_draws.draws(job, pack)
    task_examples, paint = _painter(job)
    pool = ThreadPoolExecutor(job.workers, thread_name_prefix="cssl-views")
    pending: collections.deque[tuple[HostBatch, list[Future[None]]]] = collections.deque()

    def wait_for_oldest() -> HostBatch:
        host_batch, tasks = pending.popleft()
        for task in tasks:
            task.result()
        return host_batch

    try:
        for step in range(start, stop):
            index, key = job.sampler.draw(step, job.rows)
            views = job.empty_views()
            inputs = (index, *draw(index, key), views)
            tasks = [
                pool.submit(paint, *host_draws.take_rows(inputs, first, task_examples))
                for first in range(0, len(job.rows), task_examples)
            ]
            pending.append(({"views": views, "index": index, "key": key}, tasks))
            if len(pending) > PREFETCH:
                yield wait_for_oldest()
        while pending:
            yield wait_for_oldest()
    finally:
        pool.shutdown(cancel_futures=True)


def _painter(job: ViewJob) -> tuple[int, painter.Paint]:
    """Number of examples per task, and the function that makes their views."""
    if job.kernels == "opencv":
        return painter.TASK_EXAMPLES, painter.painter(job)
    viewers = {
        name: viewer(group, job.source.channels, whole=job.whole)
        for name, group in job.groups.items()
    }

    def paint(
        examples: np.ndarray,
        halvings: np.ndarray,
        drawn: dict[str, Drawn],
        out: dict[str, np.ndarray],
    ) -> None:
        for number, example in enumerate(examples):
            image = job.source.image(int(example), int(halvings[number]))
            for name, make_views in viewers.items():
                boxes, vectors = drawn[name]["box"], drawn[name]["vector"]
                out[name][number] = make_views(image, boxes[number], vectors[number])

    return 1, paint
