"""The run that is reported on: generated images, a few steps of a small encoder."""

import dataclasses
import pathlib

import numpy as np


def made_images(count: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """1/f noise, whose spectrum is a photograph's, in the colours of ten classes.

    Returns:
        (uint8 [count, side, side, 3], labels int64 [count]).
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1 / side
    colours = np.random.default_rng(0).uniform(-1, 1, (10, 3))
    images = np.empty((count, side, side, 3), np.uint8)
    for i, label in enumerate(labels):
        noise = rng.normal(size=(2, side, side // 2 + 1))
        spectrum = (noise[0] + 1j * noise[1]) / frequency
        grey = np.fft.irfft2(spectrum, (side, side))
        grey = (grey - grey.mean()) / grey.std()
        shade = 128 + 45 * grey[..., None] + 40 * colours[label]
        images[i] = np.clip(shade, 0, 255).astype(np.uint8)
    return images, labels


def train(folder: str, validation: int, training: int, side: int) -> dict:
    """Makes the data and the run below ``folder``; returns what it is."""
    import cssl_jax
    from cssl_jax import recipes

    root = pathlib.Path(folder)
    for name, count, seed in (("train", training, 1), ("validation", validation, 2)):
        images, labels = made_images(count, side, seed)
        np.savez(root / f"{name}.npz", images=images, labels=labels)
    config = recipes.load("digits")
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            source=str(root / "train.npz"),
            validation_source=str(root / "validation.npz"),
            size=32,
        ),
        train=dataclasses.replace(config.train, epochs=1, evaluate_every=0, tensorboard=False),
        optimizer=dataclasses.replace(config.optimizer, warmup_epochs=0.0),
    )
    cssl_jax.pretrain(config, root / "run")
    return {"encoder": f"{config.model.encoder}, width {config.model.width}", "view": 32}
