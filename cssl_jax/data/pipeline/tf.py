"""Host backend on tf.data, which provides order, threads, batches and prefetching.

OpenCV or TensorFlow makes the views. ``augment.image.policy`` samples their parameters (JAX, on the
CPU), so TensorFlow draws no random numbers.
"""

import atexit
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tensorflow as tf

from cssl_jax.data.pipeline import host_draws, painter, tf_kernels
from cssl_jax.data.pipeline.host_draws import PREFETCH, ViewJob
from cssl_jax.data.pipeline.render import pack
from cssl_jax.errors import RunError

tf.config.set_visible_devices([], "GPU")  # TensorFlow would reserve all memory of JAX's devices


def batches(job: ViewJob, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Yields the augmented batches of the steps [start, stop).

    The bits of a step do not depend on ``job.parallelism`` or ``start``. Closing the generator
    stops the threads. Memory holds ``PREFETCH`` batches of views in addition to the one in use, one
    decoded image per worker and, without OpenCV, the crops of a few examples per worker.

    Args:
        job: Description of the views.
        start: First step.
        stop: Last step plus one.

    Yields:
        views uint8 [r, count, size, size, C] (rounded) by group, index int32 [r] and key uint32
        [r, 2], for the r rows. Without OpenCV the views are read-only memory of TensorFlow.

    Raises:
        UserError: JAX runs without its CPU backend.
        RunError: An image has changed since it was scanned, or TensorFlow cannot decode it.
    """
    errors: list[BaseException] = []
    build = _opencv_views if job.kernels == "opencv" else tf_kernels.views
    dataset, fetch_views = build(job, start, stop, errors)
    dataset = dataset.prefetch(PREFETCH).with_options(_options(job.workers))
    running = [dataset.as_numpy_iterator()]
    # The iterator's threads call Python. A process whose interpreter exits first would never end.
    atexit.register(running.clear)
    try:
        for step in range(start, stop):
            index, key = job.sampler.draw(step, job.rows)
            try:
                element = next(running[0])
            except tf.errors.OpError as error:
                # Without a Python error the decoder failed. Reading the images of this step and of
                # the prefetched next one with Pillow raises an error that names a damaged file.
                if not errors:
                    for number in (*index, *job.sampler.draw(step + 1, job.rows)[0]):
                        job.source.image(int(number))
                if not errors:
                    numbers = {*index, *job.sampler.draw(step + 1, job.rows)[0]}
                    names = tf_kernels.undecodable(job.source, sorted(map(int, numbers)))
                    raise RunError(
                        f"{names}: TensorFlow cannot decode it, and Pillow can "
                        f"({error.message.splitlines()[0]}); run the same command with "
                        "--data.engine threads to continue"
                    ) from error
                raise errors[0] from None
            yield {"views": fetch_views(element), "index": index, "key": key}
    finally:
        atexit.unregister(running.clear)
        running.clear()


def _opencv_views(
    job: ViewJob, start: int, stop: int, errors: list[BaseException]
) -> tuple[tf.data.Dataset, Callable[[np.ndarray], dict[str, np.ndarray]]]:
    """Builds a dataset of steps whose views OpenCV makes.

    The views stay in the arrays that OpenCV writes to. As tensors they would be copied three times,
    each time into newly allocated memory.

    Args:
        job: Description of the views.
        start: First step.
        stop: Last step plus one.
        errors: List that receives errors of Python code in TensorFlow's threads.

    Returns:
        The dataset, whose elements hold the step number, and the function that maps an element to
        its views uint8 [r, count, size, size, C] by group.
    """
    draw, paint = host_draws.draws(job, pack), painter.painter(job)
    rows, task_examples = len(job.rows), painter.TASK_EXAMPLES
    views_by_step: dict[int, dict[str, np.ndarray]] = {}

    def drawn_at(step: int) -> tuple[Any, ...]:
        index, key = job.sampler.draw(step, job.rows)
        return (index, *draw(index, key))

    # tf.numpy_function passes flat lists of arrays.
    first_drawn, structure = jax.tree.flatten(drawn_at(start))

    def tasks() -> Iterator[tuple[Any, ...]]:
        for step in range(start, stop):
            flat = jax.tree.leaves(drawn_at(step))
            views_by_step[step] = job.empty_views()
            for first in range(0, rows, task_examples):
                yield step, first, *host_draws.take_rows(flat, first, task_examples)

    def fill(step: np.ndarray, first: np.ndarray, *flat: np.ndarray) -> np.ndarray:
        views = host_draws.take_rows(views_by_step[int(step)], int(first), task_examples)
        try:
            index, halvings, drawn = jax.tree.unflatten(structure, flat)
            paint(index, halvings, drawn, views)
        except BaseException as error:  # TensorFlow would keep only the name of the error
            errors.append(error)
            raise
        return step

    def run_task(*task: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(fill, task, tf.int64, stateful=True), ())

    scalar = tf.TensorSpec((), tf.int64)
    specs = (tf.TensorSpec((None, *x.shape[1:]), x.dtype) for x in first_drawn)
    dataset = tf.data.Dataset.from_generator(tasks, output_signature=(scalar, scalar, *specs))
    as_written = tf.autograph.experimental.do_not_convert(run_task)
    dataset = dataset.map(as_written, num_parallel_calls=job.workers, deterministic=True)
    # One element per step: its tasks, each of which returns the step number.
    return dataset.batch(-(-rows // task_examples)), lambda step: views_by_step.pop(int(step[0]))


def _options(parallelism: int) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    options.threading.private_threadpool_size = parallelism
    # One thread per operation fixes the order of sums over an image, so the bits are reproducible.
    options.threading.max_intra_op_parallelism = 1
    return options
