"""Trained encoders by name, with what is needed to check them."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.zoo.zoo_index import ZooEntry, ZooIndex, open_zoo, zoo_file

__all__ = ["ZooEntry", "ZooIndex", "open_zoo", "zoo_file"]
__getattr__, __dir__ = public_names(__name__)
