"""Processes, devices and the mesh: all code that depends on the machine."""

from typing import TYPE_CHECKING

from cssl_jax.lazy import public_names

if TYPE_CHECKING:
    from cssl_jax.runtime.spmd import data_parallel, make_mesh, put_batch, replicate

__all__ = [
    "data_parallel",
    "make_mesh",
    "put_batch",
    "replicate",
]
__getattr__, __dir__ = public_names(__name__)
