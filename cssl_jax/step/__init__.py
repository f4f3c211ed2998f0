"""Training step: gradient of a batch, parameter update and training state."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
