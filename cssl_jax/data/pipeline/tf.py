"""Host backend on tf.data, which provides order, threads, batches and prefetching.

OpenCV or TensorFlow makes the views. ``augment.image.policy`` samples their parameters (JAX, on the
CPU), so TensorFlow draws no random numbers.
"""

import atexit
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from cssl_jax.data.pipeline import host_draws, painter, tf_kernels
from cssl_jax.data.pipeline.host_draws import PREFETCH, ViewJob
from cssl_jax.data.pipeline.render import vectors
from cssl_jax.errors import RunError

tf.config.set_visible_devices([], "GPU")  # TensorFlow would reserve all memory of JAX's devices


def batches(job: ViewJob, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the augmented batches of the steps [start, stop).

    The bits of a step do not depend on ``job.parallelism`` or ``start``. Closing the generator
    stops the threads. Memory holds ``PREFETCH`` batches of views in addition to the one in use, one
    decoded image per worker and, without OpenCV, the crops of a few examples per worker.

    Args:
        job: Description of the views.
        start: First step.
        stop: Last step plus one.

    Yields:
        views uint8 [r, views, size, size, C] (rounded), index int32 [r] and key uint32 [r, 2], for
        the r rows. Without OpenCV ``views`` is read-only memory of TensorFlow.

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
) -> tuple[tf.data.Dataset, Callable[[np.ndarray], np.ndarray]]:
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
        its views uint8 [r, views, size, size, C].
    """
    draw, paint = host_draws.draws(job, vectors(job.policy)), painter.painter(job)
    rows, group_size = len(job.rows), painter.TASK_EXAMPLES
    shape = (rows, job.views, job.size, job.size, job.source.channels)
    views_by_step: dict[int, np.ndarray] = {}
    names = ("number", "halvings", "box", "vector")

    def groups() -> Iterator[tuple[Any, ...]]:
        for step in range(start, stop):
            index, key = job.sampler.draw(step, job.rows)
            drawn = {"number": index, **draw(index, key)}
            views_by_step[step] = np.empty(shape, np.uint8)
            for first in range(0, rows, group_size):
                yield step, first, *(drawn[name][first : first + group_size] for name in names)

    def fill(step: np.ndarray, first: np.ndarray, *drawn: np.ndarray) -> np.ndarray:
        try:
            paint(*drawn, views_by_step[int(step)][first : first + group_size])
        except BaseException as error:  # TensorFlow would keep only the name of the error
            errors.append(error)
            raise
        return step

    def fill_group(*group: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(fill, group, tf.int64, stateful=True), ())

    index, key = job.sampler.draw(start, job.rows)
    drawn = {"number": index, **draw(index, key)}
    scalar = tf.TensorSpec((), tf.int64)
    specs = (tf.TensorSpec((None, *drawn[name].shape[1:]), drawn[name].dtype) for name in names)
    dataset = tf.data.Dataset.from_generator(groups, output_signature=(scalar, scalar, *specs))
    fill_as_written = tf.autograph.experimental.do_not_convert(fill_group)
    dataset = dataset.map(fill_as_written, num_parallel_calls=job.workers, deterministic=True)
    # One element per step: its groups, each of which returns the step number.
    return dataset.batch(-(-rows // group_size)), lambda step: views_by_step.pop(int(step[0]))


def _options(parallelism: int) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    options.threading.private_threadpool_size = parallelism
    # One thread per operation fixes the order of sums over an image, so the bits are reproducible.
    options.threading.max_intra_op_parallelism = 1
    return options
