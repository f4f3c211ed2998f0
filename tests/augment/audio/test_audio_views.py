"""Views of recordings against NumPy loops: segments, gain, noise, resizing, tilt, masks, keys."""

import dataclasses

import jax
import numpy as np
import pytest

from cssl_jax.augment.audio import policy
from cssl_jax.augment.audio.policy import AudioPolicy
from cssl_jax.augment.audio.spectrogram import change_spectrograms, spectrogram_parameters
from cssl_jax.augment.audio.waveform import wave_views
from cssl_jax.data.sampler import example_key
from cssl_jax.errors import UserError

N, S, K = 4, 300, 2
RNG = np.random.default_rng(0)
WAVES = np.int16(RNG.normal(size=(N, S)) * 3000)
LENGTH = np.array([300, 211, 40, 1], np.int32)
KEYS = example_key(3, 0, np.arange(N))
OFF = AudioPolicy(**dict.fromkeys(policy.PROBABILITIES, (0.0,)))
T, M = 30, 12
FRAMES = np.array([30, 17, 4, 1], np.int32)
SPECTROGRAMS = RNG.normal(size=(N, T, M))
STD = 4.0


def drawn(chosen, views=K, first=0):
    with jax.enable_x64(True):
        return jax.device_get(
            jax.jit(lambda keys: policy.sample_views(keys, chosen, views, first))(KEYS)
        )


def views(chosen, size=S, waves=WAVES, length=LENGTH):
    with jax.enable_x64(True):

        @jax.jit
        def made(wave, length):
            parameters = policy.sample_views(KEYS, chosen, K, 0)
            return wave_views(
                {"wave": wave, "length": length}, parameters, policy=chosen, size=size
            )

        return jax.device_get(made(waves, length))


def changed(chosen):
    """Spectrograms of the first view of every example, and the parameters."""
    with jax.enable_x64(True):

        @jax.jit
        def made(values):
            parameters = policy.sample_views(KEYS, chosen, 1, 0)
            kept = spectrogram_parameters(parameters, chosen)
            first = jax.tree.map(lambda x: x[:, 0], kept)
            return change_spectrograms(values, FRAMES, first, STD)

        found = jax.device_get(made(SPECTROGRAMS))
    return found, {name: value[:, 0] for name, value in drawn(chosen, views=1).items()}


@pytest.mark.parametrize("size", [300, 120])
def test_segments_and_silence_are_cut_as_by_hand(size):
    chosen = dataclasses.replace(
        OFF, crop=(1.0,), crop_length=(0.4, 0.9), shift=(0.5,), shift_length=(0.1, 0.6)
    )
    found, parameters = views(chosen, size), drawn(chosen)
    for i, length in enumerate(LENGTH):
        for view in range(K):
            one = {name: value[i, view] for name, value in parameters.items()}
            segment = max(1, min(round(one["crop_length"] * length), size))
            start = min(int(one["crop_start"] * (length - segment + 1)), length - segment)
            silence = min(int(one["shift_length"] * segment), size - segment)
            expected = np.zeros(size)
            expected[silence : silence + segment] = WAVES[i, start : start + segment] / 2**15
            np.testing.assert_array_equal(found["wave"][i, view], expected)
            assert found["length"][i, view] == silence + segment


def test_gain_and_noise_have_the_strength_of_the_policy():
    chosen = dataclasses.replace(OFF, gain=(1.0,), gain_db=(6.0, 6.0))
    ratio = views(chosen)["wave"][0, 0] * 2**15 / WAVES[0]
    np.testing.assert_allclose(ratio, 10 ** (6 / 20))
    waves = np.tile(WAVES, (1, 40))
    chosen = dataclasses.replace(OFF, noise=(1.0,), noise_snr_db=(20.0, 20.0))
    noise = views(chosen, S * 40, waves, LENGTH * 40)["wave"][0] - waves[0] / 2**15
    np.testing.assert_allclose(noise.std(axis=1), 0.1 * waves[0].std() / 2**15, rtol=0.05)
    assert abs(np.corrcoef(noise)[0, 1]) < 0.05


