"""Transfer learning from a pretrained encoder: fine-tuning and domain adaptation."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.transfer.finetune import finetune_config

__all__ = [
    "finetune_config",
]
__getattr__, __dir__ = public_names(__name__)
