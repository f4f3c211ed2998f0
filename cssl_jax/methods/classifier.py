"""A classifier on an encoder: fine-tuning, and with a frozen encoder the linear probe by SGD.

SimCLR (arXiv 2002.05709, App. B.5 and B.6); from a hidden layer of the projection head as in
SimCLRv2 (arXiv 2006.10029, sec. 2 and 3.2).
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cssl_jax.methods.base import Batch, Context, PyTree, run_module, split_variables

_DROPOUT = 0x64726F70  # purpose of a key: views fold in their small numbers


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Cross entropy of the labels, one view an example.

    Attributes:
        encoder: Images to features; its output is a dict with "features" [n, D].
        head: Features to what is classified: hidden layers of the projection head; None is neither.
        num_classes: C.
        stages: Of the encoder: how many are trained, from the last; "all" trains the stem too, 0
            nothing of it. Unless it is "all", BatchNorm uses running statistics and keeps them.
        num_stages: That the encoder has.
        layer_decay: The learning rate of a stage over that of the stage after it, from the
            classifier's, which is 1; the head counts as a stage (arXiv 1801.06146, sec. 3.2).
        dropout: Share of the classifier's inputs that are set to 0, by the example's key.
        label_smoothing: Share of the label that goes to all classes alike.
    """

    encoder: nn.Module
    head: nn.Module | None
    num_classes: int
    stages: int | Literal["all"] = "all"
    num_stages: int = 4
    layer_decay: float = 1.0
    dropout: float = 0.0
    label_smoothing: float = 0.0

    @property
    def views(self) -> dict[str, int]:
        """One group of one."""
        return {"main": 1}

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree, PyTree]:
        """Initialises all modules; the classifier at zero, which is at chance whatever it is on."""
        encoder_key, head_key = jax.random.split(key)
        images = batch["views"]["main"][:, 0]
        encoder = self.encoder.init(encoder_key, images)
        x = jax.eval_shape(self.encoder.apply, encoder, images)["features"]
        modules = {"encoder": encoder}
        if self.head is not None:
            modules["head"] = self.head.init(head_key, jnp.zeros(x.shape, x.dtype))
            x = jax.eval_shape(self.head.apply, modules["head"], x)
        params, state = split_variables(modules)
        params["classifier"] = {
            "kernel": jnp.zeros((x.shape[-1], self.num_classes), x.dtype),
            "bias": jnp.zeros(self.num_classes, x.dtype),
        }
        return params, state, {}

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[jax.Array, PyTree]:
        """Logits [n, C]."""
        train = ctx.train and not ctx.frozen_norm and self.stages == "all"
        x, state = self._represent(params, model_state, batch["views"]["main"][:, 0], train)
        return logits_of(params, self._dropped(x, batch, ctx)), state

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean cross entropy of this device's examples."""
        targets = jax.nn.one_hot(examples["label"], self.num_classes, dtype=outputs.dtype)
        targets = optax.smooth_labels(targets, self.label_smoothing)
        loss = jnp.mean(optax.softmax_cross_entropy(outputs, targets))
        right = jnp.argmax(outputs, axis=-1) == examples["label"]
        return loss, {"loss": loss, "accuracy": jnp.mean(right.astype(outputs.dtype))}

    def after_update(
        self, params: PyTree, method_state: PyTree, aux: dict[str, Any], ctx: Context
    ) -> PyTree:
        """Nothing is carried from step to step."""
        return method_state

    def trainable(self, path: tuple[Any, ...], step: jax.Array) -> bool | float:
        """Share of the learning rate by module and, in the encoder, by stage."""
        module = path[0].key
        if module == "classifier":
            return True
        below = 1  # the classifier
        if module == "encoder":
            name = path[1].key  # layer3_0, conv1, ...
            stage = int(name[len("layer")]) if name.startswith("layer") else 0
            if self.stages != "all" and stage <= self.num_stages - self.stages:
                return False
            below += (self.head is not None) + self.num_stages - stage
        share = self.layer_decay**below
        return True if share == 1.0 else share

    def logits(self, variables: dict[str, PyTree], images: jax.Array) -> jax.Array:
        """[n, C] of normalised images [n, H, W, C], as after training.

        ``variables`` holds "params" and "model_state" of a whole state.
        """
        x, _ = self._represent(variables["params"], variables["model_state"], images, False)
        return logits_of(variables["params"], x)

    def adopt(self, model: dict[str, PyTree], pretrained: dict[str, PyTree]) -> dict[str, PyTree]:
        """The model with the encoder, and the head's layers, of a pretrained one."""
        params, state = dict(model["params"]), dict(model["model_state"])
        for part, source in (("encoder", "encoder"), ("head", "projector")):
            if part in params:
                params[part] = _only(params[part], pretrained["params"][source])
                state[part] = _only(state[part], pretrained["model_state"][source])
        return {"params": params, "model_state": state}

    def _dropped(self, x: jax.Array, batch: Batch, ctx: Context) -> jax.Array:
        return _drop(x, batch["key"], self.dropout) if ctx.train and self.dropout else x

    def _represent(
        self, params: PyTree, model_state: PyTree, images: jax.Array, train: bool
    ) -> tuple[jax.Array, PyTree]:
        encoded, encoder_state = run_module(
            self.encoder, "encoder", params, model_state, images, train
        )
        x, state = encoded["features"], {"encoder": encoder_state}
        if self.stages == 0:
            x = jax.lax.stop_gradient(x)  # spares the backward pass; ``trainable`` says the same
        if self.head is not None:
            x, state["head"] = run_module(self.head, "head", params, model_state, x, train)
        return x, state


def logits_of(params: PyTree, x: jax.Array) -> jax.Array:
    """The classifier's [..., C] of what it classifies, [..., D]."""
    layer = params["classifier"]
    return jnp.matmul(x, layer["kernel"], precision=jax.lax.Precision.HIGHEST) + layer["bias"]


def _drop(x: jax.Array, keys: jax.Array, share: float) -> jax.Array:
    """Zeroes a share of each row [n, D] by its example's key [n, 2]; the rest grows for it."""

    def kept(key: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), _DROPOUT)
        return jax.random.bernoulli(key, 1.0 - share, x.shape[1:])

    return jnp.where(jax.vmap(kept)(keys), x / (1.0 - share), 0.0)


def _only(like: PyTree, source: PyTree) -> PyTree:
    """The part of a module's variables that ``like`` has."""
    return {name: source[name] for name in like}
