"""One module per command: its options, what it does and the summary for the overview."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
