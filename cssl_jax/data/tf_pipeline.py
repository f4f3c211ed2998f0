"""The policy applied on the host by tf.data; the only module that imports TensorFlow.

Parameters come ready-made from ``augment.policy`` (JAX, on the CPU): TensorFlow draws nothing.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf

from cssl_jax.augment import geometry, image
from cssl_jax.augment.color import LUMA
from cssl_jax.augment.policy import ImagePolicy, sample_views
from cssl_jax.data.sampler import Sampler
from cssl_jax.errors import UserError

tf.config.set_visible_devices([], "GPU")  # they are JAX's; TensorFlow would take all their memory

PREFETCH = 2  # batches; a fixed number bounds the memory, AUTOTUNE does not
GREY = np.repeat(np.array(LUMA, np.float32)[:, None], 3, axis=1)  # RGB @ GREY: its grey, thrice
Drawn = dict[str, Any]

# What _view reads of the parameters of each operation; the box and the matrix come besides.
_PARAMETERS = {
    "horizontal_flip": ("horizontal_flip",),
    "vertical_flip": ("vertical_flip",),
    "jitter": ("order", "brightness", "brightness_shift", "contrast", "saturation", "hue"),
    "grayscale": ("grayscale",),
    "blur": ("blur_sigma",),
    "solarize": ("solarize",),
}


def batches(
    images: np.ndarray,
    sampler: Sampler,
    *,
    policy: ImagePolicy,
    views: int,
    size: int,
    start_step: int = 0,
    stop_step: int,
    rows: slice | np.ndarray | None = None,
    parallelism: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the augmented batches of the steps [start_step, stop_step).

    A step's bits depend on neither ``parallelism`` nor ``start_step``. Closing the generator ends
    the work behind it.

    Args:
        images: uint8 [sampler.size, H, W, C].
        sampler: Says which example goes where, and its key.
        policy: Of the augmentation.
        views: Views an example.
        size: Side of a view, in pixels.
        start_step: First step.
        stop_step: One past the last step.
        rows: Rows of the global batch that this process feeds; None is all of them.
        parallelism: Examples worked on at a time; None is one a core.

    Yields:
        views uint8 [r, views, size, size, C] (rounded), index int32 [r] and key uint32 [r, 2], for
        the r rows. ``views`` is TensorFlow's own memory and read-only.

    Raises:
        UserError: JAX was told to leave out its CPU backend.
    """
    every_row = np.arange(sampler.batch_size)
    rows = every_row if rows is None else every_row[rows]
    draw = _on_cpu(_draw_for(policy, views, size, images.shape[1:3]), len(rows))
    parallelism = parallelism or _cores()

    def step_inputs(step: int) -> Drawn:
        index, key = sampler.draw(step, rows)
        return {"image": images[index], **draw(key)}

    @tf.autograph.experimental.do_not_convert
    def augment(example: Drawn) -> tf.Tensor:
        picture = example.pop("image")
        drawn = [{name: value[i] for name, value in example.items()} for i in range(views)]
        return tf.stack([_view(picture, drawn[i], policy, size) for i in range(views)])

    dataset = tf.data.Dataset.from_generator(
        lambda: map(step_inputs, range(start_step, stop_step)),
        output_signature=_signature(step_inputs(start_step)),
    )
    dataset = dataset.unbatch().map(augment, num_parallel_calls=parallelism, deterministic=True)
    dataset = dataset.batch(len(rows)).prefetch(PREFETCH).with_options(_options(parallelism))
    for step, batch in enumerate(dataset.as_numpy_iterator(), start_step):
        index, key = sampler.draw(step, rows)
        yield {"views": batch, "index": index, "key": key}


def _draw_for(
    policy: ImagePolicy, views: int, size: int, image_size: tuple[int, ...]
) -> Callable[[jax.Array], Drawn]:
    """Keys uint32 [r, 2] -> what TensorFlow needs to know of every view, leaves [r, views, ...]."""

    def draw(keys: jax.Array) -> Drawn:
        drawn = sample_views(keys, policy, views)
        needed = {"box": jnp.stack(geometry.crop_box(drawn, *image_size, policy=policy), -1)}
        for operation, names in _PARAMETERS.items():
            if policy.uses(operation):
                needed |= {name: drawn[name] for name in names}
        if policy.uses("affine"):
            matrix = geometry.affine_matrix(drawn, size).reshape(-1, views, 6)
            # TensorFlow's maps are projective; the last two numbers, 0, keep this one affine.
            needed["matrix"] = jnp.pad(matrix, [(0, 0), (0, 0), (0, 2)])
        return jax.tree.map(_at_most_float32, needed)

    return draw


def _at_most_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _on_cpu(function: Callable[[jax.Array], Drawn], rows: int) -> Callable[[np.ndarray], Drawn]:
    """Compiles for keys [rows, 2] on the CPU, whatever JAX's default is; NumPy in, NumPy out."""
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise UserError(
            f"JAX runs without its CPU backend, which the host pipeline draws on ({error}); "
            "add ',cpu' to JAX_PLATFORMS, or augment on the device"
        ) from error
    placement = jax.sharding.SingleDeviceSharding(cpu)
    keys = jax.ShapeDtypeStruct((rows, 2), jnp.uint32, sharding=placement)
    # Compiled by the caller: tf.data draws in threads of its own, where jax.enable_x64 and other
    # settings that hold for a thread would not be seen.
    compiled = jax.jit(function).lower(keys).compile()
    return lambda keys: jax.device_get(compiled(jax.device_put(keys, placement)))


def _signature(inputs: Drawn) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec(value.shape, value.dtype) for name, value in inputs.items()}


def _cores() -> int:
    """Of this process, which may be allowed fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _options(parallelism: int) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    options.threading.private_threadpool_size = parallelism
    # One thread an operation: sums over an image then have one order, so the same bits everywhere.
    options.threading.max_intra_op_parallelism = 1
    return options


def _view(picture: tf.Tensor, drawn: Drawn, policy: ImagePolicy, size: int) -> tf.Tensor:
    """One view of one image, uint8 [H, W, C] -> [size, size, C]: the twin of ``image.apply``."""
    x = _crop_and_resize(picture, drawn["box"], policy, size)
    channels = picture.shape[-1]
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
    return tf.cast(tf.round(x * 255.0), tf.uint8)


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
        picture = tf.image.resize(picture, (size, size), policy.interpolation, antialias=True)
    return tf.clip_by_value(tf.cast(picture, tf.float32) / 255.0, 0.0, 1.0)


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

    for turn in range(4):
        branches = [
            lambda x=x, operation=operation: operation(x)
            for operation in (brightness, contrast, saturation, hue)
        ]
        x = tf.clip_by_value(tf.switch_case(drawn["order"][turn], branches), 0.0, 1.0)
    return x


def _blur(x: tf.Tensor, sigma: tf.Tensor, radius: int) -> tf.Tensor:
    """The same taps as ``image.blur_weights``, along both axes; mirrors at the border."""
    offsets = tf.range(-radius, radius + 1, dtype=x.dtype)
    taps = tf.exp(-0.5 * tf.square(offsets / tf.maximum(sigma, 0.05)))
    taps = tf.tile((taps / tf.reduce_sum(taps))[:, None, None], [1, x.shape[-1], 1])
    x = tf.pad(x, [[radius, radius], [radius, radius], [0, 0]], "REFLECT")[None]
    x = tf.nn.depthwise_conv2d(x, taps[:, None], [1] * 4, "VALID")
    return tf.nn.depthwise_conv2d(x, taps[None], [1] * 4, "VALID")[0]
