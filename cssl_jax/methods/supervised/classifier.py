"""A classifier on an encoder: fine-tuning, and with a frozen encoder the linear probe by SGD.

SimCLR (arXiv 2002.05709, App. B.5 and B.6); from a hidden layer of the projection head as in
SimCLRv2 (arXiv 2006.10029, sec. 2 and 3.2).
"""

import dataclasses
import math
from typing import Any, Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cssl_jax.augment.view_group import ViewGroup
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.methods.base import (
    Batch,
    Context,
    Method,
    PyTree,
    flat_views,
    mask_keys,
    run_module,
    split_variables,
)
from cssl_jax.methods.entry import MethodEntry, Modules, StepCost
from cssl_jax.methods.parameter_group import FROZEN, ParameterGroup

_DROPOUT = 0x64726F70  # purpose of a key: views fold in their small numbers


@dataclasses.dataclass(frozen=True)
class Classifier(Method):
    """Cross entropy of the labels, with one view per example.

    Attributes:
        encoder: Module from inputs, such as images, to a dict with "features" [n, D]; it provides
            ``num_stages`` and ``depth_of``.
        head: Hidden layers of the projection head between features and classifier; None: none.
        num_classes: Number of classes C.
        stages: Number of encoder stages that are trained, counted from the last. "all" trains the
            stem too; 0 trains no part of the encoder. Unless it is "all", BatchNorm uses its
            running statistics and leaves them unchanged.
        layer_decay: Ratio of a stage's learning rate to that of the next stage, down from the
            classifier's, which is 1; the head counts as a stage (arXiv 1801.06146, sec. 3.2).
        dropout: Fraction of the classifier's inputs that are set to 0, by the example's key.
        label_smoothing: Fraction of the label that is spread evenly over all classes.
    """

    encoder: nn.Module
    head: nn.Module | None
    num_classes: int
    stages: int | Literal["all"] = "all"
    layer_decay: float = 1.0
    dropout: float = 0.0
    label_smoothing: float = 0.0

    @property
    def views(self) -> dict[str, ViewGroup]:
        """One view per example, in one group."""
        return {"main": ViewGroup(1)}

    @property
    def pretrained_modules(self) -> tuple[str, ...]:
        """The encoder and, if hidden layers of the head are kept, the projector."""
        return ("encoder",) if self.head is None else ("encoder", "projector")

    @property
    def needs_statistics(self) -> bool:
        """True if a part of the encoder is frozen."""
        return self.stages != "all"

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Initialises all modules; the classifier with zeros, so that it predicts uniformly."""
        encoder_key, head_key = jax.random.split(key)
        rows = flat_views(batch["views"]["main"])
        encoder = self.encoder.init(encoder_key, rows)
        x = jax.eval_shape(self.encoder.apply, encoder, rows)["features"]
        modules = {"encoder": encoder}
        if self.head is not None:
            modules["head"] = self.head.init(head_key, jnp.zeros(x.shape, x.dtype))
            x = jax.eval_shape(self.head.apply, modules["head"], x)
        params, state = split_variables(modules)
        params["classifier"] = {
            "kernel": jnp.zeros((x.shape[-1], self.num_classes), x.dtype),
            "bias": jnp.zeros(self.num_classes, x.dtype),
        }
        return params, state

    def encode(
        self, params: PyTree, model_state: PyTree, method_state: PyTree, batch: Batch, ctx: Context
    ) -> tuple[jax.Array, PyTree]:
        """Logits [n, C]."""
        train = ctx.train and not ctx.frozen_norm and self.stages == "all"
        rows, keys = flat_views(batch["views"]["main"]), mask_keys(batch, 1)
        x, state = self._represent(params, model_state, rows, train, keys)
        return logits_of(params, self._dropped(x, batch, ctx)), state

    def objective(
        self, params: PyTree, method_state: PyTree, outputs: PyTree, examples: Batch, ctx: Context
    ) -> tuple[jax.Array, dict[str, jax.Array], PyTree]:
        """Mean cross entropy of this device's examples."""
        # Labels of another shape would broadcast without an error.
        chex.assert_shape(outputs, (None, self.num_classes))
        chex.assert_shape(examples["label"], outputs.shape[:1])
        targets = jax.nn.one_hot(examples["label"], self.num_classes, dtype=outputs.dtype)
        targets = optax.smooth_labels(targets, self.label_smoothing)
        loss = jnp.mean(optax.softmax_cross_entropy(outputs, targets))
        right = jnp.argmax(outputs, axis=-1) == examples["label"]
        return loss, {"loss": loss, "accuracy": jnp.mean(right.astype(outputs.dtype))}, {}

    def parameter_group(self, path: tuple[Any, ...]) -> ParameterGroup:
        """Learning-rate multiplier by module and, in the encoder, by stage; or frozen."""
        module = path[0].key
        if module == "classifier":
            return ParameterGroup()
        below = 1  # the classifier
        if module == "encoder":
            encoder: Any = self.encoder
            stage, count = encoder.depth_of(path[1:]), encoder.num_stages
            if self.stages != "all" and stage <= count - self.stages:
                return FROZEN
            below += (self.head is not None) + count - stage
        return ParameterGroup(learning_rate=self.layer_decay**below)

    def logits(self, variables: dict[str, PyTree], inputs: PyTree) -> jax.Array:
        """[n, C] of the encoder's inputs, such as normalised images [n, H, W, C].

        ``variables`` holds "params" and "model_state" of a whole state.
        """
        x, _ = self._represent(variables["params"], variables["model_state"], inputs, False)
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
        self,
        params: PyTree,
        model_state: PyTree,
        inputs: PyTree,
        train: bool,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, PyTree]:
        encoded, encoder_state = run_module(
            self.encoder, "encoder", params, model_state, inputs, train, keys
        )
        x, state = encoded["features"], {"encoder": encoder_state}
        if self.stages == 0:
            x = jax.lax.stop_gradient(x)  # spares the backward pass; see ``parameter_group``
        if self.head is not None:
            x, state["head"] = run_module(self.head, "head", params, model_state, x, train)
        return x, state


