"""What ends or repeats a training step: non-finite values, requests to stop."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
