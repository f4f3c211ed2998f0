"""Log-mel spectrograms in compiled JAX."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FLOOR = 1e-6  # power that is added before the logarithm


class Frames(NamedTuple):
    """Frames and mel bands of a spectrogram.

    Attributes:
        rate: Samples per second.
        mels: Number of mel bands.
        window: Samples per frame.
        hop: Samples between the starts of two frames.
        low: Lower edge of the lowest band in Hz.
        high: Upper edge of the highest band in Hz.
    """

    rate: int
    mels: int
    window: int
    hop: int
    low: float
    high: float

    @property
    def fft(self) -> int:
        """Length of the Fourier transform: the frame, padded with 0 to a power of two."""
        return 1 << (self.window - 1).bit_length()

    def count(self, samples: int) -> int:
        """Number of frames of a number of samples."""
        return max(1, 1 + (samples - self.window) // self.hop)


def default_high(rate: int) -> float:
    """Upper edge of the mel bands in Hz, 97.5 % of half the rate: 7,800 Hz at 16 kHz."""
    return 0.975 * rate / 2


def log_mel(wave: jax.Array, length: jax.Array, frames: Frames) -> tuple[jax.Array, jax.Array]:
    """Logarithm of the power in mel bands, of frames that lie within the recording.

    A frame is multiplied with a periodic Hann window. Its power spectrum is summed by triangles
    that are equidistant on the mel scale of HTK, mel(f) = 2595 log10(1 + f / 700), with a maximum
    of 1 (no normalisation by area). The result is log(sum + 1e-6). There is no padding at the
    ends, so that a frame does not depend on what follows the recording. A recording shorter than a
    frame has one frame, padded with 0.

    Args:
        wave: Samples in [-1, 1], float [n, S]; anything from the length on.
        length: Number of samples, int32 [n].
        frames: Frames and bands.

    Returns:
        (values float [n, T, mels], number of frames int32 [n]); values from there on are those of
        silence.
    """
    samples = max(wave.shape[1], frames.window)
    wave = jnp.where(jnp.arange(wave.shape[1]) < length[:, None], wave, 0)
    wave = jnp.pad(wave, ((0, 0), (0, samples - wave.shape[1])))
    total = frames.count(samples)
    places = np.arange(total)[:, None] * frames.hop + np.arange(frames.window)
    basis = jnp.asarray(_basis(frames), wave.dtype)
    # A product with a constant matrix in place of an FFT: matrix units are faster at these sizes.
    parts = jnp.einsum("ntw,wb->ntb", wave[:, places], basis, precision=jax.lax.Precision.HIGHEST)
    real, imaginary = jnp.split(jnp.square(parts), 2, axis=-1)
    weights = jnp.asarray(mel_weights(frames), wave.dtype)
    power = jnp.matmul(real + imaginary, weights, precision=jax.lax.Precision.HIGHEST)
    count = jnp.maximum(1, 1 + (length - frames.window) // frames.hop).astype(jnp.int32)
    inside = jnp.arange(total) < count[:, None]
    return jnp.log(jnp.where(inside[..., None], power, 0) + FLOOR), count


@functools.lru_cache(maxsize=8)
def _basis(frames: Frames) -> np.ndarray:
    """Window times cosines and sines, float64 [window, 2 (fft / 2 + 1)]."""
    sample = np.arange(frames.window)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * sample / frames.window)
    # Whole numbers modulo the length keep the angles exact.
    turns = np.outer(sample, np.arange(frames.fft // 2 + 1)) % frames.fft / frames.fft
    angle = 2 * np.pi * turns
    return np.concatenate([np.cos(angle), -np.sin(angle)], axis=1) * window[:, None]


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def mel_weights(frames: Frames) -> np.ndarray:
    """Weights of the triangles, float64 [fft / 2 + 1, mels]."""
    points = np.linspace(_mel(frames.low), _mel(frames.high), frames.mels + 2)
    edges = 700 * (10 ** (points / 2595) - 1)
    bins = np.arange(frames.fft // 2 + 1)[:, None] * frames.rate / frames.fft
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    weights: np.ndarray = np.maximum(0, np.minimum(rising, falling))
    return weights


def empty_bands(frames: Frames) -> int:
    """Number of bands that no frequency of the Fourier transform falls into."""
    return int((mel_weights(frames).sum(axis=0) == 0).sum())
