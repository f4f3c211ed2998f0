"""Variant of ``batched.finish`` for one image at a time, with branches, for CPUs.

Operations that a view does not undergo are not computed. This takes a fraction of the time of the
batched form, which computes every operation and selects. Channels are separate planes, since XLA
does not vectorise over a last axis of 3.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cssl_jax.augment.base import Parameters
from cssl_jax.augment.image import batched
from cssl_jax.augment.image.color import LUMA, saturation_limit, shift_hue_planes
from cssl_jax.augment.image.geometry import affine_matrix, transform
from cssl_jax.augment.image.policy import ImagePolicy

BLUR_STEP = 2  # pixels between the blur radii for which code is compiled


def finish(x: jax.Array, parameters: Parameters, *, policy: ImagePolicy) -> jax.Array:
    """Applies the operations of the policy that keep the size.

    Args:
        x: Square image, float [C, s, s] in [0, 1].
        parameters: Parameters of one view, from ``policy.sample``.
        policy: Policy that the parameters were drawn from; static.

    Returns:
        float [C, s, s] in [0, 1].
    """
    channels, size, _ = x.shape
    if policy.uses("horizontal_flip"):
        x = lax.cond(parameters["horizontal_flip"], lambda y: y[:, :, ::-1], _same, x)
    if policy.uses("vertical_flip"):
        x = lax.cond(parameters["vertical_flip"], lambda y: y[:, ::-1], _same, x)
    if policy.uses("affine"):
        moved = transform(
            jnp.moveaxis(x, 0, -1)[None], affine_matrix(parameters, size)[None], policy.fill
        )
        x = jnp.moveaxis(moved[0], -1, 0)
    if policy.uses("jitter"):
        x = _color_jitter(x, parameters, policy.color_mode)
    if policy.uses("grayscale") and channels == 3:
        x = lax.cond(
            parameters["grayscale"],
            lambda y: jnp.broadcast_to(_luma(y, policy.color_mode), y.shape),
            _same,
            x,
        )
    if policy.uses("blur"):
        x = _blur(x, parameters["blur_sigma"], batched.blur_radius(policy, size))
    if policy.uses("solarize"):
        inverted = jnp.where(x >= policy.solarize_threshold, 1.0 - x, x)
        x = jnp.where(parameters["solarize"], inverted, x)
    return x


def _same(x: jax.Array) -> jax.Array:
    return x


def _luma(x: jax.Array, mode: str) -> jax.Array:
    """Grey values of an RGB image: [3, s, s] -> [s, s]."""
    terms = (weight * plane for weight, plane in zip(LUMA[mode], x, strict=True))
    grey: jax.Array = sum(terms)
    return grey


def _color_jitter(x: jax.Array, parameters: Parameters, mode: str) -> jax.Array:
    color = len(x) == 3

    def brightness(y: jax.Array) -> jax.Array:
        return y * parameters["brightness"] + parameters["brightness_shift"]

    def contrast(y: jax.Array) -> jax.Array:
        if mode == "tf":
            mean = jnp.mean(y, axis=(1, 2), keepdims=True)
        else:
            mean = jnp.mean(_luma(y, mode) if color else y)
        return parameters["contrast"] * y + (1.0 - parameters["contrast"]) * mean

    def saturation(y: jax.Array) -> jax.Array:
        factor, faded = parameters["saturation"], _luma(y, mode)
        if mode == "tf":
            faded = jnp.max(y, axis=0)
            factor = jnp.minimum(factor, saturation_limit(faded, jnp.min(y, axis=0)))
        return factor * y + (1.0 - factor) * faded

    def hue(y: jax.Array) -> jax.Array:
        return jnp.stack(shift_hue_planes(y[0], y[1], y[2], parameters["hue"]))

    operations = [brightness, contrast, *((saturation, hue) if color else (_same, _same))]

    def in_order(x: jax.Array) -> jax.Array:
        for turn in range(4):
            x = jnp.clip(lax.switch(parameters["order"][turn], operations, x), 0.0, 1.0)
        return x

    neutral = {"brightness": 1.0, "brightness_shift": 0.0, "contrast": 1.0}
    neutral |= {"saturation": 1.0, "hue": 0.0}
    unchanged = jnp.all(jnp.stack([parameters[name] == value for name, value in neutral.items()]))
    jittered: jax.Array = lax.cond(unchanged, _same, in_order, x)
    return jittered


def _blur(x: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """Gaussian blur like ``batched.gaussian_blur``, without the negligible taps."""
    reaches = [*range(BLUR_STEP, radius, BLUR_STEP), radius]

    def blur_within(reach: int, y: jax.Array) -> jax.Array:
        weights = batched.blur_weights(sigma, reach).astype(y.dtype)
        for axis in (1, 2):
            pad = [(0, 0)] * 3
            pad[axis] = (reach, reach)
            # Without the barrier XLA fuses the padding into the sum and repeats it for every tap.
            padded = lax.optimization_barrier(jnp.pad(y, pad, mode="reflect"))
            y = sum(
                weight * lax.slice_in_dim(padded, i, i + y.shape[axis], axis=axis)
                for i, weight in enumerate(weights)
            )
        return y

    # Beyond 4 standard deviations lies 6e-5 of the weight: a hundredth of a grey level.
    number = jnp.searchsorted(jnp.asarray(reaches[:-1]), 4 * sigma)
    branches = [lambda y, reach=reach: blur_within(reach, y) for reach in reaches]
    blurred: jax.Array = lax.switch(jnp.where(sigma > 0, number + 1, 0), [_same, *branches], x)
    return blurred
