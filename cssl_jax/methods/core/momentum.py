"""Momentum copies: modules that follow the trained ones by an exponential moving average."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.methods.base import PyTree, copied


class Momentum(NamedTuple):
    """Momentum of a copy, from its value at the first step to its value at the last.

    It follows half a cosine, ``end - (end - start) (1 + cos(pi t / T)) / 2`` after t of T steps, as
    in BYOL (arXiv 2006.07733, sec. 3.2) and MoCo v3. It is constant if both values are identical.

    Attributes:
        start: Fraction of the copy that survives the first update; 0 copies the weights.
        end: Fraction of the copy that survives an update at the end of the run; 1 freezes it.
    """

    start: float
    end: float = 1.0

    def rate(self, step: jax.Array, total_steps: int) -> jax.Array:
        """1 - momentum, float scalar, after ``step`` of ``total_steps`` steps.

        The complement is computed because a momentum near 1 has few digits left in float32.
        """
        progress = jnp.asarray(step, jnp.result_type(float)) / total_steps
        left = (1 + jnp.cos(jnp.pi * progress)) / 2
        return (1 - self.end) + (self.end - self.start) * left


def start_copy(
    params: PyTree, model_state: PyTree, modules: Sequence[str] = ("encoder", "projector")
) -> dict[str, Any]:
    """A copy of some modules, {"params", "model_state"} by module, in buffers of its own."""
    return {
        "params": {name: copied(params[name]) for name in modules},
        "model_state": {name: copied(model_state[name]) for name in modules},
    }


def follow(
    copy: dict[str, Any], params: PyTree, model_state: PyTree, rate: jax.Array
) -> dict[str, Any]:
    """The copy after one update: copy + rate (weights - copy), leaf by leaf.

    Args:
        copy: Copy of ``start_copy``.
        params: Updated parameters of the trained modules, by module.
        model_state: Next running statistics of the copy, from its own forward pass. BatchNorm of
            the copy normalises by its own batches, so the trained modules' statistics are not
            averaged.
        rate: 1 - momentum, see ``Momentum.rate``.
    """

    def average(old: jax.Array, new: jax.Array) -> jax.Array:
        return old + rate.astype(old.dtype) * (new - old)

    trained = {name: params[name] for name in copy["params"]}
    return {
        "params": jax.tree.map(average, copy["params"], trained),
        "model_state": model_state,
    }


def without_masks(encoder: nn.Module) -> nn.Module:
    """The encoder without dropout and drop-path, as the teacher of DINO is built."""
    rates: dict[str, Any] = {
        name: 0.0 for name in ("dropout", "drop_path") if getattr(encoder, name, 0.0)
    }
    return encoder.clone(**rates) if rates else encoder
