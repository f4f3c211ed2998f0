"""Applies sampled parameters to spectrograms, in compiled JAX."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.audio.policy import TILT_WAVES, AudioPolicy
from cssl_jax.augment.base import Parameters

DECIBEL = math.log(10) / 10  # natural logarithm of the power ratio of one decibel
# Parameters of each operation.
_PARAMETERS = {
    "stretch": ("stretch_factor", "stretch_start"),
    "warp": ("warp_factor", "warp_start"),
    "tilt": ("tilt",),
    "time_mask": ("time_mask_length", "time_mask_start"),
    "mel_mask": ("mel_mask_length", "mel_mask_start"),
}


def spectrogram_parameters(drawn: Parameters, policy: AudioPolicy) -> Parameters:
    """The parameters that ``change_spectrograms`` needs, of the operations that a policy uses."""
    return {
        name: drawn[name]
        for operation, names in _PARAMETERS.items()
        if policy.uses(operation)
        for name in names
    }


def change_spectrograms(
    values: jax.Array, length: jax.Array, drawn: Parameters, std: float
) -> jax.Array:
    """Stretches, warps, tilts and masks spectrograms; operations without parameters are off.

    Args:
        values: Normalised log-mel spectrograms, float [n, T, M]; 0 is the mean.
        length: Number of frames, int32 [n].
        drawn: Parameters, leaves [n, ...]; see ``policy.sample``.
        std: Number that the logarithms of powers were divided by.

    Returns:
        Spectrograms, float [n, T, M]; frames from the length on may hold anything.
    """

    def one(values: jax.Array, length: jax.Array, drawn: Parameters) -> jax.Array:
        return _changed(values, length, drawn, std)

    changed: jax.Array = jax.vmap(one)(values, length, drawn)
    return changed


def _changed(values: jax.Array, length: jax.Array, drawn: Parameters, std: float) -> jax.Array:
    x, (frames, bands) = values, values.shape
    frame, band = jnp.arange(frames), jnp.arange(bands)
    if "stretch_factor" in drawn:
        positions = _section(drawn["stretch_factor"], drawn["stretch_start"], frames, length)
        x = _interpolate(x, jnp.clip(positions, 0, length - 1))
        # Half a frame: a position between the outermost frame's centre and its edge is inside.
        inside = (positions > -0.5) & (positions < length - 0.5)
        x = jnp.where(inside[:, None], x, 0)
    if "warp_factor" in drawn:
        positions = _section(drawn["warp_factor"], drawn["warp_start"], bands, bands)
        x = _interpolate(x.T, jnp.clip(positions, 0, bands - 1)).T
    if "tilt" in drawn:
        waves = np.cos(
            np.pi * np.outer(np.arange(1, TILT_WAVES + 1), np.arange(bands) + 0.5) / bands
        )
        curve = jnp.asarray(drawn["tilt"], x.dtype) @ jnp.asarray(waves, x.dtype)
        x = x + curve * (DECIBEL / std)
    if "time_mask_length" in drawn:
        hidden = _stretch_of(frame, drawn["time_mask_length"], drawn["time_mask_start"], length)
        x = jnp.where(hidden[:, None], 0, x)
    if "mel_mask_length" in drawn:
        hidden = _stretch_of(band, drawn["mel_mask_length"], drawn["mel_mask_start"], bands)
        x = jnp.where(hidden, 0, x)
    return x


def _section(factor: jax.Array, start: jax.Array, size: int, length: jax.Array | int) -> jax.Array:
    """Positions, float [size], of a section of ``factor`` times the length, resized to the length.

    A shorter section lies within the original, a longer one contains it.
    """
    first = (1 - factor) * start * length  # negative where the section starts before the original
    return first + (jnp.arange(size) + 0.5) * factor - 0.5


def _stretch_of(
    place: jax.Array, width: jax.Array, start: jax.Array, length: jax.Array | int
) -> jax.Array:
    """True at the places of a mask of ``width`` times the length, within the length."""
    wide = width * length
    first = start * (length - wide)
    return (place >= first) & (place < first + wide)


def _interpolate(values: jax.Array, positions: jax.Array) -> jax.Array:
    """Linear interpolation of values [T, C] at positions [size] within [0, T - 1] -> [size, C]."""
    lower = jnp.clip(jnp.floor(positions).astype(jnp.int32), 0, len(values) - 1)
    upper = jnp.minimum(lower + 1, len(values) - 1)
    part = (positions - lower).astype(values.dtype)[:, None]
    return (1 - part) * values[lower] + part * values[upper]
