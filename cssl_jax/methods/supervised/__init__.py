"""Methods that train on labels: fine-tuning, and domain adaptation."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
