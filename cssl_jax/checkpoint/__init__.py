"""Checkpoints of a run: saving, restoring, preservation policy and digests of arrays."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
