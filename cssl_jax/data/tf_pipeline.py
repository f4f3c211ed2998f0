"""Pictures read, decoded and augmented by tf.data; the only module that imports TensorFlow.

Parameters come ready-made from ``augment.policy`` (JAX, on the CPU): TensorFlow draws nothing.
"""

import atexit
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf

from cssl_jax.augment import geometry, image
from cssl_jax.augment.color import LUMA
from cssl_jax.augment.policy import JITTER_ORDERS, ImagePolicy
from cssl_jax.data import host
from cssl_jax.data.host import PREFETCH, Drawn, Work
from cssl_jax.data.picture_source import PictureSource
from cssl_jax.data.sources import ArraySource, Source
from cssl_jax.errors import RunError

tf.config.set_visible_devices([], "GPU")  # they are JAX's; TensorFlow would take all their memory

GREY = np.repeat(np.array(LUMA, np.float32)[:, None], 3, axis=1)  # RGB @ GREY: its grey, thrice

# What _view reads of the parameters of each operation; the box and the matrix come besides.
_PARAMETERS = {
    "horizontal_flip": ("horizontal_flip",),
    "vertical_flip": ("vertical_flip",),
    "jitter": ("brightness", "brightness_shift", "contrast", "saturation", "hue"),
    "grayscale": ("grayscale",),
    "blur": ("blur_sigma",),
    "solarize": ("solarize",),
}


