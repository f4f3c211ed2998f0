"""A run small enough for tests: 8 x 8 images, two blocks of a ResNet, batches of 16."""

import dataclasses

import jax
import numpy as np

from cssl_jax import recipes
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.models.registry import ENCODERS
from cssl_jax.runtime import spmd
from cssl_jax.selfcheck.short_run import Trial
from helpers import tiny_encoder

ENCODERS |= {"tiny": tiny_encoder.TINY, "linear": tiny_encoder.LINEAR}
# The same encoders for a child process that has the package alone.
TINY_FILE, LINEAR_FILE = (f"{tiny_encoder.__file__}:{name}" for name in ("TINY", "LINEAR"))


def replace(config, section, **values):
    return dataclasses.replace(
        config, **{section: dataclasses.replace(getattr(config, section), **values)}
    )


def config(**train):
    tiny = recipes.load("debug")
    tiny = replace(tiny, "train", **{"batch_size": 16, "log_every": 1, **train})
    tiny = replace(tiny, "model", encoder="tiny")
    tiny = replace(tiny, "runtime", devices=2)  # on all 8 a run takes a third more CPU time
    # Choosing among penalties is tested with the probe; each choice takes a program of its own. A
    # probe of few separable images takes all 300 evaluations at a small penalty.
    tiny = replace(tiny, "evaluate", l2_values=(0.1,), online_l2_values=(0.1,))
    return replace(tiny, "augment", crop=(1.0,), blur=(0.5,), solarize=(0.2,))


def image_source(size=48, channels=1, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size)
    images = rng.integers(0, 128, (size, 8, 8, channels)) + 40 * labels[:, None, None, None]
    return ArraySource("images", images.astype(np.uint8), labels)


def write_recipe(folder, **train):
    """A recipe file for a run of 3 steps per epoch on 48 images, which it writes beside it."""
    source = image_source(60)
    np.savez(folder / "images.npz", images=source.images, labels=source.labels)
    changed = replace(config(**train), "data", source=str(folder / "images.npz"))
    changed = replace(changed, "evaluate", knn_k=5, knn_ks=(1, 5), batch_size=16)
    path = folder / "recipe.json"
    path.write_text(recipes.to_json(changed))
    return path


class Run(Trial):
    """The parts of a training run on the first devices, on generated images."""

    def __init__(
        self, config, devices=1, backend="shard_map", source=None, pipeline="resident", target=None
    ):
        where = jax.devices()[:devices]
        super().__init__(config, source or image_source(), where, backend, pipeline, target)

    def train(self, steps, dtype=None):
        """(loss of every step, last state) on the host."""
        step, state, losses = self.train_step(), self.state(dtype), []
        for host_batch in self.host_batches(0, steps):
            state, metrics = step(state, self.constants, host_batch)
            losses.append(float(metrics["loss"]))
        spmd.assert_replicated(state)
        return np.array(losses), jax.device_get(state)
