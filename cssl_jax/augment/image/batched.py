"""Applies sampled image augmentations to batches, in branch-free JAX for accelerators.

Where libraries differ, values follow Pillow and torchvision, unless ``ImagePolicy.color_mode`` is
"tf". The blur mirrors the image at its border.
"""

import chex
import jax
import jax.numpy as jnp

from cssl_jax.augment.base import Parameters
from cssl_jax.augment.image.color import color_jitter, luma
from cssl_jax.augment.image.geometry import affine_matrix, crop_and_resize, crop_box, transform
from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.errors import UserError


def apply(
    images: jax.Array, parameters: Parameters, *, policy: ImagePolicy, size: int
) -> jax.Array:
    """Makes one view of each image of a batch.

    Args:
        images: [n, H, W, C], uint8 in [0, 255] or floating in [0, 1].
        parameters: Parameters of one view per image, leaves [n, ...], from ``policy.sample``.
        policy: Policy that the parameters were drawn from; static. Operations that it never uses
            are not compiled.
        size: Side of the square output, in pixels; static.

    Returns:
        Views [n, size, size, C] in [0, 1]; float32, or float64 if x64 is enabled.

    Raises:
        UserError: The blur kernel is wider than the view; see ``blur_radius``.
    """
    return finish(cut(images, parameters, policy=policy, size=size), parameters, policy=policy)


def cut(images: jax.Array, parameters: Parameters, *, policy: ImagePolicy, size: int) -> jax.Array:
    """First half of ``apply``: crops and resizes images to float [n, size, size, C] in [0, 1]."""
    chex.assert_rank(images, 4)
    chex.assert_tree_shape_prefix(parameters, images.shape[:1])
    x = to_float(images)
    if policy.uses("crop") or x.shape[1:3] != (size, size):
        box = crop_box(parameters, *x.shape[1:3], policy=policy)
        x = crop_and_resize(x, box, size, policy.interpolation, policy.antialias)
    return x


def finish(images: jax.Array, parameters: Parameters, *, policy: ImagePolicy) -> jax.Array:
    """Second half of ``apply``: the operations that keep the size.

    Args:
        images: Square images [n, s, s, C], uint8 in [0, 255] or floating in [0, 1].
        parameters: Parameters of one view per image, leaves [n, ...].
        policy: Policy that the parameters were drawn from; static.

    Returns:
        float [n, s, s, C] in [0, 1].
    """
    size = images.shape[1]
    chex.assert_shape(images, (None, size, size, None))
    chex.assert_tree_shape_prefix(parameters, images.shape[:1])
    x = to_float(images)
    if policy.uses("horizontal_flip"):
        x = _where(parameters["horizontal_flip"], x[:, :, ::-1], x)
    if policy.uses("vertical_flip"):
        x = _where(parameters["vertical_flip"], x[:, ::-1], x)
    if policy.uses("affine"):
        x = transform(x, affine_matrix(parameters, size), policy.fill)
    if policy.uses("jitter"):
        x = color_jitter(x, parameters, policy.color_mode)
    if policy.uses("grayscale") and x.shape[-1] == 3:
        grey = jnp.broadcast_to(luma(x, policy.color_mode), x.shape)
        x = _where(parameters["grayscale"], grey, x)
    if policy.uses("blur"):
        x = gaussian_blur(x, parameters["blur_sigma"], blur_radius(policy, size))
    if policy.uses("solarize"):
        inverted = jnp.where(x >= policy.solarize_threshold, 1.0 - x, x)
        x = _where(parameters["solarize"], inverted, x)
    return x


