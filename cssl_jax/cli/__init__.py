"""The command line: one module per group of commands, each with its options and what they do."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
