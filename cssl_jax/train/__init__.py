"""Training: optimizers, state, step, loop, checkpoints and metrics."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
