"""Features of the last blocks of a Vision Transformer, as DINO evaluates it."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from cssl_jax.config import EvaluateConfig
from cssl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LastBlocks:
    """An encoder whose features are those of its last blocks, side by side.

    The linear evaluation of DINO (``eval_linear.py`` of its code) takes the class tokens of the
    last four blocks of ViT-S, each after the last LayerNorm, and of ViT-B the class token of the
    last block and the mean of its patches.

    Attributes:
        encoder: Vision Transformer.
        blocks: Number of blocks, counted from the last.
        patch_mean: True to add the mean of the patches after the last block.
    """

    encoder: Any
    blocks: int
    patch_mean: bool

    def apply(self, variables: Any, x: Any, *, train: bool) -> dict[str, Any]:
        """{"features": [n, (blocks + patch_mean) D]} of images [n, H, W, C]."""
        outputs = self.encoder.apply(variables, x, train=train)
        parts = list(outputs["block_features"][-self.blocks :])
        if self.patch_mean:
            parts.append(outputs["tokens"].mean(axis=1))
        return {"features": jnp.concatenate(parts, axis=-1)}


def with_last_blocks(encoder: Any, options: EvaluateConfig) -> Any:
    """The encoder, or one whose features are those that ``evaluate.blocks`` asks for.

    Raises:
        UserError: The encoder has no such blocks.
    """
    blocks, patch_mean = options.blocks, options.patch_mean
    if blocks == 1 and not patch_mean:
        return encoder
    if not hasattr(encoder, "patch"):
        raise UserError(
            f"evaluate.blocks is {blocks} and evaluate.patch_mean {patch_mean}: they are for "
            "Vision Transformers, and this encoder has no patches; give 1 and false"
        )
    if not 1 <= blocks <= encoder.num_stages:
        raise UserError(
            f"evaluate.blocks is {blocks}; this encoder has 1 to {encoder.num_stages} blocks"
        )
    return LastBlocks(encoder, blocks, patch_mean)


def describe_blocks(options: EvaluateConfig) -> list[str]:
    """Note on the features, for results; empty for those of the encoder."""
    if options.blocks == 1 and not options.patch_mean:
        return []
    added = " and the mean of the patches" if options.patch_mean else ""
    return [f"features: those after each of the last {options.blocks} block(s){added}"]
