"""SimCLR's networks in TensorFlow operations, and checkpoints of their variables.

Written from the published code of SimCLR and SimCLRv2 (TensorFlow 1, Apache 2.0): the order in
which variables are created names them, and convolutions, norms and pools are called as there. It
shares no code with the package. Variables are created on first use, so that a forward pass also
makes a checkpoint.
"""

import numpy as np
import tensorflow as tf

BLOCKS = {"resnet10": ((1, 1, 1, 1), False), "resnet14": ((1, 1, 1, 1), True)}


class Variables:
    """Random variables by their names in a checkpoint; float32 values in float64 arrays."""

    def __init__(self, seed=0):
        self.rng, self.values, self.scope, self.counts = np.random.default_rng(seed), {}, "", {}

    def enter(self, scope):
        self.scope = scope

    def layer(self, kind):
        """Name of the next layer of a kind: the first one has no number."""
        key = self.scope, kind
        number = self.counts[key] = self.counts.get(key, -1) + 1
        return f"{self.scope}/{kind}" + (f"_{number}" if number else "")

    def get(self, name, shape, scale, mean=0.0):
        value = (mean + scale * self.rng.standard_normal(shape)).astype(np.float32)
        return tf.constant(self.values.setdefault(name, value.astype(np.float64)))


class Network:
    """Forward pass with the arguments of the published code; ``sk_ratio`` > 0 is SimCLRv2's SK."""

    def __init__(self, variables, *, sk_ratio=0.0):
        self.variables, self.sk_ratio = variables, sk_ratio

    def conv(self, x, filters, size, strides):
        shape = (size, size, x.shape[-1], filters)
        name = self.variables.layer("conv2d") + "/kernel"
        kernel = self.variables.get(name, shape, np.sqrt(2 / np.prod(shape[:3])))
        if strides > 1:
            x = self.padded(x, size)
        return tf.nn.conv2d(x, kernel, strides, "SAME" if strides == 1 else "VALID")

    def padded(self, x, size):
        before = (size - 1) // 2
        after = size - 1 - before
        return tf.pad(x, [[0, 0], [before, after], [before, after], [0, 0]])

    def norm(self, x, relu=True, center=True):
        name, width = self.variables.layer("batch_normalization"), x.shape[-1]
        gamma = self.variables.get(f"{name}/gamma", (width,), 0.2, 1.0)
        beta = self.variables.get(f"{name}/beta", (width,), 0.2) if center else None
        mean = self.variables.get(f"{name}/moving_mean", (width,), 0.2)
        variance = self.variables.get(f"{name}/moving_variance", (width,), 0.05, 1.0)
        x = tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-5)
        return tf.nn.relu(x) if relu else x

    def shortcut(self, x, filters, strides):
        if self.sk_ratio > 0:
            x = self.padded(x, 2) if strides > 1 else x
            x = tf.nn.avg_pool2d(x, 2, strides, "SAME" if strides == 1 else "VALID")
            strides = 1
        return self.norm(self.conv(x, filters, 1, strides), relu=False)

    def selective(self, x, filters, strides):
        x = self.norm(self.conv(x, 2 * filters, 3, strides))
        x = tf.stack(tf.split(x, 2, axis=3))
        middle = max(int(filters * self.sk_ratio), 32)
        pooled = tf.reduce_mean(tf.reduce_sum(x, axis=0), [1, 2], keepdims=True)
        mixing = self.conv(self.norm(self.conv(pooled, middle, 1, 1)), 2 * filters, 1, 1)
        mixing = tf.nn.softmax(tf.stack(tf.split(mixing, 2, axis=3)), axis=0)
        return tf.reduce_sum(x * mixing, axis=0)

    def bottleneck(self, x, filters, strides, project):
        shortcut = self.shortcut(x, 4 * filters, strides) if project else x
        x = self.norm(self.conv(x, filters, 1, 1))
        if self.sk_ratio > 0:
            x = self.selective(x, filters, strides)
        else:
            x = self.norm(self.conv(x, filters, 3, strides))
        return tf.nn.relu(self.norm(self.conv(x, 4 * filters, 1, 1), relu=False) + shortcut)

    def basic(self, x, filters, strides, project):
        shortcut = self.shortcut(x, filters, strides) if project else x
        x = self.norm(self.conv(x, filters, 3, strides))
        return tf.nn.relu(self.norm(self.conv(x, filters, 3, 1), relu=False) + shortcut)

    def encode(self, x, encoder, width, cifar_stem=False):
        """Features float64 [N, D] of images float64 [N, H, W, C] on [0, 1]."""
        stages, bottleneck = BLOCKS[encoder]
        self.variables.enter("base_model")
        base, x = round(64 * width), tf.constant(x)
        if cifar_stem:
            x = self.norm(self.conv(x, base, 3, 1))
        else:
            if self.sk_ratio > 0:
                x = self.norm(self.conv(x, base // 2, 3, 2))
                x = self.norm(self.conv(x, base // 2, 3, 1))
                x = self.conv(x, base, 3, 1)
            else:
                x = self.conv(x, base, 7, 2)
            x = tf.nn.max_pool2d(self.norm(x), 3, 2, "SAME")
        block = self.bottleneck if bottleneck else self.basic
        for stage, count in enumerate(stages):
            for number in range(count):
                strides = 2 if stage and not number else 1
                x = block(x, base * 2**stage, strides, project=number == 0)
        return tf.reduce_mean(x, [1, 2])

    def project(self, x, layers, out):
        """Projections float64 [N, out] by the head of SimCLR (2 layers) or SimCLRv2 (3)."""
        hidden = x.shape[-1]
        for number in range(layers):
            self.variables.enter(f"head_contrastive/nl_{number}")
            last = number == layers - 1
            shape = (x.shape[-1], out if last else hidden)
            name = self.variables.layer("dense") + "/kernel"
            x = x @ self.variables.get(name, shape, np.sqrt(1 / shape[0]))
            x = self.norm(x, relu=not last, center=not last)
        return x


def save(prefix, values):
    """Writes variables as ``tf.compat.v1.train.Saver`` does, with its V2 format."""
    names = sorted(values)
    tensors = [tf.constant(values[name]) for name in names]
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=tensors,
    )


def checkpoint(values):
    """Content of a pretraining checkpoint: variables, momentum, the averaged copy and the step."""
    own = {name: value.astype(np.float32) for name, value in values.items()}
    slots = {f"{name}/Momentum": np.zeros_like(value) for name, value in own.items()}
    averaged = {
        f"ema_model/{name}": value + 1
        for name, value in own.items()
        if name.startswith("base_model/")
    }
    classifier = {"head_supervised/linear_layer/dense/kernel": np.zeros((4, 2), np.float32)}
    return {**own, **slots, **averaged, **classifier, "global_step": np.int64(7)}