def logits_of(params: PyTree, x: jax.Array) -> jax.Array:
    """The classifier's [..., C] of what it classifies, [..., D]."""
    layer = params["classifier"]
    chex.assert_axis_dimension(x, -1, len(layer["kernel"]))
    products = jnp.matmul(x, layer["kernel"], precision=jax.lax.Precision.HIGHEST)
    return jnp.add(products, layer["bias"])


def _drop(x: jax.Array, keys: jax.Array, fraction: float) -> jax.Array:
    """Zeroes a fraction of each row [n, D] by its example's key [n, 2]; the rest grows for it."""

    def kept(key: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), _DROPOUT)
        return jax.random.bernoulli(key, 1.0 - fraction, x.shape[1:])

    return jnp.where(jax.vmap(kept)(keys), x / (1.0 - fraction), 0.0)


def _only(like: PyTree, source: PyTree) -> PyTree:
    """The part of a module's variables that ``like`` has."""
    return {name: source[name] for name in like}


def classifier_fields(config: Config, modules: Modules) -> dict[str, Any]:
    """Keyword arguments of ``Classifier`` from ``classifier.*``."""
    options = config.classifier
    head = modules.head(num_applied_layers=options.head_layers) if options.head_layers else None
    return {
        "encoder": modules.encoder,
        "head": head,
        "num_classes": options.num_classes,
        "stages": options.stages,
        "layer_decay": options.layer_decay,
        "dropout": options.dropout,
        "label_smoothing": options.label_smoothing,
    }


def check_classifier(config: Config) -> None:
    """Refuses options that do not fit a classifier.

    Raises:
        UserError: A number of classes, stages or head layers, or a micro-batch, does not fit.
    """
    options = config.classifier
    if options.num_classes < 2:
        raise UserError(
            f"classifier.num_classes is {options.num_classes}; give the number of classes, or use "
            "`cssl-jax finetune RUN`, which counts them"
        )
    hidden = config.model.projector_layers - 1
    if not 0 <= options.head_layers <= hidden:
        raise UserError(
            f"classifier.head_layers is {options.head_layers}; this projection head has {hidden} "
            f"hidden layer(s): give 0 to {hidden}"
        )
    if options.stages != "all" and options.stages < 0:
        raise UserError(f'classifier.stages is {options.stages}; give "all", 0 or a number above')
    if config.train.micro_batch:
        raise UserError(
            f"train.micro_batch is {config.train.micro_batch}; it is for contrastive losses: for "
            "a classifier give a smaller train.batch_size"
        )


def chance_level(config: Config) -> float:
    """Cross entropy of the uniform prediction: the logarithm of the number of classes."""
    return math.log(config.classifier.num_classes)


ENTRY = MethodEntry(
    build=lambda config, modules: Classifier(**classifier_fields(config, modules)),
    chance_level=chance_level,
    check=check_classifier,
    evaluation="classifier",
    labelled=lambda config: True,
    cost=lambda config: StepCost(views=1, contrasts=False),
    sections=("classifier",),
)
