"""Image policies on the device: what was drawn is applied in batched, branch-free JAX.

Values follow Pillow and torchvision where libraries differ, unless ``ImagePolicy.color_mode`` is
"tf"; blur mirrors at the border.
"""

import jax
import jax.numpy as jnp

from cssl_jax.augment.image.color import color_jitter, luma
from cssl_jax.augment.image.geometry import affine_matrix, crop_and_resize, crop_box, transform
from cssl_jax.augment.image.policy import ImagePolicy, Parameters
from cssl_jax.errors import UserError


def apply(
    images: jax.Array, parameters: Parameters, *, policy: ImagePolicy, size: int
) -> jax.Array:
    """Applies one drawn view to each image of a batch.

    Args:
        images: uint8 or floating in [0, 1], [n, H, W, C].
        parameters: Leaves [n, ...] from ``policy.sample``.
        policy: The policy they were drawn from; static. Operations it never uses are not compiled.
        size: Side of the square output, in pixels; static.

    Returns:
        float [n, size, size, C] in [0, 1]; float32, or float64 where x64 is enabled.
    """
    return finish(cut(images, parameters, policy=policy, size=size), parameters, policy=policy)


def cut(images: jax.Array, parameters: Parameters, *, policy: ImagePolicy, size: int) -> jax.Array:
    """The first half of ``apply``: crops and resizes to float [n, size, size, C] in [0, 1]."""
    x = to_float(images)
    if policy.uses("crop") or x.shape[1:3] != (size, size):
        box = crop_box(parameters, *x.shape[1:3], policy=policy)
        x = crop_and_resize(x, box, size, policy.interpolation, policy.antialias)
    return x


def finish(images: jax.Array, parameters: Parameters, *, policy: ImagePolicy) -> jax.Array:
    """The second half of ``apply``: all that keeps the size; square images in, [n, s, s, C]."""
    x = to_float(images)
    size = x.shape[1]
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
    """Applies k drawn views to each image: [n, H, W, C], leaves [n, k, ...] -> [n, k, s, s, C]."""

    def one_view(drawn: Parameters) -> jax.Array:
        return apply(images, drawn, policy=policy, size=size)

    return jax.vmap(one_view, in_axes=1, out_axes=1)(parameters)


def finish_views(views: jax.Array, parameters: Parameters, *, policy: ImagePolicy) -> jax.Array:
    """``finish`` on k views of each image: [n, k, s, s, C], leaves [n, k, ...]."""

    def one_view(x: jax.Array, drawn: Parameters) -> jax.Array:
        return finish(x, drawn, policy=policy)

    return jax.vmap(one_view, in_axes=1, out_axes=1)(views, parameters)


def to_float(images: jax.Array) -> jax.Array:
    """uint8 in [0, 255] to the default float in [0, 1]; floating input is taken as it is."""
    images = jnp.asarray(images)
    return images.astype(float) / 255 if images.dtype == jnp.uint8 else images


def normalize(x: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Per-channel (x - mean) / std; x [..., C] in [0, 1], mean and std of length C."""
    return (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)


def _where(condition: jax.Array, yes: jax.Array, no: jax.Array) -> jax.Array:
    return jnp.where(condition[:, None, None, None], yes, no)


def blur_radius(policy: ImagePolicy, size: int) -> int:
    """Pixels either side of the centre: 11 at 224 with the paper's 10 % kernel, at least 1.

    Raises:
        UserError: A view of ``size`` pixels is too small to be mirrored so far.
    """
    radius = max(1, int(size * policy.blur_kernel) // 2)
    if radius >= size:
        way_out = (
            "use at most 1"
            if size > 1
            else "switch blur off (--augment.blur 0.0) or use larger views (--data.size)"
        )
        raise UserError(
            f"augment.blur_kernel {policy.blur_kernel} is wider than the {size} px view can "
            f"mirror; {way_out}"
        )
    return radius


def blur_weights(sigma: jax.Array, radius: int) -> jax.Array:
    """Gaussian taps [..., 2 radius + 1] that sum to 1; sigma 0 gives the identity."""
    offsets = jnp.arange(-radius, radius + 1)
    # Below 0.05 px the neighbours' weight is under float32's smallest number: exactly the identity.
    weights = jnp.exp(-0.5 * jnp.square(offsets / jnp.maximum(sigma, 0.05)[..., None]))
    return weights / weights.sum(axis=-1, keepdims=True)


def gaussian_blur(x: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """Separable Gaussian blur of x [n, H, W, C] with sigma [n] in pixels; mirrors at the border."""
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
