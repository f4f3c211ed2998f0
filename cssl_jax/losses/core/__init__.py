"""Functions that several losses use: similarities, tiles, online log-sum-exp."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
