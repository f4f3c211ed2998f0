"""Checkpoints of a run: saving, restoring, preservation policy and digests of arrays."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.checkpoint.checkpoints import Checkpoints

__all__ = [
    "Checkpoints",
]
__getattr__, __dir__ = public_names(__name__)
