"""A run small enough for tests: 8 x 8 pictures, a ResNet of two blocks, batches of 16."""

import dataclasses
import functools

import jax
import numpy as np

from cssl_jax import parallel, recipes
from cssl_jax.data import pipeline as pipelines
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources import ArraySource
from cssl_jax.models.encoder import ENCODERS
from cssl_jax.models.resnet import BasicBlock, ResNet
from cssl_jax.train import setup
from cssl_jax.train.gradient import make_gradient
from cssl_jax.train.step import make_train_step

# Two stages have all that deeper encoders have, a downsampling shortcut included.
ENCODERS["tiny"] = functools.partial(ResNet, (1, 1), BasicBlock)


def replace(config, section, **values):
    return dataclasses.replace(
        config, **{section: dataclasses.replace(getattr(config, section), **values)}
    )


def config(**train):
    tiny = recipes.load("debug")
    tiny = replace(tiny, "train", **{"batch_size": 16, "log_every": 1, **train})
    tiny = replace(tiny, "model", encoder="tiny")
    return replace(tiny, "augment", crop=(1.0,), blur=(0.5,), solarize=(0.2,))


def pictures(size=48, channels=1, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size)
    images = rng.integers(0, 128, (size, 8, 8, channels)) + 40 * labels[:, None, None, None]
    return ArraySource("pictures", images.astype(np.uint8), labels)


class Run:
    """The parts of a training run on some devices, as the loop puts them together."""

    def __init__(self, config, devices=1, backend="shard_map", source=None, pipeline="resident"):
        self.mesh = parallel.make_mesh(jax.devices()[:devices])
        self.backend = backend
        train = source or pictures()
        spec = setup.input_spec(config, train)
        batch = config.train.batch_size, self.mesh, config.train.micro_batch
        sampler = Sampler(len(train), config.train.batch_size, config.train.seed)
        self.method = setup.make_method(config, self.mesh)
        self.pipeline = pipelines.PIPELINES[pipeline](
            source=train,
            sampler=sampler,
            policy=config.augment,
            views=self.method.views,
            size=spec.size,
            mean=spec.mean,
            std=spec.std,
            rows=parallel.process_rows(*batch),
        )
        self.optimizer, self.schedule, self.total_steps = setup.make_optimizer(config, sampler)
        self.first_state = setup.init_state(self.method, self.optimizer, spec, config.train.seed)
        self.constants = parallel.replicate(self.pipeline.constants, self.mesh)
        self.sampler = sampler
        self.options = {
            "total_steps": self.total_steps,
            "axis_name": parallel.AXIS,
            "micro_batches": parallel.micro_batches(*batch),
            "frozen_norm": config.train.micro_batch_norm == "frozen",
        }

    def state(self, dtype=None):
        def cast(x):
            return np.asarray(x, dtype) if np.issubdtype(x.dtype, np.floating) else np.asarray(x)

        state = jax.tree.map(cast, self.first_state) if dtype else self.first_state
        return parallel.replicate(state, self.mesh)

    def feeds(self, start, stop):
        for feed in self.pipeline.feeds(start, stop):
            yield parallel.put_batch(feed, self.mesh, self.backend)

    def gradient(self):
        return make_gradient(self.method, self.pipeline.make_batch, **self.options)

    def spread(self, function):
        return parallel.data_parallel(function, self.mesh, self.backend, donate=False)

    def train(self, steps, dtype=None):
        """(loss of every step, last state) on the host."""
        step = self.spread(
            make_train_step(
                self.method,
                self.optimizer,
                self.schedule,
                self.pipeline.make_batch,
                **self.options,
            )
        )
        state, losses = self.state(dtype), []
        for feed in self.feeds(0, steps):
            state, metrics = step(state, self.constants, feed)
            losses.append(float(metrics["loss"]))
        parallel.assert_replicated(state)
        return np.array(losses), jax.device_get(state)
