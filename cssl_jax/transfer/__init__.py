"""Transfer learning from a pretrained encoder: fine-tuning and domain adaptation."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.transfer.finetune import finetune_config
    from cssl_jax.transfer.transfer_report import write_transfer_report
    from cssl_jax.transfer.transfer_results import AdaptationResults, FinetuneResults

__all__ = [
    "AdaptationResults",
    "FinetuneResults",
    "finetune_config",
    "write_transfer_report",
]
__getattr__, __dir__ = public_names(__name__)
