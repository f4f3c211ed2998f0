"""Batched colour jitter and grey values; each image has its own order and factors."""

import jax
import jax.numpy as jnp

from cssl_jax.augment.base import Parameters

# Weights of red, green and blue by ``ImagePolicy.color_mode``: those of ITU-R BT.601 as in Pillow's
# convert("L"), and the rounded ones of ``tf.image.rgb_to_grayscale``.
LUMA = {"pillow": (0.299, 0.587, 0.114), "tf": (0.2989, 0.5870, 0.1140)}


def luma(x: jax.Array, mode: str = "pillow") -> jax.Array:
    """Grey values of RGB pixels: [..., 3] -> [..., 1]."""
    return sum(weight * x[..., i : i + 1] for i, weight in enumerate(LUMA[mode]))  # type: ignore[return-value]


def color_jitter(x: jax.Array, parameters: Parameters, mode: str = "pillow") -> jax.Array:
    """Applies brightness, contrast, saturation and hue in each image's own order.

    The result is clipped to [0, 1] after each operation. The operations are those of SimCLR
    (arXiv 2002.05709, App. A).

    Args:
        x: float [n, H, W, C] in [0, 1]. For images without 3 channels, only brightness and contrast
            are applied.
        parameters: Parameters of one view per image, leaves [n, ...], from ``policy.sample``.
        mode: Library whose formulas are used, see ``ImagePolicy.color_mode``.

    Returns:
        float [n, H, W, C] in [0, 1].
    """
    color = x.shape[-1] == 3

    def column(value: jax.Array) -> jax.Array:
        return value[:, None, None, None]

    def grey(y: jax.Array) -> jax.Array:
        return luma(y) if color else y

    for turn in range(4):
        operation = parameters["order"][:, turn]
        if mode == "tf":  # the mean of each channel
            mean = jnp.mean(x, axis=(1, 2), keepdims=True)
        else:
            mean = jnp.mean(grey(x), axis=(1, 2, 3), keepdims=True)
        # Three of the four operations are blends f * x + (1 - f) * base, so they share one pass.
        is_contrast, is_saturation = column(operation == 1), column(operation == 2)
        factor = jnp.select(
            [column(operation == 0), is_contrast, is_saturation & color],
            [column(parameters[name]) for name in ("brightness", "contrast", "saturation")],
            1.0,
        )
        shift = jnp.where(column(operation == 0), column(parameters["brightness_shift"]), 0.0)
        faded = grey(x)
        if mode == "tf" and color:
            faded = jnp.max(x, axis=-1, keepdims=True)
            limit = saturation_limit(faded, jnp.min(x, axis=-1, keepdims=True))
            factor = jnp.where(is_saturation, jnp.minimum(factor, limit), factor)
        base = jnp.where(is_contrast, mean, jnp.where(is_saturation, faded, 0.0))
        blended = jnp.clip(factor * x + (1.0 - factor) * base + shift, 0.0, 1.0)
        if color:
            x = jnp.where(column(operation == 3), shift_hue(x, column(parameters["hue"])), blended)
        else:
            x = blended
    return x


def saturation_limit(value: jax.Array, smallest: jax.Array) -> jax.Array:
    """Maximum factor for the HSV saturation of a pixel, at which the saturation reaches 1.

    Scaling the saturation by f at constant hue and value is the blend f x + (1 - f) value.

    Args:
        value: float [...], maximum of the three channels.
        smallest: float [...], minimum of the three channels.

    Returns:
        float [...], the factor; 1 for grey pixels.
    """
    chroma = value - smallest
    return jnp.where(chroma > 0, value / jnp.where(chroma > 0, chroma, 1.0), 1.0)


def shift_hue(x: jax.Array, turn: jax.Array) -> jax.Array:
    """Rotates the hue of RGB pixels; HSV value and saturation stay unchanged.

    Args:
        x: float [..., 3], RGB in [0, 1].
        turn: Rotation as a fraction of the colour circle: a scalar, or an array with a last axis of
            1 that broadcasts to the leading axes of ``x``.

    Returns:
        float [..., 3], RGB in [0, 1].
    """
    turn = turn[..., 0] if jnp.ndim(turn) else turn
    return jnp.stack(shift_hue_planes(x[..., 0], x[..., 1], x[..., 2], turn), axis=-1)


def shift_hue_planes(
    red: jax.Array, green: jax.Array, blue: jax.Array, turn: jax.Array
) -> list[jax.Array]:
    """Variant of ``shift_hue`` on separate channels of any one shape.

    XLA's CPU backend does not vectorise over a last axis of 3.
    """
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    scale = 1.0 / jnp.where(chroma > 0, chroma, 1.0)
    # Compares the channels instead of ``value == red``, since a compiler may round those two
    # differently. The formulas agree at ties.
    sector = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) * scale,
        jnp.where(green >= blue, 2.0 + (blue - red) * scale, 4.0 + (red - green) * scale),
    )
    planes = []
    for offset in (5.0, 3.0, 1.0):  # red, green, blue
        k = sector + (6.0 * turn + offset)
        k = k - 6.0 * jnp.floor(k / 6.0)
        planes.append(value - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0))
    return planes
