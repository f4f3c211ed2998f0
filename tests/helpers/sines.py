"""Small series for tests: noisy sines of different lengths, whose frequency is their class."""

import numpy as np

from cssl_jax.config import SeriesData
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.modalities import series

STEPS, CHANNELS = 24, 2


def arrays(size=60, seed=0):
    """Contents of an .npz file; some values are missing."""
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % 3
    phase = rng.uniform(0, 2 * np.pi, (size, 1, CHANNELS))
    values = np.sin(phase + 0.5 * np.arange(STEPS)[None, :, None] * (1 + labels[:, None, None]))
    values += 0.1 * rng.normal(size=values.shape)
    values[rng.random(values.shape) < 0.02] = np.nan
    lengths = rng.integers(STEPS // 2, STEPS + 1, size)
    return {"values": values.astype(np.float32), "lengths": lengths, "labels": labels}


def source(size=60, seed=0, groups=False):
    made = arrays(size, seed)
    examples = series.series_examples(made["values"], "sines", made["lengths"])
    names = np.array([f"device {number // (size // 5)}" for number in range(size)])
    return ArraySource("sines", examples, made["labels"], groups=names if groups else None)


def write(path, size=60, seed=0, groups=False):
    """Path of an .npz file of series."""
    return series.SERIES.write(source(size, seed, groups), SeriesData(), 0, path)
