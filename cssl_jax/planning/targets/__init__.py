"""Plans for a TPU or GPU that is not present: chips, compilation for them, kernels, text."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
