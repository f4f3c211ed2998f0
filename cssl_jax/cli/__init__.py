"""The command line: registry of commands, parsing of their arguments, exit status."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
