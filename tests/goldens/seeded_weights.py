"""Weights and inputs that two libraries can both make from a seed, so that goldens stay small."""

from collections.abc import Mapping

import numpy as np


def seeded_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Float64 weights for torchvision's or timm's key names and shapes; omit all other keys.

    Convolutions are He-scaled normals, dense layers normals that preserve the variance. Scales and
    running variances are about 1, biases, tokens, positions and running means about 0, none of them
    exactly, so that swapping two of them is seen.
    """
    # RandomState's stream is frozen for good (NEP 19), that of default_rng is not.
    rng = np.random.RandomState(seed)
    weights = {}
    for key in sorted(shapes):
        noise = rng.standard_normal(shapes[key])
        if len(shapes[key]) == 4:
            weights[key] = noise * np.sqrt(2 / np.prod(shapes[key][1:]))
        elif len(shapes[key]) == 2:
            weights[key] = noise * np.sqrt(1 / shapes[key][1])
        elif key.endswith("running_var"):
            weights[key] = np.exp(0.1 * noise)
        elif key.endswith("weight"):
            weights[key] = 1 + 0.1 * noise
        else:
            weights[key] = 0.1 * noise
    return weights


def seeded_images(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Float64 standard normal images [n, H, W, C]."""
    return np.random.RandomState(seed).standard_normal(shape)


def sample(x: np.ndarray, count: int = 64) -> np.ndarray:
    """``count`` entries of x [n, H, W, C], at strides that visit all rows, columns and channels."""
    return x.reshape(-1)[np.arange(count) * 7919 % x.size]
