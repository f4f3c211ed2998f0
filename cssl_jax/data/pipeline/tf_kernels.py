"""Views by TensorFlow's own operations and compiled JAX: for hosts without OpenCV."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.data.pipeline import host_draws
from cssl_jax.data.pipeline.host_draws import Drawn, Work
from cssl_jax.data.pipeline.render import finisher, vectors
from cssl_jax.data.sources.base import ArraySource, Source
from cssl_jax.data.sources.images import ImageSource

TOGETHER = 16  # examples finished in one call: alone, each pays for going through Python


def views(
    work: Work, start: int, stop: int, troubles: list[BaseException]
) -> tuple[tf.data.Dataset, Callable[[np.ndarray], np.ndarray]]:
    """A dataset of every step's views, uint8 [r, views, size, size, C], and what fetches them.

    Args:
        work: What is made.
        start: First step.
        stop: One after the last.
        troubles: Takes the errors of Python code, which TensorFlow would tell the name of only.
    """
    draw, open_image = host_draws.draws(work, vectors(work.policy)), _opener(work.source)

    def inputs(step: int) -> Drawn:
        index, key = work.sampler.draw(step, work.rows)
        return {"number": index, **open_image.inputs(index), **draw(index, key)}

    @tf.autograph.experimental.do_not_convert
    def cropped(example: Drawn) -> Any:
        picture, boxes = open_image.open(example, troubles), tf.unstack(example["box"], work.views)
        crops = tf.stack([_crop_and_resize(picture, box, work.policy, work.size) for box in boxes])
        if work.whole:
            return crops, example["vector"]
        return tf.cast(crops + 0.5, tf.uint8)  # rounds: nothing is below 0

    @tf.autograph.experimental.do_not_convert
    def finished(crops: tf.Tensor, drawn: tf.Tensor) -> tf.Tensor:
        made = tf.numpy_function(finish, [crops, drawn], tf.uint8, stateful=False)
        return tf.ensure_shape(made, crops.shape)

    parallel = {"num_parallel_calls": work.workers, "deterministic": True}
    signature = {name: tf.TensorSpec(x.shape, x.dtype) for name, x in inputs(start).items()}
    dataset = tf.data.Dataset.from_generator(
        lambda: map(inputs, range(start, stop)), output_signature=signature
    )
    dataset = dataset.unbatch().map(cropped, **parallel)
    if work.whole:
        together = min(TOGETHER, len(work.rows))
        finish = finisher(work, together)
        dataset = dataset.batch(together).map(finished, **parallel).unbatch()
    return dataset.batch(len(work.rows)), lambda views: views


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

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._plain, self._files = source.plain_jpeg, source.files

    def inputs(self, index: np.ndarray) -> Drawn:
        inputs = {"plain": self._plain[index]}
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


def undecodable(source: Source, numbers: list[int]) -> str:
    """Names of the images, among a few, that TensorFlow cannot decode."""
    assert isinstance(source, ImageSource)
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
    assert isinstance(source, ImageSource)
    return _Pictures(source)


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