def batches(work: Work, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the augmented batches of the steps [start, stop).

    A step's bits depend on neither ``work.parallelism`` nor ``start``. Closing the generator ends
    the work behind it. Memory holds ``PREFETCH`` batches of views besides the one in use, and one
    decoded image a worker.

    Yields:
        views uint8 [r, views, size, size, C] (rounded), index int32 [r] and key uint32 [r, 2], for
        the r rows. ``views`` is TensorFlow's own memory and read-only.

    Raises:
        UserError: JAX was told to leave out its CPU backend.
        RunError: A picture has changed since it was scanned.
    """
    draw = host.draws(work, functools.partial(_needed, work))
    open_image = _opener(work.source)
    troubles: list[BaseException] = []

    def step_inputs(step: int) -> Drawn:
        index, key = work.sampler.draw(step, work.rows)
        return {**open_image.inputs(index), **draw(index, key)}

    @tf.autograph.experimental.do_not_convert
    def augment(example: Drawn) -> tf.Tensor:
        picture = open_image.open(example, troubles)
        drawn = [{name: example[name][v] for name in of_views} for v in range(work.views)]
        return tf.stack([_view(picture, one, work) for one in drawn])

    first = step_inputs(start)
    of_views = first.keys() - open_image.inputs(np.zeros(1, np.int32)).keys() - {"halvings"}
    dataset = tf.data.Dataset.from_generator(
        lambda: map(step_inputs, range(start, stop)), output_signature=_signature(first)
    )
    dataset = dataset.unbatch().map(augment, num_parallel_calls=work.workers, deterministic=True)
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
                if not troubles:  # of the decoder: say which picture it was
                    for number in index:
                        work.source.image(int(number))
                if not troubles:
                    raise RunError(
                        f"TensorFlow cannot decode a picture of step {step}, which Pillow can: "
                        f"{error.message.splitlines()[0]}; use --data.engine threads"
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


def _opener(source: Source) -> "_Arrays | _Pictures":
    if isinstance(source, ArraySource):
        return _Arrays(source)
    assert isinstance(source, PictureSource)
    return _Pictures(source)


def _needed(work: Work, drawn: Drawn) -> Drawn:
    """What ``_view`` and the decoder read of the parameters."""
    needed = {"halvings": drawn["halvings"], "box": drawn["reduced_box"]}
    for operation, names in _PARAMETERS.items():
        if work.whole and work.policy.uses(operation):
            needed |= {name: drawn[name] for name in names}
    if work.whole and work.policy.uses("affine"):
        matrix = geometry.affine_matrix(drawn, work.size).reshape(-1, work.views, 6)
        # TensorFlow's maps are projective; the last two numbers, 0, keep this one affine.
        needed["matrix"] = jnp.pad(matrix, [(0, 0), (0, 0), (0, 2)])
    if work.whole and work.policy.uses("jitter"):
        needed["order"] = _order_number(drawn)
    return jax.tree.map(_at_most_float32, needed)


def _order_number(drawn: Drawn) -> jax.Array:
    """Which of JITTER_ORDERS a view has; their number for a view whose colours stay."""
    same = jnp.all(drawn["order"][..., None, :] == jnp.asarray(JITTER_ORDERS), axis=-1)
    neutral = {"brightness": 1.0, "brightness_shift": 0.0, "contrast": 1.0, "saturation": 1.0}
    stays = jnp.all(jnp.stack([drawn[name] == value for name, value in neutral.items()]), axis=0)
    number = jnp.where(stays & (drawn["hue"] == 0.0), len(JITTER_ORDERS), jnp.argmax(same, axis=-1))
    return number.astype(jnp.int32)


def _at_most_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x


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


def _view(picture: tf.Tensor, drawn: Drawn, work: Work) -> tf.Tensor:
    """One view of one image, uint8 [H, W, C] -> [size, size, C]: the twin of ``image.apply``."""
    x = _crop_and_resize(picture, drawn["box"], work.policy, work.size)
    if work.whole:
        x = _finish(x / 255.0, drawn, work.policy) * 255.0
    return tf.cast(x + 0.5, tf.uint8)  # rounds: nothing is below 0


def _finish(x: tf.Tensor, drawn: Drawn, policy: ImagePolicy) -> tf.Tensor:
    """The twin of ``image.finish``."""
    size, _, channels = x.shape
    if policy.uses("horizontal_flip"):
        x = _if(drawn["horizontal_flip"], lambda x: tf.reverse(x, [1]), x)
    if policy.uses("vertical_flip"):
        x = _if(drawn["vertical_flip"], lambda x: tf.reverse(x, [0]), x)
    if policy.uses("affine"):
        x = _transform(x, drawn["matrix"], policy.fill)
    if policy.uses("jitter"):
        x = _color_jitter(x, drawn)
    if policy.uses("grayscale") and channels == 3:
        x = _if(drawn["grayscale"], lambda x: _mix(x, GREY), x)
    if policy.uses("blur"):
        radius = image.blur_radius(policy, size)
        x = _if(drawn["blur_sigma"] > 0, lambda x: _blur(x, drawn["blur_sigma"], radius), x)
    if policy.uses("solarize"):
        x = _if(
            drawn["solarize"], lambda x: tf.where(x >= policy.solarize_threshold, 1.0 - x, x), x
        )
    return x


def _if(
    condition: tf.Tensor, operation: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor
) -> tf.Tensor:
    return tf.cond(condition, lambda: operation(x), lambda: x)


def _crop_and_resize(
    picture: tf.Tensor, box: tf.Tensor, policy: ImagePolicy, size: int
) -> tf.Tensor:
    if policy.uses("crop") or picture.shape[:2] != (size, size):
        top, left, height, width = tf.unstack(box)
        picture = picture[top : top + height, left : left + width]
        picture = tf.image.resize(
            picture, (size, size), policy.interpolation, antialias=policy.antialias
        )
        if policy.interpolation == "bicubic":  # which overshoots
            picture = tf.clip_by_value(picture, 0.0, 255.0)
    return tf.cast(picture, tf.float32)


def _transform(x: tf.Tensor, matrix: tf.Tensor, fill: float) -> tf.Tensor:
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=x[None],
        transforms=matrix[None],
        output_shape=x.shape[:2],
        fill_value=fill,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]


def _mix(x: tf.Tensor, matrix: Any) -> tf.Tensor:
    """RGB of every pixel times a matrix [3, 3]: much faster in TensorFlow than sums over RGB."""
    return tf.tensordot(x, tf.convert_to_tensor(matrix), 1)


def _color_jitter(x: tf.Tensor, drawn: Drawn) -> tf.Tensor:
    color = x.shape[-1] == 3

    def brightness(x: tf.Tensor) -> tf.Tensor:
        return x * drawn["brightness"] + drawn["brightness_shift"]

    def contrast(x: tf.Tensor) -> tf.Tensor:
        means = tf.reduce_mean(x, axis=(0, 1))
        mean = tf.reduce_sum(means * LUMA) if color else tf.reduce_mean(means)
        return drawn["contrast"] * x + (1.0 - drawn["contrast"]) * mean

    def saturation(x: tf.Tensor) -> tf.Tensor:
        kept = drawn["saturation"] * tf.eye(3)
        return _mix(x, kept + (1.0 - drawn["saturation"]) * GREY) if color else x

    def hue(x: tf.Tensor) -> tf.Tensor:
        return tf.raw_ops.AdjustHue(images=x, delta=drawn["hue"]) if color else x

    operations = (brightness, contrast, saturation, hue)

    def in_order(order: np.ndarray) -> tf.Tensor:
        y = x
        for operation in order:
            y = tf.clip_by_value(operations[operation](y), 0.0, 1.0)
        return y

    # A branch an order: control flow costs more than a few operations on a small picture.
    branches = [functools.partial(in_order, order) for order in JITTER_ORDERS]
    return tf.switch_case(drawn["order"], [*branches, lambda: x])


def _blur(x: tf.Tensor, sigma: tf.Tensor, radius: int) -> tf.Tensor:
    """The taps of ``image.blur_weights`` that matter, along both axes; mirrors at the border."""
    # Beyond 4 deviations lie 6e-5 of the weight: a hundredth of a grey level.
    reach = tf.minimum(radius, tf.cast(tf.math.ceil(4 * sigma), tf.int32))
    offsets = tf.cast(tf.range(-reach, reach + 1), x.dtype)
    taps = tf.exp(-0.5 * tf.square(offsets / tf.maximum(sigma, 0.05)))
    height, width, channels = x.shape
    taps = tf.tile((taps / tf.reduce_sum(taps))[:, None, None, None], [1, 1, width * channels, 1])
    for _ in range(2):  # down the columns, each number of a row a channel: then turned over
        rows = tf.pad(tf.reshape(x, (height, -1)), [[reach, reach], [0, 0]], "REFLECT")
        rows = tf.nn.depthwise_conv2d(rows[None, :, None], taps, [1] * 4, "VALID")
        x = tf.transpose(tf.reshape(rows, (height, width, channels)), (1, 0, 2))
    return x
