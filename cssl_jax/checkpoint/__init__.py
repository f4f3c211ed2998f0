"""Checkpoints of a run: writing, choosing which to keep, and digests that compare replicas."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