def apply_views(
    images: jax.Array, parameters: Parameters, *, policy: ImagePolicy, size: int
) -> jax.Array:
    """Makes k views of each image with ``apply``.

    Args:
        images: [n, H, W, C], uint8 in [0, 255] or floating in [0, 1].
        parameters: Parameters of k views per image, leaves [n, k, ...].
        policy: Policy that the parameters were drawn from; static.
        size: Side of a view in pixels; static.

    Returns:
        float [n, k, size, size, C] in [0, 1].
    """
    chex.assert_rank(images, 4)
    chex.assert_tree_shape_prefix(parameters, images.shape[:1])

    def one_view(drawn: Parameters) -> jax.Array:
        return apply(images, drawn, policy=policy, size=size)

    return jax.vmap(one_view, in_axes=1, out_axes=1)(parameters)


def finish_views(views: jax.Array, parameters: Parameters, *, policy: ImagePolicy) -> jax.Array:
    """Applies ``finish`` to k views per image: [n, k, s, s, C], parameter leaves [n, k, ...]."""
    chex.assert_rank(views, 5)
    chex.assert_tree_shape_prefix(parameters, views.shape[:2])

    def one_view(x: jax.Array, drawn: Parameters) -> jax.Array:
        return finish(x, drawn, policy=policy)

    return jax.vmap(one_view, in_axes=1, out_axes=1)(views, parameters)


def to_float(images: jax.Array) -> jax.Array:
    """Converts uint8 in [0, 255] to the default float type in [0, 1]; keeps floating input."""
    images = jnp.asarray(images)
    return images.astype(float) / 255 if images.dtype == jnp.uint8 else images


def normalize(x: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Normalizes x [..., C] in [0, 1] per channel by C means and C deviations: (x - mean) / std."""
    # One mean for several channels would broadcast without an error.
    chex.assert_axis_dimension(x, -1, len(mean))
    chex.assert_axis_dimension(x, -1, len(std))
    return (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)


def _where(condition: jax.Array, yes: jax.Array, no: jax.Array) -> jax.Array:
    return jnp.where(condition[:, None, None, None], yes, no)


def blur_radius(policy: ImagePolicy, size: int) -> int:
    """Radius of the blur kernel in pixels, at least 1.

    The paper's kernel of 10 % of the side gives 11 pixels for a view of 224 pixels.

    Raises:
        UserError: The radius is not smaller than ``size``, so the border cannot be mirrored.
    """
    radius = max(1, int(size * policy.blur_kernel) // 2)
    if radius >= size:
        way_out = (
            "use at most 1"
            if size > 1
            else "turn blur off (--augment.blur 0.0) or use larger views (--data.size)"
        )
        raise UserError(
            f"augment.blur_kernel {policy.blur_kernel} is wider than the {size} px view can "
            f"mirror; {way_out}"
        )
    return radius


def blur_weights(sigma: jax.Array, radius: int) -> jax.Array:
    """Weights of a Gaussian kernel.

    Args:
        sigma: float [...], standard deviation in pixels; 0 gives the identity.
        radius: Radius of the kernel in pixels.

    Returns:
        float [..., 2 radius + 1], weights that sum to 1.
    """
    offsets = jnp.arange(-radius, radius + 1)
    # At 0.05 px the neighbours' weights underflow to 0 in float32: the kernel is the identity.
    weights = jnp.exp(-0.5 * jnp.square(offsets / jnp.maximum(sigma, 0.05)[..., None]))
    return weights / weights.sum(axis=-1, keepdims=True)


def gaussian_blur(x: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """Separable Gaussian blur that mirrors the image at its border.

    Args:
        x: float [n, H, W, C].
        sigma: float [n], standard deviation per image in pixels; 0 leaves the image unchanged.
        radius: Radius of the kernel in pixels, smaller than H and W.

    Returns:
        float [n, H, W, C].
    """
    weights = blur_weights(sigma, radius).astype(x.dtype)
    for axis in (1, 2):
        length = x.shape[axis]
        pad = [(0, 0)] * 4
        pad[axis] = (radius, radius)
        padded = jnp.pad(x, pad, mode="reflect")
        taps = [
            weights[:, i, None, None, None] * jax.lax.slice_in_dim(padded, i, i + length, axis=axis)
            for i in range(2 * radius + 1)
        ]
        x = sum(taps)  # type: ignore[assignment]
    return x
