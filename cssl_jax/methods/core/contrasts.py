"""Loss and metrics of methods that contrast queries with keys in one or two directions."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from cssl_jax.losses import ntxent
from cssl_jax.losses.core.similarity import Contrast


def mean_loss(contrasts: Sequence[Contrast]) -> jax.Array:
    """InfoNCE, averaged over this device's queries and over the directions; float scalar."""
    return _average(ntxent.loss_from, contrasts)


def contrast_metrics(contrasts: Sequence[Contrast]) -> dict[str, jax.Array]:
    """Accuracy and entropy of the softmax over the candidates, under the names of SimCLR's."""
    return {
        "contrastive_accuracy": _average(ntxent.accuracy_from, contrasts),
        "contrastive_entropy": _average(ntxent.entropy_from, contrasts),
    }


def _average(function: Callable[[Contrast], jax.Array], contrasts: Sequence[Contrast]) -> jax.Array:
    return jnp.mean(jnp.stack([function(contrast) for contrast in contrasts]))
