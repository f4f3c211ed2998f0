"""Shared code of several methods: encoding of two views, momentum copies, queues."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
