"""TensorFlow's checkpoints, read without TensorFlow, and the names of SimCLR in them."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.interop.tf_files.simclr_weights import find_simclr
    from cssl_jax.interop.tf_files.tf_checkpoint import Checkpoint

__all__ = ["Checkpoint", "find_simclr"]
__getattr__, __dir__ = public_names(__name__)