def test_a_stretch_and_a_warp_resize_a_section():
    chosen = dataclasses.replace(
        OFF, stretch=(1.0,), stretch_factor=(0.6, 1.5), warp=(1.0,), warp_factor=(0.7, 1.3)
    )
    found, one = changed(chosen)
    for i, length in enumerate(FRAMES):
        factor, start = one["stretch_factor"][i], one["stretch_start"][i]
        at = (1 - factor) * start * length + (np.arange(T) + 0.5) * factor - 0.5
        factor, start = one["warp_factor"][i], one["warp_start"][i]
        bands = (1 - factor) * start * M + (np.arange(M) + 0.5) * factor - 0.5
        rows = np.stack(
            [np.interp(at, np.arange(length), SPECTROGRAMS[i, :length, m]) for m in range(M)], 1
        )
        rows[(at <= -0.5) | (at >= length - 0.5)] = 0
        expected = np.stack([np.interp(bands, np.arange(M), row) for row in rows])
        np.testing.assert_allclose(found[i, :length], expected[:length], atol=1e-9)


def test_a_tilt_adds_a_smooth_curve_in_decibels():
    found, one = changed(dataclasses.replace(OFF, tilt=(1.0,), tilt_db=5.0))
    band = (np.arange(M) + 0.5) / M
    for i in range(N):
        decibels = sum(one["tilt"][i, k] * np.cos(np.pi * (k + 1) * band) for k in range(4))
        expected = SPECTROGRAMS[i] + decibels * np.log(10) / 10 / STD
        np.testing.assert_allclose(found[i], expected, atol=1e-9)


def test_masks_set_frames_and_bands_to_the_mean():
    chosen = dataclasses.replace(
        OFF,
        **dict.fromkeys(("time_mask", "mel_mask"), (1.0,)),
        **{f"{name}_length": (0.3, 0.3) for name in ("time_mask", "mel_mask")},
    )
    found, _ = changed(chosen)
    hidden = found[0] == 0
    frames, bands = hidden.all(axis=1), hidden.all(axis=0)
    assert frames.sum() in (8, 9, 10)
    assert bands.sum() in (3, 4)
    np.testing.assert_array_equal(hidden, frames[:, None] | bands)
    np.testing.assert_array_equal(found[0][~hidden], SPECTROGRAMS[0][~hidden])
    assert not (found[1] == 0).all(axis=1)[17:].any()  # within the recording


def test_a_policy_without_operations_keeps_the_recording_to_the_bit():
    found = views(OFF)
    for i, length in enumerate(LENGTH):
        np.testing.assert_array_equal(found["wave"][i, 0, :length], WAVES[i, :length] / 2**15)
        assert not found["wave"][i, :, length:].any()
    assert spectrogram_parameters(drawn(OFF), OFF) == {}


def test_views_differ_repeat_and_depend_on_the_key_alone():
    first, again = views(AudioPolicy()), views(AudioPolicy())
    np.testing.assert_array_equal(first["wave"], again["wave"])
    assert np.abs(first["wave"][0, 0] - first["wave"][0, 1]).max() > 1e-3
    alone, together = drawn(AudioPolicy(), views=1, first=1), drawn(AudioPolicy())
    for name, value in alone.items():
        np.testing.assert_array_equal(value[:, 0], together[name][:, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": (1.5,)}, r"augment.noise is \(1.5,\)"),
        ({"crop_length": (0.0, 0.5)}, r"augment.crop_length is \(0.0, 0.5\); .* above 0 to 1"),
        ({"stretch_factor": (1.5, 0.5)}, r"augment.stretch_factor is \(1.5, 0.5\)"),
        ({"gain_db": (0.0, float("inf"))}, r"augment.gain_db is \(0.0, inf\)"),
        ({"tilt_db": -1.0}, "augment.tilt_db is -1.0; give 0 or more"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        AudioPolicy(**changes)
