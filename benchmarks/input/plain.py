"""SimCLR's policy as one writes it in tf.data, after the paper's code."""

import tensorflow as tf


def batches(files: list[str], policy: dict, size: int, examples: int):
    """Yields uint8 [examples, 2, size, size, 3] without end."""
    resize = {
        "method": policy.get("interpolation", "bicubic"),
        "antialias": policy.get("antialias", True),
    }

    def two_views(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.stack([_view(image, size, resize) for _ in range(2)])

    dataset = tf.data.Dataset.from_tensor_slices(files).repeat().shuffle(len(files))
    dataset = dataset.map(two_views, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(examples).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def _view(image: tf.Tensor, size: int, resize: dict) -> tf.Tensor:
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(image),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=100,
    )
    x = tf.image.resize(tf.slice(image, begin, extent), (size, size), **resize) / 255.0
    x = tf.image.random_flip_left_right(tf.reshape(x, (size, size, 3)))
    x = _with_probability(0.8, _jitter, x)
    x = _with_probability(0.2, lambda x: tf.tile(tf.image.rgb_to_grayscale(x), (1, 1, 3)), x)
    x = _with_probability(0.5, _blur, x)
    return tf.cast(tf.round(tf.clip_by_value(x, 0.0, 1.0) * 255.0), tf.uint8)


def _with_probability(p: float, operation, x: tf.Tensor) -> tf.Tensor:
    return tf.cond(tf.random.uniform(()) < p, lambda: operation(x), lambda: x)


def _jitter(x: tf.Tensor) -> tf.Tensor:
    operations = (
        lambda x: x * tf.random.uniform((), 0.2, 1.8),
        lambda x: tf.image.random_contrast(x, 0.2, 1.8),
        lambda x: tf.image.random_saturation(x, 0.2, 1.8),
        lambda x: tf.image.random_hue(x, 0.2),
    )
    order = tf.random.shuffle(tf.range(4))
    for turn in range(4):
        branches = [lambda x=x, operation=operation: operation(x) for operation in operations]
        x = tf.clip_by_value(tf.switch_case(order[turn], branches), 0.0, 1.0)
    return x


def _blur(x: tf.Tensor) -> tf.Tensor:
    radius = x.shape[0] // 10 // 2
    offsets = tf.range(-radius, radius + 1, dtype=tf.float32)
    taps = tf.exp(-0.5 * tf.square(offsets / tf.random.uniform((), 0.1, 2.0)))
    taps = tf.tile((taps / tf.reduce_sum(taps))[:, None, None, None], (1, 1, 3, 1))
    y = tf.nn.depthwise_conv2d(x[None], taps, [1] * 4, "SAME")
    return tf.nn.depthwise_conv2d(y, tf.transpose(taps, (1, 0, 2, 3)), [1] * 4, "SAME")[0]
