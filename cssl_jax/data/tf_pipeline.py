"""Input by tf.data: order, threads, batches and prefetching; OpenCV or TensorFlow makes the views.

Parameters come ready-made from ``augment.policy`` (JAX, on the CPU): TensorFlow draws nothing.
"""

import atexit
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from cssl_jax.data import host, painter, tf_kernels
from cssl_jax.data.host import PREFETCH, Drawn, Work
from cssl_jax.data.viewer import vectors
from cssl_jax.errors import RunError

tf.config.set_visible_devices([], "GPU")  # they are JAX's; TensorFlow would take all their memory

Inputs = Callable[[int], Drawn]  # of a step


def batches(work: Work, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the augmented batches of the steps [start, stop).

    A step's bits depend on neither ``work.parallelism`` nor ``start``. Closing the generator ends
    the work behind it. Memory holds ``PREFETCH`` batches of views besides the one in use, one
    decoded image a worker and the views of a few examples a worker.

    Yields:
        views uint8 [r, views, size, size, C] (rounded), index int32 [r] and key uint32 [r, 2], for
        the r rows. ``views`` is TensorFlow's own memory and read-only.

    Raises:
        UserError: JAX was told to leave out its CPU backend.
        RunError: A picture has changed since it was scanned.
    """
    draw = host.draws(work, vectors(work.policy))
    troubles: list[BaseException] = []

    def inputs(step: int) -> Drawn:
        index, key = work.sampler.draw(step, work.rows)
        return {"number": index, **draw(index, key)}

    def steps(of_step: Inputs) -> tf.data.Dataset:
        first = of_step(start)
        signature = {name: tf.TensorSpec(x.shape, x.dtype) for name, x in first.items()}
        return tf.data.Dataset.from_generator(
            lambda: map(of_step, range(start, stop)), output_signature=signature
        )

    if work.kernels == "opencv":
        dataset = _painted(work, steps(inputs), troubles)
    else:
        dataset = tf_kernels.views(work, steps, inputs, troubles)
    dataset = dataset.prefetch(PREFETCH).with_options(_options(work.workers))
    running = [dataset.as_numpy_iterator()]
    # Its threads call Python: were it to outlive the interpreter, the process would never end.
    atexit.register(running.clear)
    try:
        for step in range(start, stop):
            index, key = work.sampler.draw(step, work.rows)
            try:
                views = next(running[0])
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
            yield {"views": views, "index": index, "key": key}
    finally:
        atexit.unregister(running.clear)
        running.clear()


def _painted(work: Work, steps: tf.data.Dataset, troubles: list[BaseException]) -> tf.data.Dataset:
    """Views uint8 [r, views, size, size, C] by OpenCV, some examples in a task."""
    paint = painter.painter(work)
    shape = (None, work.views, work.size, work.size, work.source.channels)

    def guarded(*arguments: np.ndarray) -> np.ndarray:
        try:
            return paint(*arguments)
        except BaseException as error:  # TensorFlow would keep its name only
            troubles.append(error)
            raise

    @tf.autograph.experimental.do_not_convert
    def views(some: Drawn) -> tf.Tensor:
        arguments = [some[name] for name in ("number", "halvings", "box", "vector")]
        made = tf.numpy_function(guarded, arguments, tf.uint8, stateful=False)
        return tf.ensure_shape(made, shape)

    groups = steps.rebatch(painter.TOGETHER)
    made = groups.map(views, num_parallel_calls=work.workers, deterministic=True)
    return made.rebatch(len(work.rows))


def _options(parallelism: int) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    options.threading.private_threadpool_size = parallelism
    # One thread an operation: sums over an image then have one order, so the same bits everywhere.
    options.threading.max_intra_op_parallelism = 1
    return options
