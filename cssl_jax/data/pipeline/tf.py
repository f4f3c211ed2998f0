"""Host backend on tf.data, which provides order, threads, batches and prefetching.

OpenCV or TensorFlow makes the views. ``augment.image.policy`` samples their parameters (JAX, on the
CPU), so TensorFlow draws no random numbers.
"""

import atexit
import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from cssl_jax.data.pipeline import tf_kernels, threads
from cssl_jax.data.pipeline.host_draws import PREFETCH, ViewJob
from cssl_jax.data.pipeline.threads import HostBatch
from cssl_jax.errors import RunError

tf.config.set_visible_devices([], "GPU")  # TensorFlow would reserve all memory of JAX's devices


def batches(job: ViewJob, start: int, stop: int) -> Iterator[HostBatch]:
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
    with_views = _opencv_batches if job.kernels == "opencv" else _tensorflow_batches
    return with_views(job, start, stop)


def _opencv_batches(job: ViewJob, start: int, stop: int) -> Iterator[HostBatch]:
    """Yields batches whose views OpenCV makes.

    tf.data orders the steps; a pool of Python threads makes their views. As elements of the dataset
    the views would be copied three times, and TensorFlow's threads spend a sixth more CPU time on
    the same work, since they give up their Python state after every call.
    """
    with _iterator(tf.data.Dataset.range(start, stop), workers=1) as steps:
        yield from threads.batches_of(job, steps[0])


def _tensorflow_batches(job: ViewJob, start: int, stop: int) -> Iterator[HostBatch]:
    """Yields batches whose views TensorFlow operations and compiled JAX make."""
    errors: list[BaseException] = []
    with _iterator(tf_kernels.views(job, start, stop, errors), job.workers) as elements:
        for step in range(start, stop):
            index, key = job.sampler.draw(step, job.rows)
            try:
                views = next(elements[0])
            except tf.errors.OpError as error:
                # Without a Python error the decoder failed. Reading the images of this step and of
                # the prefetched next one with Pillow raises an error that names a damaged file.
                if not errors:
                    following, _ = job.sampler.draw(step + 1, job.rows)
                    numbers = sorted({int(number) for number in (*index, *following)})
                    for number in numbers:
                        job.source.image(number)
                    names = tf_kernels.undecodable(job.source, numbers)
                    raise RunError(
                        f"{names}: TensorFlow cannot decode it, and Pillow can "
                        f"({error.message.splitlines()[0]}); run the same command with "
                        "--data.engine threads to continue"
                    ) from error
                raise errors[0] from None
            yield {"views": views, "index": index, "key": key}


@contextlib.contextmanager
def _iterator(dataset: tf.data.Dataset, workers: int) -> Iterator[list[Any]]:
    """Iterator of a prefetched dataset, in a list that the end of the context empties.

    The iterator's threads call Python. A process whose interpreter exits first would never end, so
    an exit also empties the list.
    """
    dataset = dataset.prefetch(PREFETCH).with_options(_options(workers))
    running = [dataset.as_numpy_iterator()]
    atexit.register(running.clear)
    try:
        yield running
    finally:
        atexit.unregister(running.clear)
        running.clear()


def _options(parallelism: int) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    options.threading.private_threadpool_size = parallelism
    # One thread per operation fixes the order of sums over an image, so the bits are reproducible.
    options.threading.max_intra_op_parallelism = 1
    return options
