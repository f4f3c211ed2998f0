"""Views made by TensorFlow operations and compiled JAX, for hosts without OpenCV."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.data.pipeline import host_draws
from cssl_jax.data.pipeline.host_draws import Drawn, ViewJob
from cssl_jax.data.pipeline.rendering.render import finisher, pack
from cssl_jax.data.sources.base import ArraySource, Images
from cssl_jax.data.sources.images import ImageSource

CALL_EXAMPLES = 16  # examples per call, which spreads the overhead of Python over several examples


def views(job: ViewJob, start: int, stop: int, errors: list[BaseException]) -> tf.data.Dataset:
    """Builds a dataset of the views of every step.

    Args:
        job: Description of the views.
        start: First step.
        stop: Last step plus one.
        errors: List that receives errors of Python code in TensorFlow's threads, since TensorFlow
            would report only their names.

    Returns:
        The dataset, whose elements are views uint8 [r, count, size, size, C] by group.
    """
    draw, open_image = host_draws.draws(job, pack), _opener(job.source)

    def inputs(step: int) -> Drawn:
        index, key = job.sampler.draw(step, job.rows)
        halvings, drawn = draw(index, key)
        fixed = {"number": index, "halvings": halvings, "drawn": drawn}
        return {**fixed, **open_image.inputs(index)}

    def crop_views(example: Drawn) -> Any:
        image, views = open_image.open(example, errors), {}
        for name, group in job.groups.items():
            drawn = example["drawn"][name]
            boxes = tf.unstack(drawn["box"], group.count)
            crops = tf.stack([_crop_and_resize(image, box, group) for box in boxes])
            # The cast truncates; no value is negative.
            views[name] = (crops, drawn["vector"]) if job.whole else tf.cast(crops + 0.5, tf.uint8)
        return views

    def finish_views(crops_and_vectors: dict[str, tuple[tf.Tensor, tf.Tensor]]) -> Any:
        views = {}
        for name, (crops, vectors) in crops_and_vectors.items():
            call = tf.numpy_function(finish[name], [crops, vectors], tf.uint8, stateful=False)
            views[name] = tf.ensure_shape(call, crops.shape)
        return views

    as_written = tf.autograph.experimental.do_not_convert
    parallel = {"num_parallel_calls": job.workers, "deterministic": True}
    signature = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), inputs(start))
    dataset = tf.data.Dataset.from_generator(
        lambda: map(inputs, range(start, stop)), output_signature=signature
    )
    dataset = dataset.unbatch().map(as_written(crop_views), **parallel)
    if job.whole:
        call_examples = min(CALL_EXAMPLES, len(job.rows))
        finish = {
            name: finisher(group, job.source.channels, call_examples)
            for name, group in job.groups.items()
        }
        dataset = dataset.batch(call_examples).map(as_written(finish_views), **parallel).unbatch()
    return dataset.batch(len(job.rows))


class _ArrayOpener:
    """Passes images that are in memory through the dataset, with the parameters."""

    def __init__(self, source: ArraySource) -> None:
        self._source = source

    def inputs(self, index: np.ndarray) -> Drawn:
        return {"image": self._source.images[index]}

    def open(self, example: Drawn, errors: list[BaseException]) -> tf.Tensor:
        return example["image"]


class _FileOpener:
    """Reads and decodes encoded images in the threads of tf.data.

    TensorFlow decodes the JPEGs for which it gives the same pixels as Pillow. Pillow decodes all
    others (other formats, EXIF orientation, CMYK, 16 bits) in the same thread.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._plain, self._files = source.plain_jpeg, source.files

    def inputs(self, index: np.ndarray) -> Drawn:
        inputs = {"plain": self._plain[index]}
        return inputs if self._files is None else {**inputs, "file": self._files[index]}

    def open(self, example: Drawn, errors: list[BaseException]) -> tf.Tensor:
        def call(function: Callable[[int], Any], dtype: tf.DType) -> tf.Tensor:
            def guarded(number: np.ndarray) -> Any:
                try:
                    return function(int(number))
                except BaseException as error:  # TensorFlow would keep only the name of the error
                    errors.append(error)
                    raise

            return tf.numpy_function(guarded, [example["number"]], dtype, stateful=False)

        def encoded() -> tf.Tensor:
            if "file" in example:  # avoids Python, which only one thread can run at a time
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

        image = tf.cond(example["plain"], decode_jpeg, lambda: call(self._source.image, tf.uint8))
        return tf.ensure_shape(image, (None, None, self._source.channels))


def undecodable(source: Images, numbers: list[int]) -> str:
    """Names the images that TensorFlow cannot decode, for an error message.

    Args:
        source: Images of encoded images.
        numbers: Numbers of the images to try.

    Returns:
        The name of the source and the file names, or "an image of the batch" if none fails.
    """
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


def _opener(source: Images) -> "_ArrayOpener | _FileOpener":
    if isinstance(source, ArraySource):
        return _ArrayOpener(source)
    assert isinstance(source, ImageSource)
    return _FileOpener(source)


def _crop_and_resize(image: tf.Tensor, box: tf.Tensor, group: SizedGroup) -> tf.Tensor:
    """Crops and resizes one image to float32 [size, size, C] in [0, 255].

    TensorFlow operations do this faster than Python code.
    """
    policy, size = group.policy, group.size
    if policy.uses("crop") or image.shape[:2] != (size, size):
        top, left, height, width = tf.unstack(box)
        image = image[top : top + height, left : left + width]
        image = tf.image.resize(
            image, (size, size), policy.interpolation, antialias=policy.antialias
        )
        if policy.interpolation == "bicubic":  # the bicubic kernel overshoots
            image = tf.clip_by_value(image, 0.0, 255.0)
    return tf.cast(image, tf.float32)
