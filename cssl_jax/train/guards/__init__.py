"""Guards of the training loop: non-finite steps and cross-process save and stop requests."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
