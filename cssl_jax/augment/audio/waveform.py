"""Applies sampled parameters to waveforms, in compiled JAX."""

import jax
import jax.numpy as jnp

from cssl_jax.augment.audio.policy import AudioPolicy
from cssl_jax.augment.base import Parameters

FULL_SCALE = 2**15  # 16-bit sample that stands for 1
Waves = dict[str, jax.Array]  # {"wave": [..., S], "length": int32 [...]}


def to_float(wave: jax.Array) -> jax.Array:
    """Samples as floats in [-1, 1]; int16 is divided by 2^15, floats are kept."""
    if jnp.issubdtype(wave.dtype, jnp.floating):
        return wave
    return jnp.asarray(wave, float) / FULL_SCALE


def wave_views(examples: Waves, drawn: Parameters, *, policy: AudioPolicy, size: int) -> Waves:
    """Computes the waveform of every view of every recording.

    Args:
        examples: wave int16 or float [n, S], and length int32 [n], at least 1.
        drawn: Parameters, leaves [n, k, ...]; see ``policy.sample_views``.
        policy: Policy of the parameters; operations that it does not use are not compiled.
        size: Number of samples of the views.

    Returns:
        wave float [n, k, size] and length int32 [n, k]; samples from the length on are 0.
    """
    wave = to_float(examples["wave"])

    def one(wave: jax.Array, length: jax.Array, parameters: Parameters) -> Waves:
        return _view(wave, length, parameters, policy, size)

    of_example = jax.vmap(one, in_axes=(None, None, 0))
    views: Waves = jax.vmap(of_example)(wave, examples["length"], drawn)
    return views


def _view(
    wave: jax.Array, length: jax.Array, drawn: Parameters, policy: AudioPolicy, size: int
) -> Waves:
    """One view: wave [S] -> {"wave": [size], "length": []}."""
    segment = jnp.round(drawn["crop_length"] * length).astype(jnp.int32)
    segment = jnp.clip(segment, 1, jnp.minimum(length, size))
    room = length - segment
    start = jnp.minimum(jnp.floor(drawn["crop_start"] * (room + 1)).astype(jnp.int32), room)
    silence = jnp.zeros((), jnp.int32)
    if policy.uses("shift"):
        silence = jnp.floor(drawn["shift_length"] * segment).astype(jnp.int32)
        silence = jnp.minimum(silence, size - segment)
    place = jnp.arange(size) - silence
    inside = (place >= 0) & (place < segment)
    x = jnp.where(inside, wave[jnp.clip(start + place, 0, len(wave) - 1)], 0)
    if policy.uses("gain"):
        x = x * (10 ** (drawn["gain_db"] / 20)).astype(x.dtype)
    kept = silence + segment
    if policy.uses("noise"):
        key = jax.random.wrap_key_data(drawn["noise_key"], impl="threefry2x32")
        level = jnp.sqrt(jnp.square(x).sum() / segment) * drawn["noise"].astype(x.dtype)
        noise = jax.random.normal(key, x.shape, x.dtype)
        x = jnp.where(jnp.arange(size) < kept, x + level * noise, 0)
    return {"wave": x, "length": kept.astype(jnp.int32)}
