"""Log-mel spectrograms against SciPy's transform and a loop over the formula of the triangles."""

import jax
import numpy as np
import pytest
import scipy.signal

from cssl_jax.modalities.log_mel import (
    FLOOR,
    Frames,
    default_high,
    empty_bands,
    log_mel,
    mel_weights,
)

SPEECH = Frames(8000, 40, 200, 80, 60.0, 3900.0)
WIDE = Frames(16_000, 64, 400, 160, 60.0, default_high(16_000))


def triangle(frames, band, hertz):
    """Weight of a frequency in a band, by the formula of HTK."""

    def mel(f):
        return 2595 * np.log10(1 + f / 700)

    step = (mel(frames.high) - mel(frames.low)) / (frames.mels + 1)
    left, centre, right = (
        700 * (10 ** ((mel(frames.low) + k * step) / 2595) - 1) for k in (band, band + 1, band + 2)
    )
    if left < hertz <= centre:
        return (hertz - left) / (centre - left)
    return max(0.0, (right - hertz) / (right - centre)) if hertz > centre else 0.0


def expected(wave, frames):
    """By SciPy's short-time Fourier transform; it scales by the sum of the window."""
    _, _, found = scipy.signal.stft(
        wave,
        window="hann",
        nperseg=frames.window,
        noverlap=frames.window - frames.hop,
        nfft=frames.fft,
        boundary=None,
        padded=False,
    )
    power = np.abs(found * scipy.signal.get_window("hann", frames.window).sum()) ** 2
    bins = np.arange(frames.fft // 2 + 1) * frames.rate / frames.fft
    weights = [[triangle(frames, band, f) for band in range(frames.mels)] for f in bins]
    return np.log(power.T @ np.array(weights) + FLOOR)


def spectrogram(waves, length, frames):
    with jax.enable_x64(True):
        made = jax.jit(lambda wave, length: log_mel(wave, length, frames))
        return jax.device_get(made(np.asarray(waves), np.asarray(length, np.int32)))


@pytest.mark.parametrize("frames", [SPEECH, WIDE], ids=["8 kHz", "16 kHz"])
def test_spectrograms_are_those_of_scipy(frames):
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(3, 2000)).cumsum(axis=1) / 100
    length = [2000, 1234, frames.window]
    values, count = spectrogram(waves, length, frames)
    for row, wave, samples, number in zip(values, waves, length, count, strict=True):
        oracle = expected(wave[:samples], frames)
        assert number == len(oracle)
        # Rounding of float64 in sums of some hundred products.
        np.testing.assert_allclose(row[:number], oracle, atol=1e-9)
        np.testing.assert_array_equal(row[number:], np.log(FLOOR))


def test_a_recording_shorter_than_a_frame_is_one_frame_padded_with_silence():
    wave = np.random.default_rng(1).normal(size=(1, 50))
    values, count = spectrogram(wave, [50], SPEECH)
    assert (values.shape, count.tolist()) == ((1, 1, 40), [1])
    oracle = expected(np.pad(wave[0], (0, 150)), SPEECH)
    np.testing.assert_allclose(values[0], oracle, atol=1e-9)


def test_a_tone_is_loudest_in_its_own_band():
    time = np.arange(2000) / 8000
    for hertz in (200, 1000, 3000):
        values, _ = spectrogram(np.sin(2 * np.pi * hertz * time)[None], [2000], SPEECH)
        loudest = values[0].mean(axis=0).argmax()
        assert triangle(SPEECH, loudest, hertz) >= 0.4


def test_bands_between_two_frequencies_are_counted():
    assert empty_bands(SPEECH) == 0
    narrow = SPEECH._replace(mels=200)
    assert empty_bands(narrow) == (mel_weights(narrow).max(axis=0) == 0).sum() > 0
