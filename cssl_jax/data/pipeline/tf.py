"""Host backend on tf.data, which provides order, threads, batches and prefetching.

OpenCV or TensorFlow makes the views. ``augment.image.policy`` samples their parameters (JAX, on the
CPU), so TensorFlow draws no random numbers.
"""

import atexit
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from cssl_jax.data.pipeline import host_draws, tf_kernels
from cssl_jax.data.pipeline.host_draws import PREFETCH, ViewJob
from cssl_jax.data.pipeline.rendering import painter
from cssl_jax.data.pipeline.rendering.render import pack
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
    tasks = -(-rows // task_examples)  # per step
    work_by_step: dict[int, tuple[Any, ...]] = {}
    views_by_step: dict[int, dict[str, np.ndarray]] = {}

    # TensorFlow hands over numbers only: each array would be converted to a tensor and back.
    def prepare(step: np.ndarray) -> np.ndarray:
        index, key = job.sampler.draw(int(step), job.rows)
        views = views_by_step[int(step)] = job.empty_views()
        work_by_step[int(step)] = (index, *draw(index, key), views)
        return step

    def fill(task: np.ndarray) -> np.ndarray:
        step, number = divmod(int(task), tasks)
        paint(*host_draws.take_rows(work_by_step[step], number * task_examples, task_examples))
        return task

    def tasks_of(step: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.range(step * tasks, (step + 1) * tasks)

    def views_of(element: np.ndarray) -> dict[str, np.ndarray]:
        step = int(element[0]) // tasks
        del work_by_step[step]
        return views_by_step.pop(step)

    dataset = tf.data.Dataset.range(start, stop).map(_python(prepare, errors)).flat_map(tasks_of)
    dataset = dataset.map(_python(fill, errors), num_parallel_calls=job.workers, deterministic=True)
    return dataset.batch(tasks), views_of  # one element per step: the numbers of its tasks


def _python(
    function: Callable[[np.ndarray], np.ndarray], errors: list[BaseException]
) -> Callable[[tf.Tensor], tf.Tensor]:
    """TensorFlow operation that calls a function of a number, int64, and returns its result."""

    def called(number: np.ndarray) -> np.ndarray:
        try:
            return function(number)
        except BaseException as error:  # TensorFlow would keep only the name of the error
            errors.append(error)
            raise

    def operation(number: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(called, [number], tf.int64, stateful=True), ())

    as_written: Callable[[tf.Tensor], tf.Tensor] = tf.autograph.experimental.do_not_convert(
        operation
    )
    return as_written


def _options(parallelism: int) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    options.threading.private_threadpool_size = parallelism
    # One thread per operation fixes the order of sums over an image, so the bits are reproducible.
    options.threading.max_intra_op_parallelism = 1
    return options
