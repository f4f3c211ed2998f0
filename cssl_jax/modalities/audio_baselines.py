"""Features and drawings of recordings that need no encoder: log-mel spectrograms."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.audio.waveform import to_float
from cssl_jax.data.sources.base import Examples, Source
from cssl_jax.modalities.base import Baseline
from cssl_jax.modalities.log_mel import Frames, default_high, log_mel

STEPS = 16  # number of steps that the baseline stretches a spectrogram to
_MELS = 40
_ROWS = 128  # recordings per block
_RANGE = 12.0  # natural logarithm of the ratio of powers between black and white


def spectrograms(source: Source) -> Iterator[np.ndarray]:
    """Log-mel spectrogram float32 [T, 40] of every recording: frames of 25 ms every 10 ms.

    The bands reach from 60 Hz to 97.5 % of half the rate, whatever the run's own front end is.
    """
    rate = getattr(source, "rate", 16_000)
    frames = Frames(rate, _MELS, round(rate / 40), round(rate / 100), 60.0, default_high(rate))
    for block in source.blocks(_ROWS, 0):
        values, count = jax.device_get(_log_mel(block, frames))
        for one, number in zip(values, count, strict=True):
            yield one[:number]


@functools.partial(jax.jit, static_argnames="frames")
def _log_mel(block: Examples, frames: Frames) -> tuple[jax.Array, jax.Array]:
    wave = to_float(jnp.asarray(block["wave"]))
    return log_mel(wave, jnp.asarray(block["length"]), frames)


def stretched(source: Source) -> np.ndarray:
    """Spectrograms stretched linearly to 16 steps, float32 [N, 640]."""
    rows = [resized(one, STEPS).ravel() for one in spectrograms(source)]
    return np.stack(rows).astype(np.float32)


def mean_and_std(source: Source) -> np.ndarray:
    """Mean and standard deviation per band, float32 [N, 80]."""
    rows = [np.concatenate([one.mean(axis=0), one.std(axis=0)]) for one in spectrograms(source)]
    return np.stack(rows).astype(np.float32)


def resized(values: np.ndarray, steps: int) -> np.ndarray:
    """Values [T, C] interpolated linearly at ``steps`` places from the first to the last step."""
    places = np.linspace(0, len(values) - 1, steps)
    lower = np.minimum(places.astype(int), max(len(values) - 2, 0))
    part = (places - lower)[:, None]
    upper = np.minimum(lower + 1, len(values) - 1)
    between: np.ndarray = (1 - part) * values[lower] + part * values[upper]
    return between


def drawn_spectrograms(source: Source, side: int) -> Iterator[np.ndarray]:
    """Grey image uint8 [side, side, 1] of every recording, low frequencies at the bottom."""
    for one in spectrograms(source):
        image = resized(resized(one, side).T, side)[::-1]
        dark = np.clip((image - image.max()) / _RANGE + 1, 0, 1)
        yield np.round(255 * (1 - dark)).astype(np.uint8)[..., None]


BASELINES = {
    "log_mel": Baseline(label=f"log-mel spectrogram, {STEPS} steps", features=stretched),
    "moments": Baseline(label="mean and standard deviation of mel bands", features=mean_and_std),
}
