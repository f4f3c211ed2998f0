"""Host backend on Python threads: equivalent to ``pipeline.tf``, without TensorFlow."""

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from cssl_jax.data.pipeline import host_draws, painter
from cssl_jax.data.pipeline.host_draws import PREFETCH, ViewJob
from cssl_jax.data.pipeline.render import vectors, viewer

HostBatch = dict[str, np.ndarray]


def batches(job: ViewJob, start: int, stop: int) -> Iterator[HostBatch]:
    """Yields the augmented batches of the steps [start, stop), like ``pipeline.tf.batches``.

    Memory holds ``PREFETCH`` batches of views in addition to the one in use, and one decoded image
    per worker.

    Args:
        job: Description of the views.
        start: First step.
        stop: Last step plus one.

    Yields:
        views uint8 [r, views, size, size, C] (rounded), index int32 [r] and key uint32 [r, 2].

    Raises:
        UserError: JAX runs without its CPU backend.
        RunError: An image has changed since it was scanned.
    """
    draw = host_draws.draws(job, vectors(job.policy))
    group_size, paint = _painter(job)
    channels, rows = job.source.channels, len(job.rows)
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
            drawn = draw(index, key)
            views = np.empty((rows, job.views, job.size, job.size, channels), np.uint8)
            inputs = index, drawn["halvings"], drawn["box"], drawn["vector"], views
            tasks = [
                pool.submit(paint, *(x[first : first + group_size] for x in inputs))
                for first in range(0, rows, group_size)
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
    make_views = viewer(job)

    def paint(
        examples: np.ndarray,
        halvings: np.ndarray,
        boxes: np.ndarray,
        drawn: np.ndarray,
        out: np.ndarray,
    ) -> None:
        for number, example in enumerate(examples):
            image = job.source.image(int(example), int(halvings[number]))
            out[number] = make_views(image, boxes[number], drawn[number])

    return 1, paint
