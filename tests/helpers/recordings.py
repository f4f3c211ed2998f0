"""Small recordings for tests: noisy tones of different lengths, whose pitch is their class."""

import numpy as np

from cssl_jax.data.sources.audio import AudioSource, padded
from cssl_jax.modalities.audio_files import write_recordings

RATE = 4000
PITCHES = (300.0, 700.0, 1300.0)  # Hz


def tones(size=60, seed=0):
    """int16 waves [T_i] of 0.1 to 0.2 s."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(size):
        time = np.arange(rng.integers(RATE // 10, RATE // 5 + 1)) / RATE
        wave = np.sin(2 * np.pi * (PITCHES[number % 3] * time + rng.uniform()))
        wave = rng.uniform(0.1, 0.5) * wave + 0.02 * rng.normal(size=len(time))
        found.append(np.int16(np.round(wave * 2**15).clip(-(2**15), 2**15 - 1)))
    return found


def source(size=60, seed=0, groups=False):
    labels = np.arange(size) % 3
    names = np.array([f"speaker {number // (size // 5)}" for number in range(size)])
    return AudioSource(
        "tones", padded(tones(size, seed)), labels, groups=names if groups else None, rate=RATE
    )


def write(folder, size=60, seed=0, groups=False):
    """Path of a list of recordings."""
    return write_recordings(source(size, seed, groups), folder)
