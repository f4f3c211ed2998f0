"""Input by tf.data: order, threads, batches and prefetching; OpenCV or TensorFlow makes the views.

``augment.image.policy`` samples the parameters (JAX, on the CPU): TensorFlow draws nothing.
"""

import atexit
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from cssl_jax.data.pipeline import host_draws, painter, tf_kernels
from cssl_jax.data.pipeline.host_draws import PREFETCH, Work
from cssl_jax.data.pipeline.render import vectors
from cssl_jax.errors import RunError

tf.config.set_visible_devices([], "GPU")  # they are JAX's; TensorFlow would take all their memory


def batches(work: Work, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the augmented batches of the steps [start, stop).

    A step's bits depend on neither ``work.parallelism`` nor ``start``. Closing the generator ends
    the work behind it. Memory holds ``PREFETCH`` batches of views besides the one in use, one
    decoded image a worker and, without OpenCV, the crops of a few examples a worker.

    Yields:
        views uint8 [r, views, size, size, C] (rounded), index int32 [r] and key uint32 [r, 2], for
        the r rows. Without OpenCV ``views`` is TensorFlow's own memory and read-only.

    Raises:
        UserError: JAX was told to leave out its CPU backend.
        RunError: A picture has changed since it was scanned.
    """
    troubles: list[BaseException] = []
    build = _painted if work.kernels == "opencv" else tf_kernels.views
    dataset, views_of = build(work, start, stop, troubles)
    dataset = dataset.prefetch(PREFETCH).with_options(_options(work.workers))
    running = [dataset.as_numpy_iterator()]
    # Its threads call Python: were it to outlive the interpreter, the process would never end.
    atexit.register(running.clear)
    try:
        for step in range(start, stop):
            index, key = work.sampler.draw(step, work.rows)
            try:
                element = next(running[0])
            except tf.errors.OpError as error:
                if not troubles:  # of the decoder: say which picture it was, here or one step on
                    for number in (*index, *work.sampler.draw(step + 1, work.rows)[0]):
                        work.source.image(int(number))
                if not troubles:
                    numbers = {*index, *work.sampler.draw(step + 1, work.rows)[0]}
                    names = tf_kernels.undecodable(work.source, sorted(map(int, numbers)))
                    raise RunError(
                        f"{names}: TensorFlow cannot decode it, and Pillow can "
                        f"({error.message.splitlines()[0]}); run the same command with "
                        "--data.engine threads to continue"
                    ) from error
                raise troubles[0] from None
            yield {"views": views_of(element), "index": index, "key": key}
    finally:
        atexit.unregister(running.clear)
        running.clear()


def _painted(
    work: Work, start: int, stop: int, troubles: list[BaseException]
) -> tuple[tf.data.Dataset, Callable[[np.ndarray], np.ndarray]]:
    """A dataset of steps whose views OpenCV has made, and what fetches the views of one.

    The views stay where OpenCV wrote them. As tensors they would be copied three times, into memory
    that the system hands out anew each time.
    """
    draw, paint = host_draws.draws(work, vectors(work.policy)), painter.painter(work)
    rows, together = len(work.rows), painter.TOGETHER
    shape = (rows, work.views, work.size, work.size, work.source.channels)
    being_made: dict[int, np.ndarray] = {}
    names = ("number", "halvings", "box", "vector")

    def groups() -> Iterator[tuple[Any, ...]]:
        for step in range(start, stop):
            index, key = work.sampler.draw(step, work.rows)
            drawn = {"number": index, **draw(index, key)}
            being_made[step] = np.empty(shape, np.uint8)
            for first in range(0, rows, together):
                yield step, first, *(drawn[name][first : first + together] for name in names)

    def fill(step: np.ndarray, first: np.ndarray, *drawn: np.ndarray) -> np.ndarray:
        try:
            paint(*drawn, being_made[int(step)][first : first + together])
        except BaseException as error:  # TensorFlow would keep its name only
            troubles.append(error)
            raise
        return step

    @tf.autograph.experimental.do_not_convert
    def filled(*group: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(fill, group, tf.int64, stateful=True), ())

    index, key = work.sampler.draw(start, work.rows)
    drawn = {"number": index, **draw(index, key)}
    scalar = tf.TensorSpec((), tf.int64)
    parts = (tf.TensorSpec((None, *drawn[name].shape[1:]), drawn[name].dtype) for name in names)
    dataset = tf.data.Dataset.from_generator(groups, output_signature=(scalar, scalar, *parts))
    dataset = dataset.map(filled, num_parallel_calls=work.workers, deterministic=True)
    # As many groups as a step has: of each its step comes.
    return dataset.batch(-(-rows // together)), lambda step: being_made.pop(int(step[0]))


def _options(parallelism: int) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    options.threading.private_threadpool_size = parallelism
    # One thread an operation: sums over an image then have one order, so the same bits everywhere.
    options.threading.max_intra_op_parallelism = 1
    return options
