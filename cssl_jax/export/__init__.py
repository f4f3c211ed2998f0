"""Weights of a run for other libraries, with a model card and a check."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.export.write import Exported, export_run

__all__ = [
    "Exported",
    "export_run",
]
__getattr__, __dir__ = public_names(__name__)
