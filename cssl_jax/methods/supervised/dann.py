"""DANN (Ganin et al. 2016, arXiv 1505.07818): features that do not reveal the domain."""

import dataclasses
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cssl_jax.config import Config
from cssl_jax.methods.base import Batch, Context, PyTree
from cssl_jax.methods.entry import Modules
from cssl_jax.methods.parameter_group import ParameterGroup
from cssl_jax.methods.supervised.adaptation import Adaptation, adaptation_entry
from cssl_jax.methods.supervised.classifier import classifier_fields

GAMMA = 10.0  # of the schedule, sec. 5.2.2
_DOMAIN = 0x646F6D61  # what the domain classifier's key is folded with: the others stay as they are


@jax.custom_vjp
def reverse_gradient(x: jax.Array, scale: jax.Array) -> jax.Array:
    """``x`` as it is; its gradient is -``scale`` times what comes back (sec. 4.2)."""
    return x


def _forward(x: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x, scale


def _backward(scale: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return (-scale * cotangent).astype(cotangent.dtype), jnp.zeros_like(scale)


reverse_gradient.defvjp(_forward, _backward)


def reversal(step: jax.Array, total_steps: int) -> jax.Array:
    """Lambda of a step: 2 / (1 + exp(-10 p)) - 1 at the fraction p of the run, from 0 towards 1."""
    progress = jnp.asarray(step, jnp.result_type(float)) / total_steps
    return 2.0 / (1.0 + jnp.exp(-GAMMA * progress)) - 1.0


class DomainClassifier(nn.Module):
    """Two hidden layers with ReLU and one logit (the paper's for larger images, fig. 4).

    Attributes:
        hidden: Width of the hidden layers; 0 is the width of the features.
    """

    hidden: int = 0

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Features [..., D] -> logits [...] of being a target image."""
        x = features
        for i in (1, 2):
            x = nn.relu(nn.Dense(self.hidden or features.shape[-1], name=f"dense{i}")(x))
        return nn.Dense(1, name="dense3")(x)[..., 0]


@dataclasses.dataclass(frozen=True)
class DANN(Adaptation):
    """Adds the loss of a domain classifier, whose gradient reaches the features reversed.

    The domain classifier learns at the full rate and the features get -lambda times ``weight`` of
    its gradient, with the paper's schedule of lambda (sec. 5.2.2).

    Attributes:
        domain: Features to the logit of being a target image.
    """

    domain: nn.Module = dataclasses.field(default_factory=DomainClassifier)

    def init(self, key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """The classifier's modules, and the domain classifier."""
        params, model_state = super().init(key, batch)
        kernel = params["classifier"]["kernel"]
        variables = self.domain.init(
            jax.random.fold_in(key, _DOMAIN), jnp.zeros((1, len(kernel)), kernel.dtype)
        )
        return {**params, "domain": variables["params"]}, model_state

    def alignment(
        self, params: PyTree, features: jax.Array, ctx: Context
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Mean cross entropy of the domains of features [n, 2, D], and three metrics.

        "domain_loss" is ln 2 and "domain_accuracy" a half where nothing distinguishes them;
        "reversal" is lambda.
        """
        chex.assert_shape(features, (None, 2, None))
        scale = reversal(ctx.step, ctx.total_steps)
        reversed_ = reverse_gradient(features, (self.weight * scale).astype(features.dtype))
        logits = self.domain.apply({"params": params["domain"]}, reversed_)
        assert isinstance(logits, jax.Array)
        is_target = jnp.broadcast_to(jnp.array([False, True]), logits.shape)
        loss = jnp.mean(optax.sigmoid_binary_cross_entropy(logits, is_target.astype(logits.dtype)))
        right = jnp.mean(((logits > 0) == is_target).astype(logits.dtype))
        return loss, {"domain_loss": loss, "domain_accuracy": right, "reversal": scale}

    def parameter_group(self, path: tuple[Any, ...]) -> ParameterGroup:
        """As of the classifier; the domain classifier, as the classifier itself, in full."""
        return ParameterGroup() if path[0].key == "domain" else super().parameter_group(path)


def _build(config: Config, modules: Modules) -> DANN:
    options = config.adapt
    return DANN(
        **classifier_fields(config, modules),
        weight=options.dann_weight,
        domain=DomainClassifier(hidden=options.dann_hidden),
    )


ENTRY = adaptation_entry(_build)
