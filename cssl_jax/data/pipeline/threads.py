"""Host backend on Python threads: equivalent to ``pipeline.tf``, without TensorFlow."""

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    yield from batches_of(job, range(start, stop))


def batches_of(job: ViewJob, steps: Iterable[int]) -> Iterator[HostBatch]:
    """Yields the batches of the given steps, in their order; see ``batches``.

    The thread that takes the batches also samples their parameters: a thread of another library
    that did so would compete with the workers for the interpreter (a tenth more CPU time).
    """
    with _task_pool(job.workers) as pool:
        start_step = _step_starter(job, pool)
        pending: collections.deque[Callable[[], HostBatch]] = collections.deque()
        for step in steps:
            pending.append(start_step(int(step)))
            if len(pending) > PREFETCH:
                yield pending.popleft()()
        while pending:
            yield pending.popleft()()


@contextlib.contextmanager
def _task_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Pool of threads that drops the tasks that have not begun when the context ends."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="cssl-views")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _step_starter(
    job: ViewJob, pool: ThreadPoolExecutor
) -> Callable[[int], Callable[[], HostBatch]]:
    """Builds the function that submits the tasks of one step to a pool.

    Args:
        job: Description of the views.
        pool: Threads that make the views.

    Returns:
        A function that takes a step and returns without waiting for its views. What it returns
        waits for them and gives the host batch, as ``batches`` yields it.

    Raises:
        UserError: JAX runs without its CPU backend.
    """
    draw = host_draws.draws(job, pack)
    task_examples, paint = _painter(job)

    def start_step(step: int) -> Callable[[], HostBatch]:
        index, key = job.sampler.draw(step, job.rows)
        views = job.empty_views()
        inputs = (index, *draw(index, key), views)
        tasks = [
            pool.submit(paint, *host_draws.take_rows(inputs, first, task_examples))
            for first in range(0, len(job.rows), task_examples)
        ]

        def wait() -> HostBatch:
            for task in tasks:
                task.result()
            return {"views": views, "index": index, "key": key}

        return wait

    return start_step


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
