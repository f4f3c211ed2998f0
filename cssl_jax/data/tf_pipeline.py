"""Pictures read, decoded and augmented by tf.data; the only module that imports TensorFlow.

Parameters come ready-made from ``augment.policy`` (JAX, on the CPU): TensorFlow draws nothing.
"""

import atexit
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from cssl_jax.augment.policy import ImagePolicy
from cssl_jax.data import host
from cssl_jax.data.host import PREFETCH, Drawn, Work
from cssl_jax.data.picture_source import PictureSource
from cssl_jax.data.sources import ArraySource, Source
from cssl_jax.data.viewer import finisher, vectors
from cssl_jax.errors import RunError

tf.config.set_visible_devices([], "GPU")  # they are JAX's; TensorFlow would take all their memory

TOGETHER = 16  # examples finished in one call: alone, each pays for going through Python


def batches(work: Work, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the augmented batches of the steps [start, stop).

    A step's bits depend on neither ``work.parallelism`` nor ``start``. Closing the generator ends
    the work behind it. Memory holds ``PREFETCH`` batches of views besides the one in use, one
    decoded image a worker and, of the whole policy, the crops of ``TOGETHER`` examples a worker.

    Yields:
        views uint8 [r, views, size, size, C] (rounded), index int32 [r] and key uint32 [r, 2], for
        the r rows. ``views`` is TensorFlow's own memory and read-only.

    Raises:
        UserError: JAX was told to leave out its CPU backend.
        RunError: A picture has changed since it was scanned.
    """
    draw = host.draws(work, vectors(work.policy))
    open_image = _opener(work.source)
    troubles: list[BaseException] = []

    def step_inputs(step: int) -> Drawn:
        index, key = work.sampler.draw(step, work.rows)
        return {**open_image.inputs(index), **draw(index, key)}

    @tf.autograph.experimental.do_not_convert
    def cropped(example: Drawn) -> Any:
        picture, boxes = open_image.open(example, troubles), tf.unstack(example["box"], work.views)
        crops = tf.stack([_crop_and_resize(picture, box, work.policy, work.size) for box in boxes])
        if work.whole:
            return crops, example["vector"]
        return tf.cast(crops + 0.5, tf.uint8)  # rounds: nothing is below 0

    @tf.autograph.experimental.do_not_convert
    def finished(crops: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
        views = tf.numpy_function(finish, [crops, drawn], tf.uint8, stateful=False)
        return tf.ensure_shape(views, crops.shape)

    first = step_inputs(start)
    dataset = tf.data.Dataset.from_generator(
        lambda: map(step_inputs, range(start, stop)), output_signature=_signature(first)
    )
    parallel = {"num_parallel_calls": work.workers, "deterministic": True}
    dataset = dataset.unbatch().map(cropped, **parallel)
    if work.whole:
        together = min(TOGETHER, len(work.rows))
        finish = finisher(work, together)
        dataset = dataset.batch(together)
        dataset = dataset.map(finished, **parallel).unbatch()
    dataset = dataset.batch(len(work.rows)).prefetch(PREFETCH).with_options(_options(work.workers))
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
                    raise RunError(
                        f"{_undecodable(work.source, sorted(map(int, numbers)))}: TensorFlow "
                        f"cannot decode it, and Pillow can ({error.message.splitlines()[0]}); run "
                        "the same command with --data.engine threads to continue"
                    ) from error
                raise troubles[0] from None
            yield {"views": views, "index": index, "key": key}
    finally:
        atexit.unregister(running.clear)
        running.clear()


class _Arrays:
    """Images in memory travel with the parameters."""

    def __init__(self, source: ArraySource) -> None:
        self._source = source

    def inputs(self, index: np.ndarray) -> Drawn:
        return {"image": self._source.images[index]}

    def open(self, example: Drawn, troubles: list[BaseException]) -> tf.Tensor:
        return example["image"]


class _Pictures:
    """Pictures are read where they are needed; TensorFlow decodes those it decodes as Pillow does.

    All else (other formats, EXIF orientation, CMYK, 16 bits) is Pillow's, in the same thread.
    """

    def __init__(self, source: PictureSource) -> None:
        self._source = source
        self._plain, self._files = source.plain_jpeg, source.files

    def inputs(self, index: np.ndarray) -> Drawn:
        inputs = {"number": index, "plain": self._plain[index]}
        return inputs if self._files is None else {**inputs, "file": self._files[index]}

    def open(self, example: Drawn, troubles: list[BaseException]) -> tf.Tensor:
        def call(function: Callable[[int], Any], dtype: tf.DType) -> tf.Tensor:
            def guarded(number: np.ndarray) -> Any:
                try:
                    return function(int(number))
                except BaseException as error:  # TensorFlow would keep its name only
                    troubles.append(error)
                    raise

            return tf.numpy_function(guarded, [example["number"]], dtype, stateful=False)

        def encoded() -> tf.Tensor:
            if "file" in example:  # no Python, which one thread at a time could run
                return tf.io.read_file(example["file"])
            return call(self._source.encoded, tf.string)

        def decode_jpeg() -> tf.Tensor:
            content, channels = encoded(), self._source.channels
            decoders = [
                lambda ratio=2**n: tf.io.decode_jpeg(
                    content, channels, ratio=ratio, dct_method="INTEGER_ACCURATE"
                )
                for n in range(4)
            ]
            return tf.switch_case(example["halvings"], decoders)

        picture = tf.cond(example["plain"], decode_jpeg, lambda: call(self._source.image, tf.uint8))
        return tf.ensure_shape(picture, (None, None, self._source.channels))


def _undecodable(source: Source, numbers: list[int]) -> str:
    """Names of the images, among a few, that TensorFlow cannot decode."""
    assert isinstance(source, PictureSource)
    names = []
    for number in numbers:
        if source.plain_jpeg[number]:
            try:
                tf.io.decode_jpeg(
                    source.encoded(number), source.channels, dct_method="INTEGER_ACCURATE"
                )
            except tf.errors.OpError:
                names.append(str(source.names[number]))
    return f"{source.name}: {', '.join(names) or 'an image of the batch'}"


def _opener(source: Source) -> "_Arrays | _Pictures":
    if isinstance(source, ArraySource):
        return _Arrays(source)
    assert isinstance(source, PictureSource)
    return _Pictures(source)


def _signature(inputs: Drawn) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec(value.shape, value.dtype) for name, value in inputs.items()}


def _options(parallelism: int) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    options.threading.private_threadpool_size = parallelism
    # One thread an operation: sums over an image then have one order, so the same bits everywhere.
    options.threading.max_intra_op_parallelism = 1
    return options


def _crop_and_resize(
    picture: tf.Tensor, box: tf.Tensor, policy: ImagePolicy, size: int
) -> tf.Tensor:
    """float32 [size, size, C] in [0, 255]; TensorFlow cuts and resizes faster than any Python."""
    if policy.uses("crop") or picture.shape[:2] != (size, size):
        top, left, height, width = tf.unstack(box)
        picture = picture[top : top + height, left : left + width]
        picture = tf.image.resize(
            picture, (size, size), policy.interpolation, antialias=policy.antialias
        )
        if policy.interpolation == "bicubic":  # which overshoots
            picture = tf.clip_by_value(picture, 0.0, 255.0)
    return tf.cast(picture, tf.float32)
