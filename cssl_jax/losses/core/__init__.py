"""What several losses share: similarities, tiles, running log-sum-exp."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
